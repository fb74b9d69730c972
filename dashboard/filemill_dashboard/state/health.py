"""Health checks of the three servers: reachable and set up, and what to do if not."""

import enum
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, wait
from typing import Literal

import msgspec

from filemill.adapters.kafka.admin import all_topics
from filemill.adapters.postgres.connection import check_writable
from filemill.adapters.postgres.migrate import current_revision, head_revision
from filemill.adapters.s3.admin import bucket_exists
from filemill.config.settings import Settings
from filemill.domain.origins import redact_passwords
from filemill.errors import Unavailable
from filemill.runtime.stack_state import read_state, running_stack
from filemill_dashboard.state.services import Services

ServerName = Literal["postgres", "kafka", "s3"]
LABELS: dict[ServerName, str] = {"postgres": "PostgreSQL", "kafka": "Kafka", "s3": "S3"}


class HealthCode(enum.StrEnum):
    """What is wrong with a server."""

    UNREACHABLE = "unreachable"
    SCHEMA_MISSING = "schema-missing"
    SCHEMA_MISMATCH = "schema-mismatch"
    TOPICS_MISSING = "topics-missing"
    BUCKET_MISSING = "bucket-missing"


class ServerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The health of one server. `code` says what is wrong, for programs; None if it is ok.

    `problem`, `consequence` and `advice` are sentences, None if there is nothing to say. `summary` follows the server's
    name in a headline, for example "is unreachable".
    """

    server: ServerName
    address: str
    ok: bool
    code: HealthCode | None = None
    problem: str | None = None
    summary: str | None = None
    consequence: str | None = None
    advice: str | None = None
    took_ms: float | None = None


class _NotSetUp(Exception):
    """A server that is reachable but not set up."""

    def __init__(self, code: HealthCode, problem: str, advice: str) -> None:
        super().__init__(problem)
        self.code = code
        self.advice = advice


def _check_postgres(services: Services) -> None:
    with services.connect() as connection:
        found, needed = current_revision(connection), head_revision()
        if found == needed:
            check_writable(connection)
    if found is None:
        raise _NotSetUp(HealthCode.SCHEMA_MISSING, "has no filemill schema yet", "Run `filemill migrate`.")
    if found != needed:
        problem = f"has schema revision {found}; this version needs {needed}"
        raise _NotSetUp(HealthCode.SCHEMA_MISMATCH, problem, "Run `filemill migrate`.")


def _check_kafka(services: Services) -> None:
    existing = services.kafka_for_health_checks.topic_partitions()
    missing = [name for name in all_topics(services.settings) if name not in existing]
    if missing:
        problem = f"is missing the topics {', '.join(missing)}"
        raise _NotSetUp(HealthCode.TOPICS_MISSING, problem, "Run `filemill topics create`.")


def _check_s3(services: Services) -> None:
    settings = services.settings
    if not bucket_exists(settings, services.s3_for_health_checks):
        advice = (
            f"Create the bucket {settings.s3_bucket} with the tools of your S3 service. `filemill up` creates it, too."
        )
        raise _NotSetUp(HealthCode.BUCKET_MISSING, f"has no bucket {settings.s3_bucket}", advice)


_CHECKS: dict[ServerName, Callable[[Services], None]] = {
    "postgres": _check_postgres,
    "kafka": _check_kafka,
    "s3": _check_s3,
}
CONSEQUENCES: dict[ServerName, str] = {
    "postgres": "No requests can be accepted until it is reachable again.",
    "kafka": "Requests are still accepted. They wait in the outbox until it is reachable again.",
    "s3": "Requests are still accepted, but files cannot be written or downloaded until it is reachable again.",
}


def address_of(services: Services, server: ServerName) -> str:
    """The configured address of a server, without passwords."""
    settings = services.settings
    addresses: dict[ServerName, str] = {
        "postgres": settings.database_url,
        "kafka": settings.kafka_broker,
        "s3": f"{settings.s3_endpoint}/{settings.s3_bucket}",
    }
    return redact_passwords(addresses[server])


def check(services: Services, server: ServerName) -> ServerHealth:
    """Check one server. Does not raise if it is unreachable."""
    address = address_of(services, server)
    started = time.monotonic()
    try:
        _CHECKS[server](services)
    except _NotSetUp as error:
        return ServerHealth(
            server=server, address=address, ok=False, code=error.code, problem=str(error), advice=error.advice
        )
    except Unavailable as error:
        return _unavailable(services, server, error)
    took = round((time.monotonic() - started) * 1000, 1)
    return ServerHealth(server=server, address=address, ok=True, took_ms=took)


def check_all(services: Services, executor: Executor, timeout_seconds: float) -> list[ServerHealth]:
    """Check all servers at once. One that does not answer within the timeout counts as unreachable."""
    checks = {server: executor.submit(check, services, server) for server in _CHECKS}
    wait(checks.values(), timeout=timeout_seconds)
    timed_out = f"no answer within {timeout_seconds:g} s"
    return [
        future.result() if future.done() else _unavailable(services, server, Unavailable(timed_out))
        for server, future in checks.items()
    ]


def failing(health: Sequence[ServerHealth]) -> list[ServerHealth]:
    """The servers that are not healthy."""
    return [server for server in health if not server.ok]


def _unavailable(services: Services, server: ServerName, error: Unavailable) -> ServerHealth:
    """The health of an unreachable server. Without advice in the error, it depends on who started the server."""
    setting = {"postgres": "FILEMILL_DATABASE_HOST", "kafka": "FILEMILL_KAFKA_BROKER", "s3": "FILEMILL_S3_ENDPOINT"}
    log = _embedded_log(services.settings, server)
    remedy = f"Start it, or check {setting[server]}."
    if log is not None:
        # A fault keeps a server down on purpose, which the page says instead.
        restarts = "The stack restarts it if it has ended" if running_stack(services.settings.home) else None
        remedy = f"{restarts}; its log is {log}." if restarts else f"Its log is {log}; `filemill up` starts the stack."
    return ServerHealth(
        server=server,
        address=address_of(services, server),
        ok=False,
        code=HealthCode.UNREACHABLE,
        problem=redact_passwords(error.problem),
        summary=error.summary,
        consequence=CONSEQUENCES[server],
        advice=f"{error.advice}." if error.advice else remedy,
    )


def _embedded_log(settings: Settings, server: ServerName) -> str | None:
    """The log of a server that `filemill up` started; None if the settings name another server."""
    stack = read_state(settings.home)
    fields = {"postgres": "database_port", "kafka": "kafka_broker", "s3": "s3_endpoint"}
    field = fields[server]
    if stack is None or str(stack.settings.get(field)) != str(getattr(settings, field)):
        return None
    return next((state.log for state in stack.servers if state.name == server), None)
