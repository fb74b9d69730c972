"""Every commit that the group ever made, against what was finished and who owned the partition at that moment.

The group's present offset shows only the last commit; `__consumer_offsets` has them all (invariants 4 and 6).
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from filemill.messages import FileCreated, decode
from filemill.offsets import decode_metadata
from filemill.telemetry import Kind, decode_event
from tests.integration import topics
from tests.integration.processes import Process
from tests.integration.world import World

# A producer's milliseconds and the broker's are of one clock, each cut.
CLOCK_SECONDS = 0.002


class Ownership(NamedTuple):
    """A worker said that a partition became its own, in one of its epochs, at a moment (seconds)."""

    at: float
    worker: str
    epoch: int
    partition: int


def audit_commits(world: World, processors: Iterable[Process]) -> int:
    """Fail the test for the first commit that passed an unfinished record, or was not its owner's; returns how many."""
    finished = _finished_at(world)
    ownerships = _ownerships(processors)
    commits = topics.commits(world.settings)
    for commit in commits:
        known = finished.get(commit.partition, [])
        assert commit.offset <= len(known), f"{commit} is beyond the end of the partition"
        below = list(accumulate(known, max))[commit.offset - 1] if commit.offset else 0.0
        assert below <= commit.at + CLOCK_SECONDS, f"{commit} passed a record that was not finished"
        metadata, beyond = decode_metadata(commit.metadata, commit.offset)
        for offset in beyond:
            assert known[offset] <= commit.at + CLOCK_SECONDS, f"{commit} calls {offset} finished, which it was not"
        assert metadata is not None, f"{commit} does not say whose it is"
        before = [one for one in ownerships if one.partition == commit.partition and one.at <= commit.at]
        assert before, f"{commit}: nobody owned the partition"
        owner = max(before)
        assert (owner.worker, owner.epoch) == (metadata.worker, metadata.epoch), f"{commit}, but the owner was {owner}"
    return len(commits)


def _finished_at(world: World) -> dict[int, list[float]]:
    """When each record of `file.create` had its first result, by partition and offset; infinity for never.

    The results of our own processors name their record; so does what they say of one that was cancelled.
    """
    by_place: dict[tuple[int, int], float] = {}
    for record in topics.read(world.settings, world.settings.topic_created):
        event = decode(record.value, FileCreated)
        if event.partition is not None and event.offset is not None:
            place = event.partition, event.offset
            by_place[place] = min(record.at, by_place.get(place, record.at))
    for record in topics.read(world.settings, world.settings.topic_dead_letters):
        place = int(record.headers["filemill-partition"]), int(record.headers["filemill-offset"])
        by_place.setdefault(place, record.at)
    for record in topics.read(world.settings, world.settings.topic_worker_events):
        said = decode_event(record.value)
        if said.kind is Kind.CANCELLED and said.partition is not None and said.offset is not None:
            by_place.setdefault((said.partition, said.offset), record.at)
    found: dict[int, list[float]] = {}
    for record in topics.read(world.settings, world.settings.topic_create):
        moments = found.setdefault(record.partition, [])
        assert record.offset == len(moments), "offsets without gaps are what this audit counts on"
        moments.append(by_place.get((record.partition, record.offset), float("inf")))
    return found


def _ownerships(processors: Iterable[Process]) -> list[Ownership]:
    return [
        Ownership(topics.moment(line["timestamp"]), line["worker"], line["epoch"], partition)
        for processor in processors
        for line in processor.lines("Partitions assigned")
        for partition in line["partitions"]
    ]
