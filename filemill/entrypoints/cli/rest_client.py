"""The client of a dashboard's REST API. Each error is one sentence; none contains the token."""

import contextlib
import ssl
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import httpx
import msgspec

from filemill import __version__
from filemill.config.rest_server import RestServer
from filemill.domain.idempotency import KeyReused
from filemill.domain.origins import is_loopback_name
from filemill.entrypoints.cli.arguments import rest_server
from filemill.entrypoints.cli.output import CommandFailed
from filemill.errors import InvalidRequest, Unavailable

T = TypeVar("T")

TIMEOUT = httpx.Timeout(30, connect=10)
# A response 429 that asks for a longer pause than this, in seconds, ends the command.
SHORT_PAUSE_SECONDS = 5
NO_HEADERS: Mapping[str, str] = {}
_SIGN_IN_ADVICE = (
    "Create one on the page Account, or let an administrator run `filemill tokens create`; "
    "set FILEMILL_TOKEN or FILEMILL_TOKEN_FILE"
)
_TRANSPORT_ADVICE = "Check FILEMILL_URL, and that the dashboard is running"
_CERTIFICATE_ADVICE = "SSL_CERT_FILE can name the file with the certificate of another CA"


class ErrorDetail(msgspec.Struct, frozen=True):
    """What an error response of REST says."""

    code: str
    message: str
    field: str | None = None


class _ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail


class MissingEndpoint(CommandFailed):
    """The server does not know the endpoint: it is older than this command."""


