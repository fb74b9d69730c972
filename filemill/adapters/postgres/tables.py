"""The schema, as SQLAlchemy models. infra/migrations builds it; a test holds the two together."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Identity,
    Index,
    Integer,
    SmallInteger,
    String,
    Text,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from filemill.domain.files import TITLE_MAX_CHARACTERS, Status

Moment = TIMESTAMP(timezone=True)


class Base(DeclarativeBase):
    """The base of all tables."""

    type_annotation_map = {str: Text, int: BigInteger, datetime: Moment}  # noqa: RUF012 - SQLAlchemy's own form


class File(Base):
    """A file request and what became of it. The seed's seven columns come first."""

    __tablename__ = "files"
    __table_args__ = (
        CheckConstraint("status IN ({})".format(", ".join(f"'{status}'" for status in Status)), name="files_status"),
        Index("files_by_status", "status", "id"),
        # For any part of a title; missing where the database has no pg_trgm.
        Index(
            "files_by_title",
            func.coalesce(literal_column("title_search"), literal_column("title")).label("searched"),
            postgresql_using="gin",
            postgresql_ops={"searched": "gin_trgm_ops"},
        ),
        Index("files_by_end", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        # What a foreign service completed, until its hash is known.
        Index("files_without_hash", "id", postgresql_where=text("status = 'completed' AND sha256 IS NULL")),
        # Which file has the key that a foreign service chose, as a server that cleans paths knows it.
        Index(
            "files_by_foreign_key",
            text(r"md5(btrim(regexp_replace(replace(s3_location, '\', '/'), '/+', '/', 'g'), '/'))"),
            postgresql_where=text("s3_location !~ '^file-[0-9]+-'"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    title: Mapped[str] = mapped_column(String(TITLE_MAX_CHARACTERS))
    description: Mapped[str] = mapped_column(server_default="")
    status: Mapped[str] = mapped_column(server_default="pending")
    s3_location: Mapped[str | None]
    # The moment of the request, in whole milliseconds: the object's key and content are made of it.
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True, precision=3))
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())

    run: Mapped[int] = mapped_column(Integer, server_default="1")
    worker_id: Mapped[str | None]
    kafka_partition: Mapped[int | None] = mapped_column(Integer)
    kafka_offset: Mapped[int | None]
    attempt: Mapped[int | None] = mapped_column(Integer)
    step: Mapped[int | None] = mapped_column(SmallInteger)
    steps: Mapped[int | None] = mapped_column(SmallInteger)
    progress_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    sha256: Mapped[str | None]
    size: Mapped[int | None]
    error: Mapped[str | None]
    # The title as files.search_text has it; null where the title itself serves, which is of ASCII.
    title_search: Mapped[str | None]


class StatusCount(Base):
    """How many files have a status: the sum of its deltas. Triggers on `files` append, the group monitor compacts.

    One row per status would be a lock that every transaction waits for; counting `files` takes a second per million.
    """

    __tablename__ = "status_counts"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    status: Mapped[str]
    delta: Mapped[int]


class OutboxRow(Base):
    """A request that is not on Kafka yet. `publish_number` and `partition` are given before it is produced."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    file_id: Mapped[int]
    run: Mapped[int] = mapped_column(Integer)
    traceparent: Mapped[str]
    accepted_at: Mapped[datetime] = mapped_column(server_default=func.now())
    publish_number: Mapped[int | None]
    partition: Mapped[int | None] = mapped_column(Integer)
    generation: Mapped[int | None] = mapped_column(Integer)


class TopicGeneration(Base):
    """The topics that a name has had, numbered from 1: what is stored about one carries the number.

    `seen_at`: when a process last found this one; the latest of a name is the present one.
    """

    __tablename__ = "topic_generations"
    __table_args__ = (Index("topic_generations_by_id", "topic", "topic_id", "cluster_id", unique=True),)

    topic: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    topic_id: Mapped[str]
    cluster_id: Mapped[str]
    first_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class AbandonedNumber(Base):
    """A publish number that was given up with its topic: its request was numbered anew."""

    __tablename__ = "abandoned_numbers"

    publish_number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    file_id: Mapped[int]
    run: Mapped[int] = mapped_column(Integer)
    partition: Mapped[int] = mapped_column(Integer)
    generation: Mapped[int] = mapped_column(Integer)
    abandoned_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Publication(Base):
    """Where a request stands on `file.create`."""

    __tablename__ = "publications"
    __table_args__ = (Index("publications_by_file", "file_id"),)

    publish_number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    file_id: Mapped[int]
    run: Mapped[int] = mapped_column(Integer)
    partition: Mapped[int] = mapped_column(Integer)
    offset: Mapped[int]
    published_at: Mapped[datetime] = mapped_column(server_default=func.now())
    generation: Mapped[int] = mapped_column(Integer, server_default="1")


class RequestLoss(Base):
    """How many unfinished requests have no record left that anybody will process, when last counted."""

    __tablename__ = "request_losses"

    group_id: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int]
    counted_at: Mapped[datetime]


class PublishCounter(Base):
    """The next publish number. Changed only with the rows that take the numbers, so it has no gaps."""

    __tablename__ = "publish_counter"
    __table_args__ = (CheckConstraint("id = 1", name="publish_counter_is_one_row"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    next_number: Mapped[int]


class IdempotencyKey(Base):
    """A key that came with requests, and the ids that they got; `requested_at` of a single one is its row's."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("idempotency_keys_by_time", "created_at"),)

    key_hash: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default="{}")
    requested_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LeaseRow(Base):
    """Who is the active one (`name`: relay, sync, monitor), by which fencing number, until when."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    fencing: Mapped[int]
    expires_at: Mapped[datetime]


class SyncPosition(Base):
    """The next offset that status sync reads: moved in the transaction that applies what came before it."""

    __tablename__ = "sync_positions"

    topic: Mapped[str] = mapped_column(primary_key=True)
    partition: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    next_offset: Mapped[int]
    generation: Mapped[int] = mapped_column(Integer, server_default="1")


class RejectedMessage(Base):
    """A record of `file.created` or `file.progress` that could not be read or names no file."""

    __tablename__ = "rejected_messages"
    __table_args__ = (
        Index("rejected_of_unknown_ids", "rejected_at", postgresql_where=text("reason LIKE 'no file has the id %'")),
    )

    topic: Mapped[str] = mapped_column(primary_key=True)
    partition: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, server_default="1")
    reason: Mapped[str]
    rejected_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LagSample(Base):
    """Where one partition stood at a moment. Unknown is null, never zero."""

    __tablename__ = "lag_samples"

    group_id: Mapped[str] = mapped_column(primary_key=True)
    sampled_at: Mapped[datetime] = mapped_column(primary_key=True)
    partition: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    begin_offset: Mapped[int | None]
    end_offset: Mapped[int | None]
    committed_offset: Mapped[int | None]
    lag: Mapped[int | None]
    generation: Mapped[int] = mapped_column(Integer, server_default="1")


class GroupSample(Base):
    """The consumer group at a moment. `members`: [{"memberId", "clientId", "host", "partitions": [0, 1]}]."""

    __tablename__ = "group_samples"

    group_id: Mapped[str] = mapped_column(primary_key=True)
    sampled_at: Mapped[datetime] = mapped_column(primary_key=True)
    state: Mapped[str]
    protocol: Mapped[str | None]
    members: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)


class OutboxSample(Base):
    """The outbox at a moment. `oldest_age_seconds` null: it was empty."""

    __tablename__ = "outbox_samples"

    sampled_at: Mapped[datetime] = mapped_column(primary_key=True)
    depth: Mapped[int]
    oldest_age_seconds: Mapped[float | None]


class Worker(Base):
    """A worker as last heard of. `body` is its last event, `vitals` those of its last heartbeat."""

    __tablename__ = "workers"

    worker_id: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[datetime | None]
    heard_at: Mapped[datetime]
    kind: Mapped[str]
    body: Mapped[dict[str, Any]] = mapped_column(JSONB)
    vitals: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    starts: Mapped[int] = mapped_column(Integer, server_default="0")


class WorkerEventRow(Base):
    """An event of `worker.events`, by its place there, so that one read twice is stored once."""

    __tablename__ = "worker_events"
    __table_args__ = (
        Index("worker_events_by_time", "at"),
        Index("worker_events_by_worker", "worker_id", "at"),
        Index("worker_events_of_starts", "at", postgresql_where=text("kind = 'started'")),
        Index("worker_events_by_file", "file_id", postgresql_where=text("file_id IS NOT NULL")),
    )

    partition: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, server_default="1")
    worker_id: Mapped[str]
    kind: Mapped[str]
    at: Mapped[datetime]
    file_id: Mapped[int | None]
    body: Mapped[dict[str, Any]] = mapped_column(JSONB)


class Tombstone(Base):
    """A file that was deleted: the ledger counts it, and an event that still comes for it is no surprise."""

    __tablename__ = "tombstones"

    file_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    run: Mapped[int] = mapped_column(Integer)
    status: Mapped[str]
    s3_location: Mapped[str | None]
    deleted_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Operation(Base):
    """What a person, or a program for one, changed: retry, cancel, delete, replay, quiet … The audit."""

    __tablename__ = "operations"
    __table_args__ = (
        Index("operations_by_time", "at"),
        Index("operations_by_detail", "detail", postgresql_using="gin", postgresql_ops={"detail": "jsonb_path_ops"}),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    action: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(JSONB)
