"""The records of a run as tidy data frames: one row per request, execution, event, file or fault. Times are UTC."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pandas as pd
import sqlalchemy as sa

from filemill.domain.worker_events import EventKind
from filemill.lab.load import SubmittedRequest
from filemill.queries.verification import file_timings
from filemill.runtime.journal import JournalEntry
from filemill.verification.topic_history import TopicHistory

PAGE_ROWS = 5000
# Events after which a worker owns no partition.
ENDS = (EventKind.STOPPED, EventKind.LOST)


def moments(seconds: "pd.Series[float]") -> "pd.Series[pd.Timestamp]":
    """Seconds since the epoch as timestamps."""
    return pd.to_datetime(seconds, unit="s", utc=True)


def requests(history: TopicHistory) -> pd.DataFrame:
    """One row per record of `file.create`: its arrival, its first result, and its number of executions."""
    finished = history.finished()
    counts = Counter(history.executed_positions())
    rows = [
        (
            request.partition,
            request.offset,
            request.file_id,
            request.run or 1,
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
    """One row per result on `file.created`; `again` is true for repeated executions of a record."""
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
    """One row per event of `worker.events`. The vitals of heartbeats are columns."""
    rows = []
    for stored in history.events:
        event, vitals = stored.event, stored.event.vitals
        rows.append(
            {
                "at": stored.at,
                "worker": event.worker_id,
                "kind": event.kind.value,
                "protocol": event.protocol,
                "epoch": event.epoch,
                "partitions": list(event.partitions),
                "owned": list(event.owned),
                "in_flight": vitals.in_flight if vitals else None,
                "finished": vitals.finished if vitals else None,
                "cpu_seconds": vitals.cpu_seconds if vitals else None,
                "rss_bytes": vitals.rss_bytes if vitals else None,
                "headroom_seconds": vitals.headroom_seconds if vitals else None,
                "cause": event.cause,
            }
        )
    frame = pd.DataFrame(rows)
    if not frame.empty:
        frame["at"] = moments(frame["at"].astype(float))
    return frame


def assignments(history: TopicHistory, until: float, kills: Sequence[tuple[str, float]] = ()) -> pd.DataFrame:
    """One row per period in which a worker owned a partition. Periods without an end last until `until`.

    `kills`: workers that were killed, and when. A killed worker reports no end of its periods.
    """
    owned = history.ownerships()
    killed = dict(kills)
    rows = []
    for index, one in enumerate(owned):
        follower = next((other.at for other in owned[index + 1 :] if other.partition == one.partition), until)
        stopped = next(
            (
                stored.at
                for stored in history.events
                if stored.event.worker_id == one.worker
                and stored.at > one.at
                and stored.event.kind in ("stopped", "lost")
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
    engine: sa.Engine, submitted: Sequence[SubmittedRequest] = (), within: tuple[datetime, datetime] | None = None
) -> pd.DataFrame:
    """One row per file. `intended_at` is the moment for which the lab intended the request, else its creation.

    `within` leaves out files that were created after the time range, or not changed since it began.
    """
    columns: list[str] = []
    rows: list[Any] = []
    while True:
        with engine.connect() as connection:  # only to read a page: idle transactions are ended after 2 s
            columns, page = file_timings(connection, rows[-1][0] if rows else 0, PAGE_ROWS, within)
        rows += page
        if len(page) < PAGE_ROWS:
            break
    frame = pd.DataFrame(rows, columns=columns)
    for column in ("created_at", "started_at", "finished_at", "updated_at"):
        frame[column] = pd.to_datetime(frame[column], utc=True)
    intended = pd.Series({one.file_id: one.intended for one in submitted}, dtype=float)
    frame["intended_at"] = moments(frame["id"].map(intended)).fillna(frame["created_at"])
    return frame


def faults(entries: Sequence[JournalEntry]) -> pd.DataFrame:
    """One row per fault."""
    rows = [(entry.name, entry.target, entry.began, entry.ended) for entry in entries]
    frame = pd.DataFrame(rows, columns=["fault", "target", "began", "ended"])
    for column in ("began", "ended"):
        frame[column] = moments(frame[column].astype(float))
    return frame
