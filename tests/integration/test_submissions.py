"""Submitting requests: one, many, or several senders' at once; the relay is woken after the commit, and only then."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.file_rows import FileRow
from filemill.adapters.postgres.tables import File, IdempotencyKey, OutboxRow
from filemill.domain.files import new_file
from filemill.domain.idempotency import KeyReused
from filemill.services.submissions import SubmissionAbandoned, Submissions
from tests.principals import TEST

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FILES = [new_file(title) for title in ("a", "b", "c")]


@pytest.fixture
def woken() -> list[int]:
    """The number of files that were committed each time the relay was woken."""
    return []


@pytest.fixture
def submissions(engine: sa.Engine, woken: list[int]) -> Submissions:
    return Submissions(engine, lambda: woken.append(count(engine)))


def count(engine: sa.Engine, table: type = File) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_each_way_to_submit_wakes_the_relay_after_the_commit(
    submissions: Submissions, engine: sa.Engine, woken: list[int]
) -> None:
    submissions.submit(FILES[0], principal=TEST)
    submissions.submit_batch(FILES[:2], [TRACEPARENT, None], principals=[TEST] * 2)
    submissions.submit_many(FILES, principal=TEST)
    submissions.submit_once(FILES[0], "key 1", principal=TEST)
    submissions.submit_many_once(FILES, "key 2", principal=TEST)
    assert woken == [1, 3, 6, 7, 10]
    assert count(engine, OutboxRow) == 10


def test_a_row_has_the_trace_context_of_its_sender(submissions: Submissions, engine: sa.Engine) -> None:
    first, second = submissions.submit_batch(FILES[:2], [TRACEPARENT, None], principals=[TEST] * 2)
    assert isinstance(first, FileRow)
    assert isinstance(second, FileRow)
    with engine.connect() as connection:
        found = connection.execute(sa.select(OutboxRow.file_id, OutboxRow.traceparent))
        traces = {row.file_id: row.traceparent for row in found}
    assert traces[first.id] == TRACEPARENT
    assert traces[second.id] not in ("", TRACEPARENT)


@pytest.mark.parametrize(
    "submit",
    [
        lambda submissions, wanted: submissions.submit_batch(FILES, [None] * 3, wanted, principals=[TEST] * 3),
        lambda submissions, wanted: submissions.submit_once(FILES[0], "key", still_wanted=wanted, principal=TEST),
    ],
    ids=["batch", "once"],
)
def test_requests_without_a_waiting_sender_are_rolled_back(
    submit: Callable[[Submissions, Callable[[], bool]], object],
    submissions: Submissions,
    engine: sa.Engine,
    woken: list[int],
) -> None:
    with pytest.raises(SubmissionAbandoned):
        submit(submissions, lambda: False)
    assert (count(engine), count(engine, OutboxRow), count(engine, IdempotencyKey)) == (0, 0, 0)
    assert woken == []


def test_requests_with_a_key_are_accepted_once(submissions: Submissions, engine: sa.Engine) -> None:
    row, known = submissions.submit_once(FILES[0], "key 1", principal=TEST)
    assert not known
    assert submissions.submit_once(FILES[0], "key 1", principal=TEST) == (row, True)
    ids = submissions.submit_many_once(FILES, "key 2", principal=TEST)
    assert submissions.submit_many_once(FILES, "key 2", principal=TEST) == ids
    assert count(engine) == 4
    with pytest.raises(KeyReused):
        submissions.submit_many_once(FILES[:1], "key 2", principal=TEST)
