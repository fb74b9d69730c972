"""Tasks with handlers: their submission, and the pool of processes alone."""

import asyncio
from collections.abc import Generator

import msgspec

from benchmarks import requests
from filemill.adapters.postgres.outbox import insert_many
from filemill.config.settings import Settings
from filemill.domain.queues import JOBS_QUEUE
from filemill.entrypoints import bootstrap
from filemill.entrypoints.processor import handler_pool, handler_sources
from filemill.handlers.job import JobRequest
from filemill.handlers.pool import AttemptHooks, ChildPool
from filemill.handlers.registry import load_handlers

Work = Generator[None, None, dict[str, int] | None]


def submit_jobs(settings: Settings, files: int) -> Work:
    """Requests of the handler `trivial`, one batch per transaction."""
    engine = bootstrap.create_engine(settings, "submit")
    asked = [msgspec.structs.replace(file, handler="trivial", queue=JOBS_QUEUE) for file in requests.files(files)]
    batches = list(requests.batched(asked))
    engine.connect().close()
    yield
    for batch in batches:
        with engine.begin() as connection:
            insert_many(connection, batch)
    return None


def pool(settings: Settings, files: int) -> Work:
    """Jobs of the handler `trivial`, one after the other, in one process of a pool."""
    handler = load_handlers(handler_sources(settings)).get("trivial")
    assert handler is not None
    written = 0

    async def write(data: bytes) -> None:
        nonlocal written
        written += len(data)

    hooks = AttemptHooks(write=write)
    jobs = [
        JobRequest(
            handler=handler.name,
            parameters=b"{}",
            id=message.file_id,
            title=message.title,
            description=message.description,
            requested_at=message.timestamp,
        )
        for message in requests.creates(files)
    ]
    with asyncio.Runner() as runner:

        async def start() -> ChildPool:
            children = handler_pool(settings)
            await children.run(handler, jobs[0], hooks)
            return children

        async def work() -> None:
            for job in jobs:
                await children.run(handler, job, hooks)

        children = runner.run(start())
        written = 0
        yield
        runner.run(work())
        runner.run(children.close())
    return {"written": written}
