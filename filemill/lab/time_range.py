"""A window of a pipeline that runs, as frames and figures: what the page's charts show, to go on with in a notebook.

with attach() as session:
    data = read_time_range(session, "2026-11-22T12:00Z", "2026-11-22T12:15Z")
data.throughput()
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pandas as pd
import plotly.graph_objects as go
import sqlalchemy as sa

from filemill.adapters.postgres.tables import LagSample, Operation
from filemill.lab import figures, frames, measures
from filemill.lab.session import PipelineSession
from filemill.runtime.supervisor_client import FAULT_SECONDS_MAX

FAULT_LONGEST = timedelta(seconds=FAULT_SECONDS_MAX)


@dataclass(frozen=True)
class TimeRangeData:
    """What happened in it; each frame is tidy, its moments are UTC timestamps.

    executions: a row a result; files: a row a file that was on its way; assignments: a row a band of the timeline;
    lags: a row a sample of a partition; acts: a row an act of a person, with `ended` where it lasted.
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
        """The acts that were faults."""
        return self.operations[self.operations["action"] == "fault"]

    def throughput(self) -> go.Figure:
        """Results per second by worker."""
        return figures.throughput(measures.throughput(self.executions), self.faults)

    def timeline(self) -> go.Figure:
        """Who owned which partition."""
        return figures.timeline(self.assignments, self.faults)

    def lag(self) -> go.Figure:
        """Records not committed yet."""
        return figures.lag(self.lags, self.faults)

    def latencies(self) -> pd.DataFrame:
        """Percentiles per stage, in seconds, of the files that ended in the window."""
        ended = self.files["finished_at"].between(pd.Timestamp(self.begin), pd.Timestamp(self.end))
        return measures.latencies(self.files[ended])


def read_time_range(session: PipelineSession, begin: str | datetime, end: str | datetime) -> TimeRangeData:
    """Read it: topics, rows, samples. Moments without a zone are UTC. Raises Unavailable, ValueError."""
    since, until = _moment(begin), _moment(end)
    if since >= until:
        raise ValueError(f"the window ends, {until}, before it begins, {since}")
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
        operations=_acts(session, since, until),
    )


def _clip(bands: pd.DataFrame, since: datetime, until: datetime) -> pd.DataFrame:
    inside = bands[(bands["ended"] > pd.Timestamp(since)) & (bands["began"] < pd.Timestamp(until))]
    began = inside["began"].where(inside["began"] > pd.Timestamp(since), pd.Timestamp(since))
    ended = inside["ended"].where(inside["ended"] < pd.Timestamp(until), pd.Timestamp(until))
    return inside.assign(began=began, ended=ended).reset_index(drop=True)


def _lags(session: PipelineSession, since: datetime, until: datetime) -> pd.DataFrame:
    wanted = (
        sa.select(LagSample.sampled_at, LagSample.partition, LagSample.lag)
        .where(LagSample.group_id == session.settings.group_id, LagSample.sampled_at.between(since, until))
        .order_by(LagSample.sampled_at, LagSample.partition)
    )
    with session.engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(wanted)]
    frame = pd.DataFrame(rows, columns=["at", "partition", "lag"])
    return frame.assign(at=pd.to_datetime(frame["at"], utc=True), lag=frame["lag"].astype("float"))


def _acts(session: PipelineSession, since: datetime, until: datetime) -> pd.DataFrame:
    """With the faults that had begun before and last into it."""
    earlier = sa.and_(Operation.action == "fault", Operation.at > since - FAULT_LONGEST)
    wanted = (
        sa.select(Operation.at, Operation.actor, Operation.action, Operation.detail)
        .where(sa.or_(Operation.at >= since, earlier), Operation.at < until)
        .order_by(Operation.at)
    )
    with session.engine.connect() as connection:
        found = connection.execute(wanted).all()
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
