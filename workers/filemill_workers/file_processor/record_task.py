"""One record's way through the processor.

Effects come before offsets: the object is stored, then `file.created` is acknowledged by the broker, and only then is
the record finished, which lets its offset be committed. Dying at any point in between means that it is done once more,
with the same bytes under the same key: an object that is there already is kept, and must be the same.
"""

import asyncio
import math
import random
import time
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import structlog

from filemill.domain import retry
from filemill.domain.content import render, sha256_hex
from filemill.domain.files import object_key, truncate_to_milliseconds
from filemill.domain.messages import (
    RUN_HEADER,
    TRACEPARENT_HEADER,
    FileCreate,
    FileCreated,
    FileProgress,
    Headers,
    decode_create,
    encode,
    file_id_in,
    header,
    int_header,
)
from filemill.domain.records import Record
from filemill.domain.retry import Reject, Retry, RetryPolicy
from filemill.domain.worker_events import EventKind
from filemill.errors import AlreadyExists, DeadLetterCode, InvalidMessage, PermanentError, Unavailable
from filemill.ports import ObjectStore
from filemill_workers.file_processor.reporter import Reporter

log = structlog.get_logger("processor")

# Progress is for people: none for a file that is done within a second, at most one event a second otherwise.
PROGRESS_INTERVAL_SECONDS = 1.0
# Headers of a dead letter: well below the broker's megabyte, long enough to find the line.
TRACE_MAX_CHARACTERS = 8000

Publish = Callable[[str, bytes | None, Headers], Awaitable[None]]


# Makes a call to a server: at once, or once its breaker is closed.
Call = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


async def _call_directly(call: Callable[[], Awaitable[None]]) -> None:
    await call()


def _never(_file_id: int, _run: int | None) -> bool:
    return False


class OutputTopics(msgspec.Struct, frozen=True):
    """Where a processor writes."""

    created: str
    progress: str
    dead_letters: str
    worker_events: str = ""


class ProcessingContext(msgspec.Struct, frozen=True):
    """What all passages of a processor share.

    `publish` returns once the broker has acknowledged; `mention` does not wait. `awake` returns once the worker may be
    trusted to own its partitions (a process that was stopped and wakes waits there for its next poll). `to_store` and
    `to_broker` are the ways there, with a breaker in them; `cancelled` tells whether a run is not wanted any more.
    """

    worker_id: str
    store: ObjectStore
    publish: Publish
    publish_nowait: Callable[[str, bytes], None]
    wait_for_membership: Callable[[], Awaitable[None]]
    upload_slots: asyncio.Semaphore
    topics: OutputTopics
    retry_policy: RetryPolicy
    processing_seconds: float
    processing_steps: int
    long_job_every: int
    long_job_seconds: float
    jitter: random.Random
    call_store: Call = _call_directly
    call_broker: Call = _call_directly
    is_cancelled: Callable[[int, int | None], bool] = _never
    reporter: Reporter | None = None

    def job_seconds(self, file_id: int) -> float:
        """The simulated work of a file: the same in each attempt and on each worker."""
        is_long = self.long_job_every and file_id % self.long_job_every == 0
        return self.long_job_seconds if is_long else self.processing_seconds


