"""The stages of the pipeline, each alone, wired as in production."""

import threading
import time
from collections.abc import Generator

from benchmarks import requests
from filemill.adapters.memory.object_store import MemoryObjectStore
from filemill.adapters.postgres.outbox import insert_many as submit_batch
from filemill.adapters.postgres.outbox import insert_request
from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from filemill.entrypoints.processor import Processor

# The interval of submissions under steady load.
TICK_SECONDS = 0.02

Work = Generator[None, None, dict[str, int] | None]


def submit_one(settings: Settings, files: int) -> Work:
    """One request per transaction, sequentially."""
    engine = bootstrap.create_engine(settings, "submit")
    asked = requests.files(files)
    engine.connect().close()
    yield
    for file in asked:
        with engine.begin() as connection:
            insert_request(connection, file)
    return None


def submit_many(settings: Settings, files: int) -> Work:
    """One batch per transaction."""
    engine = bootstrap.create_engine(settings, "submit")
    batches = list(requests.batched(requests.files(files)))
    engine.connect().close()
    yield
    for batch in batches:
        with engine.begin() as connection:
            submit_batch(connection, batch)
    return None


def submit_steadily(settings: Settings, files: int, rate: float) -> Work:
    """Submit at `rate` per second, by the clock."""
    engine = bootstrap.create_engine(settings, "submit")
    asked = requests.files(files)
    engine.connect().close()
    yield
    began, sent = time.perf_counter(), 0
    while sent < files:
        due = min(files, int((time.perf_counter() - began) * rate))
        if due > sent:
            with engine.begin() as connection:
                submit_batch(connection, asked[sent:due])
            sent = due
        time.sleep(TICK_SECONDS)
    return None


def relay(settings: Settings, _files: int) -> Work:
    """The relay, until the process is killed."""
    engine = bootstrap.create_engine(settings, "relay")
    worker = bootstrap.relay(settings, engine)
    engine.connect().close()
    yield
    worker.run(threading.Event())
    return None


def sync(settings: Settings, _files: int) -> Work:
    """The status sync, until the process is killed."""
    engine = bootstrap.create_engine(settings, "sync")
    worker = bootstrap.sync(settings, engine)
    engine.connect().close()
    yield
    worker.run(threading.Event())
    return None


def processor(settings: Settings, _files: int) -> None:
    """A processor on the real S3."""
    Processor(settings).run()


def processor_on_a_stub(settings: Settings, _files: int) -> None:
    """A processor with an object store in memory."""
    Processor(settings, store=MemoryObjectStore()).run()


def verify(settings: Settings, _files: int) -> Work:
    """All checks of `filemill verify`."""
    engine = bootstrap.create_engine(settings, "verify")
    yield
    report = bootstrap.verify(settings, engine)
    findings = sum(finding.count for finding in report.findings.values())
    return {"completed": report.completed, "objects": report.objects, "findings": findings}
