"""Performance: throughput and latency over time, by worker and by partition; and the ledger."""

from collections.abc import Sequence

import streamlit as st

from filemill.domain.files import Status
from filemill.queries.performance import FILES_MAX, Ledger, Percentiles, Performance, PerformanceRow
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.chart_annotations import annotations_of
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.metrics import Metric, metrics
from filemill_dashboard.components.notebook_link import notebook_link
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.components.performance_charts import Stage, finished_chart, latency_chart, percentiles_of
from filemill_dashboard.components.view_url import select_option
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot
from filemill_dashboard.views.durations import format_duration
from filemill_dashboard.views.plurals import counted

PERIODS = {"5 min": 300, "15 min": 900, "1 h": 3600, "6 h": 21_600, "24 h": 86_400}
ERROR_RATE_ALARM = 0.05
# The key of the files that have no handler and no queue of their own.
PLAIN_JOB = "text / default"
STAGES: dict[str, Stage] = {"End to end": "whole", "Waiting": "wait", "Processing": "processing"}


def _performance(data: PageData, _snapshot: CachedValue[Snapshot]) -> None:
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        page_shell.section_heading("Throughput and latency")
        with st.container(key="period-bar", horizontal=True, vertical_alignment="center", width="content"):
            period = PERIODS[select_option("Period", list(PERIODS), "15 min", "period")]
            notebook_link(period=period)
    reading = data.performance(period)
    performance, stale = reading.value, reading.error is not None
    marks = annotations_of(data.chart_operations(period))
    metrics("metrics", _metrics(performance), stale=stale)
    with st.container(key="columns", horizontal=True, gap="medium"):
        with st.container(key="half-a"):
            page_shell.section_heading("Finished files")
            finished_chart(performance, period, marks, stale=stale)
        with st.container(key="half-b"):
            with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
                page_shell.section_heading("Latency")
                stage = STAGES[select_option("Stage", list(STAGES), "End to end", "stage")]
            latency_chart(performance, stage, period, marks, stale=stale)
    with st.container(key="columns-2", horizontal=True, gap="medium"):
        with st.container(key="left"):
            _shares("by-worker", "Worker", performance.workers if performance else [], stage, stale=stale)
            jobs = performance.jobs if performance else []
            if [share.key for share in jobs] != [PLAIN_JOB]:
                _shares("by-job", "Handler and queue", jobs, stage, stale=stale)
            _shares("by-partition", "Partition", performance.partitions if performance else [], stage, stale=stale)
        with st.container(key="right"):
            ledger = data.ledger()
            _ledger(ledger.value, stale=ledger.error is not None)


def _metrics(performance: Performance | None) -> list[Metric]:
    if performance is None:
        names = ["Throughput", "Error rate", "Upload success", "End to end", "Waiting", "Partition balance", "Repeated"]
        return [Metric(name, None) for name in names]
    whole, wait, balance = performance.total.end_to_end, performance.total.wait, performance.balance
    most = (
        f"the newest {FILES_MAX:,}, {format_duration(performance.seconds)}"
        if performance.total.finished >= FILES_MAX
        else format_duration(performance.seconds)
    )
    failed = f"{performance.total.failed:,} of {performance.total.finished:,} failed"
    total = performance.total
    finished = f"{counted(total.finished, 'file')} in {most}"
    return [
        Metric(
            "Throughput",
            _rate(performance.per_second),
            finished,
            "Completed or failed",
        ),
        Metric("Error rate", _percent(performance.error_rate), failed, tone=_alarm(performance.error_rate)),
        Metric(
            "Upload success",
            _percent(performance.upload_success_rate),
            f"{counted(performance.upload_failures, 'attempt')} failed",
            "Successful uploads as a share of all attempts",
        ),
        Metric(
            "End to end, p95",
            _seconds(whole.p95),
            _other_percentiles(whole),
            "From acceptance to the result of the worker; first runs only",
        ),
        Metric(
            "Waiting, p95",
            _seconds(wait.p95),
            _other_percentiles(wait),
            "From acceptance to the start of processing; first runs only",
        ),
        Metric(
            "Partition balance",
            None if balance is None else f"{balance:.2f}",
            "1.00 is even",
            "Files of the busiest partition divided by the mean",
        ),
        Metric(
            "Repeated results",
            f"{performance.repeated_results:,}",
            "changed nothing",
            "Results that arrived after their run had ended, because a record was processed again after a fault",
        ),
    ]


