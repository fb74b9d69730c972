"""One record's way through the processor.

Effects come before offsets: the object is stored, then `file.created` is acknowledged by the broker, and only then is
the record finished, which lets its offset be committed. Dying at any point in between means that it is done once more,
with the same bytes under the same key.
"""

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec
import structlog

from filemill import retry
from filemill.content import render, sha256_hex
from filemill.files import object_key, to_milliseconds
from filemill.messages import (
    RUN,
    TRACEPARENT,
    FileCreate,
    FileCreated,
    FileProgress,
    Headers,
    InvalidMessage,
    decode_create,
    encode,
    file_id_in,
    header,
    number_header,
)
from filemill.ports import ObjectStore, Record
from filemill.retry import Again, Park, Poisonous, RetryPolicy

log = structlog.get_logger("processor")

# Progress is for people: none for a file that is done within a second, at most one event a second otherwise.
PROGRESS_LEAST_SECONDS = 1.0
# Headers of a dead letter: well below the broker's megabyte, long enough to find the line.
TRACE_MAX_CHARACTERS = 8000

Publish = Callable[[str, bytes | None, Headers], Awaitable[None]]


class Topics(msgspec.Struct, frozen=True):
    """Where a processor writes."""

    created: str
    progress: str
    dead_letters: str


class Workplace(msgspec.Struct, frozen=True):
    """What all passages of a processor share.

    `publish` returns once the broker has acknowledged; `mention` does not wait. `awake` returns once the worker may be
    trusted to own its partitions (a process that was stopped and wakes waits there for its next poll).
    """

    worker_id: str
    store: ObjectStore
    publish: Publish
    mention: Callable[[str, bytes], None]
    awake: Callable[[], Awaitable[None]]
    uploads: asyncio.Semaphore
    topics: Topics
    policy: RetryPolicy
    processing_seconds: float
    processing_steps: int
    jitter: random.Random


