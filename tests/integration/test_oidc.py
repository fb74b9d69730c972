"""Sign-in at OpenID Connect providers, over HTTP and against a real provider, also a malicious one."""

import base64
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from joserfc import jwt
from joserfc.jwk import RSAKey

from filemill.adapters.postgres.tables import Account, Operation, SignInAttempt, SignInSession
from filemill.config.settings import Settings, load
from filemill.domain.permissions import Role
from filemill.entrypoints import bootstrap
from filemill.errors import Conflict
from filemill.services.accounts import Accounts
from tests.integration.oidc_provider import CLIENT, SECRET, Provider, alert_of, query_of, running_provider
from tests.integration.rest import Rest, serving
from tests.principals import TEST

ROLES = {"operators": "operator", "everybody": "viewer"}
PAGE = {"accept": "text/html"}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider() as provider:
        provider.person("ann", preferred_username="ann", groups=["everybody", "operators"])
        yield provider


@pytest.fixture
def free_port() -> int:
    """A port that is free: the redirect URI has it before the page listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def other() -> Iterator[Provider]:
    with running_provider() as provider:
        yield provider


def config(provider: Provider, **more: Any) -> dict[str, Any]:
    given = {"issuer": provider.issuer, "client_id": CLIENT, "client_secret": SECRET, "roles": ROLES}
    return given | {"api_audience": "filemill-api"} | more


def with_oidc(settings: Settings, public_url: str, **providers: Any) -> Settings:
    given = load(auth="oidc", public_url=public_url, oidc_providers=providers)
    names = ("auth", "public_url", "oidc_providers")
    return settings.model_copy(update={name: getattr(given, name) for name in names})


class Browser:
    """A client that keeps cookies, at the public URL."""

    def __init__(self, rest: Rest) -> None:
        self.http = httpx.Client(base_url=rest.client.base_url, timeout=30, trust_env=False)

    def begin(self, provider: str = "corp") -> str:
        """Click a provider's button; returns where it leads."""
        answer = self.http.get(f"/sign-in/{provider}", headers=PAGE)
        assert answer.status_code == 303, alert_of(answer.text)
        return answer.headers["location"]

    def sign_in(self, provider: Provider, subject: str = "ann", name: str = "corp") -> httpx.Response:
        """The whole journey; returns the response to the way back."""
        return self.http.get(provider.approve(self.begin(name), subject), headers=PAGE)

    def status(self) -> int:
        return self.http.get("/api/files").status_code

    def session(self) -> str | None:
        return next((c.value for c in self.http.cookies.jar if not c.name.endswith("-sign-in")), None)


@pytest.fixture
def rest(settings: Settings, provider: Provider, other: Provider, free_port: int) -> Iterator[Rest]:
    url = f"http://127.0.0.1:{free_port}"
    given = with_oidc(settings, url, corp=config(provider, name="Corp & Sons"), partner=config(other))
    with serving(given, free_port) as rest:
        yield rest


@pytest.fixture
def browser(rest: Rest) -> Iterator[Browser]:
    browser = Browser(rest)
    yield browser
    browser.http.close()


