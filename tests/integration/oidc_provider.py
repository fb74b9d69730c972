"""A real OpenID Connect provider on loopback: oidc-provider-mock, with the attacks of a malicious one."""

import base64
import contextlib
import io
import json
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import RSAKey

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it uses older parts of Authlib
    import oidc_provider_mock
    from oidc_provider_mock._storage import storage
from werkzeug.serving import make_server

CLIENT = "filemill"
SECRET = "secret-of-the-client"
START_RESPONSE = Callable[..., Any]


class Provider:
    """The provider. `change` edits the claims of ID tokens; `sign` replaces how they are signed."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._app = oidc_provider_mock.app(require_nonce=True)
        self._app.debug = False
        self._mock = self._app.wsgi_app
        self.server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.change: Callable[[dict[str, Any]], object] = lambda _claims: None
        self.sign: Callable[[dict[str, Any]], str] = self.signed
        self.document: dict[str, Any] = {}
        self.token_forms: list[dict[str, str]] = []
        self.requests: list[str] = []
        self.key = self._stored_key()

    def _stored_key(self) -> RSAKey:
        with self._app.test_request_context():
            self._app.preprocess_request()
            return RSAKey.import_key(storage.jwk.as_dict(is_private=True))

    def rotate(self) -> None:
        """Replace the key: tokens are signed with it, and only it is published."""
        self.key = RSAKey.generate_key(2048, auto_kid=True)

    def signed(self, claims: dict[str, Any], **header: str) -> str:
        """A token of the provider."""
        return jwt.encode({"alg": "RS256", "kid": self._kid(), **header}, claims, self.key)

    def signed_with(self, key: RSAKey, claims: dict[str, Any], algorithm: str = "RS256") -> str:
        """A token with the key id of the provider, but signed by somebody else."""
        return jwt.encode({"alg": algorithm, "kid": self._kid()}, claims, key, algorithms=[algorithm])

    def access_token(self, **claims: Any) -> str:
        """An access token, as a client gets by its credentials."""
        now = int(time.time())
        given = {"iss": self.issuer, "aud": "filemill-api", "sub": "robot", "iat": now, "exp": now + 300, **claims}
        return self.signed({name: value for name, value in given.items() if value is not None})

    def logout_token(self, **claims: Any) -> str:
        """A logout token, which the provider sends when somebody has signed out there. None removes a claim."""
        now = int(time.time())
        events: dict[str, Any] = {"http://schemas.openid.net/event/backchannel-logout": {}}
        given = {"iss": self.issuer, "aud": CLIENT, "sub": "ann", "iat": now, "exp": now + 120, "jti": "1"}
        given |= {"events": events, **claims}
        return self.signed({name: value for name, value in given.items() if value is not None}, typ="logout+jwt")

    def person(self, subject: str, **claims: Any) -> None:
        """Set the claims about somebody."""
        httpx.put(f"{self.issuer}/users/{subject}", json=claims, trust_env=False).raise_for_status()

    def approve(self, url: str, subject: str) -> str:
        """Sign in as somebody and approve; returns where the browser is redirected to."""
        answer = httpx.post(url, data={"sub": subject}, trust_env=False)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    def _kid(self) -> str:
        return str(self.key.as_dict(private=False).get("kid") or self.key.thumbprint())

    def _serve(self, environ: dict[str, Any], start_response: START_RESPONSE) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.requests.append(path)
        if path == "/jwks":
            return self._json(start_response, {"keys": [{**self.key.as_dict(private=False), "kid": self._kid()}]})
        if path == "/oauth2/token":
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            self.token_forms.append(dict(parse_qsl(body.decode())))
            environ = {**environ, "wsgi.input": io.BytesIO(body)}
            return self._changed(environ, start_response, self._with_other_token)
        if path.startswith("/.well-known/"):
            return self._changed(environ, start_response, lambda document: document | self.document)
        return self._mock(environ, start_response)  # type: ignore[no-any-return]

    def _changed(
        self, environ: dict[str, Any], start_response: START_RESPONSE, change: Callable[[dict[str, Any]], Any]
    ) -> Iterable[bytes]:
        seen: list[str] = []
        content = b"".join(self._mock(environ, lambda status, _headers, *_more: seen.append(status)))
        if not seen[0].startswith("200"):
            start_response(seen[0], [("Content-Type", "application/json")])
            return [content]
        return self._json(start_response, change(json.loads(content)))

    def _with_other_token(self, answer: dict[str, Any]) -> dict[str, Any]:
        token = answer.pop("id_token")
        claims = json.loads(_decoded(token.split(".")[1]))
        self.change(claims)
        return {**answer, "id_token": self.sign(claims)}

    def _json(self, start_response: START_RESPONSE, document: Mapping[str, Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(document).encode()]


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@contextlib.contextmanager
def running_provider() -> Iterator[Provider]:
    """A provider for the duration of a test."""
    provider = Provider()
    thread = threading.Thread(target=provider.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield provider
    finally:
        provider.server.shutdown()
        provider.server.server_close()
        thread.join()


def query_of(url: str) -> dict[str, str]:
    """The parameters of a URL, each of which is there once."""
    return {name: value for name, (value,) in parse_qs(urlsplit(url).query).items()}


def alert_of(page: str) -> str:
    """The problem that a page shows."""
    found = re.search(r'<p role="alert">(.*?)</p>', page, re.DOTALL)
    return found[1] if found else ""
