"""Outages: what the pages state is compared with process ids, the broker and the tables, and nothing is false."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from filemill.config.settings import load
from filemill.entrypoints import bootstrap
from filemill.runtime.stack_state import StackState, running_stack
from filemill.runtime.supervisor_client import SupervisorCommand, send
from tests.acceptance.command import Stack, stack_in, wait_until

FAULT_SECONDS = 12
POLL_MILLISECONDS = 250
# A page refreshes every 2 s and reads what is up to a second old; a busy machine needs longer.
LATE_SECONDS = 7.0
SETTLED_SECONDS = 40.0
KILL_TO_NORMAL_SECONDS = 10.0
ROUNDS = 20
READ = """() => {
  const roots = [document];
  for (const root of roots)
    for (const node of root.querySelectorAll("*")) if (node.shadowRoot) roots.push(node.shadowRoot);
  const all = (selector) => roots.flatMap((root) => [...root.querySelectorAll(selector)]);
  return {
    blank: document.getElementById("root")?.childElementCount === 0,
    servers: all(".server").map((node) => [node.textContent, node.className]),
    notices: all(".notice").filter((node) => node.checkVisibility())
      .map((node) => `${node.querySelector(".title").textContent}. ${node.querySelector(".text").textContent}`),
    workers: all("table[aria-label=Workers] tbody tr").map((row) => [...row.cells].map((cell) => cell.textContent)),
  };
}"""


pytestmark = pytest.mark.slow(reason="compares a page with the truth within seconds, which needs a quiet machine")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`filemill up` with two processors."""
    home = tmp_path_factory.mktemp("outages") / "home"
    with stack_in(home, "--processing-seconds", "1") as stack:
        yield stack


@dataclass
class Watch:
    """Pages of one stack, and the false statements that they made."""

    home: Path
    pages: list[Page]
    false: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    # Since when a process, by worker id, has been what it is now: running or not.
    _changed: dict[str, tuple[bool, float]] = field(default_factory=dict)

    def look(self, *, unreachable: str = "", since: float = 0.0) -> list[dict[str, Any]]:
        """Read all pages and compare what they state with the truth. `unreachable` since the moment `since`."""
        alive = self._processes()
        now = time.monotonic()
        seen = [page.evaluate(READ) for page in self.pages]
        for page, found in zip(self.pages, seen, strict=True):
            where = f"{now - self.began:.1f} s {page.url.rsplit('/', 1)[-1]}"
            self.false += [f"{where}: a blank page"] if found["blank"] else []
            for name, state, *_ in found["workers"]:
                runs, changed = alive.get(name, (False, now))
                if state.startswith("dead") and runs and now - changed > LATE_SECONDS:
                    self.false.append(f"{where}: {name} is {state}, and its process runs")
                if state.startswith(("busy", "idle")) and not runs and now - changed > LATE_SECONDS:
                    self.false.append(f"{where}: {name} is {state}, and its process has ended")
            # In this test all of these processes run all the time.
            started = [text for text in found["notices"] if re.search(r"No (status sync|relay|file processor)", text)]
            self.false += [f"{where}: {text}" for text in started]
            self.false += [f"{where}: {text}" for text in found["notices"] if "filemill up" in text]
            if unreachable and now - since > LATE_SECONDS:
                tones = dict(found["servers"])
                if "tone-bad" not in tones.get(unreachable, ""):
                    self.false.append(f"{where}: {unreachable} is {tones.get(unreachable)}")
                if unreachable in ("Kafka", "PostgreSQL") and "tone-good" in tones.get("Relay", ""):
                    self.false.append(f"{where}: the relay is active without {unreachable}")
                named = [text for text in found["notices"] if unreachable in text]
                if len(named) != 1 or len(found["notices"]) != 1:
                    self.false.append(f"{where}: not one banner: {found['notices']}")
        return seen

    def _processes(self) -> dict[str, tuple[bool, float]]:
        stack = running_stack(self.home)
        assert stack is not None
        now = time.monotonic()
        for worker in stack.workers:
            process = worker.process.process()
            runs = process is not None and process.status() != psutil.STATUS_ZOMBIE
            if self._changed.get(worker.id, (not runs, now))[0] is not runs:
                self._changed[worker.id] = (runs, now)
        return self._changed

    def wait(self, milliseconds: int = POLL_MILLISECONDS) -> None:
        self.pages[0].wait_for_timeout(milliseconds)


def running(stack: Stack) -> StackState:
    state = running_stack(stack.home)
    assert state is not None
    return state


@pytest.fixture
def watch(browser: Browser, stack: Stack) -> Iterator[Watch]:
    """The Workers and the Pipeline page, side by side."""
    context = browser.new_context(base_url=stack.page, viewport={"width": 1440, "height": 900})
    pages = []
    for path in ("/workers", "/pipeline"):
        page = context.new_page()
        page.goto(path)
        expect(page.locator(".age")).to_be_visible()
        pages.append(page)
    watch = Watch(stack.home, pages)
    wait_until(lambda: _is_normal(watch.look()), SETTLED_SECONDS, "both workers are idle or busy")
    yield watch
    context.close()


def _is_normal(seen: list[dict[str, Any]]) -> bool:
    """Whether the first page shows two workers that are idle or busy, and no page has a banner."""
    states = [row[1] for row in seen[0]["workers"]]
    calm = all(state.startswith(("idle", "busy")) for state in states)
    return len(states) == 2 and calm and not any(found["notices"] for found in seen)


