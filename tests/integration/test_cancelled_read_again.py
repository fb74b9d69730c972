"""A file is cancelled in progress, the group is reset to earliest, and a worker reads record and command again."""

import threading

import pytest

from filemill.entrypoints import bootstrap
from filemill.entrypoints.processor import Processor
from filemill.services.offset_reset import ResetTarget
from filemill_workers.file_processor.executor import Executor
from tests.integration.harness import PipelineHarness
from tests.integration.processes import wait_until
from tests.principals import TEST

FOR_EVER = 600
LINGER_MILLISECONDS = 500


class CommandsFirst(Processor):
    """Joins its group when it knows that the file is cancelled."""

    file_id = 0

    def _consume(self) -> None:
        wait_until(lambda: self._commands.is_cancelled(self.file_id, 1), 30, "the command was read")
        super()._consume()


def committed(harness: PipelineHarness) -> int:
    parts = bootstrap.kafka_admin(harness.settings).offsets(harness.settings.kafka_group, harness.settings.topic_create)
    return sum(part.committed or 0 for part in parts)


@pytest.mark.timeout(150)
def test_the_committed_offset_moves_on_past_a_cancelled_record_that_is_read_again(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.run_in_threads("relay", "sync")
    (member,) = harness.start("processor", processing_seconds=FOR_EVER)
    (file_id,) = ids = harness.submit(1)
    harness.wait_for(ids, "processing")
    operations = bootstrap.operations(harness.settings, harness.engine)
    assert operations.cancel(ids, TEST).done == ids
    harness.wait_for(ids, "cancelled")
    wait_until(lambda: committed(harness) == 1, 30, "the cancelled record is committed")
    member.kill()
    reset = bootstrap.offset_reset(harness.settings, harness.engine, file_operations=operations)
    wait_until(lambda: reset.refusal() is None, 30, "the group has no members", every=0.3)
    reset.apply(reset.plan(ResetTarget("earliest")), ResetTarget("earliest"), "cancel", TEST)
    assert committed(harness) == 0
    more = harness.submit(5)

    # The command reaches the record's task in the worst moment: it waits for the acknowledgement of "cancelled".
    cancel, came = Executor.cancel, threading.Event()

    def late(executor: Executor, files: list[tuple[int, int]]) -> None:
        def when_it_waits() -> None:
            reported = "the cancellation of the record is published"
            wait_until(lambda: executor.status().pending_deliveries > 0, 30, reported, every=0.001)
            cancel(executor, files)
            came.set()

        threading.Thread(target=when_it_waits).start()

    monkeypatch.setattr(Executor, "cancel", late)
    properties = {**harness.settings.kafka_properties, "linger.ms": LINGER_MILLISECONDS}
    # One queue, so that one executor gets the command.
    given = {"kafka_properties": properties, "queues": "default"}
    processor = CommandsFirst(harness.settings.model_copy(update=given))
    processor.file_id = file_id
    worker = threading.Thread(target=processor.run)
    worker.start()
    try:
        wait_until(lambda: committed(harness) == 6, 30, "the committed offset is past all records", every=0.2)
        assert came.is_set()
        harness.wait_for(more)
        assert harness.statuses(ids) == {file_id: "cancelled"}
    finally:
        processor.stop()
        worker.join(30)
    harness.assert_clean()
