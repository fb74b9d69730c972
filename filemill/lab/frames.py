"""What a run left, as tidy data frames: one row a record, an execution, an event, a file. Times are UTC timestamps."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pandas as pd
import sqlalchemy as sa

from filemill.adapters.postgres.tables import File
from filemill.lab.load import SubmittedRequest
from filemill.runtime.journal import JournalEntry
from filemill.verification.topic_history import TopicHistory

PAGE_ROWS = 5000


def moments(seconds: "pd.Series[float]") -> "pd.Series[pd.Timestamp]":
    """Seconds since the epoch as timestamps."""
    return pd.to_datetime(seconds, unit="s", utc=True)


def requests(history: TopicHistory) -> pd.DataFrame:
    """A row a record of `file.create`: when it came, when its first result did, how many results it had."""
    finished = history.finished()
    counts = Counter(history.executed_positions())
    rows = [
        (
            request.partition,
            request.offset,
            request.file_id,
            request.run,
            request.at,
            finished.get(history.position_of(request)),
            counts[history.position_of(request)],
        )
        for request in history.requests
    ]
    frame = pd.DataFrame(
        rows, columns=["partition", "offset", "file_id", "run", "arrived_at", "finished_at", "executions"]
    )
    for column in ("arrived_at", "finished_at"):
        frame[column] = moments(frame[column].astype(float))
    return frame


def executions(history: TopicHistory) -> pd.DataFrame:
    """A row a result on `file.created`, repetitions included: `again` says which are."""
    rows = [
        (
            execution.partition,
            execution.offset,
            execution.file_id,
            execution.worker,
            execution.status,
            execution.attempt,
            execution.started_at,
            execution.at,
            execution.upload_ms,
        )
        for execution in history.executions
    ]
    columns = ["partition", "offset", "file_id", "worker", "status", "attempt", "started_at", "at", "upload_ms"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["at"] = moments(frame["at"].astype(float))
    frame["started_at"] = pd.to_datetime(frame["started_at"], utc=True)
    frame["again"] = frame.duplicated(["partition", "offset"])
    return frame


def events(history: TopicHistory) -> pd.DataFrame:
    """A row an event of `worker.events`; a heartbeat's vitals are columns of it."""
    rows = []
    for heard in history.events:
        said, vitals = heard.event, heard.event.vitals
        rows.append(
            {
                "at": heard.at,
                "worker": said.worker_id,
                "kind": said.kind.value,
                "protocol": said.protocol,
                "epoch": said.epoch,
                "partitions": list(said.partitions),
                "owned": list(said.owned),
                "in_flight": vitals.in_flight if vitals else None,
                "finished": vitals.finished if vitals else None,
                "cpu_seconds": vitals.cpu_seconds if vitals else None,
                "rss_bytes": vitals.rss_bytes if vitals else None,
                "headroom_seconds": vitals.headroom_seconds if vitals else None,
                "cause": said.cause,
            }
        )
    frame = pd.DataFrame(rows)
    if not frame.empty:
        frame["at"] = moments(frame["at"].astype(float))
    return frame


def assignments(history: TopicHistory, until: float, kills: Sequence[tuple[str, float]] = ()) -> pd.DataFrame:
    """A row for each time that a partition was a worker's: a band of the timeline. What has not ended ends `until`.

    `kills`: who was killed, and when. A dead worker never says so, and its partitions are nobody's from then on.
    """
    owned = history.ownerships()
    killed = dict(kills)
    rows = []
    for index, one in enumerate(owned):
        follower = next((other.at for other in owned[index + 1 :] if other.partition == one.partition), until)
        stopped = next(
            (
                heard.at
                for heard in history.events
                if heard.event.worker_id == one.worker and heard.at > one.at and heard.event.kind in ("stopped", "lost")
            ),
            until,
        )
        rows.append(
            (
                one.partition,
                one.worker,
                one.epoch,
                one.at,
                min(follower, one.until, stopped, killed.get(one.worker, until)),
            )
        )
    frame = pd.DataFrame(rows, columns=["partition", "worker", "epoch", "began", "ended"])
    for column in ("began", "ended"):
        frame[column] = moments(frame[column].astype(float))
    return frame


def files(
    engine: sa.Engine, sent: Sequence[SubmittedRequest] = (), within: tuple[datetime, datetime] | None = None
) -> pd.DataFrame:
    """A row a file, with the moment for which its request was intended where the lab made it.

    `within` leaves out those that were asked for after it, or did not change in it or since.
    """
    columns = sa.select(
        File.id,
        File.status,
        File.run,
        File.created_at,
        File.started_at,
        File.finished_at,
        File.updated_at,
        File.worker_id,
        File.kafka_partition,
        File.kafka_offset,
        File.attempt,
    )
    if within is not None:
        columns = columns.where(File.updated_at >= within[0], File.created_at < within[1])
    rows: list[Any] = []
    while True:
        page = columns.where(File.id > (rows[-1][0] if rows else 0)).order_by(File.id).limit(PAGE_ROWS)
        with engine.connect() as connection:  # nothing but the reading inside: idle transactions are ended after 2 s
            found = connection.execute(page).all()
        rows += found
        if len(found) < PAGE_ROWS:
            break
    frame = pd.DataFrame(rows, columns=[column.name for column in columns.selected_columns])
    for column in ("created_at", "started_at", "finished_at", "updated_at"):
        frame[column] = pd.to_datetime(frame[column], utc=True)
    intended = pd.Series({one.file_id: one.intended for one in sent}, dtype=float)
    frame["intended_at"] = moments(frame["id"].map(intended)).fillna(frame["created_at"])
    return frame


def faults(entries: Sequence[JournalEntry]) -> pd.DataFrame:
    """A row a fault."""
    rows = [(entry.name, entry.target, entry.began, entry.ended) for entry in entries]
    frame = pd.DataFrame(rows, columns=["fault", "target", "began", "ended"])
    for column in ("began", "ended"):
        frame[column] = moments(frame[column].astype(float))
    return frame
