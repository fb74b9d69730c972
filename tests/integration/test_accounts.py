"""Accounts, their sessions, and the sign-in over HTTP, on a real database."""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from filemill.adapters.passwords import verify_password
from filemill.adapters.postgres.tables import Account, Operation, SignInSession, SignInTries
from filemill.config.settings import Settings, load
from filemill.domain.permissions import Principal, RequestSource, Role
from filemill.entrypoints import bootstrap
from filemill.errors import Conflict, InvalidRequest, Unavailable
from filemill.queries.audit import AuditFilter
from filemill.services import accounts as service
from filemill.services.accounts import Accounts, Sessions, TooManyTries, UnknownAccount, session_key
from filemill.services.audit_log import AuditLog
from filemill_dashboard.state import services as services_module
from filemill_dashboard.state.identity import Identity
from filemill_dashboard.state.principals import page_principal
from filemill_dashboard.state.services import Services
from tests.integration.rest import Rest, serving
from tests.principals import TEST

PASSWORD = "correct horse battery"
ADDRESS = "192.0.2.7"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def accounts(engine: sa.Engine) -> Accounts:
    found = Accounts(engine)
    found.add("Ann", Role.OPERATOR, PASSWORD, TEST)
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(engine: sa.Engine, clock: Clock) -> Sessions:
    return Sessions(engine, clock)


def opened(sessions: Sessions, name: str = "ann", former: str = "") -> str:
    secret = sessions.sign_in(name, PASSWORD, ADDRESS, former)
    assert secret is not None
    return secret


def forget_tries(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.delete(SignInTries))


def change(before: str, after: str, *, disabled: bool = False) -> dict[str, dict[str, object]]:
    return {"before": {"role": before, "disabled": False}, "after": {"role": after, "disabled": disabled}}


def test_accounts_are_created_listed_changed_and_audited(accounts: Accounts, engine: sa.Engine) -> None:
    assert accounts.add("bob@example.org", Role.VIEWER, PASSWORD, TEST) == "bob@example.org"
    with pytest.raises(Conflict):
        accounts.add("ANN", Role.ADMIN, PASSWORD, TEST)
    accounts.set_role("ann", Role.ADMIN, TEST)
    accounts.disable("bob@example.org", TEST)
    with pytest.raises(UnknownAccount):
        accounts.disable("carl", TEST)
    ann, bob = accounts.list(TEST)
    assert (ann.name, ann.role, ann.disabled_at, ann.sessions) == ("ann", Role.ADMIN, None, 0)
    assert bob.disabled_at is not None
    with engine.connect() as connection:
        found = connection.execute(sa.select(Operation.action, Operation.detail).order_by(Operation.id)).all()
        stored = connection.execute(sa.select(Account.password_hash)).scalars().all()
    assert [tuple(row) for row in found] == [
        ("account.add", {"account": "ann", "role": "operator"}),
        ("account.add", {"account": "bob@example.org", "role": "viewer"}),
        ("account.role", {"account": "ann", "role": "admin", **change("operator", "admin")}),
        ("account.disable", {"account": "bob@example.org", **change("viewer", "viewer", disabled=True)}),
    ]
    assert all(text is not None and text.startswith("$argon2id$") for text in stored)
    assert len(set(stored)) == 2


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("", PASSWORD),
        ("a b", PASSWORD),
        ("rest:1", PASSWORD),
        ("page", PASSWORD),
        ("x" * 65, PASSWORD),
        ("eve", "short"),
    ],
)
def test_bad_names_and_passwords_are_rejected(engine: sa.Engine, name: str, password: str) -> None:
    with pytest.raises(InvalidRequest):
        Accounts(engine).add(name, Role.VIEWER, password, TEST)


