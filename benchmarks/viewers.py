"""`python -m benchmarks.viewers`: the cost of pages and pollers, with a million rows and a busy pipeline.

Server time of a refresh, any page of the list, 1,000 pollers, open pages up to the knee; what Postgres has to do for
one viewer and for many. All on one embedded stack, the page's process on one core, the client on another.
"""

import json
import random
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import quantiles
from typing import Annotated, Any

import httpx
import psutil
import typer

from benchmarks import backlog
from benchmarks.growth import open_page
from benchmarks.processes import WorkerProcesses
from benchmarks.report import RESULTS
from benchmarks.servers import IsolatedPipeline, embedded_servers, isolated_pipeline, wait_until
from filemill.config import logging
from filemill.entrypoints.cli.output import print_table, say
from filemill.lab.results import machine
from filemill.queries.files import list_files
from filemill.queries.group import lag_history
from filemill.queries.history import audit_entries, ownership
from filemill.queries.outbox import outbox_history
from filemill.queries.overview import overview
from filemill.queries.performance import ledger, performance

PERIOD = timedelta(minutes=15)
REFRESHES = 60
PAGES_OF_THE_LIST = 400
POLLERS, POLL_SECONDS = 1000, 2.0
# Open pages and the seconds between refreshes: the target, the knee, a slower refresh.
OPEN = ((1, 2.0), (10, 2.0), (25, 2.0), (40, 2.0), (50, 5.0))
# The background load: files per second through the pipeline.
BACKGROUND_PER_SECOND = 20.0
WARM_SECONDS = 20.0

REFRESH_MOST_MS, LIST_MOST_MS, POLL_MOST_MS, PAGES_MOST_MS = 100.0, 20.0, 100.0, 1000.0
COLUMNS = ("what", "answers", "p50_ms", "p95_ms", "p99_ms", "most_ms", "wrong", "late", "cpu_ms", "of_a_core")

REFRESH, ANY_PAGE = "refresh, server time", "GET /api/files, any page"

Measurement = dict[str, Any]
# Kind (pages or pollers), number, and seconds between requests of each.
ClientLoad = tuple[str, int, float]


def refreshes(pipeline: IsolatedPipeline) -> Measurement:
    """All queries of Pipeline, Files and Performance for one refresh, without a cache."""
    group = pipeline.settings.group_id

    def refresh() -> None:
        with pipeline.engine.connect() as connection:
            overview(connection, group)
            list_files(connection, limit=50, excerpts=True)
            lag_history(connection, group, PERIOD)
            outbox_history(connection, PERIOD)
            ownership(connection, group, PERIOD)
            audit_entries(connection, PERIOD)

    line = _timed(refresh, REFRESHES, REFRESH_MOST_MS)

    def statistics() -> None:
        with pipeline.engine.connect() as connection:
            performance(connection, PERIOD)
            ledger(connection)

    aside = _timed(statistics, REFRESHES, None)
    return {**line, "performance_p95_ms": aside["p95_ms"]}


def any_page(pipeline: IsolatedPipeline, url: str) -> Measurement:
    """`GET /api/files` of random pages of the list, sequentially on one connection."""
    most = pipeline.scalar("SELECT max(id) FROM files")
    chosen = random.Random(7)
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:

        def ask() -> None:
            answer = client.get("/api/files", params={"cursor": f"before-{chosen.randint(100, most)}", "limit": 50})
            assert answer.status_code == httpx.codes.OK
            assert len(answer.json()["items"]) == 50

        ask()
        return _timed(ask, PAGES_OF_THE_LIST, LIST_MOST_MS)


def name_of(one: ClientLoad) -> str:
    """The name of a client load."""
    what, count, period = one
    return f"{count} {what} at {period:g} s"


def measure_clients(
    pipeline: IsolatedPipeline,
    processes: WorkerProcesses,
    page: psutil.Process,
    one: ClientLoad,
    seconds: float,
    port: int,
) -> Measurement:
    """Measure viewers or pollers: latencies, transactions per second in Postgres, and CPU of the page's process.

    The CPU is in milliseconds per answer. It includes opening the pages and relaying.
    """
    what, count, period = one
    client = processes.start_task(what, count, period, seconds, port=port)
    client.wait_ready()
    psutil.Process(client.pid).cpu_affinity([_cores()[-1]])
    before, cpu_before, began = _transactions(pipeline), _cpu_seconds(page), time.monotonic()
    client.start_work()
    found = client.wait_done(600)
    took = time.monotonic() - began
    per_second, cpu = (_transactions(pipeline) - before) / took, _cpu_seconds(page) - cpu_before
    numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
    most = POLL_MOST_MS if what == "pollers" else PAGES_MOST_MS if (count, period) == (25, 2.0) else None
    costs = {"cpu_ms": 1000 * cpu / found["answers"], "of_a_core": cpu / took}
    return {**numbers, "most_ms": most, "transactions_per_second": per_second, **costs}


