"""Authentication in front of the page and REST: who a request is from, and what is refused."""

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from itsdangerous import TimestampSigner
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from filemill.config.exposure import InsecureExposure, check_exposure
from filemill.config.settings import Settings, load
from filemill.domain.permissions import Permission, Principal, RequestSource, Role, allows, refusal
from filemill.entrypoints import bootstrap
from filemill_dashboard.asgi.authentication import SESSION_SECONDS, Authentication
from filemill_dashboard.rest.app import build_api
from filemill_dashboard.rest.permissions import ENDPOINTS, RestAuthorization, required
from filemill_dashboard.rest.threads import RequestThreads
from filemill_dashboard.state import page_data, principals
from filemill_dashboard.state.identity import IDENTITY_HEADER, PRINCIPAL, Identity, decode_identity
from filemill_dashboard.state.services import Services

TOKEN = "launch-token-of-this-test-0123456789"
NO_SESSIONS: Any = None
NO_TOKENS: Any = None
PAGE = {"accept": "text/html,*/*"}


def settings(auth: str = "token", **more: Any) -> Settings:
    return load(auth=auth, launch_token=TOKEN if auth == "token" else None, **more)


async def echo(request: Request) -> Response:
    who: Principal = request.scope[PRINCIPAL]
    own = [value for name, value in request.headers.items() if name.startswith("x-filemill")]
    return JSONResponse({"name": who.name, "role": who.role, "own": own})


def client(given: Settings, base_url: str = "http://127.0.0.1:8501", **more: Any) -> httpx.AsyncClient:
    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])
    transport = httpx.ASGITransport(Authentication(app, given, NO_SESSIONS, NO_TOKENS), client=("10.1.2.3", 5000))
    return httpx.AsyncClient(transport=transport, base_url=base_url, **more)


def ask(
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    given: Settings | None = None,
    base_url: str = "http://127.0.0.1:8501",
    **more: Any,
) -> httpx.Response:
    async def work() -> httpx.Response:
        async with client(given or settings(), base_url) as http:
            return await http.request(method, path, headers=headers, **more)

    return asyncio.run(work())


def signed_in(base_url: str = "http://127.0.0.1:8501") -> str:
    """The Cookie header of a new session."""
    answer = ask(f"/sign-in?token={TOKEN}", base_url=base_url)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return answer.headers["set-cookie"].partition(";")[0]


def test_in_mode_local_everyone_is_admin_and_identity_headers_are_removed() -> None:
    answer = ask("/api/files", headers={IDENTITY_HEADER: "forged", "x-FILEMILL-else": "x"}, given=settings("local"))
    assert answer.json() == {"name": "rest:10.1.2.3", "role": "admin", "own": []}


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/assets/topbar.js", "/static/x.js", "/app/static/inter.woff2"]
)
def test_public_paths_need_no_sign_in_and_have_no_role(path: str) -> None:
    assert ask(path).json() == {"name": "nobody", "role": None, "own": []}


@pytest.mark.parametrize(
    "path", ["/api/files", "/api", "/api/openapi.json", "/", "/files", "/_stcore/health", "/media/x"]
)
def test_without_a_credential_programs_get_401_and_browsers_the_sign_in_page(path: str) -> None:
    answer = ask(path)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["code"] == "not_signed_in"
    assert (ask(path, headers=PAGE).status_code, ask(path, headers=PAGE).headers["location"]) == (303, "/sign-in")
    assert ask(path, method="POST", headers=PAGE).status_code == 401