@pytest.mark.usefixtures("accounts")
def test_only_the_right_name_and_password_sign_in(sessions: Sessions, engine: sa.Engine) -> None:
    secret = opened(sessions, " ANN ")
    assert sessions.find(session_key(secret)) == Principal("ann", Role.OPERATOR)
    assert sessions.sign_in("ann", PASSWORD + "x", ADDRESS) is None
    assert sessions.sign_in("bob", PASSWORD, ADDRESS) is None
    assert sessions.sign_in("'; DROP TABLE accounts; --", PASSWORD, ADDRESS) is None
    assert sessions.sign_in("ann", "x" * 100_000, ADDRESS) is None
    assert sessions.find(session_key("guessed")) is None
    with engine.connect() as connection:
        stored = connection.execute(sa.select(SignInSession.key)).scalars().all()
    assert stored == [session_key(secret)]


@pytest.mark.usefixtures("accounts")
def test_an_unknown_name_costs_as_much_as_a_wrong_password(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str | None] = []

    def verify(stored: str | None, _password: str) -> bool:
        checked.append(stored)
        return False

    monkeypatch.setattr(service, "verify_password", verify)
    sessions.sign_in("ann", "wrong", ADDRESS)
    sessions.sign_in("bob", "wrong", ADDRESS)
    assert checked[0] is not None
    assert checked[1:] == [None]


@pytest.mark.parametrize("rehash", [False, True])
def test_a_password_that_changes_during_the_sign_in_opens_no_session(
    accounts: Accounts, sessions: Sessions, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, *, rehash: bool
) -> None:
    def verify_slowly(stored: str | None, password: str) -> bool:
        right = verify_password(stored, password)
        accounts.set_password("ann", "another battery", TEST)
        return right

    monkeypatch.setattr(service, "needs_rehash", lambda _hash: rehash)
    with monkeypatch.context() as patched:
        patched.setattr(service, "verify_password", verify_slowly)
        assert sessions.sign_in("ann", PASSWORD, ADDRESS) is None
    assert sessions.sign_in("ann", PASSWORD, ADDRESS) is None
    assert sessions.sign_in("ann", "another battery", ADDRESS) is not None
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(SignInSession)).scalar_one() == 1


