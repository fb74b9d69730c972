"""HTTP to a provider: bounded in time and size, without redirects."""

import ssl
import time
from pathlib import Path
from typing import Any, Protocol

import httpx

from filemill.errors import Unavailable

# A response is not read any further.
RESPONSE_MAX_BYTES = 512 * 1024


class ClientAuth(Protocol):
    """How Authlib adds the client's credentials to a request."""

    def prepare(self, method: str, uri: str, headers: dict[str, str], body: str) -> tuple[str, dict[str, str], str]:
        """The URL, headers and body with the credentials."""


class ProviderHttp:
    """Requests to one provider. Any thread. Authlib uses `post`."""

    def __init__(self, provider: str, ca_bundle: Path | None, timeout_seconds: float) -> None:
        self._provider = provider
        self._timeout = timeout_seconds
        verify = True if ca_bundle is None else ssl.create_default_context(cafile=str(ca_bundle))
        self._client = httpx.Client(verify=verify, timeout=timeout_seconds, trust_env=False, follow_redirects=False)

    def get_json(self, url: str) -> Any:  # noqa: ANN401
        """The JSON document at a URL. Raises Unavailable."""
        response = self._send("GET", url, {"Accept": "application/json"}, b"")
        if response.status_code != httpx.codes.OK:
            raise self._unavailable(url, f"it responded with {response.status_code}")
        try:
            return response.json()
        except ValueError:
            raise self._unavailable(url, "its response is not JSON") from None

    def post(self, url: str, *, data: dict[str, str], headers: dict[str, str], auth: ClientAuth) -> httpx.Response:
        """Send a form with the client's credentials. Raises Unavailable."""
        body = str(httpx.QueryParams(data))
        url, headers, body = auth.prepare("POST", url, dict(headers), body)
        response = self._send("POST", url, headers, body.encode())
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise self._unavailable(url, f"it responded with {response.status_code}")
        return response

    def _send(self, method: str, url: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        deadline = time.monotonic() + 2 * self._timeout
        content = bytearray()
        # A compressed response could become much larger than what was read.
        headers = {**headers, "Accept-Encoding": "identity"}
        try:
            with self._client.stream(method, url, headers=headers, content=body or None) as response:
                for chunk in response.iter_raw():
                    content += chunk
                    if len(content) > RESPONSE_MAX_BYTES:
                        raise self._unavailable(url, f"its response has more than {RESPONSE_MAX_BYTES} bytes")
                    if time.monotonic() > deadline:
                        raise self._unavailable(url, "its response takes too long")
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            raise self._unavailable(url, str(error) or type(error).__name__) from None
        return httpx.Response(response.status_code, content=bytes(content), request=response.request)

    def _unavailable(self, url: str, problem: str) -> Unavailable:
        host = httpx.URL(url).host
        return Unavailable(
            f"{self._provider} ({host}) cannot be used: {problem}",
            "Try again. If that does not help, an admin checks issuer, network and certificates in "
            "FILEMILL_OIDC_PROVIDERS. Sessions that exist go on",
            code="provider-unavailable",
        )
