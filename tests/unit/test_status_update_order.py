"""Random updates of a file in any order and number: its row never moves back."""

import itertools
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from filemill.domain.files import CurrentState, Status, StatusUpdate, coalesce, supersedes

T0 = datetime(2026, 1, 4, 12, tzinfo=UTC)
ENDS = [Status.COMPLETED, Status.FAILED, Status.CANCELLED]


class Row(RuleBasedStateMachine):
    """The events on the topics, and a row that gets some of them, some of them twice or late."""

    @initialize()
    def begin(self) -> None:
        self.run = 1
        self.said: list[StatusUpdate] = []
        self.standing = CurrentState(1, Status.PENDING)
        self.seen = [self.standing]
        self.clock = T0

    def _tick(self) -> datetime:
        self.clock += timedelta(seconds=1)
        return self.clock

    @rule(foreign=st.booleans())
    def send_progress(self, foreign: bool) -> None:
        run = None if foreign else self.run
        self.said.append(StatusUpdate(file_id=1, run=run, status=Status.PROCESSING, at=self._tick(), step=1, steps=6))

    @rule(end=st.sampled_from(ENDS), foreign=st.booleans())
    def end_a_run(self, end: Status, foreign: bool) -> None:
        run = None if foreign else self.run
        self.said.append(StatusUpdate(file_id=1, run=run, status=end, at=self._tick()))

    @rule(said=st.sampled_from([Status.PROCESSING, *ENDS]), run=st.sampled_from([2**31 - 1, 1000]))
    def forge_a_run(self, said: Status, run: int) -> None:
        self.said.append(StatusUpdate(file_id=1, run=run, status=said, at=self._tick()))

    @precondition(lambda self: self.standing.status.terminal and self.run == self.standing.run)
    @rule()
    def retry(self) -> None:
        """A retry begins the new run in the row, in the transaction of the request."""
        self.run += 1
        self.standing = CurrentState(self.run, Status.PENDING)
        self.seen.append(self.standing)

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def apply_a_batch(self, data: st.DataObject) -> None:
        batch = data.draw(st.lists(st.sampled_from(self.said), min_size=1, max_size=6))
        for change in coalesce(batch):
            if supersedes(change, self.standing):
                progress_at = change.at if change.status is Status.PROCESSING else None
                self.standing = CurrentState(change.run or self.standing.run, change.status, progress_at)
                self.seen.append(self.standing)

    @invariant()
    def the_row_never_moves_back(self) -> None:
        seen = getattr(self, "seen", [])
        for before, after in itertools.pairwise(seen):
            assert (after.run, after.status.rank) >= (before.run, before.status.rank)
            if before.status.terminal and after.run == before.run:
                assert after.status == before.status, "the first terminal status of a run stays"

    @invariant()
    def the_run_never_exceeds_the_requested_one(self) -> None:
        if hasattr(self, "standing"):
            assert self.standing.run <= self.run


TestRow = Row.TestCase
TestRow.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
