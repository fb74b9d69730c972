"""Adding partitions: refusals have codes, and the audit has each change, also one that the broker refused."""

import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from filemill.adapters.kafka.admin import AdminConflict
from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from filemill.errors import Conflict, Unavailable
from filemill.queries.audit import AuditFilter, audit_page
from filemill.services.partitions import CannotAddPartitions, PartitionsRefusal, add_partitions
from tests.principals import TEST


def details(engine: sa.Engine) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [one.detail for one in audit_page(connection, AuditFilter(action="topic.partitions"))][::-1]


def test_added_partitions_are_in_the_audit(settings: Settings, engine: sa.Engine) -> None:
    admin, topic = bootstrap.kafka_admin(settings), settings.topic_create
    before = admin.topic_partitions()[topic]
    add_partitions(engine, admin, topic, before + 2, TEST)
    assert admin.topic_partitions()[topic] == before + 2
    assert details(engine) == [{"topic": topic, "before": before, "count": before + 2}]


@pytest.mark.parametrize(("total", "code"), [(3, PartitionsRefusal.NOT_MORE), (1, PartitionsRefusal.NOT_MORE)])
def test_a_number_that_is_not_greater_is_refused(
    total: int, code: PartitionsRefusal, settings: Settings, engine: sa.Engine
) -> None:
    with pytest.raises(CannotAddPartitions) as refused:
        add_partitions(engine, bootstrap.kafka_admin(settings), settings.topic_create, total, TEST)
    assert refused.value.code is code
    assert details(engine) == []


def test_an_unknown_topic_is_refused(settings: Settings, engine: sa.Engine) -> None:
    with pytest.raises(CannotAddPartitions) as refused:
        add_partitions(engine, bootstrap.kafka_admin(settings), f"unknown-{uuid.uuid4().hex[:8]}", 4, TEST)
    assert refused.value.code is PartitionsRefusal.UNKNOWN_TOPIC
    assert details(engine) == []


@pytest.mark.parametrize(
    "error", [Conflict("not now", AdminConflict.NOT_MORE_PARTITIONS), Unavailable("the controller is unreachable")]
)
def test_a_refusal_by_the_broker_is_in_the_audit(
    error: Exception, settings: Settings, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise error

    admin = bootstrap.kafka_admin(settings)
    monkeypatch.setattr(admin, "add_partitions", refuse)
    with pytest.raises((CannotAddPartitions, Unavailable)):
        add_partitions(engine, admin, settings.topic_create, 9, TEST)
    (detail,) = details(engine)
    assert detail["refused"] == str(error)
