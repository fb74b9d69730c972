"""The topics that a name has had: which of them something stored is about."""

from collections.abc import Mapping

import sqlalchemy as sa
import structlog

from filemill.adapters.tables import TopicGeneration
from filemill.ports import TopicIdentity

log = structlog.get_logger("topics")

# One at a time: two that number a new topic at once would both take the next number.
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


def register(connection: sa.Connection, topics: Mapping[str, TopicIdentity]) -> dict[str, int]:
    """The generation of each topic, in the caller's transaction; a topic that is new gets the next number."""
    connection.execute(_LOCK)
    return {topic: _generation(connection, topic, topics[topic]) for topic in sorted(topics)}


def _generation(connection: sa.Connection, topic: str, identity: TopicIdentity) -> int:
    asked = {"topic": topic, "topic_id": identity.topic_id, "cluster_id": identity.cluster_id}
    known = connection.execute(_KNOWN, asked).scalar_one_or_none()
    if known is not None:
        return int(known)
    number = int(connection.execute(_ADD, asked).scalar_one())
    if number > 1:
        log.warning("The topic is another one than before: it begins again", generation=number, **asked)
    return number


def generations(connection: sa.Connection, topics: Mapping[str, TopicIdentity]) -> dict[str, int]:
    """The same without writing: 1 for a name of which no topic is known yet, 0 for a topic that nobody has seen."""
    rows = connection.execute(sa.select(TopicGeneration.__table__).where(TopicGeneration.topic.in_(topics))).all()
    known = {(row.topic, row.topic_id, row.cluster_id): row.generation for row in rows}
    names = {row.topic for row in rows}
    return {
        topic: known.get((topic, one.topic_id, one.cluster_id), 0 if topic in names else 1)
        for topic, one in topics.items()
    }


def topic_ids(connection: sa.Connection, topic: str) -> list[str]:
    """The ids of the topics that a name has had, in the order of their generations."""
    found = sa.select(TopicGeneration.topic_id).where(TopicGeneration.topic == topic)
    return list(connection.execute(found.order_by(TopicGeneration.generation)).scalars())


def recreated_at(connection: sa.Connection, topic: str) -> list[float]:
    """When the topics that had a name after the first were first seen, in seconds since the epoch, ascending."""
    moments = sa.select(sa.extract("epoch", TopicGeneration.first_seen_at)).where(
        TopicGeneration.topic == topic, TopicGeneration.generation > 1
    )
    return [float(at) for at in connection.execute(moments.order_by(TopicGeneration.generation)).scalars()]
