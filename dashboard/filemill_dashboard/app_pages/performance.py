"""Performance: how many files ended, how long they took, by time, worker and partition; and the ledger."""

import streamlit as st

from filemill.domain.files import Status
from filemill.queries.performance import FILES_MAX, Ledger, Performance, Share
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.chart_marks import annotations_of
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.figures import Metric, metrics
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.notebook_link import notebook_link
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.components.performance_charts import Stage, finished_chart, latency_chart, percentiles_of
from filemill_dashboard.components.view_url import select_option
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot
from filemill_dashboard.views.durations import format_duration

PERIODS = {"5 min": 300, "15 min": 900, "1 h": 3600, "6 h": 21_600, "24 h": 86_400}
ALARMING_ERROR_RATE = 0.05
STAGES: dict[str, Stage] = {"End to end": "whole", "Waiting": "wait", "Processing": "processing"}


def _performance(data: PageData, _snapshot: CachedValue[Snapshot]) -> None:
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.html('<div class="section">How files fared</div>', width="content")
        with st.container(key="period-bar", horizontal=True, vertical_alignment="center", width="content"):
            period = PERIODS[select_option("Period", list(PERIODS), "15 min", "period")]
            notebook_link(period=period)
    reading = data.performance(period)
    found, old = reading.value, reading.error is not None
    marks = annotations_of(data.chart_operations(period))
    metrics("metrics", _metrics(found), stale=old)
    with st.container(key="columns", horizontal=True, gap="medium"):
        with st.container(key="half-a"):
            st.html('<div class="section">Files that ended</div>')
            finished_chart(found, period, marks, stale=old)
        with st.container(key="half-b"):
            with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
                st.html('<div class="section">How long they took</div>', width="content")
                stage = STAGES[select_option("Stage", list(STAGES), "End to end", "stage")]
            latency_chart(found, stage, period, marks, stale=old)
    with st.container(key="columns-2", horizontal=True, gap="medium"):
        with st.container(key="left"):
            _shares("by-worker", "Worker", found.workers if found else [], stage, old=old)
            _shares("by-partition", "Partition", found.partitions if found else [], stage, old=old)
        with st.container(key="right"):
            ledger = data.ledger()
            _ledger(ledger.value, old=ledger.error is not None)


def _metrics(found: Performance | None) -> list[Metric]:
    if found is None:
        names = ["Throughput", "Error rate", "Upload success", "End to end", "Waiting", "Partition balance"]
        return [Metric(name, None) for name in names]
    whole, wait, balance = found.total.whole, found.total.wait, found.balance
    most = (
        f"the newest {FILES_MAX:,}, {format_duration(found.seconds)}"
        if found.total.ended >= FILES_MAX
        else format_duration(found.seconds)
    )
    failed = f"{found.total.failed:,} of {found.total.ended:,} failed"
    return [
        Metric("Throughput", _rate(found.per_second), f"{found.total.ended:,} files in {most}", "Completed or failed"),
        Metric("Error rate", _percent(found.error_rate), failed, tone=_alarm(found.error_rate)),
        Metric("Upload success", _percent(found.upload_success), f"{found.upload_failures:,} tries failed",
               "Uploads that succeeded, of all that were tried"),
        Metric("End to end, p95", _seconds(whole.p95), f"p50 {format_duration(whole.p50)} · p99 {format_duration(whole.p99)}",
               "From accepted to the worker's result; first runs only"),
        Metric("Waiting, p95", _seconds(wait.p95), f"p50 {format_duration(wait.p50)} · p99 {format_duration(wait.p99)}",
               "From accepted to begun by a worker; first runs only"),
        Metric("Partition balance", None if balance is None else f"{balance:.2f}", "1.00 is even",
               "The busiest partition's files over the mean"),
    ]  # fmt: skip


def _alarm(error_rate: float | None) -> str | None:
    return "bad" if error_rate is not None and error_rate > ALARMING_ERROR_RATE else None


def _rate(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f} /s" if value >= 10 else f"{value:.2f} /s"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.3g} %"


def _seconds(value: float | None) -> str | None:
    return None if value is None else format_duration(value)


def _shares(key: str, what: str, shares: list[Share], stage: Stage, *, old: bool) -> None:
    ended = sum(share.ended for share in shares)
    data_grid(
        key,
        [
            Column("key", what),
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
                    "key": _name(what, share),
                    "files": share.ended,
                    "share": share.ended / ended if ended else None,
                    "failed": share.failed,
                    "p50": percentiles_of(share, stage).p50,
                    "p95": percentiles_of(share, stage).p95,
                    "p99": percentiles_of(share, stage).p99,
                },
            )
            for share in shares
        ],
        label=f"By {what.lower()}",
        empty=(f"By {what.lower()}: nothing ended in this period", "Choose a longer one, or create a file."),
        stale=old,
    )


def _name(what: str, share: Share) -> str:
    if share.key is None:
        return "a foreign service" if what == "Worker" else "unknown"
    return str(share.key) if what == "Worker" else f"P{share.key}"


def _ledger(ledger: Ledger | None, *, old: bool) -> None:
    st.html('<div class="section">The ledger</div>')
    if ledger is None:
        facts("ledger", [Fact("Accepted", None)], stale=old)
        return
    lines = [Fact("Accepted", f"{ledger.accepted:,}", tone="good" if ledger.clean else "bad")]
    lines += [Fact(f"= {status.value}", f"{ledger.counts[status]:,}") for status in Status]
    lines.append(Fact("= deleted", f"{ledger.deleted:,}"))
    lines.append(Fact("of them in the outbox", f"{ledger.in_outbox:,}"))
    facts("ledger", lines, stale=old)
    notices = [
        Notice("bad", f"{len(ids)} {what}", f"{', '.join(f'#{number}' for number in ids)}. {text}")
        for ids, what, text in (
            (ledger.lost, "wait, but neither the outbox nor Kafka has them", "Cancel and retry them."),
            (ledger.unfounded, "completed without an object", "`filemill verify` says more."),
            (ledger.stale, "in progress for an hour without a word", "Look for them on the page Workers."),
        )
        if ids
    ]
    fine = Notice("good", "Every id adds up", "By the rows alone; `filemill verify` asks Kafka and S3, too.")
    show_notices("ledger-says", notices or [fine])


page_shell.render_page(_performance)
