"""Adding partitions to a topic."""

import enum

import sqlalchemy as sa

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.domain.permissions import Permission, Principal
from filemill.errors import Conflict
from filemill.services.access import authorize
from filemill.services.audit import log_refusal, record, record_refusal

ADD_PARTITIONS = "topic.partitions"


class PartitionsRefusal(enum.StrEnum):
    """Why partitions cannot be added."""

    UNKNOWN_TOPIC = "unknown-topic"
    NOT_MORE = "not-more"
    BROKER_REFUSED = "broker-refused"


class CannotAddPartitions(ValueError):
    """The partitions were not added. The text says why; `code` does, for programs."""

    def __init__(self, reason: str, code: PartitionsRefusal) -> None:
        super().__init__(reason)
        self.code = code


def add_partitions(engine: sa.Engine, admin: KafkaAdmin, topic: str, total: int, principal: Principal) -> None:
    """Increase a topic's partitions to `total`. Kafka cannot remove any. Raises CannotAddPartitions, Unavailable.

    The audit record comes first. If the broker refuses, the record says so. Raises Forbidden.
    """
    authorize(engine, principal, Permission.ADD_PARTITIONS, topic=topic, count=total)
    existing = admin.topic_partitions().get(topic)
    if existing is None:
        _refuse(principal, topic, PartitionsRefusal.UNKNOWN_TOPIC, f"there is no topic {topic!r}")
    elif total <= existing:
        reason = f"{topic} has {existing} partitions already; Kafka can only add partitions"
        _refuse(principal, topic, PartitionsRefusal.NOT_MORE, reason)
    with engine.begin() as connection:
        detail = {"topic": topic, "before": existing, "count": total}
        operation = record(connection, principal, ADD_PARTITIONS, detail)
    try:
        admin.add_partitions(topic, total)
    except Exception as error:
        with engine.begin() as connection:
            record_refusal(connection, principal, ADD_PARTITIONS, operation, str(error))
        if isinstance(error, Conflict):
            raise CannotAddPartitions(str(error), PartitionsRefusal.BROKER_REFUSED) from None
        raise


def _refuse(principal: Principal, topic: str, code: PartitionsRefusal, reason: str) -> None:
    log_refusal(principal, ADD_PARTITIONS, reason, topic=topic)
    raise CannotAddPartitions(reason, code)
