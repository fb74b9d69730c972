"""The processing of one record.

Effects come before offsets: the object is stored, then the broker acknowledges `file.created`, and only then is the
record finished, so that its offset may be committed. A crash in between means that the record is reprocessed, with the
same bytes under the same key. An object that exists already is kept, and must have the same bytes.
"""

import asyncio
import math
import random
import time
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec
import structlog

from filemill.domain import retry
from filemill.domain.content import render, sha256_hex
from filemill.domain.files import object_key, truncate_to_milliseconds
from filemill.domain.handlers import TEXT_HANDLER
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
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.records import Record
from filemill.domain.retry import Reject, Retry, RetryPolicy
from filemill.domain.signatures import ResultSigner
from filemill.domain.worker_events import EventKind
from filemill.errors import AlreadyExists, AttemptFailed, DeadLetterCode, InvalidMessage, PermanentError, Unavailable
from filemill.handlers.pool import AttemptUsage
from filemill.ports import Clock, ObjectStore
from filemill_workers.file_processor.handler_task import AttemptCalls, HandlerContext, HandlerTask
from filemill_workers.file_processor.reporter import Reporter

log = structlog.get_logger("processor")

# A longer trace is cut: the headers of a dead letter must stay well below the broker's limit of one megabyte.
TRACE_MAX_CHARACTERS = 8000
# The end of the log in the headers of a dead letter.
DEAD_LETTER_LOG_CHARACTERS = 16_000
_NO_USAGE = AttemptUsage()

Publish = Callable[[str, bytes | None, Headers], Awaitable[None]]


class PublishNowait(Protocol):
    """Publishes records that may be lost."""

    def __call__(self, topic: str, value: bytes, key: str | None = None) -> None:
        """Publish a value, with a key if its order matters."""


# Makes a call to a server, at once or when its circuit breaker allows it.
Call = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


async def _call_directly(call: Callable[[], Awaitable[None]]) -> None:
    await call()


def _never(_file_id: int, _run: int | None) -> bool:
    return False


def _continue_at_once() -> None:
    pass


class OutputTopics(msgspec.Struct, frozen=True):
    """The topics that a processor writes to."""

    created: str
    progress: str
    dead_letters: str
    worker_events: str = ""


class ProcessingContext(msgspec.Struct, frozen=True):
    """The dependencies and settings that all records of a processor share. Times in seconds.

    `publish` returns when the broker has acknowledged; `publish_nowait` does not wait. `wait_for_membership` returns
    when this worker certainly owns its partitions. `call_store` and `call_broker` make calls through a circuit breaker.
    `on_uploaded` is called after each upload of a text. `is_cancelled` takes a file id and a run.
    `progress_interval_seconds`: shorter work sends no progress, longer work sends at most one event in this time.
    `queue`: the queue of the records. `handlers`: None, if the processor makes only the text of the reference design.
    """

    worker_id: str
    store: ObjectStore
    publish: Publish
    publish_nowait: PublishNowait
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
    on_uploaded: Callable[[], None] = _continue_at_once
    is_cancelled: Callable[[int, int | None], bool] = _never
    reporter: Reporter | None = None
    progress_interval_seconds: float = 1.0
    queue: str = DEFAULT_QUEUE
    clock: Clock = time.monotonic
    handlers: HandlerContext | None = None
    signer: ResultSigner = ResultSigner()

    def job_seconds(self, file_id: int) -> float:
        """The duration of a file's simulated work. It is the same in each attempt and on each worker."""
        is_long = self.long_job_every and file_id % self.long_job_every == 0
        return self.long_job_seconds if is_long else self.processing_seconds