def _submit(stack: Stack, count: int) -> None:
    for number in range(count):
        httpx.post(f"{stack.page}/api/files", json={"title": f"outage {number}"}, timeout=10).raise_for_status()


def test_a_killed_worker_is_normal_again_within_ten_seconds(watch: Watch, stack: Stack) -> None:
    _submit(stack, 30)
    send(running(stack), SupervisorCommand("kill", worker="processor-1"))
    killed = time.monotonic()
    # A refresh every 2 s may miss the moment without a process.
    shown = re.compile("dead|starting")
    wait_until(lambda: shown.search(str(watch.look()[0]["workers"])) is not None, LATE_SECONDS, "the kill is shown")

    def normal() -> bool:
        watch.wait()
        return _is_normal(watch.look())

    wait_until(normal, SETTLED_SECONDS, "all is normal")
    assert watch.false == []
    assert time.monotonic() - killed < KILL_TO_NORMAL_SECONDS


@pytest.mark.parametrize(
    ("target", "label", "kind"),
    [
        ("kafka", "Kafka", "stopped"),
        ("kafka", "Kafka", "killed"),
        ("postgres", "PostgreSQL", "stopped"),
        ("s3", "S3", "stopped"),
    ],
)
def test_no_statement_is_false_during_and_after_an_outage(
    target: str, label: str, kind: Any, watch: Watch, stack: Stack
) -> None:
    rows = [page.locator("table").last for page in watch.pages]
    places = [row.bounding_box() for row in rows]
    command = SupervisorCommand("fault", fault=kind, target=target, seconds=FAULT_SECONDS, key=f"{kind}-{target}")
    send(running(stack), command)
    began = time.monotonic()
    while time.monotonic() - began < FAULT_SECONDS - 1:
        watch.look(unreachable=label, since=began)
        watch.wait()
    (banner,) = watch.look()[0]["notices"]
    assert banner.startswith(f"You {kind} {label}. ")
    # The banner moves no row.
    for row, place in zip(rows, places, strict=True):
        now = row.bounding_box()
        assert now is not None
        assert place is not None
        assert (now["x"], now["y"]) == (place["x"], place["y"])

    def normal() -> bool:
        watch.wait()
        return _is_normal(watch.look())

    wait_until(normal, SETTLED_SECONDS, "all is normal again")
    assert watch.false == []


def test_a_fault_is_ended_from_its_banner(watch: Watch, stack: Stack) -> None:
    began = time.monotonic()
    send(running(stack), SupervisorCommand("fault", fault="stopped", target="s3", seconds=120, key="end-now"))
    workers = watch.pages[0]
    expect(workers.get_by_text("You stopped S3")).to_be_visible()
    workers.get_by_role("button", name="End now").click()
    expect(workers.get_by_text("You stopped S3")).to_be_hidden()
    assert time.monotonic() - began < 60
    wait_until(lambda: _is_normal(watch.look()), SETTLED_SECONDS, "all is normal again")


def test_the_pages_agree_with_the_broker(watch: Watch, stack: Stack) -> None:
    settings = load(home=stack.home)
    admin = bootstrap.kafka_admin(settings)
    group = admin.describe_group(settings.group_id, settings.topic_create)
    pipeline = watch.pages[1]
    matrix = pipeline.get_by_role("table", name="Partitions and their owners")
    for member in group.members:
        row = matrix.get_by_role("row").filter(has_text=member.client_id)
        expect(row.get_by_label("owned", exact=True)).to_have_count(len(member.partitions))
    expect(pipeline.get_by_text(group.state.lower(), exact=True)).to_be_visible()


@pytest.mark.slow(reason="20 faults of PostgreSQL take five minutes")
@pytest.mark.timeout(900)
def test_no_page_of_five_goes_blank_in_twenty_faults_of_postgres(browser: Browser, stack: Stack) -> None:
    contexts = [browser.new_context(base_url=stack.page) for _ in range(5)]
    pages = [context.new_page() for context in contexts]
    errors: list[str] = []
    for page, path in zip(pages, ("/experiments?part=Faults", "/", "/pipeline", "/workers", "/setup"), strict=True):
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path)
        expect(page.locator(".age")).to_be_visible()
    links = ("Files", "Experiments", "Pipeline", "Performance", "Workers")
    for number in range(ROUNDS):
        faults = pages[0].get_by_role("table", name="Faults", exact=True)
        kind = ("SIGSTOP", "SIGKILL")[number % 2]
        row = faults.get_by_role("row").filter(has_text="PostgreSQL").filter(has_text=kind)
        row.get_by_role("button", name="Inject").click()
        dialog = pages[0].get_by_role("dialog")
        dialog.get_by_label("Seconds").fill("3")
        dialog.get_by_role("button", name=re.compile(r"^(Kill|Stop) PostgreSQL$")).click()
        expect(dialog).to_be_hidden()
        for step, page in enumerate(pages[1:]):
            page.get_by_role("link", name=links[(number + step) % len(links)], exact=True).click(no_wait_after=True)
            pages[0].wait_for_timeout(400)
        for page in pages:
            expect(page.locator(".age")).to_be_visible()
            assert not page.evaluate(READ)["blank"]
        expect(pages[0].get_by_text(re.compile("^You (stopped|killed) PostgreSQL"))).to_be_hidden()
        expect(pages[0].get_by_text("(active)")).to_have_count(0)
    for context in contexts:
        context.close()
    assert errors == []
