"""Handler processes: their results, their limits, and what becomes of handlers that misbehave."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from filemill.errors import AttemptFailed, DeadLetterCode, PermanentError, RetryLater
from filemill.handlers.job import JobRequest
from filemill.handlers.pool import AttemptHooks, AttemptUsage, ChildPool, PoolOptions, seconds_to_next_check
from filemill.handlers.registry import HandlerSources, load_handlers
from tests.handlers.misbehaving import BURN_SECONDS

SOURCES = HandlerSources(modules=("tests.handlers.misbehaving",))
MOMENT = datetime(2026, 1, 4, 12, tzinfo=UTC)


class Outcome:
    """What one attempt did."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.progress: list[tuple[float, str]] = []
        self.checkpoints: list[bytes] = []
        self.usage = AttemptUsage()
        self.resume: bytes | None = None

    async def load(self) -> bytes | None:
        return self.resume

    async def write(self, data: bytes) -> None:
        self.body += data

    async def save(self, data: bytes) -> None:
        self.checkpoints.append(data)

    def use(self, usage: AttemptUsage) -> None:
        self.usage = usage

    @property
    def hooks(self) -> AttemptHooks:
        return AttemptHooks(
            write=self.write,
            progress=lambda fraction, text: self.progress.append((fraction, text)),
            save_checkpoint=self.save,
            load_checkpoint=self.load,
            used=self.use,
        )


class Bench:
    """A pool and its handlers."""

    def __init__(self, pool: ChildPool) -> None:
        self.pool = pool
        self.handlers = load_handlers(SOURCES)

    async def run(self, name: str, parameters: object = None, outcome: Outcome | None = None, **fields: Any) -> Outcome:
        outcome = outcome or Outcome()
        handler = self.handlers.get(name)
        assert handler is not None
        request = JobRequest(
            handler=name, parameters=msgspec.json.encode(parameters or {}), id=7, requested_at=MOMENT, **fields
        )
        await self.pool.run(handler, request, outcome.hooks)
        return outcome


