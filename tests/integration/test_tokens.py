"""Personal tokens on a real database: who may create and revoke them, and what a program may do with one."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import Account, Operation, PersonalToken, SignInTries
from filemill.config.settings import Settings, load
from filemill.domain.permissions import Principal, Role
from filemill.domain.tokens import TOKENS_PER_ACCOUNT, is_token, new_token, token_key
from filemill.entrypoints import bootstrap
from filemill.errors import Conflict, Forbidden, InvalidRequest, Unavailable
from filemill.services import accounts as account_service
from filemill.services.accounts import Accounts, Sessions, TooManyTries, UnknownAccount, UnknownSession, session_key
from filemill.services.tokens import NewToken, TokenLookup, Tokens, UnknownToken
from tests.integration.rest import Rest, serving
from tests.integration.test_accounts import Clock
from tests.principals import TEST

PASSWORD = "correct horse battery"
ADDRESS = "192.0.2.7"
ANN = Principal("ann", Role.OPERATOR)
BOB = Principal("bob", Role.SUBMITTER)


@pytest.fixture
def accounts(engine: sa.Engine) -> Accounts:
    found = Accounts(engine)
    for who in (ANN, BOB):
        assert who.role is not None
        found.add(who.name, who.role, PASSWORD, TEST)
    return found


@pytest.fixture
def tokens(engine: sa.Engine, accounts: Accounts) -> Tokens:
    del accounts
    return Tokens(engine)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lookup(engine: sa.Engine, clock: Clock) -> TokenLookup:
    return TokenLookup(engine, clock)


def recorded(engine: sa.Engine, action: str) -> list[dict[str, Any]]:
    query = sa.select(Operation.detail).where(Operation.action == action).order_by(Operation.id)
    with engine.connect() as connection:
        return list(connection.execute(query).scalars())


def owner_of(lookup: TokenLookup, new: NewToken, address: str = ADDRESS) -> Principal | None:
    return lookup.find(token_key(new.secret), address)


def test_a_token_is_stored_as_a_hash_and_audited_by_its_number(tokens: Tokens, engine: sa.Engine) -> None:
    new = tokens.create(" build ", Role.SUBMITTER, ANN, expiry=timedelta(days=1), networks=["192.0.2.0/24", "::1"])
    assert is_token(new.secret)
    assert (new.owner, new.label, new.networks) == ("ann", "build", ["192.0.2.0/24", "::1/128"])
    (row,) = tokens.list(ANN, "ann")
    assert (row.id, row.label, row.role, row.used_at, row.expired) == (new.id, "build", Role.SUBMITTER, None, False)
    assert row.expires_at == new.expires_at
    assert new.expires_at is not None
    assert timedelta(hours=23) < new.expires_at - datetime.now(UTC) < timedelta(hours=25)
    tokens.revoke(new.id, ANN, owner="ann")
    assert tokens.list(ANN, "ann") == []
    with pytest.raises(UnknownToken):
        tokens.revoke(new.id, ANN, owner="ann")
    (created,), (revoked,) = recorded(engine, "token.create"), recorded(engine, "token.revoke")
    assert (created["token"], created["account"], created["role"]) == (new.id, "ann", "submitter")
    assert revoked == {"token": new.id, "account": "ann", "label": "build"}
    with engine.connect() as connection:
        everything = str(connection.execute(sa.text("SELECT detail FROM operations")).all())
    assert new.secret not in everything
    assert token_key(new.secret).hex() not in everything


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("label", {"label": " "}),
        ("label", {"label": "x" * 65}),
        ("label", {"label": "a\x1b[2Jb"}),
        ("role", {"role": Role.ADMIN}),
        ("expires", {"expiry": timedelta(0)}),
        ("expires", {"expiry": timedelta(days=-1)}),
        ("expires", {"expiry": timedelta(days=100_000)}),
        ("addresses", {"networks": ["10.0.0.0/33"]}),
        ("addresses", {"networks": ["10.0.0.1/8"]}),
        ("addresses", {"networks": ["everywhere"]}),
        ("addresses", {"networks": ["10.0.0.1"] * 17}),
        ("name", {"owner": "a b"}),
    ],
    ids=str,
)
def test_bad_requests_for_tokens_are_rejected(
    tokens: Tokens, engine: sa.Engine, field: str, given: dict[str, Any]
) -> None:
    wanted = {"label": "x", "role": Role.VIEWER, "owner": "ann", **given}
    with pytest.raises(InvalidRequest) as refused:
        tokens.create(wanted.pop("label"), wanted.pop("role"), TEST, **wanted)
    assert refused.value.field == field
    with engine.connect() as connection:
        assert connection.execute(sa.select(PersonalToken.id)).all() == []


def test_people_manage_their_own_tokens_and_admins_all(tokens: Tokens) -> None:
    new = tokens.create("own", Role.SUBMITTER, BOB)
    with pytest.raises(Forbidden):
        tokens.create("for another", Role.VIEWER, BOB, owner="ann")
    for refused in (
        lambda: tokens.list(ANN),
        lambda: tokens.list(ANN, "bob"),
        lambda: tokens.revoke(new.id, ANN),
        lambda: tokens.revoke(new.id, ANN, owner="bob"),
    ):
        with pytest.raises(Forbidden):
            refused()
    with pytest.raises(UnknownToken):  # somebody else's, named as one's own
        tokens.revoke(new.id, ANN, owner="ann")
    for number in (0, -1, 2**63, 10**30):
        with pytest.raises(UnknownToken):
            tokens.revoke(number, TEST)
    with pytest.raises(UnknownAccount):
        tokens.create("x", Role.VIEWER, TEST, owner="carl")
    assert [one.id for one in tokens.list(TEST)] == [new.id]
    tokens.revoke(new.id, TEST)
    assert tokens.list(BOB, "bob") == []


def test_parallel_creations_stay_within_the_limit(tokens: Tokens) -> None:
    for number in range(TOKENS_PER_ACCOUNT - 3):
        tokens.create(f"token {number}", Role.VIEWER, BOB)

    def create(number: int) -> bool:
        try:
            tokens.create(f"more {number}", Role.VIEWER, BOB)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(create, range(8))) == 3


def test_a_token_never_has_more_than_its_owner_and_ends_with_the_owner(
    tokens: Tokens, accounts: Accounts, lookup: TokenLookup, clock: Clock, engine: sa.Engine
) -> None:
    new = tokens.create("own", Role.OPERATOR, ANN)
    assert owner_of(lookup, new) == Principal("ann", Role.OPERATOR, new.id)
    accounts.set_role("ann", Role.ADMIN, TEST)
    clock.now += account_service.CACHE_SECONDS
    assert owner_of(lookup, new) == Principal("ann", Role.OPERATOR, new.id)
    accounts.set_role("ann", Role.VIEWER, TEST)
    clock.now += account_service.CACHE_SECONDS
    assert owner_of(lookup, new) == Principal("ann", Role.VIEWER, new.id)
    accounts.disable("ann", TEST)
    with pytest.raises(UnknownAccount):
        tokens.create("of a disabled account", Role.VIEWER, TEST, owner="ann")
    clock.now += account_service.CACHE_SECONDS
    assert owner_of(lookup, new) is None
    accounts.enable("ann", TEST)
    assert owner_of(lookup, new) is not None
    with engine.begin() as connection:
        connection.execute(sa.delete(Account).where(Account.name == "ann"))
    clock.now += account_service.CACHE_SECONDS
    assert owner_of(lookup, new) is None
    assert tokens.list(TEST) == []


def test_a_token_ends_when_it_expires_even_within_the_cache_and_an_outage(
    tokens: Tokens, lookup: TokenLookup, clock: Clock, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, lasting = (
        tokens.create("short", Role.VIEWER, ANN, expiry=timedelta(hours=1)),
        tokens.create("x", Role.VIEWER, ANN),
    )
    with engine.begin() as connection:
        shorter = sa.update(PersonalToken).where(PersonalToken.id == new.id)
        connection.execute(shorter.values(expires_at=sa.text("now() + interval '40 seconds'")))
    assert owner_of(lookup, new) is not None
    assert owner_of(lookup, lasting) is not None
    monkeypatch.setattr(
        lookup, "_engine", bootstrap.create_engine(load(database_port=1, server_timeout_seconds=1), "t")
    )
    clock.now += 30
    assert owner_of(lookup, new) is not None
    clock.now += 10
    with pytest.raises(Unavailable):
        owner_of(lookup, new)
    assert owner_of(lookup, lasting) is not None
    clock.now += account_service.CACHE_OUTAGE_SECONDS
    with pytest.raises(Unavailable):
        owner_of(lookup, lasting)


def test_a_token_is_valid_from_its_addresses_only(tokens: Tokens, lookup: TokenLookup) -> None:
    new = tokens.create("office", Role.VIEWER, ANN, networks=["192.0.2.0/24", "2001:db8::/32"])
    for address in ("192.0.2.1", "::ffff:192.0.2.9", "2001:db8::7"):
        assert owner_of(lookup, new, address) is not None, address
    for address in ("198.51.100.1", "::ffff:198.51.100.1", "2001:db9::1", "unknown", "", "192.0.2.1, 192.0.2.2"):
        assert owner_of(lookup, new, address) is None, address
        assert lookup.cached(token_key(new.secret), address) is None


def test_the_last_use_is_written_at_most_once_a_minute(
    tokens: Tokens, lookup: TokenLookup, clock: Clock, engine: sa.Engine
) -> None:
    new = tokens.create("x", Role.VIEWER, ANN)

    def used_at() -> datetime | None:
        with engine.connect() as connection:
            return connection.execute(sa.select(PersonalToken.used_at)).scalar_one()

    assert used_at() is None
    owner_of(lookup, new)
    first = used_at()
    assert first is not None
    clock.now += account_service.CACHE_SECONDS
    owner_of(lookup, new)
    assert used_at() == first
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE tokens SET used_at = used_at - interval '61 seconds'"))
    clock.now += account_service.CACHE_SECONDS
    owner_of(lookup, new)
    last = used_at()
    assert last is not None
    assert last >= first


def test_guesses_are_limited_for_each_address_and_known_tokens_go_on(
    tokens: Tokens, lookup: TokenLookup, clock: Clock, engine: sa.Engine
) -> None:
    known, other = tokens.create("known", Role.VIEWER, ANN), tokens.create("other", Role.VIEWER, ANN)
    assert owner_of(lookup, known) is not None
    found = [lookup.find(token_key(new_token()), ADDRESS) for _ in range(30)]
    assert found == [None] * 30
    with pytest.raises(TooManyTries):
        lookup.find(token_key(new_token()), ADDRESS)
    with pytest.raises(TooManyTries):
        owner_of(lookup, other)
    clock.now += account_service.CACHE_SECONDS
    assert owner_of(lookup, known) is not None
    assert owner_of(lookup, other, "192.0.2.8") is not None
    with engine.connect() as connection:
        tries = connection.execute(sa.select(SignInTries.tries).where(SignInTries.key == f"token {ADDRESS}"))
        assert tries.scalar_one() == 30  # the refused ones cost no query
    clock.now += 60
    with engine.begin() as connection:
        connection.execute(sa.delete(SignInTries))
    assert lookup.find(token_key(new_token()), ADDRESS) is None


def test_own_sessions_are_listed_and_ended(accounts: Accounts, engine: sa.Engine) -> None:
    del accounts
    sessions = Sessions(engine)
    secrets = [sessions.sign_in("ann", PASSWORD, ADDRESS) or "" for _ in range(2)]
    sessions.sign_in("bob", PASSWORD, ADDRESS)
    found = sessions.list_own(ANN)
    assert {one.id for one in found} == {session_key(secret).hex()[:16] for secret in secrets}
    (of_bob,) = sessions.list_own(BOB)
    assert of_bob.address == ADDRESS
    for wrong in (of_bob.id, "", "x", "é" * 1000):
        with pytest.raises(UnknownSession):
            sessions.end_own(wrong, ANN)
    assert sessions.find(session_key(secrets[0])) is not None
    sessions.end_own(session_key(secrets[0]).hex()[:16], ANN)
    assert sessions.find(session_key(secrets[0])) is None  # in this process at once
    assert len(sessions.list_own(ANN)) == 1
    assert recorded(engine, "session.end") == [{"account": "ann", "session": session_key(secrets[0]).hex()[:16]}]


@pytest.fixture
def rest(settings: Settings, accounts: Accounts) -> Iterator[Rest]:
    del accounts
    with serving(settings.model_copy(update={"auth": "accounts"})) as rest:
        yield rest


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def eventually(rest: Rest, secret: str, status: int) -> httpx.Response:
    deadline = time.monotonic() + 10
    while (answer := rest.client.post("/api/files", json={"title": "T"}, headers=bearer(secret))).status_code != status:
        assert time.monotonic() < deadline, answer.status_code
    return answer


def test_a_program_uses_rest_with_a_token_until_it_is_revoked(
    rest: Rest, tokens: Tokens, accounts: Accounts, engine: sa.Engine
) -> None:
    new = tokens.create("build", Role.OPERATOR, ANN)
    http = rest.client
    created = http.post("/api/files", json={"title": "By a program"}, headers=bearer(new.secret))
    assert created.status_code == 201
    file_id = created.json()["id"]
    assert http.get("/api/files", headers=bearer(new.secret)).json()["items"][0]["title"] == "By a program"
    assert http.post(f"/api/files/{file_id}/cancel", headers=bearer(new.secret)).status_code == 200
    assert http.post("/api/offsets/reset", json={"to": "latest"}, headers=bearer(new.secret)).status_code != 401
    with engine.connect() as connection:
        actor, detail = connection.execute(
            sa.select(Operation.actor, Operation.detail).where(Operation.action == "cancel")
        ).one()
    assert (actor, detail["by_token"]) == ("ann", new.id)
    assert tokens.list(TEST)[0].used_at is not None
    accounts.set_role("ann", Role.VIEWER, TEST)
    refused = eventually(rest, new.secret, 403)
    assert refused.json()["error"]["code"] == "forbidden"
    accounts.set_role("ann", Role.OPERATOR, TEST)
    eventually(rest, new.secret, 201)
    tokens.revoke(new.id, ANN, owner="ann")
    answer = eventually(rest, new.secret, 401)
    assert answer.json()["error"]["code"] == "invalid_token"
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_a_token_signs_in_to_rest_only_and_not_beside_a_cookie(rest: Rest, tokens: Tokens) -> None:
    new = tokens.create("build", Role.OPERATOR, ANN)
    http = rest.client
    for path in ("/", "/files", "/_stcore/stream", "/apix"):
        assert http.get(path, headers=bearer(new.secret)).status_code == 401, path
    assert http.post("/sign-in", data={"name": "bob", "password": PASSWORD}).status_code == 303
    assert http.get("/api/files").status_code == 200
    assert http.get("/api/files", headers=bearer(new_token())).status_code == 401


def test_bad_tokens_are_refused_without_a_query(rest: Rest, tokens: Tokens, engine: sa.Engine) -> None:
    good = tokens.create("x", Role.VIEWER, ANN).secret
    garbage = [
        b"Bearer fm_",
        b"Bearer fm_" + b"x" * 42,
        b"Bearer fm_" + b"x" * 44,
        b"Bearer fm_" + b"x" * 30_000,
        b"Bearer fm_" + b"\xff" * 43,
        "Bearer fm_é".encode() + b"x" * 42,
        b"Bearer fm_" + b"'; DROP TABLE tokens; --" + b"x" * 19,
        b"Bearer " + good.encode() + b" " + good.encode(),
        b"Bearer " + good.encode()[:-1],
        b"Bearer FM_" + good.encode()[3:],
        b"Basic " + good.encode(),
        b"Bearer",
        b"Bearer " + b"\xc2\xa0" + good.encode(),
    ]
    for header in garbage:
        answer = rest.client.get("/api/files", headers=[(b"Authorization", header)])
        assert answer.status_code == 401, header[:60]
    both = [(b"Authorization", f"Bearer {good}".encode())] * 2
    assert rest.client.get("/api/files", headers=both).status_code == 401
    with engine.connect() as connection:
        assert connection.execute(sa.select(SignInTries.key)).all() == []
    assert rest.client.get("/api/files", headers=bearer(good)).status_code == 200


def test_a_token_in_a_url_is_refused(rest: Rest, tokens: Tokens) -> None:
    good = tokens.create("x", Role.OPERATOR, ANN)
    encoded = "".join(f"%{ord(letter):02x}" for letter in good.secret)
    for url in (
        f"/api/files?token={good.secret}",
        f"/api/files?access_token={encoded}",
        f"/api/files/{good.secret}",
        f"/sign-in?token={good.secret}",
        f"/files?q={good.secret}",
    ):
        for headers in ({}, bearer(good.secret)):
            answer = rest.client.get(url, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "token_in_url"), url
            assert good.secret not in answer.text


def test_too_many_unknown_tokens_get_429(rest: Rest) -> None:
    statuses = [rest.client.get("/api/files", headers=bearer(new_token())).status_code for _ in range(31)]
    assert statuses == [401] * 30 + [429]
    answer = rest.client.get("/api/files", headers=bearer(new_token()))
    assert (answer.headers["retry-after"], answer.json()["error"]["code"]) == ("60", "too_many_tries")
    assert rest.client.get("/healthz", headers=bearer(new_token())).status_code == 200  # no credential opens it


def test_a_request_with_a_known_token_needs_no_further_query(
    rest: Rest, tokens: Tokens, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    del engine
    new = tokens.create("x", Role.OPERATOR, ANN)
    lookup = rest.services.token_lookup
    monkeypatch.setattr(lookup, "_clock", lambda: 1000.0)
    assert rest.client.get("/api/files", headers=bearer(new.secret)).status_code == 200
    statements: list[str] = []
    sa.event.listen(
        rest.services.engine, "before_cursor_execute", lambda _c, _cu, statement, *_a: statements.append(statement)
    )
    assert rest.client.post("/api/files", json={"title": "T"}, headers=bearer(new.secret)).status_code == 201
    assert not [one for one in statements if "tokens" in one or "sessions" in one]
    assert len([one for one in statements if "INSERT INTO files" in one]) == 1
