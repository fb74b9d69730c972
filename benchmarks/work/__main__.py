"""Runs one task in a process of its own.

A task is a generator function. Up to its `yield` it prepares and connects; then this prints `ready` and waits for a
line on standard input. The rest of the task is measured; then this prints `done` with its return value. A service is a
plain function that runs until it is killed. Both end with the process that started them, which closes standard input.
"""

import importlib
import inspect
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from filemill.config import logging
from filemill.config.settings import load

# Task: module and function. Modules are imported on demand, so that a peer does not load the code of the pipeline.
TASKS = {
    "raw-produce": "limits:produce",
    "raw-consume": "limits:consume",
    "raw-put": "limits:put",
    "raw-get": "limits:get",
    "raw-insert-unnest": "limits:insert_unnest",
    "raw-insert-copy": "limits:insert_copy",
    "raw-update-unnest": "limits:update",
    "raw-update-json": "limits:update_json",
    "raw-claim": "limits:claim_and_delete",
    "submit-one": "stages:submit_one",
    "submit-many": "stages:submit_many",
    "submit-jobs": "jobs:submit_jobs",
    "handler-pool": "jobs:pool",
    "submit-steadily": "stages:submit_steadily",
    "relay": "stages:relay",
    "processor": "stages:processor",
    "processor-stub": "stages:processor_on_a_stub",
    "sync": "stages:sync",
    "verify": "stages:verify",
    "reference-api": "reference_peer:api",
    "reference-status": "reference_peer:status",
    "reference-service-boto3": "reference_peer:service_boto3",
    "reference-service-obstore": "reference_peer:service_obstore",
    "faststream-api": "faststream_peer:api",
    "faststream-status": "faststream_peer:status",
    "faststream-service-boto3": "faststream_peer:service_boto3",
    "faststream-service-obstore": "faststream_peer:service_obstore",
    "http-load": "http_load:post",
    "http-posts": "http_load:posts",
    "http-lists": "http_load:lists",
    "pages": "viewers:pages",
    "pollers": "viewers:pollers",
}

ORPHANED = 3


def say(event: str, **details: object) -> None:
    """Print an event for the parent process."""
    print(json.dumps({"event": event, **details}), flush=True)


def main() -> None:
    """Run the task of the arguments, for a number of files, and at a rate if it has one."""
    name, files = sys.argv[1], int(sys.argv[2])
    module, _, function = TASKS[name].partition(":")
    task: Callable[..., Any] = getattr(importlib.import_module(f"benchmarks.work.{module}"), function)
    settings = load()
    logging.configure(settings, name)
    if inspect.isgeneratorfunction(task):
        _work(task(settings, files, *map(float, sys.argv[3:])))
    else:
        threading.Thread(target=_end_with_the_parent, daemon=True).start()
        task(settings, files)


def _work(task: Any) -> None:  # noqa: ANN401 - a generator of the task's own kind
    next(task)
    say("ready")
    if not sys.stdin.readline():
        return
    try:
        next(task)
    except StopIteration as end:
        say("done", **(end.value or {}))
        sys.stdin.readline()  # stay until the parent has measured this process


def _end_with_the_parent() -> None:
    while sys.stdin.readline():
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    main()