def test_a_bearer_token_signs_a_program_in() -> None:
    answer = ask("/api/files", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.json() == {"name": "token:10.1.2.3", "role": "admin", "own": []}


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
        {"authorization": "Bearer "},
        {"authorization": "Bearer \xe9"},
        {IDENTITY_HEADER: Identity("eve", Role.ADMIN).encoded()},
        {"cookie": f"filemill-8501={TOKEN}"},
        {"cookie": "filemill-8501="},
    ],
    ids=str,
)
def test_a_wrong_credential_is_refused(headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    assert ask("/api/files", headers=encoded).status_code == 401  # type: ignore[arg-type]


def test_a_wrong_bearer_token_is_refused_even_with_a_good_cookie() -> None:
    assert ask("/api/files", headers={"cookie": signed_in(), "authorization": "Bearer no"}).status_code == 401


def test_a_token_in_the_url_of_anything_but_the_sign_in_is_refused() -> None:
    assert ask(f"/api/files?token={TOKEN}").status_code == 401
    assert ask(f"/files?token={TOKEN}").status_code == 401


def test_the_launch_url_gives_a_cookie_that_signs_in() -> None:
    answer = ask(f"/sign-in?token={TOKEN}")
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("filemill-8501=")
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/" in cookie
    assert "secure" not in cookie
    assert TOKEN not in answer.headers["location"] + cookie
    found = ask("/files", headers={"cookie": signed_in()}).json()
    identity = decode_identity(found["own"][0])
    assert (identity.name, identity.role) == ("token:10.1.2.3", Role.ADMIN)
    assert found["role"] == "admin"


def test_behind_tls_the_cookie_is_for_this_host_only() -> None:
    cookie = ask(f"/sign-in?token={TOKEN}", base_url="https://files.example").headers["set-cookie"]
    assert cookie.startswith("__Host-filemill=")
    assert "Secure" in cookie
    own = signed_in("https://files.example")
    assert ask("/files", headers={"cookie": own}, base_url="https://files.example").status_code == 200
    assert ask("/files", headers={"cookie": own}).status_code == 401


def test_a_page_gets_the_identity_of_the_session_and_not_a_forged_one() -> None:
    forged = Identity("eve", Role.ADMIN, None).encoded()
    found = ask("/files", headers={"cookie": signed_in(), IDENTITY_HEADER: forged}).json()
    (own,) = found["own"]
    assert decode_identity(own).name == "token:10.1.2.3"


def test_each_sign_in_gives_another_cookie_and_a_planted_one_is_not_kept() -> None:
    first = signed_in()
    again = ask(f"/sign-in?token={TOKEN}", headers={"cookie": first}).headers["set-cookie"].partition(";")[0]
    assert again != first


def signer(token: str = TOKEN) -> TimestampSigner:
    return TimestampSigner(token, salt="filemill session", digest_method=hashlib.sha256)


def cookie_at(moment: float, monkeypatch: pytest.MonkeyPatch, token: str = TOKEN) -> dict[str, str]:
    made = signer(token)
    monkeypatch.setattr(made, "get_timestamp", lambda: int(moment))
    return {"cookie": f"filemill-8501={made.sign('x').decode()}"}


def test_expired_future_foreign_and_changed_cookies_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    assert ask("/files", headers=cookie_at(now, monkeypatch)).status_code == 200
    assert ask("/files", headers=cookie_at(now + 60, monkeypatch)).status_code == 200  # a clock that is ahead
    assert ask("/files", headers=cookie_at(now + 600, monkeypatch)).status_code == 401
    assert ask("/files", headers=cookie_at(now - SESSION_SECONDS - 5, monkeypatch)).status_code == 401
    assert ask("/files", headers=cookie_at(now, monkeypatch, "token of another deployment")).status_code == 401
    name, _, value = signed_in().partition("=")
    for part in range(3):  # what is signed, the time, the signature
        parts = value.split(".")
        parts[part] = ("A" if parts[part][0] != "A" else "B") + parts[part][1:]
        assert ask("/files", headers={"cookie": f"{name}={'.'.join(parts)}"}).status_code == 401


def test_a_session_ends_in_an_open_tab_too() -> None:
    identity = Identity("token:10.1.2.3", Role.ADMIN, expires_at=100.0)
    assert identity.principal(99.0) == Principal("token:10.1.2.3", Role.ADMIN)
    assert identity.principal(100.0).role is None


def test_the_form_signs_in_and_says_what_is_wrong() -> None:
    page = ask("/sign-in", headers=PAGE)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert 'action="/sign-in"' in page.text
    assert "wrong" not in page.text
    assert ask("/sign-in", method="POST", data={"token": TOKEN}).status_code == 303
    for form in ({"token": "no"}, {}, {"token": "x" * 10_000}, {"other": TOKEN}):
        answer = ask("/sign-in", method="POST", data=form)
        assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
        assert "The token is wrong" in answer.text
        assert "x" * 100 not in answer.text
    assert ask(f"/sign-in?token={TOKEN}x").status_code == 401
    assert ask("/sign-in", method="DELETE").status_code == 405


def test_sign_in_redirects_to_this_page_only() -> None:
    answer = ask(f"/sign-in?token={TOKEN}&next=//evil.example&location=https://evil.example")
    assert answer.headers["location"] == "/"


def test_sign_out_deletes_the_cookie() -> None:
    answer = ask("/sign-out", method="POST", headers={"cookie": signed_in()})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    page = ask("/sign-out", headers={"cookie": signed_in()})
    assert (page.status_code, "set-cookie" in page.headers) == (200, False)
    assert 'action="/sign-out"' in page.text
    assert ask("/sign-out", method="DELETE").status_code == 405


def websocket(headers: list[tuple[bytes, bytes]], *, extension: bool) -> tuple[bool, list[Message]]:
    sent: list[Message] = []
    reached = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        reached.append(scope)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "websocket",
        "scheme": "ws",
        "path": "/_stcore/stream",
        "headers": [(b"host", b"127.0.0.1:8501"), *headers],
        "client": ("10.1.2.3", 5000),
        "extensions": {"websocket.http.response": {}} if extension else {},
    }
    asyncio.run(Authentication(app, settings(), NO_SESSIONS, NO_TOKENS)(scope, receive, send))
    return bool(reached), sent


