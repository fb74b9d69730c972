"""One piece of work in a process of its own.

A task is a generator function: up to its `yield` it gets everything in hand and connects, then it prints `ready` and
waits for a word on its standard input; what follows is what is measured; then it prints `done` with what it returned. A
service is a plain function, and works until it is killed. Either ends with the process that started it, whose death
closes the input.
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

# Task: module and function. Modules are imported when they are asked for: a peer does not carry our code's weight.
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
    "pages": "viewers:pages",
    "pollers": "viewers:pollers",
}

ORPHANED = 3


def say(event: str, **details: object) -> None:
    """A line for who started this process."""
    print(json.dumps({"event": event, **details}), flush=True)


def main() -> None:
    """Run the task that the arguments name, for so many files, and at such a rate where it has one."""
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
        sys.stdin.readline()  # measured to the end: the process stays until nobody looks at it any more


def _end_with_the_parent() -> None:
    while sys.stdin.readline():
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    main()