def started_since(before: dict[int, psutil.Process]) -> list[psutil.Process]:
    """The running processes below this one, without those of `before` and their children: servers of other tests."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            known = child in before.values() or child.ppid() in before
            if not known and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def with_pool(tmp_path: Path, test: Callable[[Bench], Awaitable[None]], **options: Any) -> None:
    """Run a test on a pool, which leaves no process and no folder."""

    async def run() -> None:
        pool = ChildPool(PoolOptions(sources=SOURCES, folder=tmp_path, **({"size": 1} | options)))
        try:
            await test(Bench(pool))
        finally:
            await pool.close()

    before = {child.pid: child for child in psutil.Process().children(recursive=True)}
    asyncio.run(run())
    assert started_since(before) == []
    assert list(tmp_path.iterdir()) == []


def test_a_result_arrives_and_the_process_is_used_again(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        first = await bench.run("echo", {"text": "good morning"})
        assert bytes(first.body) == b"good morning 7"
        pids = bench.pool.processes
        await bench.run("echo")
        assert bench.pool.processes == pids
        assert first.usage.cpu_seconds >= 0
        assert first.usage.peak_bytes > 2**20

    with_pool(tmp_path, test)


def test_a_process_ends_after_its_number_of_jobs(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        pids = set()
        for _ in range(4):
            await bench.run("echo")
            pids |= set(bench.pool.processes)
        assert len(pids) == 2

    with_pool(tmp_path, test, max_jobs=2)


def test_a_process_whose_jobs_leave_memory_behind_is_replaced(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        pids = []
        for _ in range(4):
            await bench.run("leak")
            pids.append(set(bench.pool.processes))
        assert pids[0] == pids[1]
        assert pids[0].isdisjoint(pids[3]), "its first two jobs left 80 MiB, more than its 64"

    with_pool(tmp_path, test)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("sleep", DeadLetterCode.DEADLINE_EXCEEDED, "within its 1 s"),
        ("spin", DeadLetterCode.DEADLINE_EXCEEDED, "within its 1 s"),
        ("spin-in-c", DeadLetterCode.DEADLINE_EXCEEDED, "within its 1 s"),
        ("ignore-signals", DeadLetterCode.DEADLINE_EXCEEDED, "within its 1 s"),
        ("allocate", DeadLetterCode.MEMORY_EXCEEDED, "memory"),
        ("fill-file", DeadLetterCode.DISK_EXCEEDED, "File too large"),
        ("fill-folder", DeadLetterCode.DISK_EXCEEDED, "to its folder"),
        ("exit", DeadLetterCode.HANDLER_CRASHED, "exit code 3"),
        ("system-exit", DeadLetterCode.ATTEMPTS_EXHAUSTED, "SystemExit: 4"),
        ("segfault", DeadLetterCode.HANDLER_CRASHED, "SIGSEGV"),
        ("close-pipes", DeadLetterCode.HANDLER_CRASHED, "closed the pipe"),
        ("garbage", DeadLetterCode.HANDLER_CRASHED, "closed the pipe"),
        ("nothing", DeadLetterCode.RESULT_INVALID, "returned nothing"),
        ("returns-text", DeadLetterCode.RESULT_INVALID, "encode the text"),
        ("gone", DeadLetterCode.RESULT_INVALID, "cannot be read"),
        ("yield-and-raise", DeadLetterCode.ATTEMPTS_EXHAUSTED, "after ten megabytes"),
        ("fail", DeadLetterCode.ATTEMPTS_EXHAUSTED, "ValueError: it failed"),
    ],
)
def test_a_fault_is_a_failed_attempt_and_the_next_job_runs(
    tmp_path: Path, name: str, code: DeadLetterCode, words: str
) -> None:
    async def test(bench: Bench) -> None:
        started = time.monotonic()
        with pytest.raises(AttemptFailed, match=words) as caught:
            await bench.run(name)
        assert caught.value.code == code
        if code is DeadLetterCode.DEADLINE_EXCEEDED:
            assert time.monotonic() - started < 3.5  # start, deadline of 1 s, and the kill
        assert bytes((await bench.run("echo")).body) == b"hello 7"

    with_pool(tmp_path, test)


def sleeping(marker: str) -> list[psutil.Process]:
    """The processes `sleep MARKER`."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["cmdline"] == ["sleep", marker] and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def is_gone(pid: int) -> bool:
    """Whether a process runs no more."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until_gone(pid: int, seconds: float) -> None:
    """Wait for the end of a process."""
    deadline = time.monotonic() + seconds
    while not is_gone(pid):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_deadline_kills_the_processes_that_a_handler_started(tmp_path: Path) -> None:
    marker = f"98{os.getpid()}.1"

    async def test(bench: Bench) -> None:
        with pytest.raises(AttemptFailed):
            await bench.run("fork", {"marker": marker})
        assert sleeping(marker) == []

    with_pool(tmp_path, test)


def test_processes_that_outlive_a_finished_job_are_killed(tmp_path: Path) -> None:
    marker = f"98{os.getpid()}.2"

    async def test(bench: Bench) -> None:
        outcome = await bench.run("fork", {"marker": marker, "return": True})
        assert bytes(outcome.body) == b"left them behind"
        assert bytes((await bench.run("echo")).body) == b"hello 7"
        await bench.pool.close()
        assert sleeping(marker) == []

    with_pool(tmp_path, test)


def test_a_cancelled_attempt_is_killed_at_once(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        await bench.run("echo")
        (pid,) = bench.pool.processes
        task = asyncio.create_task(bench.run("spin"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_gone(pid, 1)

    with_pool(tmp_path, test)


def test_a_process_that_was_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        await bench.run("echo")
        (pid,) = bench.pool.processes
        task = asyncio.create_task(bench.run("sleep"))
        await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(AttemptFailed, match="SIGKILL"):
            await task
        await bench.run("echo")
        (pid,) = bench.pool.processes
        os.kill(pid, signal.SIGKILL)  # while it has no job
        await asyncio.sleep(0.2)
        await bench.run("echo")

    with_pool(tmp_path, test)


def test_the_kernel_kills_a_handler_whose_guard_was_killed(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        await bench.run("echo")
        (pid,) = bench.pool.processes
        task = asyncio.create_task(bench.run("sleep"))
        await asyncio.sleep(0.1)
        psutil.Process(pid).parent().kill()  # type: ignore[union-attr]
        with pytest.raises(AttemptFailed):
            await task
        await until_gone(pid, 1)

    with_pool(tmp_path, test)


def test_failures_keep_their_kind(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(PermanentError, match="there is no hello") as refused:
            await bench.run("refuse")
        assert refused.value.code is DeadLetterCode.REJECTED_BY_HANDLER
        assert "misbehaving.py" in refused.value.trace
        with pytest.raises(RetryLater, match="not yet") as asked:
            await bench.run("later")
        assert asked.value.seconds == 0.25
        with pytest.raises(PermanentError, match=r"Expected `int`, got `str` - at `\$.number`") as invalid:
            await bench.run("echo", {"number": "one"})
        assert invalid.value.code is DeadLetterCode.PARAMETERS_INVALID

    with_pool(tmp_path, test)


def test_a_handler_sees_no_credentials_and_no_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("INVOICE_FONT", "serif")

    async def test(bench: Bench) -> None:
        await bench.run("litter")
        report = msgspec.json.decode((await bench.run("report")).body)
        assert "AWS_SECRET_ACCESS_KEY" not in report["environment"]
        assert report["environment"]["INVOICE_FONT"] == "serif"
        assert not [link for link in report["descriptors"] if link.startswith("socket:")]
        assert report["cwd"] == report["folder"]
        assert report["files"] == []
        assert Path(report["folder"]).parent == tmp_path

    with contextlib.closing(__import__("socket").socket()):
        with_pool(tmp_path, test, environment=("INVOICE_FONT",))


def test_the_log_has_the_last_64_kib_of_what_was_printed(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        log = (await bench.run("print-much", {"number": 20_000})).usage.log
        assert log.endswith("the end\n")
        assert 60_000 < len(log) <= 64 * 1024 + 1
        log = (await bench.run("escapes")).usage.log
        assert log == "\x1b[31mred\x1b[0m \\0 \\xff\n<script>alert(1)</script>\n"
        outcome = Outcome()
        with pytest.raises(AttemptFailed):
            await bench.run("exit", outcome=outcome)
        assert outcome.usage.log == "leaving\n"

    with_pool(tmp_path, test)


@pytest.mark.parametrize("name", ["burn", "burn-in-child", "burn-detached"])
def test_the_usage_of_a_killed_attempt_is_measured(tmp_path: Path, name: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.run("burn", {"seconds": 0.3})
        outcome = Outcome()
        with pytest.raises(AttemptFailed) as caught:
            await bench.run(name, {"seconds": 1000}, outcome)
        assert caught.value.code is DeadLetterCode.DEADLINE_EXCEEDED
        # A busy machine gives it less than the time until its deadline, and it never counts the attempt before.
        assert 0.05 < outcome.usage.cpu_seconds < BURN_SECONDS + 0.29
        assert outcome.usage.peak_bytes > 40 * 2**20
        assert outcome.usage.log.startswith("burning")

    with_pool(tmp_path, test)


def test_the_usage_of_a_cancelled_attempt_is_measured(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        outcome = Outcome()
        await bench.run("echo")
        process = psutil.Process(bench.pool.processes[0])
        before = process.cpu_times().user
        task = asyncio.create_task(bench.run("burn", {"seconds": 1000}, outcome))
        while process.cpu_times().user < before + 0.1:
            assert not task.done()
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert outcome.usage.cpu_seconds > 0
        assert outcome.usage.peak_bytes > 2**20

    with_pool(tmp_path, test)


def test_progress_and_checkpoints_arrive_and_an_attempt_resumes(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        outcome = await bench.run("steps", {"steps": 3, "seconds": 0.11})
        assert outcome.checkpoints == [b"1", b"2", b"3"]
        assert outcome.progress[-1] == (1.0, "step 3 of 3")
        second = Outcome()
        second.resume = outcome.checkpoints[1]
        outcome = await bench.run("steps", {"steps": 3}, second)
        assert outcome.checkpoints == [b"3"]
        assert outcome.usage.log == "starts at step 2\n"

    with_pool(tmp_path, test)


def test_a_slow_reader_makes_the_handler_wait(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        class Slow(Outcome):
            async def write(self, data: bytes) -> None:
                await asyncio.sleep(0.001)
                self.body += data

        outcome = await bench.run("large", {"mebibytes": 32}, Slow())
        assert bytes(outcome.body) == bytes(range(256)) * 4096 * 32

    with_pool(tmp_path, test)


@pytest.mark.parametrize("name", ["sleep", "spin-in-c", "fork"])
def test_no_process_outlives_a_killed_processor(tmp_path: Path, name: str) -> None:
    marker = f"98{os.getpid()}.3"
    code = f"""