def test_a_websocket_needs_a_session() -> None:
    reached, sent = websocket([], extension=True)
    assert (reached, sent[0]["status"]) == (False, 401)
    reached, sent = websocket([(b"x-filemill-identity", b"{}")], extension=False)
    assert (reached, sent) == (False, [{"type": "websocket.close", "code": 1008}])
    assert websocket([(b"cookie", signed_in().encode())], extension=True) == (True, [])


def test_a_page_without_an_identity_has_no_role_in_mode_token(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithToken:
        settings = load(auth="token", launch_token=TOKEN)

    monkeypatch.setattr("filemill_dashboard.state.services.current", WithToken)
    monkeypatch.setattr("streamlit.user", {})
    assert principals.page_principal().role is None
    assert "you are not signed in" in principals.why_not(Permission.VIEW)
    monkeypatch.setattr("streamlit.user", {"filemill": Identity("olga", Role.OPERATOR).encoded()})
    source = RequestSource("launch token")
    assert principals.page_principal() == Principal("olga", Role.OPERATOR, source=source)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"host": "0.0.0.0"}, "insecure_without_sign_in"),  # noqa: S104
        ({"host": "192.0.2.1"}, "insecure_without_sign_in"),
        ({"auth": "token"}, "launch_token_missing"),
        ({"auth": "token", "launch_token": "short"}, "launch_token_missing"),
        ({"auth": "token", "launch_token": TOKEN, "host": "::"}, "published_credentials"),
    ],
    ids=str,
)
def test_a_page_that_would_be_open_to_others_does_not_start(given: dict[str, Any], code: str) -> None:
    with pytest.raises(InsecureExposure) as refused:
        check_exposure(load(**given))
    assert refused.value.codes == (code,)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"host": "::1"},
        {"host": "localhost", "auth": "token", "launch_token": TOKEN},
        {"host": "0.0.0.0", "allow_insecure": True},  # noqa: S104
        {
            "host": "0.0.0.0",  # noqa: S104
            "auth": "token",
            "launch_token": TOKEN,
            "database_password": "own",
            "aws_secret_access_key": "own",
        },
    ],
    ids=str,
)
def test_a_page_that_is_protected_starts(given: dict[str, Any]) -> None:
    check_exposure(load(**given))


def asked(who: Principal, method: str, path: str) -> int:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(status_code=204)(scope, receive, send)

    async def as_somebody(scope: Scope, receive: Receive, send: Send) -> None:
        scope[PRINCIPAL] = who
        engine: Any = None  # refused attempts are recorded; without a database that is only logged
        await RestAuthorization(app, engine, threads)(scope, receive, send)

    threads = RequestThreads(load())

    async def work() -> int:
        transport = httpx.ASGITransport(as_somebody)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            return (await http.request(method, path)).status_code

    return asyncio.run(work())


@pytest.mark.parametrize("role", [*Role, None])
def test_each_endpoint_is_open_to_the_roles_of_the_table(role: Role | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def authorize(_engine: object, who: Principal, permission: Permission, **_about: object) -> None:
        error = refusal(who, permission)
        assert error is not None
        raise error

    monkeypatch.setattr("filemill_dashboard.rest.permissions.authorize", authorize)
    who = Principal("somebody", role)
    found = {(method, path): asked(who, method, re.sub(r"\{\w+\}", "7", path)) == 204 for method, path in ENDPOINTS}
    expected = {key: permission is None or allows(role, permission) for key, permission in ENDPOINTS.items()}
    assert found == expected


def test_a_path_with_a_line_feed_at_its_end_is_unknown() -> None:
    # The app's patterns would take `/api/dead-letters` followed by a line feed for the endpoint.
    assert asked(Principal("vera", Role.VIEWER), "GET", "/api/dead-letters%0A") == 404
    assert required("GET", "/api/files/retry") is None
    assert required("GET", "/api/files/7") is Permission.VIEW


def test_each_endpoint_of_the_app_is_in_the_table() -> None:
    given = load()
    engine = bootstrap.create_engine(given, "test")
    app = build_api(Services(given, engine), list, page_data.current)
    engine.dispose()
    routes = [route for route in app.routes if isinstance(route, Route) and route.methods]
    assert {(method, route.path) for route in routes for method in route.methods or ()} == set(ENDPOINTS)
