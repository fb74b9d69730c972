"""Mode `proxy`: headers of a trusted proxy say who somebody is; the same headers of others do not."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from filemill.config.exposure import InsecureExposure, check_exposure
from filemill.config.settings import InvalidSettings, Settings, load
from filemill.domain.permissions import Principal
from filemill_dashboard.asgi.authentication import Authentication
from filemill_dashboard.asgi.proxy_identity import ProxyAuthenticator
from filemill_dashboard.asgi.request_filter import RequestFilter
from filemill_dashboard.state.identity import PRINCIPAL, decode_identity

PROXY = "10.0.0.7"
UNUSED: Any = None
USER = {"X-Forwarded-User": "ann", "X-Forwarded-Groups": "staff, on-call"}
ROLES = {"staff": "viewer", "on-call": "operator"}


def settings(**more: Any) -> Settings:
    given = {"trusted_proxies": "10.0.0.0/24", "proxy_roles": ROLES, "allowed_hosts": "files.example", **more}
    return load(auth="proxy", **given)


async def echo(request: Request) -> Response:
    who: Principal = request.scope[PRINCIPAL]
    names = [name for name in request.headers if name.startswith(("x-forwarded-user", "x-forwarded-groups", "x-mail"))]
    own = request.headers.get("x-filemill-identity")
    return JSONResponse({"name": who.name, "role": who.role, "headers": names, "own": own})


def ask(
    headers: dict[str, str] | list[tuple[str, str]],
    path: str = "/api/files",
    *,
    peer: str = PROXY,
    given: Settings | None = None,
    method: str = "GET",
) -> httpx.Response:
    given = given or settings()
    app = Starlette(routes=[Route("/{path:path}", echo)])
    layer = RequestFilter(Authentication(app, given, UNUSED, UNUSED, ProxyAuthenticator(given)), given)

    async def work() -> httpx.Response:
        transport = httpx.ASGITransport(layer, client=(peer, 5000))
        async with httpx.AsyncClient(transport=transport, base_url="https://files.example") as http:
            return await http.request(method, path, headers=headers)

    return asyncio.run(work())


def test_the_proxy_says_who_somebody_is_and_the_groups_give_the_highest_role() -> None:
    assert ask(USER).json() == {"name": "proxy:ann", "role": "operator", "headers": [], "own": None}
    named = {**USER, "X-Forwarded-Email": "ann@example.org", "X-Forwarded-For": "203.0.113.7"}
    assert ask(named).json()["name"] == "proxy:ann (ann@example.org)"
    page = ask(named, "/files").json()
    assert decode_identity(page["own"]).role == "operator"
    assert ask(named, "/files").json()["own"] == page["own"]  # Streamlit continues a page for the same identity only


@pytest.mark.parametrize("peer", ["192.0.2.1", "127.0.0.1", "10.0.1.7"])
def test_the_headers_of_others_do_not_count(peer: str) -> None:
    forged = {**USER, "X-Forwarded-For": PROXY}
    assert ask(forged, peer=peer).status_code == 401
    assert ask({**forged, "accept": "text/html"}, "/", peer=peer).headers["location"] == "/sign-in"
    page = ask({**forged, "accept": "text/html"}, "/sign-in", peer=peer)
    assert (page.status_code, "A reverse proxy signs people in" in page.text) == (401, True)
    assert ask(forged, "/healthz", peer=peer).json()["role"] is None


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Forwarded-Groups", "staff")],
        [("X-Forwarded-User", ""), ("X-Forwarded-Groups", "staff")],
        [("X-Forwarded-User", "eve"), ("X-Forwarded-User", "ann"), ("X-Forwarded-Groups", "staff")],
        [("X-Forwarded-User", "ann"), ("X-Forwarded-Groups", "guests"), ("X-Forwarded-Groups", "on-call")],
        [("X-Forwarded-User", "x" * 101), ("X-Forwarded-Groups", "staff")],
        [("X-Forwarded-User", "a\tb"), ("X-Forwarded-Groups", "staff")],
        [("X-Forwarded-User", "\xff"), ("X-Forwarded-Groups", "staff")],
        [("X-Forwarded-Email", "ann@example.org"), ("X-Forwarded-Groups", "staff")],
    ],
    ids=str,
)
def test_unusable_headers_sign_nobody_in(headers: list[tuple[str, str]]) -> None:
    encoded: Any = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    assert ask(encoded).status_code == 401


@pytest.mark.parametrize("groups", ["", "guests", "ON-CALL", "staffs", "on-call;staff", "x," * 5000])
def test_somebody_without_a_role_gets_403_with_the_reason(groups: str) -> None:
    headers = {"X-Forwarded-User": "<b>ann", "X-Forwarded-Groups": groups}
    refused = ask(headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "no_role")
    page = ask({**headers, "accept": "text/html"}, "/")
    assert page.status_code == 403
    assert "&lt;b&gt;ann is signed in, but has no role in filemill" in page.text
    assert ask(headers, "/healthz").status_code == 200
    assert ask(headers, given=settings(proxy_default_role="viewer")).json()["role"] == "viewer"


def test_the_names_of_the_headers_are_settings() -> None:
    given = settings(proxy_user_header="X-Mail", proxy_groups_header="Remote-Groups", proxy_email_header="")
    found = ask({"X-Mail": "ann", "Remote-Groups": "staff", "X-Forwarded-User": "eve"}, given=given).json()
    assert (found["name"], found["role"]) == ("proxy:ann", "viewer")
    assert ask(USER, given=given).status_code == 401


def test_sign_in_and_sign_out_are_the_proxys() -> None:
    assert ask(USER, "/sign-in").headers["location"] == "/"
    assert 'content="0; url=/oauth2/sign_out"' in (
        ask(USER, "/sign-out", method="POST", given=settings(proxy_sign_out_url="/oauth2/sign_out")).text
    )
    assert "may still be signed in" in ask(USER, "/sign-out", method="POST").text


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"auth": "proxy"}, "trusted_proxies_missing"),
        ({"auth": "proxy", "trusted_proxies": "10.0.0.1", "proxy_user_header": ""}, "proxy_header_missing"),
        ({"auth": "oidc"}, "oidc_providers_missing"),
        (
            {"auth": "oidc", "oidc_providers": {"a": {"issuer": "https://a.example", "client_id": "x"}}},
            "oidc_public_url_missing",
        ),
    ],
    ids=str,
)
def test_an_incomplete_mode_does_not_start(given: dict[str, Any], code: str) -> None:
    with pytest.raises(InsecureExposure) as refused:
        check_exposure(load(**given))
    assert refused.value.codes == (code,)


@pytest.mark.parametrize(
    "given",
    [
        {"oidc_providers": {"a": {"issuer": "http://a.example", "client_id": "x"}}},
        {"oidc_providers": {"a": {"issuer": "https://u:p@a.example", "client_id": "x"}}},
        {"oidc_providers": {"a": {"issuer": "https://a.example?x", "client_id": "x"}}},
        {"oidc_providers": {"a": {"issuer": "https://a.example"}}},
        {"oidc_providers": {"A/b": {"issuer": "https://a.example", "client_id": "x"}}},
        {"oidc_providers": {"a": {"issuer": "https://a.example", "client_id": "x", "algorithms": ["none"]}}},
        {"oidc_providers": {"a": {"issuer": "https://a.example", "client_id": "x", "algorithms": ["HS256"]}}},
        {"oidc_providers": {"a": {"issuer": "https://a.example", "client_id": "x", "api_audience": "x"}}},
        {"oidc_providers": {"a": {"issuer": "https://a.example", "client_id": "x", "roles": {"g": "root"}}}},
        {"oidc_providers": {"a": {"issuer": "https://a.example", "client_id": "x", "client_secret_file": "/no"}}},
        {"oidc_providers": {"a": {"issuer": "https://a.example", "client_id": "x", "unknown": 1}}},
        {"oidc_providers": {name: {"issuer": "https://a.example", "client_id": "x"} for name in "ab"}},
        {"proxy_user_header": "X User"},
        {"proxy_sign_out_url": "//evil.example"},
        {"proxy_sign_out_url": "javascript:alert(1)"},
        {"proxy_roles": {"staff": "root"}},
    ],
    ids=str,
)
def test_bad_settings_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings):
        load(**given)
