"""Whether the three servers are there and set up, and what to do where one is not."""

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
from filemill.runtime.stack_state import read_state
from filemill_dashboard.state.services import Services

ServerName = Literal["postgres", "kafka", "s3"]
LABELS: dict[ServerName, str] = {"postgres": "PostgreSQL", "kafka": "Kafka", "s3": "S3"}


class ServerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One server. `problem`, `consequence` and `advice` are sentences for people, None where there is none.

    `summary` follows the server's name in a headline.
    """

    server: ServerName
    address: str
    ok: bool
    problem: str | None = None
    summary: str | None = None
    consequence: str | None = None
    advice: str | None = None
    took_ms: float | None = None


class _Trouble(Exception):
    """A server that answers, but is not set up."""

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(problem)
        self.advice = advice


def _check_postgres(services: Services) -> None:
    with services.reading() as connection:
        found, needed = current_revision(connection), head_revision()
        if found == needed:
            check_writable(connection)
    if found is None:
        raise _Trouble("has no filemill schema yet", "Run `filemill migrate`.")
    if found != needed:
        raise _Trouble(f"has schema revision {found}, this version needs {needed}", "Run `filemill migrate`.")


def _check_kafka(services: Services) -> None:
    existing = services.kafka.topic_partitions()
    missing = [name for name in all_topics(services.settings) if name not in existing]
    if missing:
        raise _Trouble(f"lacks the topics {', '.join(missing)}", "Run `filemill topics create`.")


def _check_s3(services: Services) -> None:
    settings = services.settings
    if not bucket_exists(settings, services.quick_objects):
        advice = f"Create the bucket {settings.s3_bucket}: `filemill up` does, or your S3 service's own tool."
        raise _Trouble(f"has no bucket {settings.s3_bucket}", advice)


_CHECKS: dict[ServerName, Callable[[Services], None]] = {
    "postgres": _check_postgres,
    "kafka": _check_kafka,
    "s3": _check_s3,
}
_CONSEQUENCES: dict[ServerName, str] = {
    "postgres": "Nothing can be accepted until it is back.",
    "kafka": "Requests are still accepted: they wait in the outbox and go out when it is back.",
    "s3": "Requests are still accepted, but no file can be written or downloaded until it is back.",
}


def address_of(services: Services, server: ServerName) -> str:
    """Where a server is looked for; no secrets in it."""
    settings = services.settings
    addresses: dict[ServerName, str] = {
        "postgres": settings.database_url,
        "kafka": settings.kafka_broker,
        "s3": f"{settings.s3_endpoint}/{settings.s3_bucket}",
    }
    return redact_passwords(addresses[server])


def check(services: Services, server: ServerName) -> ServerHealth:
    """Ask one server. Never raises for a server that is away."""
    address = address_of(services, server)
    started = time.monotonic()
    try:
        _CHECKS[server](services)
    except _Trouble as trouble:
        return ServerHealth(server=server, address=address, ok=False, problem=str(trouble), advice=trouble.advice)
    except Unavailable as error:
        return _unavailable(services, server, error)
    took = round((time.monotonic() - started) * 1000, 1)
    return ServerHealth(server=server, address=address, ok=True, took_ms=took)


def check_all(services: Services, executor: Executor, timeout_seconds: float) -> list[ServerHealth]:
    """Ask all servers at once; one that has not answered in time counts as away."""
    asked = {server: executor.submit(check, services, server) for server in _CHECKS}
    wait(asked.values(), timeout=timeout_seconds)
    late = f"no answer within {timeout_seconds:g} s"
    return [
        answer.result() if answer.done() else _unavailable(services, server, Unavailable(late))
        for server, answer in asked.items()
    ]


def failing(health: Sequence[ServerHealth]) -> list[ServerHealth]:
    """Those that are not well."""
    return [server for server in health if not server.ok]


def _unavailable(services: Services, server: ServerName, error: Unavailable) -> ServerHealth:
    """Where nobody knows better, what to do about a server depends on who started it."""
    setting = {"postgres": "FILEMILL_DATABASE_HOST", "kafka": "FILEMILL_KAFKA_BROKER", "s3": "FILEMILL_S3_ENDPOINT"}
    log = _embedded_log(services.settings, server)
    remedy = f"Its log is {log}; `filemill up` starts it anew." if log else f"Start it, or check {setting[server]}."
    return ServerHealth(
        server=server,
        address=address_of(services, server),
        ok=False,
        problem=redact_passwords(error.problem),
        summary=error.summary,
        consequence=_CONSEQUENCES[server],
        advice=f"{error.advice}." if error.advice else remedy,
    )


def _embedded_log(settings: Settings, server: ServerName) -> str | None:
    """The log of a server that `filemill up` started; None where the settings name another's."""
    stack = read_state(settings.home)
    fields = {"postgres": "database_port", "kafka": "kafka_broker", "s3": "s3_endpoint"}
    field = fields[server]
    if stack is None or str(stack.settings.get(field)) != str(getattr(settings, field)):
        return None
    return next((state.log for state in stack.servers if state.name == server), None)