def _other_percentiles(percentiles: Percentiles) -> str:
    return f"p50 {format_duration(percentiles.p50)} · p99 {format_duration(percentiles.p99)}"


def _alarm(error_rate: float | None) -> str | None:
    return "bad" if error_rate is not None and error_rate > ERROR_RATE_ALARM else None


def _rate(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f} /s" if value >= 10 else f"{value:.2f} /s"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.3g} %"


def _seconds(value: float | None) -> str | None:
    return None if value is None else format_duration(value)


def _shares(key: str, grouping: str, shares: list[PerformanceRow], stage: Stage, *, stale: bool) -> None:
    ended = sum(share.finished for share in shares)
    data_grid(
        key,
        [
            Column("key", grouping),
            Column("files", "Files", "number", 80),
            Column("share", "Share", "percent", 70),
            Column("failed", "Failed", "number", 74),
            Column("p50", "p50", "seconds", 78),
            Column("p95", "p95", "seconds", 78),
            Column("p99", "p99", "seconds", 78),
        ],
        [
            TableRow(
                str(share.key),
                {
                    "key": _name(grouping, share),
                    "files": share.finished,
                    "share": share.finished / ended if ended else None,
                    "failed": share.failed,
                    "p50": percentiles_of(share, stage).p50,
                    "p95": percentiles_of(share, stage).p95,
                    "p99": percentiles_of(share, stage).p99,
                },
            )
            for share in shares
        ],
        label=f"By {grouping.lower()}",
        empty=(f"By {grouping.lower()}: no file finished in this period", "Select a longer period, or create a file."),
        stale=stale,
    )


def _name(grouping: str, share: PerformanceRow) -> str:
    if share.key is None:
        return "foreign service" if grouping == "Worker" else "unknown"
    return f"P{share.key}" if grouping == "Partition" else str(share.key)


def _ledger(ledger: Ledger | None, *, stale: bool) -> None:
    page_shell.section_heading("Ledger")
    if ledger is None:
        facts("ledger", [Fact("Accepted", None)], stale=stale)
        return
    lines = [Fact("Accepted", f"{ledger.accepted:,}", tone="good" if ledger.clean else "bad")]
    lines += [Fact(f"= {status.value}", f"{ledger.counts[status]:,}") for status in Status]
    lines.append(Fact("= deleted", f"{ledger.deleted:,}"))
    lines.append(Fact("of which in the outbox", f"{ledger.in_outbox:,}"))
    facts("ledger", lines, stale=stale)
    notices = [
        Notice("bad", counted(len(ids), one, many), f"{_id_list(ids)}. {text}")
        for ids, one, many, text in (
            (
                ledger.lost,
                "pending file is neither in the outbox nor on Kafka",
                "pending files are neither in the outbox nor on Kafka",
                "Cancel them, then retry them.",
            ),
            (
                ledger.without_object,
                "completed file has no object",
                "completed files have no object",
                "Run `filemill verify` for details.",
            ),
            (
                ledger.stale,
                "file in progress was not updated in the last hour",
                "files in progress were not updated in the last hour",
                "Check the Workers page.",
            ),
        )
        if ids
    ]
    balanced = Notice(
        "good", "The ledger balances", "Checked by database rows only; `filemill verify` also checks Kafka and S3."
    )
    # What is stale is no reason for advice, and a banner names the cause.
    show_notices("ledger-notices", [] if stale else notices or [balanced])


def _id_list(ids: Sequence[int]) -> str:
    return ", ".join(f"#{number}" for number in ids)


page_shell.render_page("Performance", _performance)
