"""A time range of a running pipeline as data frames and figures, as the page's charts show it.

with attach() as session:
    data = read_time_range(session, "2026-11-22T12:00Z", "2026-11-22T12:15Z")
data.throughput()
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pandas as pd
import plotly.graph_objects as go

from filemill.lab import figures, frames, measures
from filemill.lab.session import PipelineSession
from filemill.queries.verification import lag_samples, operations_between
from filemill.runtime.supervisor_client import FAULT_SECONDS_MAX

FAULT_MAX = timedelta(seconds=FAULT_SECONDS_MAX)


@dataclass(frozen=True)
class TimeRangeData:
    """Tidy data frames of a time range. Moments are UTC timestamps.

    executions: one row per result; files: per file in progress; assignments: per period of ownership; lags: per sample
    of a partition; operations: per operation of a person, with its end.
    """

    begin: datetime
    end: datetime
    executions: pd.DataFrame
    files: pd.DataFrame
    assignments: pd.DataFrame
    lags: pd.DataFrame
    operations: pd.DataFrame

    @property
    def faults(self) -> pd.DataFrame:
        """The operations that were faults."""
        return self.operations[self.operations["action"] == "fault"]

    def throughput(self) -> go.Figure:
        """Results per second by worker."""
        return figures.throughput(measures.throughput(self.executions), self.faults)

    def timeline(self) -> go.Figure:
        """A timeline of partition owners."""
        return figures.timeline(self.assignments, self.faults)

    def lag(self) -> go.Figure:
        """Uncommitted records per partition."""
        return figures.lag(self.lags, self.faults)

    def latencies(self) -> pd.DataFrame:
        """Percentiles per stage, in seconds, of the files that ended in the time range."""
        ended = self.files["finished_at"].between(pd.Timestamp(self.begin), pd.Timestamp(self.end))
        return measures.latencies(self.files[ended])


def read_time_range(session: PipelineSession, begin: str | datetime, end: str | datetime) -> TimeRangeData:
    """Read topics, rows and samples. Times without a zone are UTC. Raises Unavailable, ValueError."""
    since, until = _moment(begin), _moment(end)
    if since >= until:
        raise ValueError(f"the time range ends at {until}, before it begins at {since}")
    history = session.history(since)
    executions = frames.executions(history)
    inside = executions["at"].between(pd.Timestamp(since), pd.Timestamp(until))
    return TimeRangeData(
        begin=since,
        end=until,
        executions=executions[inside].reset_index(drop=True),
        files=frames.files(session.engine, within=(since, until)),
        assignments=_clip(frames.assignments(history, until.timestamp()), since, until),
        lags=_lags(session, since, until),
        operations=_operations(session, since, until),
    )


def _clip(bands: pd.DataFrame, since: datetime, until: datetime) -> pd.DataFrame:
    inside = bands[(bands["ended"] > pd.Timestamp(since)) & (bands["began"] < pd.Timestamp(until))]
    began = inside["began"].where(inside["began"] > pd.Timestamp(since), pd.Timestamp(since))
    ended = inside["ended"].where(inside["ended"] < pd.Timestamp(until), pd.Timestamp(until))
    return inside.assign(began=began, ended=ended).reset_index(drop=True)


def _lags(session: PipelineSession, since: datetime, until: datetime) -> pd.DataFrame:
    with session.engine.connect() as connection:
        rows = lag_samples(connection, session.settings.group_id, since, until)
    frame = pd.DataFrame(rows, columns=["at", "partition", "lag"])
    return frame.assign(at=pd.to_datetime(frame["at"], utc=True), lag=frame["lag"].astype("float"))


def _operations(session: PipelineSession, since: datetime, until: datetime) -> pd.DataFrame:
    """Includes faults that began earlier and were active in the time range."""
    with session.engine.connect() as connection:
        found = operations_between(connection, since, until, since - FAULT_MAX)
    rows = []
    for at, actor, action, detail in found:
        ended = detail.get("ended")
        seconds = float(detail.get("seconds") or 0) if action == "fault" else 0.0
        last = datetime.fromtimestamp(ended, UTC) if ended else at + timedelta(seconds=seconds)
        if "refused" not in detail and last >= since:
            rows.append((action, str(detail.get("target", "")), actor, at, last))
    frame = pd.DataFrame(rows, columns=["action", "target", "actor", "began", "ended"])
    for column in ("began", "ended"):
        frame[column] = pd.to_datetime(frame[column], utc=True)
    return frame


def _moment(given: str | datetime) -> datetime:
    moment = given if isinstance(given, datetime) else datetime.fromisoformat(given)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