@pytest.mark.usefixtures("accounts")
def test_a_disabled_account_opens_no_session_although_its_password_was_checked_before(
    accounts: Accounts, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(_stored: str | None, _password: str) -> bool:
        accounts.disable("ann", TEST)
        return True

    monkeypatch.setattr(service, "verify_password", verify)
    assert sessions.sign_in("ann", PASSWORD, ADDRESS) is None


def test_a_session_ends_within_two_seconds_of_its_revocation(
    accounts: Accounts, sessions: Sessions, engine: sa.Engine, clock: Clock
) -> None:
    revocations: list[Callable[[], None]] = [
        lambda: accounts.disable("ann", TEST),
        lambda: accounts.set_password("ann", PASSWORD, TEST),
    ]
    for revoke in revocations:
        accounts.enable("ann", TEST)
        forget_tries(engine)
        key = session_key(opened(sessions))
        assert sessions.find(key) is not None
        revoke()
        clock.now += service.CACHE_SECONDS
        assert sessions.find(key) is None
    accounts.enable("ann", TEST)
    forget_tries(engine)
    key = session_key(opened(sessions))
    sessions.find(key)
    accounts.set_role("ann", Role.VIEWER, TEST)
    clock.now += service.CACHE_SECONDS
    assert sessions.find(key) == Principal("ann", Role.VIEWER)


@pytest.mark.usefixtures("accounts")
def test_a_session_ends_when_it_is_idle_and_at_its_absolute_end(
    sessions: Sessions, engine: sa.Engine, clock: Clock
) -> None:
    for column, ago in (("used_at", "13 hours"), ("expires_at", "1 second")):
        key = session_key(opened(sessions))
        assert sessions.find(key) is not None
        with engine.begin() as connection:
            connection.execute(
                sa.text(f"UPDATE sessions SET {column} = now() - interval '{ago}' WHERE key = :key"), {"key": key}
            )
        clock.now += service.CACHE_SECONDS
        assert sessions.find(key) is None, column
        forget_tries(engine)
    opened(sessions)
    with engine.connect() as connection:  # a sign-in deletes the expired ones
        assert len(connection.execute(sa.select(SignInSession.key)).all()) == 2


@pytest.mark.usefixtures("accounts")
def test_use_moves_the_idle_end_but_not_at_each_request(sessions: Sessions, engine: sa.Engine, clock: Clock) -> None:
    key = session_key(opened(sessions))
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE sessions SET used_at = now() - interval '11 hours'"))
    assert sessions.find(key) is not None
    with engine.connect() as connection:
        first = connection.execute(sa.select(SignInSession.used_at)).scalar_one()
        recent = sa.text("SELECT :at > now() - interval '1 minute'")
        assert connection.execute(recent, {"at": first}).scalar_one()
    clock.now += service.CACHE_SECONDS
    sessions.find(key)
    with engine.connect() as connection:
        assert connection.execute(sa.select(SignInSession.used_at)).scalar_one() == first


@pytest.mark.usefixtures("accounts")
def test_a_sign_in_gives_a_new_secret_and_ends_the_former_session(sessions: Sessions) -> None:
    first = opened(sessions)
    second = opened(sessions, former=first)
    assert first != second
    assert sessions.find(session_key(first)) is None
    planted = opened(sessions, former="planted by an attacker")
    assert planted != "planted by an attacker"
    assert sessions.find(session_key("planted by an attacker")) is None
    sessions.sign_out(second)
    assert sessions.find(session_key(second)) is None


@pytest.mark.usefixtures("accounts")
def test_of_fifty_parallel_guesses_five_are_checked(
    sessions: Sessions, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    def verify(_stored: str | None, password: str) -> bool:
        checked.append(password)
        return False

    monkeypatch.setattr(service, "verify_password", verify)

    def guess(number: int) -> bool:
        try:
            sessions.sign_in("ann", f"guess {number}", ADDRESS)
        except TooManyTries:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        allowed = sum(pool.map(guess, range(50)))
    assert (allowed, len(checked)) == (5, 5)
    with pytest.raises(TooManyTries):  # the right password too
        sessions.sign_in("ann", PASSWORD, ADDRESS)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE sign_in_tries SET since = now() - interval '61 seconds'"))
    assert guess(51)
    assert sessions.sign_in("ann", "no", "192.0.2.8") is None  # from another address


@pytest.mark.usefixtures("accounts")
def test_guesses_for_many_names_from_one_address_are_limited(sessions: Sessions, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(SignInTries).values(key=f"address {ADDRESS}", tries=30))
    with pytest.raises(TooManyTries):
        sessions.sign_in("somebody", "guess", ADDRESS)


@pytest.mark.usefixtures("accounts")
def test_an_ipv6_network_of_one_host_counts_as_one_address(sessions: Sessions) -> None:
    for number in range(5):
        assert sessions.sign_in("ann", "guess", f"2001:db8::{number:x}") is None
    with pytest.raises(TooManyTries):
        sessions.sign_in("ann", "guess", "2001:db8::ffff:1")
    assert sessions.sign_in("ann", "guess", "2001:db8:0:1::1") is None


@pytest.mark.usefixtures("accounts")
def test_known_sessions_survive_an_outage_of_the_database(
    sessions: Sessions, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = session_key(opened(sessions))
    assert sessions.find(key) is not None
    away = bootstrap.create_engine(load(database_port=1, server_timeout_seconds=1), "test")
    monkeypatch.setattr(sessions, "_engine", away)
    clock.now += 60
    assert sessions.find(key) == Principal("ann", Role.OPERATOR)
    with pytest.raises(Unavailable):
        sessions.find(session_key("unknown"))
    clock.now += service.CACHE_OUTAGE_SECONDS
    with pytest.raises(Unavailable):
        sessions.find(key)


@pytest.fixture
def rest(settings: Settings, accounts: Accounts) -> Iterator[Rest]:
    for role in (Role.VIEWER, Role.SUBMITTER):
        accounts.add(role.value, role, PASSWORD, TEST)
    with serving(settings.model_copy(update={"auth": "accounts"})) as rest:
        yield rest


def sign_in(rest: Rest, name: str, password: str = PASSWORD, **more: Any) -> httpx.Response:
    return rest.client.post("/sign-in", data={"name": name, "password": password}, **more)


def test_people_sign_in_over_http_and_may_do_what_their_role_allows(
    rest: Rest, accounts: Accounts, engine: sa.Engine
) -> None:
    http = rest.client
    assert http.get("/api/files").status_code == 401
    assert http.get("/healthz").status_code == 200
    assert http.get("/", headers={"accept": "text/html"}).headers["location"] == "/sign-in"
    assert 'name="password"' in http.get("/sign-in").text
    wrong, unknown = sign_in(rest, "viewer", "wrong password"), sign_in(rest, "nobody else", "wrong password")
    assert (wrong.status_code, wrong.text) == (unknown.status_code, unknown.text)
    assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)

    answer = sign_in(rest, "viewer")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert http.get("/api/files").status_code == 200
    refused = http.post("/api/files", json={"title": "No"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    (row,) = AuditLog(engine).page(AuditFilter(actor="viewer"), TEST)
    assert (row.action, row.address, row.request_id) == ("refused", "127.0.0.1", refused.headers["x-request-id"])
    assert re.fullmatch("session:[0-9a-f]{12}", row.authentication or "")
    assert http.get("/api/dead-letters").status_code == 403
    # A bearer token is no credential in this mode, and does not fall back to the cookie.
    assert http.get("/api/files", headers={"Authorization": "Bearer x"}).status_code == 401

    assert sign_in(rest, "ann").status_code == 303
    assert rest.create("By an operator") == 1
    assert sign_in(rest, "submitter").status_code == 303
    assert rest.create("By a submitter") == 2
    assert http.delete("/api/files/1").status_code == 403
    assert http.delete("/api/files/2").status_code == 409  # it is in progress; deleting one's own files is allowed
    accounts.disable("submitter", TEST)
    deadline = time.monotonic() + 10
    while http.get("/api/files").status_code != 401:
        assert time.monotonic() < deadline, "the session was not revoked"
    assert sign_in(rest, "submitter").status_code == 401


def test_sign_out_ends_the_session_on_the_server(rest: Rest) -> None:
    sign_in(rest, "viewer")
    (cookie,) = rest.client.cookies.jar
    headers = {"Cookie": f"{cookie.name}={cookie.value}"}
    assert rest.client.get("/api/files", headers=headers).status_code == 200
    assert rest.client.post("/sign-out").status_code == 303
    rest.client.cookies.clear()
    assert rest.client.get("/api/files", headers=headers).status_code == 401


def test_too_many_guesses_get_429(rest: Rest) -> None:
    statuses = [sign_in(rest, "ann", "guess").status_code for _ in range(6)]
    assert statuses == [401] * 5 + [429]
    answer = sign_in(rest, "ann")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    assert "Try again in a minute" in answer.text


def test_a_page_looks_its_session_up_at_each_run(
    accounts: Accounts, settings: Settings, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = Services(settings.model_copy(update={"auth": "accounts"}), engine)
    services_module.install(services)
    try:
        clock = Clock()
        services.sessions = Sessions(engine, clock)
        key = session_key(opened(services.sessions))
        # The role in the header is of the beginning of the session; it does not count.
        header = Identity("ann", Role.ADMIN, session=key.hex()).encoded()
        monkeypatch.setattr("streamlit.user", {"filemill": header})
        source = RequestSource(f"session:{key.hex()[:12]}")
        assert page_principal() == Principal("ann", Role.OPERATOR, source=source)
        accounts.disable("ann", TEST)
        clock.now += service.CACHE_SECONDS
        assert page_principal().role is None
        monkeypatch.setattr("streamlit.user", {})
        assert page_principal().role is None
    finally:
        services_module.install(None)