class RecordTask:
    """The processing of one record until its result is acknowledged."""

    def __init__(self, record: Record, context: ProcessingContext) -> None:
        self.record = record
        self.attempt = 1
        self.retrying = False
        # Whether its result is acknowledged; whether its epoch has ended, so that its result is not needed any more.
        self.finished = False
        self.abandoned = False
        # How often its task ended without a result although its epoch had not. Each time is a bug.
        self.reruns = 0
        self.created_at = context.clock()
        # The time of the event loop until which it only waits. A drain does not wait for such a record.
        self.idle_until: float | None = None
        self.stage = "read"
        self._stage_started_at = self._started_at = self.created_at
        # By the wall clock: identifies this delivery in events. Durations are by the monotonic clock.
        self._stated_start: datetime | None = None
        self._stage_ms: dict[str, float] = {}
        self._work_done = False
        self._result: FileCreated | None = None
        self._cancelled = False
        self._running = False
        self._context = context
        self._file_id = file_id_in(record.value)
        self._run_number = int_header(record.headers, RUN_HEADER)
        self._log = log.bind(partition=record.partition, offset=record.offset)
        self._retry_policy = context.retry_policy
        # Of a request that names a handler.
        self._handler: HandlerTask | None = None
        self._start_timer: asyncio.TimerHandle | None = None
        self._usage = _NO_USAGE
        self._progress_at, self._fraction = float("-inf"), 0.0

    @property
    def file_run(self) -> tuple[int | None, int]:
        """The file and the run of the record."""
        return self._file_id, self._run_number or 1

    def cancel(self) -> bool:
        """Mark the run as cancelled; returns whether its task must be interrupted.

        The task is interrupted once, and only while it creates the file. Each start of a worker reads the command
        again, and that must not interrupt the report of the cancellation.
        """
        interrupt = self._running and not self._cancelled
        self._cancelled = True
        return interrupt

    async def run(self) -> None:
        """Process the record until its result is acknowledged.

        Raises CancelledError if its task is cancelled for another reason than `cancel`, usually because it is
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
        """Wait before a retry."""
        self.retrying = True
        self.idle_until = asyncio.get_running_loop().time() + seconds
        await asyncio.sleep(seconds)
        self.idle_until = None
        self.retrying = False

    def record_rerun(self) -> float:
        """Count an end of its task without a result; returns the seconds after which to run it again.

        This is always a bug, because failures of a record end in a result. The record is run again until its epoch
        ends. Otherwise its offset and the following ones could never be committed.
        """
        self.reruns += 1
        self._running = False
        policy = self._context.retry_policy
        return max(policy.base_seconds, retry.backoff_seconds(policy, self.reruns, self._context.jitter))

    def report_rerun(self, error: BaseException, seconds: float) -> None:
        """Log the end of its task without a result, and publish an event."""
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
        self._started_at = self._context.clock()
        self._stated_start = truncate_to_milliseconds(datetime.now(UTC))
        failures = 0
        while True:
            try:
                await self._attempt()
            except Exception as error:  # noqa: BLE001 - no error of a record stops its partition
                failures += 1
                decision = retry.decide(self._retry_policy, error, self.attempt, failures, self._context.jitter)
                if isinstance(decision, Reject):
                    await self._dead_letter(decision, error)
                    return
                await self._wait_for_retry(decision, error)
            else:
                return

    async def _attempt(self) -> None:
        self._stage_ms = {}
        self._stage_started_at = self._context.clock()
        self.stage = "read"
        self._reject_last_delivery()
        if self.record.headers_error is not None:
            raise PermanentError(self.record.headers_error, DeadLetterCode.HEADERS_UNREADABLE)
        try:
            request = decode_create(self.record.value)
        except InvalidMessage as error:
            raise PermanentError(str(error), DeadLetterCode.INVALID_MESSAGE) from error
        if request.handler != TEXT_HANDLER:
            await self._attempt_handler(request)
            return
        if not self._work_done:  # the work is not repeated if the upload failed
            self._begin_stage("work")
            self._log.info("Received file creation request", file=request.file_id, attempt=self.attempt)
            await self._simulate_work(request)
            self._work_done = True
        if self._result is None:  # the upload is not repeated if publishing failed
            self._result = await self._create_file(request)
        else:
            await self._context.wait_for_membership()
        self._begin_stage("announce")
        await self._publish_result(self._result)
        self._log.info("Successfully processed file", file=request.file_id, key=self._result.s3_location)

    async def _create_file(self, request: FileCreate) -> FileCreated:
        """Store the object; returns the result to publish, which is the same if it is published twice."""
        self._begin_stage("render")
        body = render(request.title, request.description, request.timestamp)
        key = object_key(request.file_id, request.timestamp)
        sha256 = sha256_hex(body)
        self._begin_stage("upload")
        upload_ms = await self._upload(key, body, sha256)
        self._context.on_uploaded()  # not for handlers: the processes of the pool wait for the loop
        return self._result_of(request, key, sha256=sha256, size=len(body), upload_ms=upload_ms)

    async def _attempt_handler(self, request: FileCreate) -> None:
        """Run a handler; its result is not made again if publishing failed."""
        if self._context.handlers is None:
            raise PermanentError(
                f'There is no handler "{request.handler}" in this processor. It has: text',
                DeadLetterCode.HANDLER_UNKNOWN,
            )
        if self._handler is None:
            self._handler = HandlerTask(self._context.handlers, request, self._run_number or 1)
            self._retry_policy = msgspec.structs.replace(
                self._retry_policy, max_attempts=self._handler.handler.attempts
            )
            self._log.info("Received file creation request", file=request.file_id, handler=request.handler)
        if self._result is None:
            self._result = await self._run_handler(request, self._handler)
        else:
            await self._context.wait_for_membership()
        self._begin_stage("announce")
        await self._publish_result(self._result)
        self._log.info("Successfully processed file", file=request.file_id, key=self._result.s3_location)
        await self._handler.forget_checkpoint()

    async def _run_handler(self, request: FileCreate, handler: HandlerTask) -> FileCreated:
        self._usage = _NO_USAGE
        self.idle_until = float("inf")  # until a process is free
        failure: BaseException | None = None
        calls = AttemptCalls(
            put_small=self._put_small,
            call_store=self._context.call_store,
            wait_for_membership=self._context.wait_for_membership,
            progress=lambda fraction, text: self._report_progress(request, fraction, text),
            started=lambda: self._handler_started(request),
            finishing=lambda: self._begin_stage("upload"),
            used=self._handler_used,
        )
        try:
            result = await handler.attempt(self.attempt, calls)
        except BaseException as error:
            failure = error
            raise
        finally:
            self.idle_until = None
            if self._start_timer is not None:
                self._start_timer.cancel()
            self._report_attempt(failure)
        return self._result_of(
            request, result.key, sha256=result.sha256, size=result.size, content_type=result.content_type
        )

    def _result_of(
        self,
        request: FileCreate,
        key: str,
        *,
        sha256: str,
        size: int,
        content_type: str | None = None,
        upload_ms: float | None = None,
    ) -> FileCreated:
        """The result of this attempt, which ends now. `size` in bytes."""
        ended, started_at = self._time_span()
        return FileCreated(
            file_id=request.file_id,
            s3_location=key,
            status="completed",
            timestamp=ended,
            run=self._run_number,
            sha256=sha256,
            size=size,
            content_type=content_type,
            worker_id=self._context.worker_id,
            partition=self.record.partition,
            offset=self.record.offset,
            attempt=self.attempt,
            started_at=started_at,
            upload_ms=upload_ms,
            stage_ms=self._stage_times(),
            queue=self._context.queue,
        )

    def _handler_started(self, request: FileCreate) -> None:
        self.idle_until = None
        self._begin_stage("work")
        seconds = self._context.progress_interval_seconds
        self._start_timer = asyncio.get_running_loop().call_later(seconds, self._report_start, request)

    def _report_start(self, request: FileCreate) -> None:
        """Publish that the work has begun, unless the handler has reported progress."""
        if self._progress_at == float("-inf"):
            self._publish_progress(request, 0)

    def _handler_used(self, usage: AttemptUsage) -> None:
        self._usage = usage

    def _put_small(self, key: str, content_type: str) -> Callable[[bytes, str], Awaitable[None]]:
        async def put(body: bytes, sha256: str) -> None:
            await self._upload(key, body, sha256, content_type)

        return put

    def _report_progress(self, request: FileCreate, fraction: float, text: str) -> None:
        """Publish what a handler reports, at most once in each interval, and its end."""
        now = self._context.clock()
        if now - self._progress_at >= self._context.progress_interval_seconds or fraction >= 1 > self._fraction:
            self._progress_at, self._fraction = now, fraction
            steps = self._context.processing_steps
            self._publish_progress(request, min(int(fraction * steps), steps), fraction, text or None)

    def _report_attempt(self, failure: BaseException | None) -> None:
        """Publish an event about the end of an attempt: its log, and what it used."""
        reporter = self._context.reporter
        if reporter is None or self.abandoned:
            return
        fields: dict[str, Any] = _error_fields(failure) if failure is not None else {}
        code = getattr(failure, "code", None)
        value = reporter.encode(
            EventKind.ATTEMPTED,
            **self._event_fields(),
            **fields,
            handler_version=self._handler.handler.version if self._handler is not None else None,
            code=str(code) if code else None,
            log=self._usage.log or None,
            cpu_seconds=self._usage.cpu_seconds,
            peak_bytes=self._usage.peak_bytes,
        )
        # With the results, because a request costs the broker more than its records.
        self._context.publish_nowait(self._context.topics.worker_events, value, self._context.worker_id)

    def _time_span(self) -> tuple[datetime, datetime]:
        """The current time and the start of the processing. The monotonic clock measures the difference."""
        ended = truncate_to_milliseconds(datetime.now(UTC))
        return ended, truncate_to_milliseconds(ended - timedelta(seconds=self._context.clock() - self._started_at))

    def _begin_stage(self, stage: str) -> None:
        """End the current stage of this attempt and begin the next one."""
        now = self._context.clock()
        self._stage_ms[self.stage] = _milliseconds(now - self._stage_started_at)
        self.stage, self._stage_started_at = stage, now

    def _stage_times(self) -> dict[str, float]:
        """The duration of each stage of this attempt until now, in milliseconds."""
        return {**self._stage_ms, self.stage: _milliseconds(self._context.clock() - self._stage_started_at)}

    def _reject_last_delivery(self) -> None:
        """Reject a record one delivery before the last: if this worker dies, another one can dead-letter it."""
        left = self.record.deliveries_left
        if left is not None and left <= 1:
            raise PermanentError(
                "the record was delivered repeatedly without a result; the share group would drop it after one more"
                " delivery",
                DeadLetterCode.DELIVERY_LIMIT,
            )

    async def _upload(self, key: str, body: bytes, sha256: str, content_type: str | None = None) -> float:
        """Store the object; returns the duration of the call in milliseconds, without the wait for a slot."""
        metadata = {"processed-at": datetime.now(UTC).isoformat(timespec="milliseconds"), "sha256": sha256}
        if content_type is not None:
            metadata["Content-Type"] = content_type
        started_at = 0.0

        async def put() -> None:
            nonlocal started_at
            async with self._context.upload_slots:
                await self._context.wait_for_membership()
                started_at = self._context.clock()
                await self._put_object(key, body, metadata)

        await self._context.call_store(put)
        return _milliseconds(self._context.clock() - started_at)

    async def _put_object(self, key: str, body: bytes, metadata: dict[str, str]) -> None:
        """Create the object. An existing one must have these bytes; its metadata proves nothing."""
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
        """Simulate the job of the reference design by timers, so that a worker can process a thousand at a time."""
        seconds, steps = self._context.job_seconds(request.file_id), self._context.processing_steps
        if seconds <= 0:
            return
        interval = self._context.progress_interval_seconds
        step_seconds = seconds / steps
        published_at = float("-inf")
        clock = asyncio.get_running_loop().time
        started_at = clock()
        self.idle_until = started_at + seconds
        for step in range(steps):
            if seconds > interval and clock() - published_at >= interval:
                published_at = clock()
                self._publish_progress(request, step)
            left = started_at + (step + 1) * step_seconds - clock()
            # uvloop's timers are whole milliseconds and may be one early; steps may be shorter than that.
            await asyncio.sleep((math.ceil(left * 1000) + 1) / 1000 if left > 0 else 0)
        self.idle_until = None

    def _publish_progress(
        self, request: FileCreate, step: int, fraction: float | None = None, message: str | None = None
    ) -> None:
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
            started_at=self._stated_start,
            fraction=fraction,
            message=message,
        )
        self._context.publish_nowait(self._context.topics.progress, encode(event))
        self._log.debug("Progress", file=request.file_id, step=step, steps=self._context.processing_steps)

    async def _publish_result(self, event: FileCreated) -> None:
        trace = header(self.record.headers, TRACEPARENT_HEADER)
        topic, value = self._context.topics.created, encode(event)
        headers: Headers = [(TRACEPARENT_HEADER, trace.encode())] if trace else []
        await self._publish(topic, value, [*headers, *self._context.signer.headers(topic, value)])

    async def _publish(self, topic: str, value: bytes | None, headers: Headers) -> None:
        await self._context.call_broker(lambda: self._context.publish(topic, value, headers))

    async def _wait_for_retry(self, decision: Retry, error: BaseException) -> None:
        self._log.warning(
            "Processing failed; will retry",
            stage=self.stage,
            attempt=self.attempt,
            seconds=round(decision.seconds, 3),
            counted=decision.counted,
            error=_describe(error),
        )
        if self._context.reporter is not None and decision.counted:
            # The circuit breaker reports an outage once, instead of each record.
            self._context.reporter.emit(
                EventKind.RETRYING,
                **self._event_fields(),
                delay_seconds=round(decision.seconds, 3),
                **_error_fields(error),
            )
        self.attempt += decision.counted
        await self.wait(decision.seconds)

    def _event_fields(self) -> dict[str, Any]:
        """The record and its stage, as fields of an event."""
        return {
            "file_id": self._file_id,
            "run": self._run_number,
            "partition": self.record.partition,
            "offset": self.record.offset,
            "attempt": self.attempt,
            "stage": self.stage,
            "stage_ms": self._stage_times(),
            "queue": self._context.queue,
        }

    async def _report_cancelled(self) -> None:
        """Publish the event that the record of a cancelled run was skipped. The row has its status already."""
        self._log.info("Cancelled", file=self._file_id, run=self._run_number)
        report = self._context.reporter
        if report is not None:
            value = report.encode(EventKind.CANCELLED, **self._event_fields())
            await self._retry_until_available(lambda: self._publish(self._context.topics.worker_events, value, []))

    async def _dead_letter(self, decision: Reject, error: BaseException) -> None:
        """Publish the dead letter and the failed result, and retry until both are acknowledged."""
        self._log.error(
            "Publishing a dead letter",
            file=self._file_id,
            code=decision.code.value,
            reason=decision.reason,
            attempts=self.attempt,
        )
        result = self._failed_result(self._file_id, decision) if self._file_id is not None else None

        async def publish() -> None:
            await self._context.wait_for_membership()
            await self._publish_dead_letter(decision, error)
            if result is not None:
                await self._publish_result(result)

        await self._retry_until_available(publish)
        if self._handler is not None:
            await self._handler.forget_checkpoint()
        if self._context.reporter is not None:
            self._context.reporter.count_failed()
            self._context.reporter.emit(
                EventKind.DEAD_LETTERED, **self._event_fields(), cause=decision.reason, **_error_fields(error)
            )

    async def _publish_dead_letter(self, decision: Reject, error: BaseException) -> None:
        headers = self._dead_letter_headers(decision, error)
        try:
            await self._publish(self._context.topics.dead_letters, self.record.value, headers)
        except PermanentError:  # too large with its headers: publish the headers alone
            size = str(len(self.record.value or b"")).encode()
            await self._publish(
                self._context.topics.dead_letters, None, [*headers, ("filemill-value-omitted-bytes", size)]
            )

    async def _retry_until_available(self, call: Callable[[], Awaitable[None]]) -> None:
        """Make the call, and retry it while the broker is unreachable."""
        failures = 0
        while True:
            try:
                await call()
            except Unavailable as error:
                failures += 1
                self._log.warning("Kafka unavailable; will retry publishing", error=_describe(error))
                await asyncio.sleep(retry.backoff_seconds(self._context.retry_policy, failures, self._context.jitter))
            else:
                return

    def _failed_result(self, file_id: int, decision: Reject) -> FileCreated:
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
            error=decision.reason,
            queue=self._context.queue,
        )

    def _dead_letter_headers(self, decision: Reject, error: BaseException) -> Headers:
        facts = {
            "filemill-reason": decision.reason,
            "filemill-topic": self.record.topic,
            "filemill-partition": self.record.partition,
            "filemill-offset": self.record.offset,
            "filemill-attempts": self.attempt,
            "filemill-worker": self._context.worker_id,
            "filemill-failed-at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "filemill-trace": _error_fields(error)["trace"],
            "filemill-code": decision.code,
        }
        if self._usage.log:
            facts["filemill-log"] = self._usage.log[-DEAD_LETTER_LOG_CHARACTERS:]
        return [*self.record.headers, *((name, str(value).encode(errors="replace")) for name, value in facts.items())]


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _error_fields(error: BaseException) -> dict[str, str]:
    if isinstance(error, (AttemptFailed, PermanentError)) and error.trace:
        return {"error": _describe(error), "trace": error.trace}  # of the handler's process
    trace = "".join(traceback.format_exception(error))[-TRACE_MAX_CHARACTERS:]
    return {"error": _describe(error), "trace": trace}


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
