"""Requests that arrive during a transaction are accepted together in the next one; abandoned ones are not accepted."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence

import msgspec
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.file_rows import FileRow
from filemill.adapters.postgres.tables import File, OutboxRow
from filemill.config.settings import Settings
from filemill.domain.files import NewFile, new_file
from filemill.domain.limits import LimitExceeded
from filemill.domain.permissions import Principal
from filemill.errors import Unavailable
from filemill.services.submissions import Submissions
from filemill_dashboard.rest.batching import SubmissionBatcher
from filemill_dashboard.rest.threads import RequestThreads
from filemill_dashboard.state.services import Services
from tests.principals import TEST

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class GatedSubmissions(Submissions):
    """Each transaction waits for a permission before it commits, and fails if one of its titles is `poison`."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        self.together: list[list[str]] = []
        self.permissions = threading.Semaphore(0)

    def submit_batch(
        self,
        files: Sequence[NewFile],
        traceparents: Sequence[str | None],
        still_wanted: Callable[[], bool] = lambda: True,
        *,
        principals: Sequence[Principal],
    ) -> list[FileRow | LimitExceeded]:
        self.together.append([file.title for file in files])

        def permitted() -> bool:
            self.permissions.acquire()
            if any(file.title == "poison" for file in files):
                raise ValueError("poison")
            return still_wanted()

        return super().submit_batch(files, traceparents, permitted, principals=principals)


class Gated(Services):
    """Services whose submissions are gated."""

    def __init__(self, settings: Settings, engine: sa.Engine) -> None:
        super().__init__(settings, engine)
        self.gate = GatedSubmissions(engine)
        self.submissions = self.gate


@pytest.fixture
def services(settings: Settings, engine: sa.Engine) -> Iterator[Gated]:
    services = Gated(settings, engine)
    yield services
    services.gate.permissions.release(100)


def titles(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(File.title).order_by(File.id)).scalars())


async def transactions_started(services: Gated, transactions: int) -> None:
    while len(services.gate.together) < transactions:  # noqa: ASYNC110 - they begin on other threads
        await asyncio.sleep(0.002)


async def submitted(batcher: SubmissionBatcher, *titles: str) -> list[asyncio.Task[FileRow]]:
    tasks = [asyncio.create_task(batcher.submit(new_file(title), TRACEPARENT, TEST)) for title in titles]
    await asyncio.sleep(0)
    return tasks


async def submitted_behind_first(services: Gated, settings: Settings, *titles: str) -> list[asyncio.Task[FileRow]]:
    """The task of one whose transaction has begun, and those of others that came meanwhile."""
    batcher = SubmissionBatcher(services, RequestThreads(settings))
    first = await submitted(batcher, "first")
    await transactions_started(services, 1)
    return first + await submitted(batcher, *titles)


def run(scenario: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


def test_a_single_request_does_not_wait_and_later_ones_share_a_transaction(
    services: Gated, settings: Settings, engine: sa.Engine
) -> None:
    async def scenario() -> None:
        tasks = await submitted_behind_first(services, settings, *(f"other {number}" for number in range(5)))
        services.gate.permissions.release(3)
        rows = await asyncio.gather(*tasks)
        assert [row.title for row in rows] == ["first", *(f"other {number}" for number in range(5))]
        assert [row.id for row in rows] == sorted(row.id for row in rows)
        again = await asyncio.to_thread(services.submissions.submit, new_file("again"), principal=TEST)
        own = {name: getattr(again, name) for name in ("id", "title", "created_at", "updated_at")}
        assert msgspec.structs.replace(rows[1], **own) == again  # made by another statement

    run(scenario())
    assert services.gate.together[:2] == [["first"], [f"other {number}" for number in range(5)]]
    with engine.connect() as connection:
        traces = list(connection.execute(sa.select(OutboxRow.traceparent).order_by(OutboxRow.id)).scalars())
    assert traces[:6] == [TRACEPARENT] * 6


def test_a_request_abandoned_before_the_commit_is_not_accepted_and_the_others_are(
    services: Gated, settings: Settings, engine: sa.Engine
) -> None:
    async def scenario() -> None:
        first, gone, waiting, early = await submitted_behind_first(services, settings, "gone", "waiting", "gone early")
        early.cancel()
        services.gate.permissions.release()
        await transactions_started(services, 2)
        gone.cancel()
        await asyncio.sleep(0)
        services.gate.permissions.release(2)
        assert [row.title for row in await asyncio.gather(first, waiting)] == ["first", "waiting"]

    run(scenario())
    assert services.gate.together == [["first"], ["gone", "waiting"], ["waiting"]]
    assert titles(engine) == ["first", "waiting"]


def test_an_error_of_one_request_does_not_affect_the_others(
    services: Gated, settings: Settings, engine: sa.Engine
) -> None:
    async def scenario() -> None:
        first, before, poison, after = await submitted_behind_first(services, settings, "before", "poison", "after")
        services.gate.permissions.release(10)
        await asyncio.gather(first, before, after)
        with pytest.raises(ValueError, match="poison"):
            await poison

    run(scenario())
    assert titles(engine) == ["first", "before", "after"]


def test_a_hanging_database_is_unavailable_and_accepts_nothing_later(
    services: Gated, settings: Settings, engine: sa.Engine
) -> None:
    async def scenario() -> None:
        batcher = SubmissionBatcher(
            services, RequestThreads(settings.model_copy(update={"server_timeout_seconds": 0.3}))
        )
        tasks = await submitted(batcher, "hangs")
        await transactions_started(services, 1)
        tasks += await submitted(batcher, "waits behind it")
        for task in tasks:
            with pytest.raises(Unavailable, match=r"no answer within 0\.3 s"):
                await task
        services.gate.permissions.release(10)
        (after,) = await submitted(batcher, "after")
        assert (await after).title == "after"

    run(scenario())
    assert titles(engine) == ["after"]