def measure(rows: int, seconds: float, only: str = "") -> list[Measurement]:
    """Measure everything whose name contains `only`, in this order."""
    lines: list[Measurement] = []
    loads = [("pollers", POLLERS, POLL_SECONDS), *(("pages", *one) for one in OPEN)]
    with embedded_servers() as servers, isolated_pipeline(servers, processing_seconds=1.0) as pipeline:
        say(f"{rows:,} rows …")
        backlog.insert_completed_rows(pipeline, rows)
        with pipeline.processes() as processes:
            port = open_page(pipeline, processes)
            page = next(process for process in processes.live_processes() if "dashboard" in " ".join(process.cmdline()))
            page.cpu_affinity([_cores()[0]])
            for role in ("processor", "sync", "monitor"):
                processes.start_role(role)
            background_files = int(BACKGROUND_PER_SECOND * (WARM_SECONDS + 60 + len(loads) * (seconds + 40)))
            background = processes.start_task("submit-steadily", background_files, BACKGROUND_PER_SECOND)
            background.wait_ready()
            background.start_work()
            say(f"Warming up with {BACKGROUND_PER_SECOND:g} files per second …")
            ended = "SELECT count(*) FROM files WHERE finished_at > now() - interval '1 min'"
            wait_until(
                lambda: pipeline.scalar(ended) > BACKGROUND_PER_SECOND * WARM_SECONDS / 2, "files come through", 180
            )
            url = f"http://{pipeline.settings.host}:{port}"
            steps: list[tuple[str, Callable[[], Measurement]]] = [
                (REFRESH, lambda: refreshes(pipeline)),
                (ANY_PAGE, lambda: any_page(pipeline, url)),
                *(
                    (name_of(one), lambda one=one: measure_clients(pipeline, processes, page, one, seconds, port))
                    for one in loads
                ),
            ]
            for name, step in steps:
                if only in name:
                    lines.append({"what": name, **step()})
                    say(json.dumps(lines[-1]))
    return lines


def main(
    rows: Annotated[int, typer.Option(help="Rows in the table.", min=1000)] = 1_000_000,
    seconds: Annotated[float, typer.Option(help="How long each crowd stays.", min=5)] = 30.0,
    only: Annotated[str, typer.Option(help="Only measurements with this in their name; nothing is saved.")] = "",
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Measure, print and save. Exit code 0 also if targets are missed."""
    lines = measure(rows, seconds, only)
    print_table(
        [name.replace("_", " ") for name in COLUMNS],
        [[_shown(line.get(name)) for name in COLUMNS] for line in lines],
    )
    if not only:
        results.mkdir(parents=True, exist_ok=True)
        saved = {"rows": rows, "beside_files_per_second": BACKGROUND_PER_SECOND, "machine": machine(), "lines": lines}
        (results / "viewers.json").write_text(json.dumps(saved, indent=2))
    targets = [line for line in lines if line.get("most_ms")]
    missed = [line["what"] for line in targets if not holds(line)]
    say(
        f"Targets: {len(targets) - len(missed)} of {len(targets)} hold."
        + (f" Missed: {', '.join(missed)}." if missed else "")
    )


def holds(line: Measurement) -> bool:
    """Whether a target holds: fast enough, no wrong and no late answers."""
    return bool(line["p95_ms"] <= line["most_ms"] and not line.get("wrong") and not line.get("late"))


def _timed(ask: Callable[[], None], times: int, most: float | None) -> Measurement:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        found.append((time.perf_counter() - began) * 1000)
    marks = quantiles(found, n=100, method="inclusive")
    return {
        "answers": times,
        "p50_ms": marks[49],
        "p95_ms": marks[94],
        "p99_ms": marks[98],
        "most_ms": most,
    }


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _transactions(pipeline: IsolatedPipeline) -> int:
    return pipeline.scalar("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")


def _cores() -> list[int]:
    return list(psutil.Process().cpu_affinity() or [0])


def _shown(value: object) -> str:
    return "" if value is None else f"{value:,.1f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    logging.configure_for_command()
    typer.run(main)