class Passage:
    """The processing of one record, from its delivery to the acknowledged result."""

    def __init__(self, record: Record, workplace: Workplace) -> None:
        self.record = record
        self.attempt = 1
        # Since when, and until when, it does nothing but wait: such a record is not worth a drain.
        self.idle_until: float | None = None
        self._worked = False
        self._workplace = workplace
        self._run = number_header(record.headers, RUN)
        self._log = log.bind(partition=record.partition, offset=record.offset)

    async def go(self) -> None:
        """Process until the result, whatever it is, is acknowledged. Ends early only by cancellation."""
        started_at = datetime.now(UTC)
        failures = 0
        while True:
            try:
                await self._attempt(started_at)
            except Exception as error:  # noqa: BLE001 - whatever a record does, its partition goes on
                failures += 1
                verdict = retry.decide(self._workplace.policy, error, self.attempt, failures, self._workplace.jitter)
                if isinstance(verdict, Park):
                    await self._park(verdict, error, started_at)
                    return
                await self._wait_for(verdict, error)
            else:
                return

    async def _attempt(self, started_at: datetime) -> None:
        try:
            request = decode_create(self.record.value)
        except InvalidMessage as error:
            raise Poisonous(str(error)) from error
        self._log.info("Received file creation request", file=request.file_id, attempt=self.attempt)
        if not self._worked:  # not again because S3 or the broker was away at its end
            await self._simulate_work(request)
            self._worked = True
        body = render(request.title, request.description, request.timestamp)
        key = object_key(request.file_id, request.timestamp)
        sha256 = sha256_hex(body)
        await self._workplace.awake()
        async with self._workplace.uploads:
            await self._workplace.store.put(
                key, body, {"processed-at": datetime.now(UTC).isoformat(timespec="milliseconds"), "sha256": sha256}
            )
        await self._announce(
            FileCreated(
                file_id=request.file_id,
                s3_location=key,
                status="completed",
                timestamp=to_milliseconds(datetime.now(UTC)),
                run=self._run,
                sha256=sha256,
                size=len(body),
                worker_id=self._workplace.worker_id,
                partition=self.record.partition,
                offset=self.record.offset,
                attempt=self.attempt,
                started_at=to_milliseconds(started_at),
            )
        )
        self._log.info("Successfully processed file", file=request.file_id, key=key)

    async def _simulate_work(self, request: FileCreate) -> None:
        """The seed's one-minute job: timers, so that one worker holds a thousand of them."""
        seconds, steps = self._workplace.processing_seconds, self._workplace.processing_steps
        if seconds <= 0:
            return
        tells = seconds > PROGRESS_LEAST_SECONDS
        pause = seconds / steps
        told_at = float("-inf")
        clock = asyncio.get_running_loop().time
        self.idle_until = clock() + seconds
        for step in range(steps):
            if tells and clock() - told_at >= PROGRESS_LEAST_SECONDS:
                told_at = clock()
                self._tell_progress(request, step)
            await asyncio.sleep(pause)
        self.idle_until = None

    def _tell_progress(self, request: FileCreate, step: int) -> None:
        event = FileProgress(
            file_id=request.file_id,
            run=self._run,
            worker_id=self._workplace.worker_id,
            partition=self.record.partition,
            offset=self.record.offset,
            attempt=self.attempt,
            step=step,
            steps=self._workplace.processing_steps,
            timestamp=to_milliseconds(datetime.now(UTC)),
        )
        self._workplace.mention(self._workplace.topics.progress, encode(event))
        self._log.debug("Progress", file=request.file_id, step=step, steps=self._workplace.processing_steps)

    async def _announce(self, event: FileCreated) -> None:
        trace = header(self.record.headers, TRACEPARENT)
        headers = [(TRACEPARENT, trace.encode())] if trace else []
        await self._workplace.publish(self._workplace.topics.created, encode(event), headers)

    async def _wait_for(self, verdict: Again, error: BaseException) -> None:
        self._log.warning(
            "Will try again",
            attempt=self.attempt,
            seconds=round(verdict.seconds, 3),
            counted=verdict.counted,
            error=_sentence(error),
        )
        if verdict.counted:
            self.attempt += 1
        self.idle_until = asyncio.get_running_loop().time() + verdict.seconds
        await asyncio.sleep(verdict.seconds)
        self.idle_until = None

    async def _park(self, verdict: Park, error: BaseException, started_at: datetime) -> None:
        """To the dead letters, and the file to failed; both acknowledged, however long the broker takes."""
        failures = 0
        file_id = file_id_in(self.record.value)
        self._log.error("Parked in the dead letters", file=file_id, reason=verdict.reason, attempts=self.attempt)
        while True:
            try:
                await self._workplace.awake()
                await self._workplace.publish(
                    self._workplace.topics.dead_letters, self.record.value, self._dead_letter_headers(verdict, error)
                )
                if file_id is not None:
                    await self._announce(self._failed(file_id, verdict, started_at))
            except retry.Unavailable as away:
                failures += 1
                await asyncio.sleep(retry.backoff_seconds(self._workplace.policy, failures, self._workplace.jitter))
                self._log.warning("Will try to park it again", error=_sentence(away))
            else:
                return

    def _failed(self, file_id: int, verdict: Park, started_at: datetime) -> FileCreated:
        return FileCreated(
            file_id=file_id,
            status="failed",
            timestamp=to_milliseconds(datetime.now(UTC)),
            run=self._run,
            worker_id=self._workplace.worker_id,
            partition=self.record.partition,
            offset=self.record.offset,
            attempt=self.attempt,
            started_at=to_milliseconds(started_at),
            error=verdict.reason,
        )

    def _dead_letter_headers(self, verdict: Park, error: BaseException) -> Headers:
        trace = "".join(traceback.format_exception(error))[-TRACE_MAX_CHARACTERS:]
        facts = {
            "filemill-reason": verdict.reason,
            "filemill-topic": self.record.topic,
            "filemill-partition": self.record.partition,
            "filemill-offset": self.record.offset,
            "filemill-attempts": self.attempt,
            "filemill-worker": self._workplace.worker_id,
            "filemill-failed-at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "filemill-trace": trace,
        }
        return [*self.record.headers, *((name, str(value).encode(errors="replace")) for name, value in facts.items())]


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