import asyncio
from pathlib import Path
from tests.handlers.test_pool import Bench, PoolOptions, ChildPool, SOURCES
async def main():
    bench = Bench(ChildPool(PoolOptions(sources=SOURCES, folder=Path({str(tmp_path)!r}))))
    await bench.run("echo")
    print(*bench.pool.processes, flush=True)
    await bench.run({name!r}, {{"marker": {marker!r}}})
asyncio.run(main())
"""
    processor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert processor.stdout is not None
    pid = int(processor.stdout.readline())
    guard = psutil.Process(pid).ppid()
    time.sleep(0.3)
    processor.kill()
    processor.wait()
    processor.stdout.close()
    killed = time.monotonic()
    while not is_gone(pid) or not is_gone(guard) or sleeping(marker):
        assert time.monotonic() - killed < 5
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("used", "before", "seconds", "wanted"),
    [
        (0, 0, 0.1, 1.0),
        (50, 60, 1.0, 1.0),
        (50, 40, 1.0, 1.0),  # it reaches the limit in five seconds
        (50, 0, 0.1, 0.1),
        (60, 20, 1.0, 0.5),
        (100, 99, 1.0, 0.1),
    ],
)
def test_a_folder_that_grows_fast_is_measured_often(used: int, before: int, seconds: float, wanted: float) -> None:
    assert seconds_to_next_check(used, before, 100, seconds) == pytest.approx(wanted)