class RestClient:
    """Sends requests to a dashboard. Redirects are not followed: the token goes to no other address.

    Each method raises Unavailable if the dashboard, or a server behind it, does not answer; InvalidRequest and
    KeyReused for what it says about the request; CommandFailed for any other refusal.
    """

    def __init__(self, server: RestServer, timeout: httpx.Timeout = TIMEOUT) -> None:
        self.url = server.url
        self._secret = server.secret
        headers = {"User-Agent": f"filemill/{__version__}", "Accept": "application/json"}
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        # A proxy of the environment is not for this machine: it would read a token on its way to http://localhost.
        trust_env = not is_loopback_name(httpx.URL(server.url).host)
        try:
            verify = httpx.create_ssl_context()
            self._http = httpx.Client(
                base_url=server.url, headers=headers, timeout=timeout, trust_env=trust_env, verify=verify
            )
        except (ValueError, ImportError, OSError):  # the text could quote the password of a proxy
            names = "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
            raise CommandFailed(f"a value among {names} of the environment cannot be used", 2) from None

    def get(self, path: str, kind: type[T], **params: object) -> T:
        """The document at a path. Parameters that are None or empty are left out."""
        return self.get_dated(path, kind, **params)[0]

    def get_dated(self, path: str, kind: type[T], **params: object) -> tuple[T, datetime]:
        """The document at a path, and the time of the response by the clock of the server, in whole seconds."""
        given = {name: _text(value) for name, value in params.items() if value not in (None, "")}
        response = self._send("GET", path, params=given)
        return self._decode(response, kind), _date(response)

    def post(self, path: str, kind: type[T], body: object, headers: Mapping[str, str] = NO_HEADERS) -> T:
        """Send a document, and return that of the response."""
        own = {**headers, "Content-Type": "application/json"}
        return self._decode(self._send("POST", path, content=msgspec.json.encode(body), headers=own), kind)

    def state(self, path: str, kind: type[T]) -> T:
        """The document at a path that describes the server also with the status 503."""
        response = self._once("GET", path, {})
        if response.status_code not in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE):
            self._refuse(response)
        return self._decode(response, kind)

    @contextlib.contextmanager
    def stream(self, path: str, **params: object) -> Iterator[Iterator[bytes]]:
        """The body at a path, part by part."""
        given = {name: _text(value) for name, value in params.items() if value not in (None, "")}
        request = self._http.build_request("GET", path, params=given, headers={"Accept": "*/*"})
        with self._transport_errors():
            response = self._http.send(request, stream=True)
        try:
            if not response.is_success:
                with self._transport_errors():
                    response.read()
                self._refuse(response)
            yield self._parts(response)
        finally:
            response.close()

    def _parts(self, response: httpx.Response) -> Iterator[bytes]:
        with self._transport_errors():
            try:
                yield from response.iter_bytes()
            except httpx.RemoteProtocolError:
                cut = f"{self.url} ended the transfer before its end: its log says why, or the connection was lost"
                raise CommandFailed(cut, 1) from None

    def _send(self, method: str, path: str, **given: Any) -> httpx.Response:  # noqa: ANN401 - of httpx
        response = self._once(method, path, given)
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            pause = _retry_after(response)
            if pause is not None and pause <= SHORT_PAUSE_SECONDS:
                time.sleep(pause)  # the server did nothing, so any request may be repeated
                response = self._once(method, path, given)
        if not response.is_success:
            self._refuse(response)
        return response

    def _once(self, method: str, path: str, given: Mapping[str, Any]) -> httpx.Response:
        with self._transport_errors():
            return self._http.request(method, path, **given)

    @contextlib.contextmanager
    def _transport_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException:
            raise Unavailable(f"no answer from {self.url} in time", _TRANSPORT_ADVICE) from None
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            advice = _CERTIFICATE_ADVICE if _is_about_certificate(error) else _TRANSPORT_ADVICE
            raise Unavailable(self._clean(f"{self.url} is unreachable: {error}"), advice) from None

    def _decode(self, response: httpx.Response, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.ValidationError as error:
            reason = f"does not have the form that filemill {__version__} expects ({error})"
            raise CommandFailed(
                self._clean(f"the answer of {self.url}{response.request.url.path} {reason}: is it of another version?"),
                1,
            ) from None
        except msgspec.DecodeError:
            self._refuse_foreign(response)

    def _refuse(self, response: httpx.Response) -> NoReturn:
        """Raise what a response means that is not a success."""
        status = response.status_code
        if response.is_redirect:
            where = _server_of(response.headers.get("Location", "")) or "another path"
            advice = "Set FILEMILL_URL to the address of the dashboard itself"
            raise CommandFailed(self._clean(f"{self.url} redirects to {where}, which was not followed. {advice}"), 1)
        try:
            detail = msgspec.json.decode(response.content, type=_ErrorBody).error
        except msgspec.DecodeError:
            self._refuse_foreign(response)
        message = self._clean(detail.message)
        if status == HTTPStatus.UNAUTHORIZED:
            raise CommandFailed(self._about_token(), 1)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise CommandFailed(f"{message}. {_when(_retry_after(response))}", 1)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise Unavailable(f"{self.url}: {message}", "Try again later; `filemill status` shows what does not answer")
        if status == HTTPStatus.UNPROCESSABLE_ENTITY:
            field = detail.field or "request"
            raise InvalidRequest(field, message.removeprefix(f"{field}: "))
        if detail.code == "idempotency_key_reused":
            raise KeyReused
        missing = status == HTTPStatus.NOT_FOUND and detail.code == "not_found" and detail.field is None
        if missing or status == HTTPStatus.METHOD_NOT_ALLOWED:
            request = response.request
            what = f"{request.method} {request.url.path}"
            raise MissingEndpoint(f"{self.url} has no {what}: it is older than this filemill {__version__}", 1)
        raise CommandFailed(message, 1, detail.code)

    def _refuse_foreign(self, response: httpx.Response) -> NoReturn:
        """Raise that a response does not come from filemill, but from a proxy or another program."""
        problem = f"the answer of {self.url} is not JSON (status {response.status_code})"
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            raise Unavailable(problem, _TRANSPORT_ADVICE)
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            raise CommandFailed(self._about_token(), 1)
        raise CommandFailed(f"{problem}: is FILEMILL_URL the address of a dashboard of filemill?", 1)

    def _about_token(self) -> str:
        if not self._secret:
            return f"{self.url} requires a token. {_SIGN_IN_ADVICE}"
        return (
            f"{self.url} does not accept the token: it is unknown, expired, revoked, or not valid from this address. "
            f"{_SIGN_IN_ADVICE}"
        )

    def _clean(self, text: str) -> str:
        return text.replace(self._secret, "…") if self._secret else text


def rest_client(home: Path | None) -> RestClient | None:
    """The client, if the environment names a dashboard; None: the command uses the servers."""
    server = rest_server(home)
    return None if server is None else RestClient(server)


def _server_of(address: str) -> str:
    """The scheme and the host of an address; empty if it has none. httpx has refused an invalid one before."""
    target = httpx.URL(address)
    return f"{target.scheme}://{target.netloc.decode()}" if target.host else ""


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _date(response: httpx.Response) -> datetime:
    try:
        return parsedate_to_datetime(response.headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        return datetime.now(UTC).replace(microsecond=0)


def _retry_after(response: httpx.Response) -> int | None:
    """Seconds to wait; None: the server does not say."""
    text = response.headers.get("Retry-After", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


def _when(seconds: int | None) -> str:
    if seconds is None:
        return "Try again later"
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return f"Try again in {seconds:,} s, at {moment:%Y-%m-%d %H:%M:%S} UTC"


def _is_about_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