def test_a_person_signs_in_and_has_the_role_of_the_groups(
    browser: Browser, provider: Provider, engine: sa.Engine
) -> None:
    page = browser.http.get("/sign-in", headers=PAGE)
    assert page.status_code == 200
    assert 'href="/sign-in/corp">Sign in with Corp &amp; Sons</a>' in page.text
    assert browser.http.get("/", headers=PAGE).headers["location"] == "/sign-in"
    assert browser.status() == 401

    url = browser.begin()
    asked = query_of(url)
    assert url.startswith(f"{provider.issuer}/oauth2/authorize?")
    assert (asked["response_type"], asked["client_id"]) == ("code", CLIENT)
    assert asked["redirect_uri"] == f"{browser.http.base_url}/sign-in/corp/callback".replace("//sign", "/sign")
    assert asked["scope"] == "openid profile email"
    assert asked["code_challenge_method"] == "S256"
    assert len({asked["state"], asked["nonce"], asked["code_challenge"]}) == 3
    answer = browser.http.get(provider.approve(url, "ann"), headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert SECRET not in url
    assert browser.status() == 200
    assert browser.http.get("/api/dead-letters").status_code == 200
    assert browser.http.post("/api/files/delete", json={"all": True, "status": "failed"}).status_code == 403

    (form,) = provider.token_forms
    assert "client_secret" not in form  # it is in the Authorization header
    digest = base64.urlsafe_b64encode(_sha256(form["code_verifier"])).rstrip(b"=")
    assert digest.decode() == asked["code_challenge"]
    with engine.connect() as connection:
        row = connection.execute(sa.select(Account.name, Account.role, Account.issuer, Account.subject)).one()
        assert tuple(row) == ("corp/ann", "operator", provider.issuer, "ann")
        audited = sa.select(Operation.actor, Operation.action, Operation.detail).order_by(Operation.id)
        audit = connection.execute(audited).first()
        assert audit is not None
        assert tuple(audit) == ("corp/ann", "account.add", {"account": "corp/ann", "role": "operator"})
        assert connection.execute(sa.select(SignInAttempt.key)).all() == []


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_a_role_follows_the_groups_at_the_next_sign_in(browser: Browser, provider: Provider, rest: Rest) -> None:
    browser.sign_in(provider)
    provider.person("ann", preferred_username="ann", groups="everybody")  # a text instead of a list
    browser.sign_in(provider)
    assert browser.http.get("/api/dead-letters").status_code == 403
    assert browser.status() == 200
    # A sign-in without a role ends the sessions that exist, in other browsers too.
    second = Browser(rest)
    provider.person("ann", preferred_username="ann", groups=["guests", "<script>"])
    answer = second.sign_in(provider)
    assert answer.status_code == 403
    assert "ann signed in at Corp &amp; Sons, but has no role in filemill" in alert_of(answer.text)
    assert "guests, &lt;script&gt;" in answer.text
    assert second.session() is None
    second.http.close()
    deadline = time.monotonic() + 10
    while browser.status() != 401:
        assert time.monotonic() < deadline, "the session outlives the role"


def test_the_same_subject_of_two_providers_are_two_people(
    browser: Browser, rest: Rest, provider: Provider, other: Provider, engine: sa.Engine
) -> None:
    other.person("ann", preferred_username="Ann", groups=["everybody"])
    assert browser.sign_in(provider).status_code == 303
    second = Browser(rest)
    assert second.sign_in(other, name="partner").status_code == 303
    assert browser.http.get("/api/dead-letters").status_code == 200
    assert second.http.get("/api/dead-letters").status_code == 403
    # Two subjects of one provider may call themselves the same; they are two people too.
    provider.person("eve", preferred_username="ann", groups=["everybody"])
    assert second.sign_in(provider, "eve").status_code == 303
    second.http.close()
    with engine.connect() as connection:
        names = connection.execute(sa.select(Account.name).order_by(Account.id)).scalars().all()
    assert names[:2] == ["corp/ann", "partner/ann"]
    assert names[2].startswith("corp/ann~")


def expire(seconds: int) -> Callable[[dict[str, Any]], None]:
    def change(claims: dict[str, Any]) -> None:
        claims["exp"] = int(time.time()) - seconds

    return change


def issue(seconds: int, claim: str = "iat") -> Callable[[dict[str, Any]], None]:
    def change(claims: dict[str, Any]) -> None:
        claims[claim] = int(time.time()) + seconds

    return change


BAD_CLAIMS: dict[str, Callable[[dict[str, Any]], object]] = {
    "wrong audience": lambda claims: claims.update(aud="another-client"),
    "several audiences without an authorized party": lambda claims: claims.update(aud=[CLIENT, "other"]),
    "another authorized party": lambda claims: claims.update(aud=[CLIENT, "other"], azp="other"),
    "no audience": lambda claims: claims.pop("aud"),
    "wrong issuer": lambda claims: claims.update(iss="https://evil.example"),
    "no issuer": lambda claims: claims.pop("iss"),
    "expired": expire(150),
    "no expiry": lambda claims: claims.pop("exp"),
    "endless": lambda claims: claims.update(exp=float("inf")),
    "expiry is a text": lambda claims: claims.update(exp="tomorrow"),
    "issued in the future": issue(150),
    "not valid yet": issue(150, "nbf"),
    "nonce of another sign-in": lambda claims: claims.update(nonce="x"),
    "no nonce": lambda claims: claims.pop("nonce"),
    "no subject": lambda claims: claims.pop("sub"),
    "empty subject": lambda claims: claims.update(sub=""),
    "subject is a number": lambda claims: claims.update(sub=7),
    "subject is long": lambda claims: claims.update(sub="x" * 256),
    "subject has a line feed": lambda claims: claims.update(sub="a\nb"),
    "another access token": lambda claims: claims.update(at_hash="x"),
    "100 kB of claims": lambda claims: claims.update(groups=["everybody", "x" * 100_000]),
}


@pytest.mark.parametrize("case", BAD_CLAIMS)
def test_a_token_with_a_bad_claim_is_refused(browser: Browser, provider: Provider, case: str) -> None:
    provider.change = BAD_CLAIMS[case]
    answer = browser.sign_in(provider)
    assert answer.status_code == 401, case
    assert "answer was refused" in alert_of(answer.text)
    assert "x" * 300 not in answer.text
    assert (browser.session(), browser.status()) == (None, 401)
    provider.change = lambda _claims: None
    assert browser.sign_in(provider).status_code == 303


@pytest.mark.parametrize("change", [expire(90), issue(90), issue(90, "nbf")])
def test_clocks_may_differ_by_two_minutes(
    browser: Browser, provider: Provider, change: Callable[[dict[str, Any]], None]
) -> None:
    provider.change = change
    assert browser.sign_in(provider).status_code == 303


def unsigned(claims: dict[str, Any], algorithm: str = "none") -> str:
    parts = [json.dumps({"alg": algorithm}).encode(), json.dumps(claims).encode()]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


def with_hmac(secret: bytes, claims: dict[str, Any]) -> str:
    """Signed by hand, because joserfc refuses to take a public key for a secret."""
    signed = unsigned(claims, "HS256").removesuffix(".")
    digest = hmac.digest(secret, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def bad_signatures(provider: Provider) -> dict[str, Callable[[dict[str, Any]], str]]:
    stranger = RSAKey.generate_key(2048)
    public = provider.key.as_pem(private=False)
    return {
        "none": unsigned,
        "None": lambda claims: unsigned(claims, "None"),
        "signed by a stranger": lambda claims: provider.signed_with(stranger, claims),
        "HMAC with the public key": lambda claims: with_hmac(public, claims),
        "HMAC with the client's secret": lambda claims: with_hmac(SECRET.encode(), claims),
        "an algorithm that is not allowed": lambda claims: provider.signed_with(provider.key, claims, "RS384"),
        "the stranger's key in the header": lambda claims: jwt.encode(
            {"alg": "RS256", "jwk": stranger.as_dict(private=False)}, claims, stranger
        ),
        "a changed payload": lambda claims: _with_payload(provider.signed(claims), {**claims, "groups": ["operators"]}),
        "no token": lambda _claims: "",
        "no JWT": lambda _claims: "a.b.c",
        "a deep header": lambda _claims: (
            base64.urlsafe_b64encode(b"[" * 3000 + b"]" * 3000).decode().rstrip("=") + ".e30.AA"
        ),
    }


def _with_payload(token: str, claims: dict[str, Any]) -> str:
    header, _, signature = token.split(".")
    return f"{header}.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.{signature}"


CASES = (
    *("none", "None", "signed by a stranger", "HMAC with the public key", "HMAC with the client's secret"),
    *("an algorithm that is not allowed", "the stranger's key in the header", "a changed payload", "no token"),
    *("no JWT", "a deep header"),
)


@pytest.mark.parametrize("case", CASES)
def test_a_token_that_the_provider_did_not_sign_is_refused(browser: Browser, provider: Provider, case: str) -> None:
    signatures = bad_signatures(provider)
    assert set(signatures) == set(CASES)
    provider.sign = signatures[case]
    assert browser.sign_in(provider).status_code == 401
    assert browser.session() is None


def test_a_new_key_of_the_provider_is_read(browser: Browser, provider: Provider) -> None:
    assert browser.sign_in(provider).status_code == 303
    old = provider.key
    provider.rotate()
    assert browser.sign_in(provider).status_code == 303
    provider.sign = lambda claims: jwt.encode({"alg": "RS256", "kid": old.thumbprint()}, claims, old)
    assert browser.sign_in(provider).status_code == 401  # the key that was replaced
    assert provider.requests.count("/jwks") == 3


def test_a_sign_in_ends_once_and_in_the_browser_in_which_it_began(
    browser: Browser, rest: Rest, provider: Provider
) -> None:
    back = provider.approve(browser.begin(), "ann")
    # Somebody else's browser: an attacker's answer signs nobody in, and the code is not used.
    victim = Browser(rest)
    answer = victim.http.get(back, headers=PAGE)
    assert (answer.status_code, victim.session()) == (400, None)
    assert "did not begin in this browser" in alert_of(answer.text)
    victim.begin()
    answer = victim.http.get(back, headers=PAGE)
    assert (answer.status_code, victim.session()) == (400, None)
    victim.http.close()
    assert provider.token_forms == []

    cookies = dict(browser.http.cookies)
    assert browser.http.get(back, headers=PAGE).status_code == 303
    assert not any(name.endswith("-sign-in") for name in browser.http.cookies)
    # State and code again, with the cookie of then.
    replay = httpx.get(back, headers=PAGE, cookies=cookies, trust_env=False)
    assert replay.status_code == 400
    assert "was used before" in alert_of(replay.text)
    assert len(provider.token_forms) == 1
    # The same code with a state of one's own: the provider refuses it.
    state = query_of(browser.begin())["state"]
    code = query_of(back)["code"]
    answer = browser.http.get(f"/sign-in/corp/callback?code={code}&state={state}", headers=PAGE)
    assert answer.status_code == 401
    assert "refused the code" in alert_of(answer.text)


def test_an_answer_of_another_provider_or_with_an_error_is_refused(browser: Browser, provider: Provider) -> None:
    state = query_of(browser.begin())["state"]
    assert browser.http.get(f"/sign-in/partner/callback?code=x&state={state}").status_code == 400
    for answer in ("error=access_denied&error_description=<script>", "", "code=x&code=y", "iss=x&error=<script>"):
        state = query_of(browser.begin())["state"]
        found = browser.http.get(f"/sign-in/corp/callback?state={state}&{answer}", headers=PAGE)
        assert found.status_code == 400, answer
        assert "<script>" not in found.text
    state = query_of(browser.begin())["state"]
    found = browser.http.get(f"/sign-in/corp/callback?state={state}&code=x&iss=https://evil.example")
    assert "from another issuer" in alert_of(found.text)
    assert provider.token_forms == []


def test_a_sign_in_leads_to_this_page_only(browser: Browser, provider: Provider, rest: Rest) -> None:
    evil = "next=//evil.example&redirect_uri=https://evil.example&return_to=https://evil.example"
    url = browser.http.get(f"/sign-in/corp?{evil}", headers=PAGE).headers["location"]
    assert "evil" not in url
    back = provider.approve(url, "ann")
    assert browser.http.get(f"{back}&{evil}", headers=PAGE).headers["location"] == "/"
    # Another name of this server: the sign-in goes on at the public one, where its cookies are.
    port = rest.client.base_url.port
    found = browser.http.get("/sign-in/corp", headers={"host": f"localhost:{port}"})
    assert found.headers["location"] == f"http://127.0.0.1:{port}/sign-in/corp"
    for path in ("//evil.example", "corp/callback/x", "corp//evil.example", "x%0d%0aLocation:%20y"):
        found = browser.http.get(f"/sign-in/{path}", headers=PAGE)
        assert found.status_code in {400, 404}
        assert "location" not in found.headers


def test_each_sign_in_gives_a_new_session_and_ends_the_former_one(browser: Browser, provider: Provider) -> None:
    browser.sign_in(provider)
    first = browser.session()
    headers = {"Cookie": f"filemill-{browser.http.base_url.port}={first}"}
    assert httpx.get(browser.http.base_url.join("/api/files"), headers=headers, trust_env=False).status_code == 200
    browser.sign_in(provider)
    assert browser.session() != first
    assert httpx.get(browser.http.base_url.join("/api/files"), headers=headers, trust_env=False).status_code == 401


def test_sign_out_ends_the_session_and_leads_to_the_providers_sign_out(browser: Browser, provider: Provider) -> None:
    browser.sign_in(provider)
    answer = browser.http.post("/sign-out")
    assert answer.status_code == 200
    assert browser.status() == 401
    public = str(browser.http.base_url).rstrip("/")
    expected = httpx.URL(f"{provider.issuer}/oauth2/end_session").copy_merge_params(
        {"client_id": CLIENT, "post_logout_redirect_uri": f"{public}/sign-in"}
    )
    assert f'content="0; url={str(expected).replace("&", "&amp;")}"' in answer.text
    assert httpx.get(expected, trust_env=False).status_code == 200
    assert "may still be signed in" in browser.http.post("/sign-out").text  # without a session


def notify(rest: Rest, token: str, **headers: str) -> httpx.Response:
    """What a provider sends when somebody has signed out there."""
    form = {"logout_token": token}
    return rest.client.post("/sign-in/corp/back-channel-logout", data=form, headers=headers)


def test_a_back_channel_logout_ends_the_sessions_that_it_names(
    browser: Browser, rest: Rest, provider: Provider, other: Provider
) -> None:
    other.person("ann", groups=["everybody"])
    browsers = [browser, Browser(rest), Browser(rest)]
    for number, each in enumerate(browsers):
        provider.change = lambda claims, sid=f"s{number}": claims.update(sid=sid)  # type: ignore[misc]
        assert each.sign_in(provider).status_code == 303
    elsewhere = Browser(rest)  # the same subject at another provider
    assert elsewhere.sign_in(other, "ann", "partner").status_code == 303

    def statuses() -> list[int]:
        return [each.status() for each in (*browsers, elsewhere)]

    assert notify(rest, provider.logout_token(sub="bob")).status_code == 200
    assert notify(rest, provider.logout_token(sid="unknown")).status_code == 200
    assert statuses() == [200, 200, 200, 200]
    answer = notify(rest, provider.logout_token(sid="s1"))
    assert (answer.status_code, answer.headers["cache-control"], answer.content) == (200, "no-store", b"")
    assert statuses() == [200, 401, 200, 200]
    assert notify(rest, provider.logout_token(sid="s1")).status_code == 200  # a repeated one
    assert notify(rest, provider.logout_token()).status_code == 200
    assert statuses() == [401, 401, 401, 200]
    for each in (*browsers[1:], elsewhere):
        each.http.close()


def test_a_session_whose_provider_named_no_session_ends_with_each_of_the_person(
    browser: Browser, rest: Rest, provider: Provider
) -> None:
    browser.sign_in(provider)
    assert notify(rest, provider.logout_token(sid="s1")).status_code == 200
    assert browser.status() == 401


def test_only_a_logout_token_of_the_provider_ends_sessions(browser: Browser, rest: Rest, provider: Provider) -> None:
    id_tokens: list[dict[str, Any]] = []
    provider.change = id_tokens.append
    browser.sign_in(provider)
    now = int(time.time())
    bad = {
        "an ID token": provider.signed(id_tokens[0]),
        "an access token": provider.access_token(sub="ann"),
        "another type": provider.signed({"sub": "ann"}, typ="at+jwt"),
        "with a nonce": provider.logout_token(nonce="x"),
        "no events": provider.logout_token(events=None),
        "other events": provider.logout_token(events={"http://schemas.openid.net/event/other": {}}),
        "events as text": provider.logout_token(events="http://schemas.openid.net/event/backchannel-logout"),
        "another audience": provider.logout_token(aud="another-client"),
        "another issuer": provider.logout_token(iss="https://evil.example"),
        "expired": provider.logout_token(exp=now - 150),
        "from the future": provider.logout_token(iat=now + 3600),
        "no expiry": provider.logout_token(exp=None),
        "no subject": provider.logout_token(sub=None, sid="s1"),
        "no token": "",
        "too large": "x" * 5000,
    }
    claims: dict[str, Any] = jwt.decode(provider.logout_token(), provider.key).claims
    bad |= {name: sign(claims) for name, sign in bad_signatures(provider).items()}
    for name, token in bad.items():
        answer = notify(rest, token)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_logout_token"), name
        assert answer.headers["cache-control"] == "no-store"
    url = "/sign-in/corp/back-channel-logout"
    assert rest.client.get(url).status_code == 405
    token = provider.logout_token()
    assert notify(rest, token, origin="https://evil.example").status_code == 403
    assert rest.client.post("/sign-in/unknown/back-channel-logout", data={"logout_token": token}).status_code == 400
    assert rest.client.post("/sign-in/partner/back-channel-logout", data={"logout_token": token}).status_code == 400
    assert browser.status() == 200


def test_without_the_provider_sessions_go_on_and_the_sign_in_page_says_why_not(
    browser: Browser, rest: Rest, provider: Provider, other: Provider
) -> None:
    other.person("bob", groups=["everybody"])
    browser.sign_in(provider)
    second = Browser(rest)
    url = second.begin()
    back = provider.approve(url, "ann")
    provider.server.shutdown()
    provider.server.server_close()
    assert browser.status() == 200
    for path in ("/sign-in/corp", back):
        answer = second.http.get(path, headers=PAGE)
        assert answer.status_code == 503
        problem = alert_of(answer.text)
        assert "You cannot sign in now. Corp &amp; Sons (127.0.0.1) cannot be used" in problem
        assert "Try again" in problem
        assert 'href="/sign-in/partner"' in answer.text
    assert second.sign_in(other, "bob", "partner").status_code == 303
    signed_out = browser.http.post("/sign-out")
    assert signed_out.status_code == 200
    assert "may still be signed in" in signed_out.text
    assert provider.issuer not in signed_out.text  # a browser would show its own error there
    assert browser.status() == 401
    second.http.close()


def test_metadata_that_lies_is_refused(browser: Browser, provider: Provider) -> None:
    for document in (
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://evil.example/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": 7},
        {"filling": "x" * 600_000},
    ):
        provider.document = document
        answer = browser.http.get("/sign-in/corp", headers=PAGE)
        assert answer.status_code == 503, document
        assert "cannot be used" in alert_of(answer.text)
        assert len(answer.text) < 10_000
    provider.document = {}
    assert browser.sign_in(provider).status_code == 303


def test_an_admin_disables_somebody_but_the_provider_determines_role_and_password(
    browser: Browser, provider: Provider, engine: sa.Engine
) -> None:
    browser.sign_in(provider)
    accounts = Accounts(engine)
    (row,) = accounts.list(TEST)
    assert (row.name, row.issuer, row.subject, row.sessions) == ("corp/ann", provider.issuer, "ann", 1)
    with pytest.raises(Conflict):
        accounts.set_role("corp/ann", Role.ADMIN, TEST)
    with pytest.raises(Conflict):
        accounts.set_password("corp/ann", "a long password", TEST)
    accounts.disable("corp/ann", TEST)
    with engine.connect() as connection:
        assert connection.execute(sa.select(SignInSession.key)).all() == []
    answer = browser.sign_in(provider)
    assert answer.status_code == 403
    assert "is disabled" in alert_of(answer.text)
    accounts.enable("corp/ann", TEST)
    assert browser.sign_in(provider).status_code == 303


def test_sessions_of_a_provider_end_with_its_setting(browser: Browser, provider: Provider, rest: Rest) -> None:
    browser.sign_in(provider)
    secret = browser.session()
    assert secret is not None
    key = _sha256(secret)
    settings, engine = rest.services.settings, rest.services.sessions._engine
    assert bootstrap.sessions(settings, engine).find(key) is not None
    without = settings.model_copy(update={"oidc_providers": {"partner": settings.oidc_providers["partner"]}})
    assert bootstrap.sessions(without, engine).find(key) is None
    assert bootstrap.sessions(settings.model_copy(update={"auth": "accounts"}), engine).find(key) is None


def test_sign_ins_of_one_address_are_limited(browser: Browser) -> None:
    statuses = {browser.http.get("/sign-in/corp").status_code for _ in range(30)}
    assert statuses == {303}
    answer = browser.http.get("/sign-in/corp")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")


def test_only_get_begins_a_sign_in(browser: Browser) -> None:
    for path in ("/sign-in", "/sign-in/corp", "/sign-in/corp/callback"):
        assert browser.http.post(path).status_code == 405
        assert browser.http.head(path).status_code == 405
    assert browser.http.get("/sign-in/unknown").status_code == 404


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_programs_use_rest_with_access_tokens(rest: Rest, provider: Provider, engine: sa.Engine) -> None:
    http, token = rest.client, provider.access_token(groups=["operators"], client_id="robot")
    assert http.get("/api/files", headers=bearer(token)).status_code == 200
    created = http.post("/api/files", json={"title": "By a robot"}, headers=bearer(token))
    assert created.status_code == 201
    assert http.post(f"/api/files/{created.json()['id']}/cancel", headers=bearer(token)).status_code == 200
    assert http.delete(f"/api/files/{created.json()['id']}", headers=bearer(token)).status_code == 204  # its own
    many = http.post("/api/files/delete", json={"all": True, "status": "failed"}, headers=bearer(token))
    assert many.status_code == 403
    with engine.connect() as connection:
        actors = connection.execute(sa.select(Operation.actor)).scalars().all()
    assert set(actors) == {"corp/robot"}
    refused = http.get("/api/files", headers=bearer(provider.access_token(groups=["guests"])))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "no_role")
    Accounts(engine).disable("corp/robot", TEST)
    fresh = provider.access_token(groups=["operators"], jti="2")
    assert http.get("/api/files", headers=bearer(fresh)).status_code == 401
    # A token is no credential for pages, and nothing that a page or the CLI could put into a URL.
    assert http.get("/", headers=bearer(token)).status_code == 401
    assert http.get(f"/api/files?access_token={fresh}").status_code == 401


BAD_ACCESS: dict[str, dict[str, Any]] = {
    "wrong audience": {"aud": "another-api"},
    "an ID token": {"aud": CLIENT},
    "no audience": {"aud": None},
    "expired": {"exp": int(time.time()) - 150},
    "no expiry": {"exp": None},
    "from the future": {"iat": int(time.time()) + 3600},
    "another issuer": {"iss": "https://evil.example"},
    "no issuer": {"iss": None},
    "the issuer is a list": {"iss": ["x"]},
    "no subject": {"sub": None},
}


@pytest.mark.parametrize("case", BAD_ACCESS)
def test_a_bad_access_token_is_refused(rest: Rest, provider: Provider, case: str) -> None:
    token = provider.access_token(groups=["operators"], **BAD_ACCESS[case])
    assert rest.client.get("/api/files", headers=bearer(token)).status_code == 401


def test_forged_access_tokens_are_refused_and_the_keys_are_not_read_for_each(rest: Rest, provider: Provider) -> None:
    claims: dict[str, Any] = {"iss": provider.issuer, "aud": "filemill-api", "sub": "x", "groups": ["operators"]}
    claims |= {"iat": int(time.time()), "exp": int(time.time()) + 300}
    forged = [token for sign in bad_signatures(provider).values() if (token := sign(claims))]
    for token in (*forged, "x", "a.b", "a.b.c", "é", "..", "x" * 20_000):
        headers = [(b"authorization", f"Bearer {token}".encode("latin-1"))]
        assert rest.client.get("/api/files", headers=headers).status_code == 401
    typed = provider.signed(claims, typ="logout+jwt")
    assert rest.client.get("/api/files", headers=bearer(typed)).status_code == 401
    assert provider.requests.count("/jwks") == 1
    assert rest.client.get("/api/files", headers=bearer(provider.signed(claims, typ="at+jwt"))).status_code == 200


def test_without_an_audience_for_rest_no_access_token_is_accepted(
    settings: Settings, provider: Provider, free_port: int
) -> None:
    given = with_oidc(settings, f"http://127.0.0.1:{free_port}", corp=config(provider, api_audience=""))
    with serving(given, free_port) as rest:
        for audience in ("", CLIENT, None):
            token = provider.access_token(groups=["operators"], aud=audience)
            assert rest.client.get("/api/files", headers=bearer(token)).status_code == 401


def test_access_tokens_are_accepted_while_the_provider_is_away_if_its_keys_are_known(
    settings: Settings, rest: Rest, provider: Provider
) -> None:
    first, second = (provider.access_token(groups=["operators"], jti=name) for name in "ab")
    with serving(rest.services.settings) as unused:
        assert rest.client.get("/api/files", headers=bearer(first)).status_code == 200
        provider.server.shutdown()
        provider.server.server_close()
        assert rest.client.get("/api/files", headers=bearer(second)).status_code == 200
        answer = unused.client.get("/api/files", headers=bearer(second))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
