"""A scripted hour of an on-call engineer: the tasks of a working day in a real browser, and no statement is false.

A stack under load goes through a backlog, a kill, poisonous records, three outages, scaling, more partitions, an offset
reset and quiet workers. Meanwhile everything that the pages state is compared with what Kafka, PostgreSQL, S3 and the
process table say (`comparison.py`, `truth.py`). With HOUR_PICTURES=FOLDER, screenshots of each step are saved.
"""

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from datetime import time as clock_time
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from filemill.domain.dead_letters import reason_fingerprint
from filemill.lab.raw_records import RawRecord, publish_raw
from filemill.runtime.stack_state import StackState, running_stack
from filemill.runtime.supervisor_client import SupervisorCommand, send
from tests.acceptance.command import Stack, answer, slowdown, stack_in
from tests.browser import rules
from tests.browser.comparison import Comparison
from tests.browser.statements import Statements, number, read_page
from tests.browser.truth import Truth
from tests.integration import topics

WORKERS = 3
PROCESSING_SECONDS = 3
LOAD_SECONDS = 0.6
BACKLOG = 240
POLL_MILLISECONDS = 400
FAULT_SECONDS = 14
KILL_TO_NORMAL_SECONDS = 10.0
SETTLED_SECONDS = 45.0
LATE_SECONDS = 20.0
# A killed worker reports nothing: its last event is at most this old (docs/pages.md).
LAST_EVENT_SECONDS = 2.5
PICTURE_MILLISECONDS = 2500
MENU_MILLISECONDS = 4000

# The fewest comparisons of each step: about a quarter of those on a busy machine.
LEAST = {
    "create and find": 300,
    "normal": 400,
    "backlog": 900,
    "kill": 600,
    "poison": 900,
    "outage of Kafka": 1000,
    "outage of PostgreSQL": 500,
    "outage of S3": 1000,
    "scale": 1500,
    "partitions": 500,
    "reset": 1400,
    "quiet": 900,
    "messages": 20,
}

pytestmark = pytest.mark.slow(reason="walks for several minutes through a working day, with outages, in a browser")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`filemill up` with three processors."""
    home = tmp_path_factory.mktemp("hour") / "home"
    arguments = ("--workers", str(WORKERS), "--processing-seconds", str(PROCESSING_SECONDS))
    with stack_in(home, *arguments) as stack:
        yield stack


class Load:
    """Creates a file every `LOAD_SECONDS` over REST, unless it is paused. Refused requests are tried again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop, self._running = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> "Load":
        self._running.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._running.set()
        self._thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._running.clear()
        yield
        self._running.set()

    def _run(self) -> None:
        count = 0
        while not self._stop.wait(LOAD_SECONDS):
            self._running.wait()
            with suppress(httpx.HTTPError):
                httpx.post(f"{self._url}/api/files", json={"title": f"load {count}"}, timeout=5)
                count += 1


