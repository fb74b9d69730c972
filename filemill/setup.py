"""What the servers need before the pipeline can run: schema, topics, bucket. Each step may be repeated."""

import time
from collections.abc import Callable

import structlog

from filemill.adapters.kafka_admin import KafkaAdmin
from filemill.adapters.s3_admin import create_bucket
from filemill.migrate import migrate_schema
from filemill.retry import Unavailable
from filemill.settings import Settings

log = structlog.get_logger("setup")

PAUSE_SECONDS = 0.2


def prepare(settings: Settings, *, patience_seconds: float = 0) -> None:
    """Migrate, create topics and bucket. Raises retry.Unavailable after the patience."""
    deadline = time.monotonic() + patience_seconds
    _patiently(lambda: KafkaAdmin(settings).create_topics(), deadline)
    _patiently(lambda: create_bucket(settings), deadline)
    _patiently(lambda: migrate_schema(settings), deadline)


def _patiently(step: Callable[[], object], deadline: float) -> None:
    while True:
        try:
            step()
        except Unavailable as error:
            if time.monotonic() >= deadline:
                raise
            log.debug("Not ready yet", error=str(error))
            time.sleep(PAUSE_SECONDS)
        else:
            return
