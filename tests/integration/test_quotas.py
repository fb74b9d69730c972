"""Limits of submissions on a real database: parallel requests never exceed them by one, over REST and on Account."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.limits import delete_unused
from filemill.adapters.postgres.tables import File, LimitUsage, OutboxRow
from filemill.config.settings import Settings
from filemill.domain.files import NewFile
from filemill.domain.limits import LimitExceeded, Limits
from filemill.domain.permissions import Principal, RequestSource, Role
from filemill.entrypoints import bootstrap
from filemill.services.submissions import Submissions
from tests.integration.rest import serving
from tests.principals import TEST

SUE = Principal("sue", Role.SUBMITTER)
PARALLEL = 50
# So slow that no request becomes possible again during a test.
SLOW = 1e-6
FILE = NewFile("A file", "0123456789")
PASSWORD = "correct horse battery"

Submit = Callable[[Submissions, int], object]
WAYS: dict[str, Submit] = {
    "one": lambda to, _number: to.submit(FILE, principal=SUE),
    "with a key": lambda to, number: to.submit_once(FILE, f"key {number}", principal=SUE),
    "many": lambda to, _number: to.submit_many([FILE], principal=SUE),
    "many with a key": lambda to, number: to.submit_many_once([FILE], f"key {number}", principal=SUE),
}
LIMITS = {
    "writes": (Limits(writes_per_second=SLOW, burst=7), "too_many_writes"),
    "files in flight": (Limits(files_in_flight=7), "too_many_files_in_flight"),
    "bytes a day": (Limits(bytes_per_day=7 * 16 + 3), "too_many_bytes_today"),
}


def count(engine: sa.Engine, table: type[File] | type[OutboxRow] = File) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limited", LIMITS)
def test_of_fifty_parallel_requests_never_one_too_many_is_accepted(
    limited: str, way: str, settings: Settings, engine: sa.Engine
) -> None:
    limits, code = LIMITS[limited]
    # Two dashboards.
    engines = [bootstrap.create_engine(settings, "test") for _ in range(2)]
    dashboards = [Submissions(one, limits=limits) for one in engines]
    start = threading.Barrier(10)

    def submit(number: int) -> str:
        if number < 10:
            start.wait(30)
        try:
            WAYS[way](dashboards[number % 2], number)
        except LimitExceeded as exceeded:
            return exceeded.code
        return "accepted"

    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(submit, range(PARALLEL)))
    for one in engines:
        one.dispose()
    assert sorted(set(results)) == sorted(["accepted", code])
    assert (results.count("accepted"), count(engine), count(engine, OutboxRow)) == (7, 7, 7)


def test_a_batch_of_several_senders_is_accepted_up_to_the_limit_of_each(engine: sa.Engine) -> None:
    submissions = Submissions(engine, limits=Limits(writes_per_second=SLOW, burst=2))
    sam = Principal("sam", Role.SUBMITTER)
    senders = [SUE, sam, SUE, SUE, TEST, sam, sam]
    rows = submissions.submit_batch([FILE] * 7, [None] * 7, principals=senders)
    assert [isinstance(row, LimitExceeded) for row in rows] == [False, False, False, True, False, False, True]
    assert count(engine) == 5


def test_a_known_key_uses_nothing_and_ended_files_make_room(engine: sa.Engine) -> None:
    submissions = Submissions(engine, limits=Limits(files_in_flight=1))
    row, known = submissions.submit_once(FILE, "a", principal=SUE)
    assert not known
    assert submissions.submit_once(FILE, "a", principal=SUE)[1]
    with pytest.raises(LimitExceeded):
        submissions.submit_once(FILE, "b", principal=SUE)
    with engine.begin() as connection:
        connection.execute(sa.update(File).where(File.id == row.id).values(status="completed"))
    assert not submissions.submit_once(FILE, "b", principal=SUE)[1]


def test_usage_is_shown_and_old_rows_are_deleted(engine: sa.Engine) -> None:
    limits = Limits(writes_per_second=SLOW, burst=5, files_in_flight=10, bytes_per_day=1000)
    submissions = Submissions(engine, limits=limits)
    empty = submissions.usage(SUE)
    assert empty is not None
    assert (empty.writes_left, empty.files_in_flight, empty.bytes_today) == (5, 0, 0)
    submissions.submit_many([FILE] * 3, principal=SUE)
    used = submissions.usage(SUE)
    assert used is not None
    assert (used.writes_left, used.files_in_flight, used.bytes_today) == (4, 3, 48)
    assert submissions.usage(TEST) is None  # a program with the credentials of the servers
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE limit_usage SET used_at = now() - interval '3 days'"))
        delete_unused(connection)
        assert connection.execute(sa.select(sa.func.count()).select_from(LimitUsage)).scalar_one() == 0


def test_without_limits_no_usage_is_stored(engine: sa.Engine) -> None:
    Submissions(engine).submit(FILE, principal=SUE)
    with engine.connect() as connection:
        assert connection.execute(sa.select(LimitUsage.key)).scalars().all() == []


def test_rest_says_when_to_try_again(settings: Settings, engine: sa.Engine) -> None:
    bootstrap.accounts(engine).add("sue", Role.SUBMITTER, PASSWORD, TEST)
    given = {"auth": "accounts", "limit_writes_per_second": 0.01, "limit_writes_burst": 3}
    with serving(settings.model_copy(update=given)) as rest:
        rest.client.post("/sign-in", data={"name": "sue", "password": PASSWORD})

        def post(number: int) -> httpx.Response:
            key = {"Idempotency-Key": str(number)} if number % 2 else {}
            return rest.client.post("/api/files", json={"title": "x"}, headers=key)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(post, range(PARALLEL)))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(201), statuses.count(429)) == (3, 47)
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "too_many_writes"
    wait = int(refused.headers["retry-after"])
    assert 0 < wait <= 100
    assert refused.headers["ratelimit-policy"] == '"writes";q=3;qu="requests";w=300'
    assert refused.headers["ratelimit"] == f'"writes";r=0;t={wait}'
    assert count(engine) == 3


def test_one_export_at_a_time(settings: Settings) -> None:
    entered, leave = threading.Event(), threading.Event()

    with serving(settings.model_copy(update={"limit_heavy_reads": 1})) as rest:
        connect = rest.services.connect

        def slow() -> object:
            entered.set()
            assert leave.wait(30)
            return connect()

        rest.services.connect = slow  # type: ignore[method-assign, assignment]
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(rest.client.get, "/api/files/export")
            assert entered.wait(30)
            second = rest.client.get("/api/files/export?format=ndjson")
            other = rest.client.get("/api")
            leave.set()
            assert first.result(30).status_code == 200
        assert (second.status_code, second.json()["error"]["code"]) == (429, "too_many_heavy_reads")
        assert other.status_code == 200
        assert rest.client.get("/api/files/export").status_code == 200


def test_a_page_without_sign_in_is_limited_by_its_address(engine: sa.Engine) -> None:
    submissions = Submissions(engine, limits=Limits(writes_per_second=SLOW, burst=1))
    sources = [RequestSource("local", address) for address in ("10.0.0.1", "10.0.0.2")]
    first, other = (Principal("page", Role.ADMIN, source=source) for source in sources)
    submissions.submit(FILE, principal=first)
    submissions.submit(FILE, principal=other)
    with pytest.raises(LimitExceeded):
        submissions.submit(FILE, principal=first)
