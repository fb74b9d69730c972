"""`filemill demo`: the whole system in a temporary home, up to twelve verified files."""

import contextlib
import statistics
import time
from collections.abc import Callable
from datetime import datetime

import httpx
import msgspec

from filemill.config.settings import Settings
from filemill.domain.content import render
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from filemill.queries.workers import owned_partitions
from filemill.verification.report import VerificationReport

FILES = 12
FINISH_SECONDS = 60.0
POLL_SECONDS = 0.02
# Titles that break careless systems, and a plain one.
TITLES = ["Quarterly report", "Ünïcödé ✓ 文件", "<script>alert(1)</script>", "=1+1", "[link](javascript:alert(1))"]


class DemoResult(msgspec.Struct, kw_only=True):
    """The result of the demo. The names of times end with their unit."""

    submitted: int = 0
    completed: int = 0
    identical: int = 0
    lost: int = 0
    verified: bool = False
    start_seconds: float = 0.0
    end_to_end_ms: dict[str, float] = {}
    findings: list[str] = []

    @property
    def ok(self) -> bool:
        """Whether all files were completed and all invariants hold."""
        return self.verified and self.submitted == self.completed == self.identical == FILES and self.lost == 0


def wait_for_group(settings: Settings, seconds: float) -> None:
    """Wait until the processors own all partitions. Raises Unavailable if they do not in time.

    The workers' events tell it, not the broker: librdkafka's admin client can hang the process if it asks about a group
    without a coordinator, and a new group has none.
    """
    if settings.group_protocol == "share":
        return  # a share group assigns no partitions
    wanted = set(range(settings.topic_partitions))
    engine = bootstrap.create_engine(settings, "demo")
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            with contextlib.suppress(Unavailable), engine.connect() as connection:
                if owned_partitions(connection) == wanted:
                    return
            time.sleep(POLL_SECONDS * 5)
    finally:
        engine.dispose()
    raise Unavailable(
        f"the partitions of {settings.topic_create} were not assigned within {seconds:.0f} s",
        code="partitions-not-assigned",
    )


def run_through(page: str, settings: Settings, say: Callable[[str], None]) -> DemoResult:
    """Submit files, wait for them, download and compare them, and verify, on a running stack."""
    result = DemoResult()
    with httpx.Client(base_url=page, timeout=10, trust_env=False) as client:
        began: dict[int, float] = {}
        for number in range(FILES):
            body = {"title": TITLES[number % len(TITLES)], "description": f"Demo file {number + 1} of {FILES}"}
            started = time.monotonic()
            answer = client.post("/api/files", json=body).raise_for_status()
            began[answer.json()["id"]] = started
        result.submitted = len(began)
        say(f"{FILES} files submitted over REST")
        ended = _wait(client, began)
        result.completed = len(ended)
        latencies = [(ended[file_id] - began[file_id]) * 1000 for file_id in ended]
        if len(latencies) > 1:
            cuts = statistics.quantiles(latencies, n=20, method="inclusive")
            result.end_to_end_ms = {
                "p50": round(statistics.median(latencies), 1),
                "p95": round(cuts[-1], 1),
                "max": round(max(latencies), 1),
            }
        say(f"{result.completed} completed")
        result.identical = sum(_identical(client, file_id) for file_id in ended)
        say(f"{result.identical} downloaded and compared")
    report = _verify(settings)
    result.verified, result.lost = report.ok, report.lost
    result.findings = [f"{finding.title}: {finding.examples}" for finding in report.findings.values()]
    return result


def _wait(client: httpx.Client, began: dict[int, float]) -> dict[int, float]:
    """When each file was first seen as completed; files that are not completed in time are left out."""
    ended: dict[int, float] = {}
    deadline = time.monotonic() + FINISH_SECONDS
    while len(ended) < len(began) and time.monotonic() < deadline:
        page = client.get("/api/files", params={"status": "completed", "limit": 200}).raise_for_status().json()
        seen = time.monotonic()
        for row in page["items"]:
            if row["id"] in began:
                ended.setdefault(row["id"], seen)
        time.sleep(POLL_SECONDS)
    return ended


def _identical(client: httpx.Client, file_id: int) -> bool:
    row = client.get(f"/api/files/{file_id}").raise_for_status().json()
    body = client.get(f"/api/files/{file_id}/download").raise_for_status().content
    requested_at = datetime.fromisoformat(row["created_at"])
    return body == render(row["title"], row["description"], requested_at)


def _verify(settings: Settings) -> VerificationReport:
    engine = bootstrap.create_engine(settings, "demo")
    try:
        return bootstrap.verify(settings, engine)
    finally:
        engine.dispose()