class RecordTask:
    """The processing of one record, from its delivery to the acknowledged result."""

    def __init__(self, record: Record, context: ProcessingContext) -> None:
        self.record = record
        self.attempt = 1
        self.retrying = False
        # Whether its result is acknowledged; whether its epoch is over, so that nobody waits for a result any more.
        self.finished = False
        self.abandoned = False
        # How often its task ended without a result although its epoch lives: a bug each time.
        self.reruns = 0
        self.created_at = time.monotonic()
        # Since when, and until when, it does nothing but wait: such a record is not worth a drain.
        self.idle_until: float | None = None
        self.stage = "read"
        self._stage_started_at = self._started_at = self.created_at
        self._stage_ms: dict[str, float] = {}
        self._work_done = False
        self._result: FileCreated | None = None
        self._cancelled = False
        self._running = False
        self._context = context
        self._file_id = file_id_in(record.value)
        self._run_number = int_header(record.headers, RUN_HEADER)
        self._log = log.bind(partition=record.partition, offset=record.offset)

    @property
    def file_run(self) -> tuple[int | None, int]:
        """Whose record it is: file and run."""
        return self._file_id, self._run_number or 1

    def cancel(self) -> bool:
        """Note that its run is not wanted any more; returns whether its task must be interrupted for that.

        Only once, and only while it makes the file: what reports the end of the run must not be interrupted by the
        same command, which each start of a worker reads again.
        """
        interrupt = self._running and not self._cancelled
        self._cancelled = True
        return interrupt

    async def run(self) -> None:
        """Process until the result, whatever it is, is acknowledged.

        Raises CancelledError where its task is cancelled for another reason than `cancel`: as a rule because it is
        abandoned.
        """
        self._running = True
        try:
            if self._file_id is not None and self._context.is_cancelled(self._file_id, self._run_number):
                self._cancelled = True
            if not self._cancelled:
                await self._run_until_result()
                return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.abandoned or not self._cancelled or task is None:
                raise
            task.uncancel()
        await self._report_cancelled()

    async def wait(self, seconds: float) -> None:
        """Wait before another try; meanwhile it is not worth a drain."""
        self.retrying = True
        self.idle_until = asyncio.get_running_loop().time() + seconds
        await asyncio.sleep(seconds)
        self.idle_until = None
        self.retrying = False

    def record_rerun(self) -> float:
        """Note that its task ended without a result; returns the seconds after which to run it again.

        That is a bug, wherever it is: a record's own failures end in a result. The record is run again for as long as
        its epoch lives, because its offset, and all that come after it, could never be committed otherwise.
        """
        self.reruns += 1
        self._running = False
        policy = self._context.retry_policy
        return max(policy.base_seconds, retry.backoff_seconds(policy, self.reruns, self._context.jitter))

    def report_rerun(self, error: BaseException, seconds: float) -> None:
        """Log that its task ended without a result, and tell the workers' topic."""
        self._log.error(
            "Processing of a record ended without a result. This is a bug. The record is processed again",
            file=self._file_id,
            stage=self.stage,
            reruns=self.reruns,
            seconds=round(seconds, 3),
            exc_info=error,
        )
        if self._context.reporter is not None:
            self._context.reporter.emit(
                EventKind.RETRYING, **self._event_fields(), delay_seconds=round(seconds, 3), **_error_fields(error)
            )

    async def _run_until_result(self) -> None:
        self._started_at = time.monotonic()
        failures = 0
        while True:
            try:
                await self._attempt()
            except Exception as error:  # noqa: BLE001 - whatever a record does, its partition goes on
                failures += 1
                verdict = retry.decide(self._context.retry_policy, error, self.attempt, failures, self._context.jitter)
                if isinstance(verdict, Reject):
                    await self._dead_letter(verdict, error)
                    return
                await self._wait_for_retry(verdict, error)
            else:
                return

    async def _attempt(self) -> None:
        self._stage_ms = {}
        self._stage_started_at = time.monotonic()
        self.stage = "read"
        self._reject_last_delivery()
        if self.record.headers_error is not None:
            raise PermanentError(self.record.headers_error, DeadLetterCode.HEADERS_UNREADABLE)
        try:
            request = decode_create(self.record.value)
        except InvalidMessage as error:
            raise PermanentError(str(error), DeadLetterCode.INVALID_MESSAGE) from error
        if not self._work_done:  # not again because S3 was away at its end
            self._begin_stage("work")
            self._log.info("Received file creation request", file=request.file_id, attempt=self.attempt)
            await self._simulate_work(request)
            self._work_done = True
        if self._result is None:  # not again because the broker was
            self._result = await self._create_file(request)
        else:
            await self._context.wait_for_membership()
        self._begin_stage("announce")
        await self._publish_result(self._result)
        self._log.info("Successfully processed file", file=request.file_id, key=self._result.s3_location)

    async def _create_file(self, request: FileCreate) -> FileCreated:
        """Store the object; returns what to announce: each time the same, for an announcement may come twice."""
        self._begin_stage("render")
        body = render(request.title, request.description, request.timestamp)
        key = object_key(request.file_id, request.timestamp)
        sha256 = sha256_hex(body)
        self._begin_stage("upload")
        upload_ms = await self._upload(key, body, sha256)
        ended, started_at = self._time_span()
        return FileCreated(
            file_id=request.file_id,
            s3_location=key,
            status="completed",
            timestamp=ended,
            run=self._run_number,
            sha256=sha256,
            size=len(body),
            worker_id=self._context.worker_id,
            partition=self.record.partition,
            offset=self.record.offset,
            attempt=self.attempt,
            started_at=started_at,
            upload_ms=upload_ms,
            stage_ms=self._stage_times(),
        )

    def _time_span(self) -> tuple[datetime, datetime]:
        """The end, which is now, and the begin: as far from it as the monotonic clock says, wherever the other went."""
        ended = truncate_to_milliseconds(datetime.now(UTC))
        return ended, truncate_to_milliseconds(ended - timedelta(seconds=time.monotonic() - self._started_at))

    def _begin_stage(self, stage: str) -> None:
        """The next stage of this attempt; the one before it is over."""
        self._stage_ms = self._stage_times()
        self.stage, self._stage_started_at = stage, time.monotonic()

    def _stage_times(self) -> dict[str, float]:
        """Milliseconds by stage of this attempt, up to now."""
        return {**self._stage_ms, self.stage: round((time.monotonic() - self._stage_started_at) * 1000, 1)}

    def _reject_last_delivery(self) -> None:
        """One before the last: if this worker dies while it buries the record, another one still gets it."""
        left = self.record.deliveries_left
        if left is not None and left <= 1:
            raise PermanentError(
                "the record was delivered repeatedly without a result; the share group would drop it after one more"
                " delivery",
                DeadLetterCode.DELIVERY_LIMIT,
            )

    async def _upload(self, key: str, body: bytes, sha256: str) -> float:
        """Store the object; returns how long the call took, in milliseconds, without the waiting for its turn."""
        metadata = {"processed-at": datetime.now(UTC).isoformat(timespec="milliseconds"), "sha256": sha256}
        began = 0.0

        async def put() -> None:
            nonlocal began
            async with self._context.upload_slots:
                await self._context.wait_for_membership()
                began = time.monotonic()
                await self._put_object(key, body, metadata)

        await self._context.call_store(put)
        return round((time.monotonic() - began) * 1000, 1)

    async def _put_object(self, key: str, body: bytes, metadata: dict[str, str]) -> None:
        """Write the object. If there is one, it must have these bytes: metadata is only what its writer claims."""
        store = self._context.store
        try:
            await store.put(key, body, metadata, "create")
        except AlreadyExists:
            if await store.get(key) != body:
                raise PermanentError(
                    f"Another object has the key {key}. It was kept, and nothing was written. If it is not the right"
                    " one, delete it and retry the file",
                    DeadLetterCode.OBJECT_EXISTS,
                ) from None

    async def _simulate_work(self, request: FileCreate) -> None:
        """The seed's one-minute job: timers, so that one worker holds a thousand of them."""
        seconds, steps = self._context.job_seconds(request.file_id), self._context.processing_steps
        if seconds <= 0:
            return
        tells = seconds > PROGRESS_INTERVAL_SECONDS
        pause = seconds / steps
        told_at = float("-inf")
        clock = asyncio.get_running_loop().time
        began = clock()
        self.idle_until = began + seconds
        for step in range(steps):
            if tells and clock() - told_at >= PROGRESS_INTERVAL_SECONDS:
                told_at = clock()
                self._publish_progress(request, step)
            left = began + (step + 1) * pause - clock()
            # uvloop's timers are whole milliseconds and may be one early; steps may be shorter than that.
            await asyncio.sleep((math.ceil(left * 1000) + 1) / 1000 if left > 0 else 0)
        self.idle_until = None

    def _publish_progress(self, request: FileCreate, step: int) -> None:
        event = FileProgress(
            file_id=request.file_id,
            run=self._run_number,
            worker_id=self._context.worker_id,
            partition=self.record.partition,
            offset=self.record.offset,
            attempt=self.attempt,
            step=step,
            steps=self._context.processing_steps,
            timestamp=truncate_to_milliseconds(datetime.now(UTC)),
        )
        self._context.publish_nowait(self._context.topics.progress, encode(event))
        self._log.debug("Progress", file=request.file_id, step=step, steps=self._context.processing_steps)

    async def _publish_result(self, event: FileCreated) -> None:
        trace = header(self.record.headers, TRACEPARENT_HEADER)
        headers: Headers = [(TRACEPARENT_HEADER, trace.encode())] if trace else []
        await self._publish(self._context.topics.created, encode(event), headers)

    async def _publish(self, topic: str, value: bytes | None, headers: Headers) -> None:
        await self._context.call_broker(lambda: self._context.publish(topic, value, headers))

    async def _wait_for_retry(self, verdict: Retry, error: BaseException) -> None:
        self._log.warning(
            "Will try again",
            stage=self.stage,
            attempt=self.attempt,
            seconds=round(verdict.seconds, 3),
            counted=verdict.counted,
            error=_describe(error),
        )
        if self._context.reporter is not None and verdict.counted:
            # Outages are the breaker's to report, once, not each record's.
            self._context.reporter.emit(
                EventKind.RETRYING,
                **self._event_fields(),
                delay_seconds=round(verdict.seconds, 3),
                **_error_fields(error),
            )
        self.attempt += verdict.counted
        await self.wait(verdict.seconds)

    def _event_fields(self) -> dict[str, Any]:
        """The record and where it is, as fields of an event."""
        return {
            "file_id": self._file_id,
            "run": self._run_number,
            "partition": self.record.partition,
            "offset": self.record.offset,
            "attempt": self.attempt,
            "stage": self.stage,
            "stage_ms": self._stage_times(),
        }

    async def _report_cancelled(self) -> None:
        """End a run that is not wanted: the row says so already; this says that the record was let go on purpose."""
        self._log.info("Cancelled", file=self._file_id, run=self._run_number)
        report = self._context.reporter
        if report is not None:
            value = report.encode(EventKind.CANCELLED, **self._event_fields())
            await self._retry_until_available(lambda: self._publish(self._context.topics.worker_events, value, []))

    async def _dead_letter(self, verdict: Reject, error: BaseException) -> None:
        """To the dead letters, and the file to failed; both acknowledged, however long the broker takes."""
        self._log.error("Parked in the dead letters", file=self._file_id, reason=verdict.reason, attempts=self.attempt)

        result = self._failed_result(self._file_id, verdict) if self._file_id is not None else None

        async def park() -> None:
            await self._context.wait_for_membership()
            await self._publish_dead_letter(verdict, error)
            if result is not None:
                await self._publish_result(result)

        await self._retry_until_available(park)
        if self._context.reporter is not None:
            self._context.reporter.count_failed()
            self._context.reporter.emit(
                EventKind.DEAD_LETTERED, **self._event_fields(), cause=verdict.reason, **_error_fields(error)
            )

    async def _publish_dead_letter(self, verdict: Reject, error: BaseException) -> None:
        headers = self._dead_letter_headers(verdict, error)
        try:
            await self._publish(self._context.topics.dead_letters, self.record.value, headers)
        except PermanentError:  # too large with its headers: what is known of it still has to go somewhere
            size = str(len(self.record.value or b"")).encode()
            await self._publish(
                self._context.topics.dead_letters, None, [*headers, ("filemill-value-omitted-bytes", size)]
            )

    async def _retry_until_available(self, call: Callable[[], Awaitable[None]]) -> None:
        """Do it, however long the broker is away."""
        failures = 0
        while True:
            try:
                await call()
            except Unavailable as away:
                failures += 1
                self._log.warning("The broker is away; will say it again", error=_describe(away))
                await asyncio.sleep(retry.backoff_seconds(self._context.retry_policy, failures, self._context.jitter))
            else:
                return

    def _failed_result(self, file_id: int, verdict: Reject) -> FileCreated:
        ended, started_at = self._time_span()
        return FileCreated(
            file_id=file_id,
            status="failed",
            timestamp=ended,
            run=self._run_number,
            worker_id=self._context.worker_id,
            partition=self.record.partition,
            offset=self.record.offset,
            attempt=self.attempt,
            started_at=started_at,
            error=verdict.reason,
        )

    def _dead_letter_headers(self, verdict: Reject, error: BaseException) -> Headers:
        facts = {
            "filemill-reason": verdict.reason,
            "filemill-topic": self.record.topic,
            "filemill-partition": self.record.partition,
            "filemill-offset": self.record.offset,
            "filemill-attempts": self.attempt,
            "filemill-worker": self._context.worker_id,
            "filemill-failed-at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "filemill-trace": _error_fields(error)["trace"],
            "filemill-code": verdict.code,
        }
        return [*self.record.headers, *((name, str(value).encode(errors="replace")) for name, value in facts.items())]


def _error_fields(error: BaseException) -> dict[str, str]:
    trace = "".join(traceback.format_exception(error))[-TRACE_MAX_CHARACTERS:]
    return {"error": _describe(error), "trace": trace}


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