class Hour:
    """The open pages, the truth and the comparison of one run of the script."""

    def __init__(self, browser: Browser, stack: Stack, truth: Truth, load: Load) -> None:
        self.browser, self.stack, self.truth, self.load = browser, stack, truth, load
        self.settings = truth.settings
        self.comparison = Comparison(truth, rules.ALL)
        self.context = browser.new_context(base_url=stack.page, viewport={"width": 1440, "height": 900})
        self.errors: list[str] = []
        self.workers, self.pipeline, self.files, self.other = (self._open(path) for path in PATHS)

    def _open(self, path: str) -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.go(page, path)
        return page

    @staticmethod
    def go(page: Page, path: str) -> None:
        page.goto(path)
        expect(page.locator(".age")).to_have_text(re.compile("^updated"))

    def begin(self, step: str) -> None:
        self.comparison.step = step

    def read(self, page: Page) -> Statements:
        """Read a page without a comparison."""
        return read_page(page)

    def look(self) -> dict[str, Statements]:
        """Read all pages that stay open and compare what they state with the truth."""
        pages = {"workers": self.workers, "pipeline": self.pipeline, "files": self.files}
        return {name: self.comparison.note(self.read(page)) for name, page in pages.items()}

    def watch(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.look()
            self.workers.wait_for_timeout(POLL_MILLISECONDS)

    def until(self, condition: Callable[[dict[str, Statements]], bool], seconds: float, what: str) -> float:
        """Watch until a condition holds; returns the seconds that it took."""
        began = time.monotonic()
        while not condition(self.look()):
            assert time.monotonic() - began < seconds, f"{self.comparison.step}: after {seconds:g} s still not: {what}"
            self.workers.wait_for_timeout(POLL_MILLISECONDS)
        return time.monotonic() - began

    def until_normal(self, workers: int = WORKERS) -> float:
        return self.until(lambda seen: is_normal(seen, workers), SETTLED_SECONDS, "all is normal")

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for something that no page states."""
        self.until(lambda _seen: condition(), seconds, what)

    def supervisor(self) -> StackState:
        state = running_stack(self.stack.home)
        assert state is not None
        return state

    def picture(self, name: str, *paths: str) -> None:
        """Save screenshots of these pages, if a folder is given."""
        folder = os.environ.get("HOUR_PICTURES")
        if folder is None:
            return
        for scheme in ("light", "dark"):
            context = self.browser.new_context(base_url=self.stack.page, color_scheme=scheme)
            page = context.new_page()
            for path in paths:
                for width in (1440, 800):
                    page.set_viewport_size({"width": width, "height": 900})
                    if width == 1440:
                        page.goto(path)
                        page.locator(".age").wait_for()
                        page.wait_for_timeout(PICTURE_MILLISECONDS)
                    self.look()
                    of_page = re.sub(r"\W+", "-", path).strip("-") or "files"
                    page.screenshot(path=Path(folder) / f"{name}-{of_page}-{width}-{scheme}.png")
            context.close()


PATHS = ("/workers", "/pipeline", "/", "/setup")


def is_normal(seen: dict[str, Statements], workers: int = WORKERS) -> bool:
    """Whether the pages show that many workers as idle or busy, all partitions owned, and no banner."""
    rows = [row for row in seen["workers"].tables["Workers"].rows if row["State"] != "stopped"]
    calm = all(row["State"].startswith(("idle", "busy")) and "quiet" not in row["State"] for row in rows)
    owners = seen["pipeline"].tables.get("Partitions and their owners")
    owned = owners is not None and {"No owner"}.isdisjoint(row["Member"] for row in owners.rows)
    members = owners is not None and not owners.stale and len(owners.rows) == workers
    quiet = not any(banner for page in seen.values() for banner in page.banners if not banner.inline)
    return len(rows) == workers and calm and owned and members and quiet


def row_of(page: Page, table: str, text: str) -> Locator:
    return page.get_by_role("table", name=table, exact=True).get_by_role("row").filter(has_text=text)


@pytest.mark.timeout(1200)
def test_no_statement_is_false_in_an_hour(browser: Browser, stack: Stack) -> None:
    with Truth(stack) as truth, Load(stack.page) as load:
        hour = Hour(browser, stack, truth, load)
        taken = {}
        found = hour.comparison
        try:
            for step in STEPS:
                began = time.monotonic()
                step(hour)
                taken[found.step] = time.monotonic() - began
        finally:  # a step that does not reach its end may follow from what was stated before
            found.settle()
            for name in LEAST:
                print(f"{name}: {found.compared[name]:,} statements compared in {taken.get(name, 0.0):.0f} s")
            print(f"{sum(found.compared.values()):,} statements compared; not compared: {dict(found.not_compared)}")
            print("\n".join(["False statements:", *found.false]))
        hour.context.close()
    assert found.false == []
    assert hour.errors == []
    assert {name: found.compared[name] for name, least in LEAST.items() if found.compared[name] < least} == {}


def _create_and_find(hour: Hour) -> None:
    hour.begin("create and find")
    hour.until_normal()
    page = hour.files
    page.get_by_label("Title").fill("A needle of the hour")
    page.get_by_role("button", name="Create file").click()
    expect(row_of(page, "Files", "A needle of the hour")).to_have_count(1)
    page.get_by_label("Title").fill("Needles")
    page.get_by_label("Number of files").fill("12")
    page.get_by_role("button", name="Create file").click()
    hour.watch(3)
    page.get_by_label("Search").press_sequentially("needle", delay=20)
    expect(page.get_by_text("All matching", exact=True).first).to_be_visible()
    matching = "SELECT id FROM files WHERE title ILIKE '%needle%'"
    hour.wait(lambda: len(hour.truth.rows(matching)) == 13, LATE_SECONDS, "13 files match")
    hour.watch(3)
    seen, rows = hour.read(page), hour.truth.rows(matching)
    tiles = seen.tiles["Filter by status"]
    hour.comparison.claim(
        "files that match", tiles["All matching"], number(tiles["All matching"]) == len(rows), len(rows)
    )
    listed = {int(row["ID"]) for row in seen.tables["Files"].rows}
    hour.comparison.claim("the files found", listed, listed == {row.id for row in rows}, rows)
    hour.picture("1-found", "/?q=needle")
    page.get_by_label("Search").fill("")
    expect(page.get_by_text("All files", exact=True)).to_be_visible()


def _normal(hour: Hour) -> None:
    hour.begin("normal")
    hour.until_normal()
    hour.watch(8)
    hour.picture("2-normal", "/", "/pipeline", "/workers")


def _backlog(hour: Hour) -> None:
    hour.begin("backlog")
    page = hour.files
    page.get_by_label("Title").fill("Backlog")
    page.get_by_label("Number of files").fill(str(BACKLOG))
    page.get_by_role("button", name="Create file").click()
    hour.until(lambda seen: (number(seen["pipeline"].stages["Backlog"].value) or 0) > 30, LATE_SECONDS, "a backlog")
    hour.picture("3-backlog", "/pipeline")
    _lag_command(hour)
    hour.watch(10)
    hour.until(lambda seen: (number(seen["pipeline"].stages["Backlog"].value) or 0) < 30, 60, "no backlog")


def _lag_command(hour: Hour) -> None:
    """`filemill lag` agrees with the broker, at a moment while it runs."""
    began = time.monotonic()
    found = answer("lag", home=hour.stack.home)
    ended = time.monotonic()
    hour.watch(1)
    groups = hour.truth.kafka.values(began, ended)
    for part in found["partitions"]:
        partition = part["partition"]
        spans = [now.lag_until(then, partition) for now, then in pairwise(groups)]
        hour.comparison.number(f"filemill lag of P{partition}", str(part["lag"]), spans)
        owners = lambda one, p=partition, o=part["owner"]: p in one.owned(o)  # noqa: E731
        hour.comparison.any_of(f"filemill lag's owner of P{partition}", part["owner"], groups, owners)
    spans = [now.total_until(then) for now, then in pairwise(groups)]
    hour.comparison.number("filemill lag", str(found["total"]), spans)


IN_PROGRESS = """
    SELECT id, worker_id FROM files WHERE status = 'processing' AND started_at < clock_timestamp() - interval '1 second'
        AND started_at > clock_timestamp() - interval '2 seconds' ORDER BY id LIMIT 1
"""


def _kill(hour: Hour) -> None:
    hour.begin("kill")
    hour.until_normal()
    hour.wait(lambda: bool(hour.truth.rows(IN_PROGRESS)), LATE_SECONDS, "a worker has a file")
    ((file_id, victim),) = hour.truth.rows(IN_PROGRESS)
    pid = hour.truth.processors()[victim].pid
    os.kill(pid, signal.SIGKILL)
    killed, killed_at = time.monotonic(), datetime.now(UTC)
    state = re.compile("dead|starting")
    hour.until(
        lambda seen: any(state.match(row["State"]) for row in seen["workers"].tables["Workers"].rows), 7, "the kill"
    )
    hour.until_normal()
    took, limit = time.monotonic() - killed, KILL_TO_NORMAL_SECONDS * slowdown()
    hour.comparison.claim("seconds from the kill to normal", f"{took:.1f}", took <= limit, f"{limit:.1f} at most")
    print(f"kill to normal: {took:.1f} s")
    hour.wait(lambda: _status(hour, file_id) == "completed", SETTLED_SECONDS, "the file is completed")
    hour.go(hour.other, f"/file?id={file_id}")
    expect(row_of(hour.other, "Deliveries to workers", "completed")).to_have_count(1)
    _compare_deliveries(hour, file_id, victim, killed_at)
    hour.picture("4-killed", f"/file?id={file_id}", f"/workers?worker={victim}")
    _compare_process(hour, victim)


def _status(hour: Hour, file_id: int) -> str:
    ((status,),) = hour.truth.rows("SELECT status FROM files WHERE id = :id", id=file_id)
    return str(status)


def _compare_deliveries(hour: Hour, file_id: int, victim: str, killed_at: datetime) -> None:
    """The killed worker's delivery ended when it was killed; the one of the worker that completed the file follows."""
    rows = hour.read(hour.other).tables["Deliveries to workers"].rows
    claim = hour.comparison.claim
    ((completed_by, status),) = hour.truth.rows("SELECT worker_id, status FROM files WHERE id = :id", id=file_id)
    claim("deliveries", rows, len(rows) == 2, "two")
    first, last = rows[0], rows[-1]
    claim("the first delivery", first["Worker"], first["Worker"] == victim, victim)
    claim(
        "how the first delivery ended",
        first["How it ended"],
        first["How it ended"].startswith("worker killed"),
        "kill -9",
    )
    ended = datetime.combine(killed_at, clock_time.fromisoformat(first["End"]), UTC)
    late = (killed_at - ended).total_seconds()
    claim("the end of the first delivery", first["End"], -1 <= late <= LAST_EVENT_SECONDS, killed_at)
    claim("the last delivery", last["Worker"], last["Worker"] == completed_by, completed_by)
    claim("how the last delivery ended", last["How it ended"], last["How it ended"] == status, status)


def _compare_process(hour: Hour, worker: str) -> None:
    hour.go(hour.other, f"/workers?worker={worker}")
    expect(hour.other.get_by_text("Process", exact=True)).to_be_visible()
    stated = hour.read(hour.other).facts["Status"].lines["Process"].split(" ")[0]
    pid = hour.truth.processors()[worker].pid
    hour.comparison.claim(f"the process of {worker}", stated, stated == str(pid), pid)
    hour.go(hour.other, "/setup")


def _insert_file(hour: Hour, title: str) -> int:
    """A file whose record the test writes itself."""
    insert = "INSERT INTO files (title, created_at) VALUES (:title, date_trunc('milliseconds', now())) RETURNING id"
    engine = hour.truth.engine
    with engine.begin() as connection:
        file_id: int = connection.exec_driver_sql(insert.replace(":title", "%(title)s"), {"title": title}).scalar_one()
    return file_id


def _record(file_id: int, **fields: object) -> bytes:
    body = {"fileId": file_id, "title": "Poison", "description": "", "timestamp": "2026-01-04T12:00:00Z", **fields}
    return json.dumps(body).encode()


def _poison(hour: Hour) -> None:
    hour.begin("poison")
    blank, unknown, header = (_insert_file(hour, f"Poison {name}") for name in ("blank", "handler", "header"))
    records = [
        RawRecord(b'{"fileId": broken'),
        RawRecord(b"\xff\xfe no JSON", partition=1),
        RawRecord(_record(blank, title=" "), partition=1),
        RawRecord(_record(unknown, handler="no-such-handler"), partition=2),
        RawRecord(_record(header), headers=[(b"caf\xe9", b"1")], partition=2),
    ]
    publish_raw(hour.settings, hour.settings.topic_create, records)
    ids = [blank, unknown, header]

    def dead() -> bool:
        return len(topics.read(hour.settings, hour.settings.topic_dead_letters)) >= len(records) - 1 and all(
            _status(hour, one) in ("failed", "completed") for one in ids
        )

    hour.wait(dead, SETTLED_SECONDS, "the records are dead letters")
    page = hour.other
    hour.go(page, "/letters")
    hour.watch(4)
    _compare_dead_letters(hour)
    hour.picture("5-poison", "/letters")
    page.get_by_role("button", name=re.compile("^Replay [0-9]+ …$")).click()
    dialog = page.get_by_role("dialog")
    failed = sum(_status(hour, one) == "failed" for one in ids)
    would = dialog.get_by_text(re.compile("would get a new run")).inner_text()
    hour.comparison.claim("files of the replay", would, would.startswith(f"{failed} file"), failed)
    dialog.get_by_role("button", name=re.compile("^Replay [0-9]+ file")).click()
    expect(dialog).to_have_count(0)
    hour.wait(lambda: all(_status(hour, one) == "completed" for one in ids), SETTLED_SECONDS, "the files are completed")
    hour.watch(5)
    _compare_dead_letters(hour)
    page.get_by_text("All", exact=True).first.click()
    hour.watch(2)
    _compare_dead_letters(hour)
    hour.go(page, "/setup")


def _compare_dead_letters(hour: Hour) -> None:
    """The rows are the records of the topic, one for each source record; those of completed files are resolved."""
    seen = hour.read(hour.other)
    table = seen.tables.get("Dead letters")
    rows = table.rows if table is not None else []
    everything = "view=All" in seen.path
    letters = topics.read(hour.settings, hour.settings.topic_dead_letters)
    reasons, files = [], []
    for letter in letters:
        with suppress(ValueError, TypeError):
            file_id = json.loads(letter.value or b"")["fileId"]
            if not everything and _status(hour, file_id) != "failed":
                continue
            files.append(f"#{file_id}")
        reasons.append(letter.headers["filemill-reason"].decode())
    claim = hour.comparison.claim
    claim("dead letters", len(rows), len(rows) == len(reasons), len(reasons))
    stated = sorted(row["Reason"] for row in rows)
    claim("the reasons of dead letters", stated, stated == sorted(reasons), sorted(reasons))
    stated_files = sorted(row["File"] for row in rows if row["File"].startswith("#"))
    claim("the files of dead letters", stated_files, stated_files == sorted(files), sorted(files))
    bars = {name: number(count) for name, count in seen.bars["Reasons"].items()}
    wanted = dict(Counter(map(reason_fingerprint, reasons)))
    claim("the counts of the reasons", bars, bars == wanted, wanted)


def _outage(hour: Hour, target: str, label: str) -> None:
    hour.begin(f"outage of {label}")
    hour.until_normal()
    fault = SupervisorCommand("fault", fault="stopped", target=target, seconds=600, key=f"hour-{target}")
    send(hour.supervisor(), fault)
    began = time.monotonic()
    hour.watch(FAULT_SECONDS)
    (banner,) = [one for one in hour.look()["workers"].banners if not one.inline]
    hour.comparison.claim("the banner", banner.title, banner.title == f"You stopped {label}", label)
    hour.picture(f"6-{target}", "/", "/pipeline", "/workers", "/letters", "/messages", "/performance")
    hour.workers.get_by_role("button", name="End now").click()
    ended = time.monotonic()
    hour.until_normal()
    print(f"outage of {label}: {ended - began:.0f} s, normal again after {time.monotonic() - ended:.1f} s")


def _open_menu(page: Page) -> None:
    """Open the menu of the Workers page. A click on a menu that its last action is closing has no effect."""
    expect(page.get_by_role("button", name="Resume all")).to_be_hidden()
    page.get_by_role("button", name=re.compile("^Scale: ")).click()
    with suppress(PlaywrightTimeout):
        page.get_by_role("button", name="Resume all").wait_for(timeout=MENU_MILLISECONDS)
        return
    page.get_by_role("button", name=re.compile("^Scale: ")).click()
    expect(page.get_by_role("button", name="Resume all")).to_be_visible()


def _scale_to(hour: Hour, count: int) -> None:
    """Scale from the menu of the Workers page."""
    page = hour.workers
    _open_menu(page)
    page.get_by_label("File processors", exact=True).fill(str(count))
    page.get_by_label("File processors", exact=True).press("Enter")
    page.get_by_role("button", name=re.compile(f"^Scale from [0-9]+ to {count}$")).click()
    hour.wait(lambda: len(hour.truth.processors()) == count, SETTLED_SECONDS, f"{count} processes")
    expect(page.get_by_role("button", name=f"Scale: {count}")).to_be_visible()


def _scale(hour: Hour) -> None:
    hour.begin("scale")
    for count in (4, 2, WORKERS):
        _scale_to(hour, count)
        hour.watch(7)
        if count == 4:
            hour.picture("7-scaled", "/workers", "/pipeline")
        rows = hour.read(hour.workers).tables["Workers"].rows
        shown = {row["Worker"] for row in rows if row["State"] not in ("stopped", "dead")}
        running = set(hour.truth.processors())
        hour.comparison.claim(f"workers after scaling to {count}", sorted(shown), shown == running, sorted(running))
    hour.until_normal()


def _partitions(hour: Hour) -> None:
    hour.begin("partitions")
    page, topic = hour.pipeline, hour.settings.topic_create
    page.get_by_role("button", name="Add partitions …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("New number of partitions").fill("6")
    dialog.get_by_label("New number of partitions").press("Enter")
    dialog.get_by_label("To confirm, type").press_sequentially(topic)
    dialog.get_by_role("button", name=f"Increase {topic} from 3 to 6").click()
    expect(dialog).to_have_count(0)
    hour.wait(lambda: len(hour.truth.kafka.latest().ends) == 6, LATE_SECONDS, "the topic has six partitions")
    hour.until(lambda seen: len(seen["pipeline"].stages["Backlog"].partitions) == 6, LATE_SECONDS, "six are shown")
    hour.until_normal()
    hour.watch(4)
    hour.picture("8-partitions", "/pipeline", "/workers")


def _reset(hour: Hour) -> None:
    hour.begin("reset")
    with hour.load.paused():
        _scale_to(hour, 0)
        no_group = "SELECT 1 WHERE NOT EXISTS (SELECT FROM outbox)"
        hour.wait(lambda: bool(hour.truth.rows(no_group)), LATE_SECONDS, "the outbox is empty")
        hour.wait(lambda: not hour.truth.kafka.latest().group.members, SETTLED_SECONDS, "the group is empty")
        hour.watch(4)
        page = hour.pipeline
        reset = page.get_by_role("button", name="Reset offsets …")
        expect(reset).to_be_enabled()
        reset.click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("Shift", exact=True).click()
        dialog.get_by_label("Shift by records").fill("-5")
        dialog.get_by_label("Shift by records").press("Enter")
        dialog.get_by_role("button", name="Preview", exact=True).click()
        expect(page.get_by_role("table", name="Preview of the reset")).to_be_visible()
        before = hour.truth.kafka.latest()
        wanted = {part: max(0, before.committed.get(part, 0) - 5) for part in before.ends}
        _compare_preview(hour, before.committed, wanted)
        if folder := os.environ.get("HOUR_PICTURES"):
            page.screenshot(path=Path(folder) / "9-reset-preview.png")
        dialog.get_by_role("button", name=re.compile("^Reset [0-9]+ partitions$")).click()
        expect(dialog).to_have_count(0)
        hour.wait(lambda: _offsets_are(hour, wanted), LATE_SECONDS, "the offsets are reset")
        repeated = sum(before.committed.get(part, 0) - offset for part, offset in wanted.items())
        hour.until(
            lambda seen: number(seen["pipeline"].stages["Backlog"].value) == repeated, LATE_SECONDS, "the backlog"
        )
        hour.watch(4)
        hour.picture("9-reset", "/pipeline")
    _scale_to(hour, WORKERS)
    hour.until_normal()


def _offsets_are(hour: Hour, wanted: dict[int, int]) -> bool:
    return {part: hour.truth.kafka.latest().committed.get(part, 0) for part in wanted} == wanted


def _compare_preview(hour: Hour, committed: Any, wanted: dict[int, int]) -> None:
    for row in hour.read(hour.pipeline).tables["Preview of the reset"].rows:
        partition = int(row["Partition"][1:])
        now, new = committed.get(partition, 0), wanted[partition]
        for column, truth in (("Current", now), ("New", new), ("Skipped, unfinished", 0), ("Reprocessed", now - new)):
            hour.comparison.claim(f"{column} of P{partition}", row[column], number(row[column]) == truth, truth)
        hour.comparison.claim(
            f"difference of P{partition}", row["Difference"], int(row["Difference"]) == new - now, new - now
        )


def _quiet(hour: Hour) -> None:
    hour.begin("quiet")
    page = hour.workers
    _open_menu(page)
    page.get_by_role("button", name="Quiet all").click()
    hour.truth.quiet.append((time.monotonic(), True))
    title = f"All {WORKERS} workers are quiet"
    hour.until(lambda seen: any(one.title == title for one in seen["pipeline"].banners), SETTLED_SECONDS, title)
    hour.watch(5)
    hour.picture("10-quiet", "/pipeline", "/workers")
    with hour.load.paused():
        hour.watch(PROCESSING_SECONDS)
        _lag_command(hour)
        waiting = {part.partition: part.offset for part in topics.committed(hour.settings).values()}
        hour.comparison.claim("the last commits", waiting, waiting == hour.truth.kafka.latest().committed, waiting)
    _open_menu(page)
    page.get_by_role("button", name="Resume all").click()
    hour.truth.quiet.append((time.monotonic(), False))
    hour.until_normal()


def _messages(hour: Hour) -> None:
    hour.begin("messages")
    topic, page = hour.settings.topic_create, hour.other
    with hour.load.paused():
        hour.wait(lambda: not hour.truth.rows("SELECT 1 FROM outbox LIMIT 1"), LATE_SECONDS, "the outbox is empty")
        records = topics.read(hour.settings, topic)
        needles = {f"{one.partition}:{one.offset}" for one in records if b"A needle of the hour" in (one.value or b"")}
        hour.go(page, f"/messages?topic={topic}&text=A+needle+of+the+hour")
        expect(page.get_by_text(re.compile("records match"))).to_be_visible()
        _compare_records(hour, "found by a filter", needles)
        _compare_from_time(hour, records)
        _compare_pages(hour, records)
        hour.picture("11-messages", f"/messages?topic={topic}")


def _shown_records(hour: Hour) -> list[str]:
    table = hour.read(hour.other).tables.get("Messages")
    return [row["Position"] for row in table.rows] if table is not None else []


def _compare_records(hour: Hour, kind: str, wanted: set[str]) -> None:
    shown = _shown_records(hour)
    hour.comparison.claim(f"records {kind}", shown, len(shown) == len(wanted) and set(shown) == wanted, sorted(wanted))


def _compare_from_time(hour: Hour, records: list[topics.TopicRecord]) -> None:
    """From a time on: the earliest hundred records of all partitions, the latest of them first."""
    ordered = sorted(records, key=lambda one: one.at)
    start = int(ordered[len(ordered) // 2].at)
    later = [one for one in ordered if one.at >= start][:100]
    moment = datetime.fromtimestamp(start, UTC)
    given = f"{moment:%Y-%m-%d}+{moment:%H:%M:%S}"
    hour.go(hour.other, f"/messages?topic={hour.settings.topic_create}&start=From+time&from={given}")
    expect(hour.other.get_by_role("table", name="Messages")).to_be_visible()
    shown = _shown_records(hour)
    # Records of the same millisecond have no order among partitions, so the last one may be another one.
    times = {f"{one.partition}:{one.offset}": one.at for one in records}
    stated = [times.get(place) for place in shown]
    wanted = [one.at for one in later[::-1]]
    hour.comparison.claim("the times of the records from a time on", stated, stated == wanted, wanted)
    hour.comparison.claim("different records", len(shown), len(set(shown)) == len(shown), len(later))


def _compare_pages(hour: Hour, records: list[topics.TopicRecord]) -> None:
    """Page by page from the newest to the oldest, each record is shown once."""
    page = hour.other
    hour.go(page, f"/messages?topic={hour.settings.topic_create}")
    shown: list[str] = []
    times = {f"{one.partition}:{one.offset}": one.at for one in records}
    older = page.get_by_role("button", name="Older")
    while True:
        expect(page.get_by_role("table", name="Messages")).to_be_visible()
        found = _shown_records(hour)
        stated = re.search(r"Looked at ([0-9,]+) of ([0-9,]+)", page.locator("body").inner_text())
        shown += found
        assert stated is not None
        hour.comparison.claim("records looked at", stated[1], number(stated[1]) == len(shown), len(shown))
        hour.comparison.claim("records of the topic", stated[2], number(stated[2]) == len(records), len(records))
        if older.count() == 0 or older.is_disabled():
            break
        older.click()
        first = found[0]
        expect(page.locator(f'tr[data-key="{first}"]')).to_be_hidden()
    hour.comparison.claim("records of all pages", len(shown), sorted(shown) == sorted(times), len(times))
    moments = [times[place] for place in shown]
    hour.comparison.claim("their order", "newest first", moments == sorted(moments, reverse=True), moments)


STEPS: list[Callable[[Hour], None]] = [
    _create_and_find,
    _normal,
    _backlog,
    _kill,
    _poison,
    lambda hour: _outage(hour, "kafka", "Kafka"),
    lambda hour: _outage(hour, "postgres", "PostgreSQL"),
    lambda hour: _outage(hour, "s3", "S3"),
    _scale,
    _partitions,
    _reset,
    _quiet,
    _messages,
]
