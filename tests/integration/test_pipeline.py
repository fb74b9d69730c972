"""Files pass through relay, processors and sync, run by the installed command."""

import itertools

import sqlalchemy as sa

from filemill.adapters.postgres.tables import OutboxRow, Publication
from filemill.domain.offsets import encode_metadata
from filemill.verification.report import VerificationReport
from tests.integration import topics
from tests.integration.harness import PipelineHarness
from tests.integration.processes import wait_until


def test_submitted_files_complete_with_the_bytes_of_a_fresh_render(harness: PipelineHarness) -> None:
    harness.start("relay", "processor", "sync")
    ids = [
        *harness.submit(20),
        *harness.submit(1, title="Ünïcödé ✓ 文件 🦆", description="line\r\n\ttab \u2028 \x01"),
        *harness.submit(1, title="<script>alert(1)</script>", description="x" * 65_536),
        *harness.submit(1, title="=1+1", description=""),
    ]
    harness.wait_for(ids)
    assert {file_id: harness.download(file_id) for file_id in ids} == {
        file_id: harness.expected_content(file_id) for file_id in ids
    }
    report = harness.assert_clean()
    assert (report.submitted, report.completed, report.objects, report.lost, report.repeats) == (23, 23, 23, 0, 0)


def test_requests_are_published_in_strict_round_robin(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay")
    for count in (1, 2, 7, 40):
        harness.submit(count)
    numbers = wait_until(lambda: published_numbers(harness, 50), 20, "50 requests are on the topic")
    assert numbers == {number: (number - 1) % 3 for number in range(1, 51)}
    with harness.engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(OutboxRow)).scalar() == 0
        noted = connection.execute(sa.select(Publication.publish_number, Publication.partition, Publication.offset))
        places = {row.publish_number: (row.partition, row.offset) for row in noted}
    seen = topics.read(harness.settings, harness.settings.topic_create)
    assert {int(one.headers["filemill-publish-number"]): (one.partition, one.offset) for one in seen} == places


def published_numbers(harness: PipelineHarness, count: int) -> dict[int, int] | None:
    """Which partition each publish number stands on, once there are `count` of them and none is left to settle."""
    with harness.engine.connect() as connection:
        if connection.execute(sa.select(sa.func.count()).select_from(Publication)).scalar() != count:
            return None
    seen = topics.read(harness.settings, harness.settings.topic_create)
    assert len(seen) == count
    return {int(one.headers["filemill-publish-number"]): one.partition for one in seen}


def test_progress_is_on_the_row_while_a_file_is_processed_and_two_processors_share_the_work(
    harness: PipelineHarness,
) -> None:
    harness.run_in_threads("relay", "sync")
    harness.start("processor", "processor", processing_seconds=4, processing_steps=4)
    assert sorted(harness.wait_for_assignment(2, 1)) == ["processor-1", "processor-2"]
    ids = harness.submit(9)
    steps: dict[int, set[int]] = {file_id: set() for file_id in ids}

    def all_completed() -> bool:
        for file_id in ids:
            row = harness.file(file_id)
            if row.status == "processing":
                assert row.steps == 4
                assert row.step is not None
                assert row.worker_id in {"processor-1", "processor-2"}
                steps[file_id].add(row.step)
        return set(harness.statuses(ids).values()) == {"completed"}

    wait_until(all_completed, 30, "all files are completed")
    for file_id in ids:
        assert len(steps[file_id]) >= 2, f"file {file_id} showed the steps {steps[file_id]}"
        assert (harness.file(file_id).step, harness.file(file_id).steps) == (None, None) or harness.file(
            file_id
        ).step == 4
    workers = [harness.file(file_id).worker_id for file_id in ids]
    assert sorted({worker: workers.count(worker) for worker in workers}.values()) == [3, 6]
    harness.assert_clean()


def test_ordering_by_partition_processes_one_record_at_a_time_of_each(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    harness.start("processor", ordering="partition", processing_seconds=0.3)
    ids = harness.submit(15)
    harness.wait_for(ids)
    assert_clean_and_single(harness, len(ids))
    results = [events[0] for events in harness.results().values()]
    for partition in range(3):
        turns = sorted((one for one in results if one.partition == partition), key=lambda one: one.offset or 0)
        assert len(turns) == 5
        for before, after in itertools.pairwise(turns):
            assert after.started_at is not None
            assert after.started_at >= before.timestamp, f"offset {after.offset} began before its predecessor ended"


def assert_clean_and_single(harness: PipelineHarness, count: int) -> VerificationReport:
    """Every promise held, and each file was made once."""
    report = harness.assert_clean()
    assert (report.completed, report.duplicate_results, report.repeats) == (count, 0, 0)
    return report


def test_what_a_predecessor_finished_beyond_its_commit_is_not_done_again(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    ids = harness.submit(15)
    wait_until(lambda: published_numbers(harness, 15), 20, "15 requests are on the topic")
    # As a worker would that died while the offset 1 of each partition was still in progress.
    topics.commit(harness.settings, 0, 1, encode_metadata("gone", 7, 1, [2, 4]))
    topics.commit(harness.settings, 1, 1, '{"worker": "gone", "epoch": 7, "done": "not base64"}')
    topics.commit(harness.settings, 2, 1, "somebody else's note")
    harness.start("processor")
    again = {0: [1, 3], 1: [1, 2, 3, 4], 2: [1, 2, 3, 4]}
    expected = {ids[3 * offset + partition] for partition, offsets in again.items() for offset in offsets}
    harness.wait_for(expected)

    def committed() -> dict[int, int]:
        return {number: part.offset for number, part in topics.committed(harness.settings).items()}

    wait_until(lambda: committed() == {0: 5, 1: 5, 2: 5}, 10, "everything is committed")
    assert set(harness.results()) == expected
