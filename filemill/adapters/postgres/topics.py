"""Generations of topics: a name may have had several topics, and each stored row belongs to one of them."""

from collections.abc import Mapping

import sqlalchemy as sa
import structlog

from filemill.adapters.postgres.tables import TopicGeneration
from filemill.domain.records import TopicIdentity

log = structlog.get_logger("topics")

# One transaction at a time: two that register a new topic at once would take the same generation.
_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtext('topic_generations'))")
_KNOWN = sa.text("""
    UPDATE topic_generations SET seen_at = clock_timestamp()
    WHERE topic = :topic AND topic_id = :topic_id AND cluster_id = :cluster_id RETURNING generation
""")
_ADD = sa.text("""
    INSERT INTO topic_generations (topic, generation, topic_id, cluster_id, seen_at)
    SELECT :topic, coalesce(max(generation), 0) + 1, :topic_id, :cluster_id, clock_timestamp()
    FROM topic_generations WHERE topic = :topic RETURNING generation
""")


def register_topics(connection: sa.Connection, topics: Mapping[str, TopicIdentity]) -> dict[str, int]:
    """The generation of each topic, in the caller's transaction; a new topic gets the next one."""
    connection.execute(_LOCK)
    return {topic: _generation(connection, topic, topics[topic]) for topic in sorted(topics)}


def _generation(connection: sa.Connection, topic: str, identity: TopicIdentity) -> int:
    asked = {"topic": topic, "topic_id": identity.topic_id, "cluster_id": identity.cluster_id}
    known = connection.execute(_KNOWN, asked).scalar_one_or_none()
    if known is not None:
        return int(known)
    number = int(connection.execute(_ADD, asked).scalar_one())
    if number > 1:
        log.warning("A topic was recreated: reading from its beginning", generation=number, **asked)
    return number


def known_generations(connection: sa.Connection, topics: Mapping[str, TopicIdentity]) -> dict[str, int]:
    """The stored generation of each topic: 1 for a name without stored topics, 0 for a topic not stored yet."""
    rows = connection.execute(sa.select(TopicGeneration.__table__).where(TopicGeneration.topic.in_(topics))).all()
    known = {(row.topic, row.topic_id, row.cluster_id): row.generation for row in rows}
    names = {row.topic for row in rows}
    return {
        topic: known.get((topic, one.topic_id, one.cluster_id), 0 if topic in names else 1)
        for topic, one in topics.items()
    }


def topic_ids(connection: sa.Connection, topic: str) -> list[str]:
    """The ids of all topics that had a name, by generation."""
    found = sa.select(TopicGeneration.topic_id).where(TopicGeneration.topic == topic)
    return list(connection.execute(found.order_by(TopicGeneration.generation)).scalars())


def recreation_times(connection: sa.Connection, topic: str) -> list[float]:
    """When each topic of a name, except the first, was first seen, in seconds since the epoch, ascending."""
    moments = sa.select(sa.extract("epoch", TopicGeneration.first_seen_at)).where(
        TopicGeneration.topic == topic, TopicGeneration.generation > 1
    )
    return [float(at) for at in connection.execute(moments.order_by(TopicGeneration.generation)).scalars()]
