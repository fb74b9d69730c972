"""Arms and points with handlers: their cost, jobs beside one that never ends, and the memory for a large result."""

import json
import time
from collections.abc import Callable

import msgspec

from benchmarks import proofs, requests
from benchmarks.arm import ARMS, Arm
from benchmarks.limits import run_task
from benchmarks.meter import Measured
from benchmarks.pipeline import UNFINISHED, run_pipeline, start_workers
from benchmarks.proofs import require
from benchmarks.servers import WORK_SECONDS, IsolatedPipeline, wait_until
from benchmarks.work.handlers import HANG_SECONDS, MEBIBYTE, trivial_content
from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.s3.admin import s3_client
from filemill.domain.files import NewFile
from filemill.domain.queues import JOBS_QUEUE

SETTINGS = {"handlers": "benchmarks.work.handlers"}
STREAM = "result of 5 GiB"
HANGS = "beside a handler that hangs in C"
LOOPS = "beside a handler that loops"
P95_CHANGE, RSS_MB = "p95, beside ÷ alone", "processor rss, MB"

# Jobs alone and jobs beside the handler take turns, so that changes of the machine affect both.
TURNS = 4
EVERY_SECONDS = 0.1
# More than the neighbours and the handler that never ends occupy at a time.
PROCESSES = 4

_P95 = """
    SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY 1000000 * extract(epoch FROM finished_at - created_at))
    FROM files WHERE handler = 'pause' AND title LIKE :title || ' %'
"""
_LATEST_END = """
    SELECT coalesce(max(1000000 * extract(epoch FROM finished_at - started_at)), 0) FROM files WHERE handler = :handler
"""


def handler_end_to_end(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts as `end to end` does, with a trivial plain function that runs in the pool of processes.

    Leaves out starting the processes of the pool up to the first job of each: they start with the first jobs.
    """
    measured = run_pipeline(pipeline, files, task="submit-jobs", queue=JOBS_QUEUE)
    require(pipeline.scalar("SELECT count(*) FROM outbox"), 0, "rows left in the outbox")
    proofs.check_completed(pipeline, files, make=trivial_content)
    return measured


def pool_alone(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts attempts of a trivial plain function, one after the other in one process of the pool, to the last result.

    `pool, µs per job` is the time of one: request, call and result over the pipes, and the checks after it. Leaves out
    Kafka, S3 and the start of the process.
    """
    measured, found = run_task(pipeline, "handler-pool", files)
    wanted = sum(len(trivial_content(file.title, file.description)) for file in requests.files(files))
    require(found["written"], wanted, "bytes of the results")
    return msgspec.structs.replace(measured, figures={"pool, µs per job": 1e6 * measured.seconds / files})


def beside(handler: str) -> Callable[[IsolatedPipeline, int], Measured]:
    """Short jobs beside this handler, which never ends and is killed at its deadline."""

    def run(pipeline: IsolatedPipeline, files: int) -> Measured:
        count = -(-files // TURNS)
        with pipeline.processes() as processes:
            start_workers(pipeline, processes, 1, JOBS_QUEUE)
            _submit(pipeline, "pause", [f"Warm {number}" for number in range(4 * PROCESSES)])
            _wait_for_ends(pipeline)
            with pipeline.meter(processes) as meter:
                for turn in range(TURNS):
                    name = ("Alone", "Beside")[turn % 2]
                    if name == "Beside":
                        lasts = -(-count * EVERY_SECONDS // HANG_SECONDS)
                        _submit(pipeline, handler, [f"Hang {number}" for number in range(round(lasts))])
                    due = time.monotonic()
                    for number in range(count):
                        _submit(pipeline, "pause", [f"{name} {turn} {number}"])
                        due += EVERY_SECONDS
                        time.sleep(max(0.0, due - time.monotonic()))
                    _wait_for_ends(pipeline)
            measured = meter.measured(count * TURNS)
        done = "SELECT count(*) FROM files WHERE handler = 'pause' AND status = 'completed' AND title NOT LIKE 'Warm %'"
        require(pipeline.scalar(done), count * TURNS, "completed neighbours")
        killed = "SELECT count(*) FROM files WHERE handler = :handler AND status = 'failed'"
        hung = "SELECT count(*) FROM files WHERE handler = :handler"
        require(pipeline.scalar(killed, handler=handler), pipeline.scalar(hung, handler=handler), "killed attempts")
        alone, with_it = (pipeline.scalar(_P95, title=name) / 1000 for name in ("Alone", "Beside"))
        end = pipeline.scalar(_LATEST_END, handler=handler) / 1000 - 1000 * HANG_SECONDS
        figures = {"p95 alone, ms": alone, "p95 beside, ms": with_it, P95_CHANGE: with_it / alone}
        return msgspec.structs.replace(measured, figures={**figures, "latest end after the deadline, ms": end})

    run.__doc__ = f"""Counts jobs of 50 ms, ten per second, alone and beside `{handler}`, in turns.

    One attempt of `{handler}` runs at any time of its turns and is killed after {HANG_SECONDS:g} s. The 95th
    percentiles are of the time from acceptance to the end in the worker. Leaves out HTTP."""
    return run


def large_result(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts MiB of one result that a handler yields, from its submission to the completed row.

    `processor rss, MB` is the greatest resident memory of the processor, in millions of bytes, without its children.
    """
    with pipeline.processes() as processes:
        start_workers(pipeline, processes, 1, JOBS_QUEUE)
        with pipeline.meter(processes) as meter:
            _submit(pipeline, "stream", ["A large file"], json.dumps({"mebibytes": files}))
            _wait_for_ends(pipeline)
        measured = meter.measured(files)
    size = "SELECT sum(size) FROM files WHERE status = 'completed'"
    require(pipeline.scalar(size), files * MEBIBYTE, "bytes of the completed file")
    objects = s3_client(pipeline.settings).list_objects_v2(Bucket=pipeline.settings.s3_bucket).get("Contents", [])
    require([one["Size"] for one in objects], [files * MEBIBYTE], "the object in the bucket")
    # The processor is the largest process of the arm: relay and sync hold nothing of a file.
    return msgspec.structs.replace(measured, figures={RSS_MB: measured.rss_bytes / 1e6})


def points() -> list[Arm]:
    """The points of `growth` with handlers."""
    return [
        Arm(HANGS, "growth", 800, beside("hang-in-c"), {**SETTINGS, "processes": PROCESSES}),
        Arm(LOOPS, "growth", 800, beside("loop"), {**SETTINGS, "processes": PROCESSES}),
        Arm(STREAM, "growth", 5120, large_result, SETTINGS),
    ]


def _submit(pipeline: IsolatedPipeline, handler: str, titles: list[str], parameters: str | None = None) -> None:
    files = [NewFile(title, handler=handler, parameters=parameters, queue=JOBS_QUEUE) for title in titles]
    with pipeline.engine.begin() as connection:
        insert_many(connection, files)


def _wait_for_ends(pipeline: IsolatedPipeline) -> None:
    wait_until(lambda: pipeline.scalar(UNFINISHED) == 0, "all files have ended", seconds=WORK_SECONDS)


for _arm in (
    Arm("handler pool", "stage", 5_000, pool_alone, {**SETTINGS, "processes": 1}),
    Arm("end to end, handler", "end to end", 3_000, handler_end_to_end, SETTINGS),
):
    # The settings are those of its pipeline, so it is registered without the decorator.
    ARMS[_arm.name] = _arm
