"""The schema as SQLAlchemy models. The migrations create it, and a test compares the two."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, REAL, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from filemill.domain.files import TITLE_MAX_CHARACTERS, Status
from filemill.domain.permissions import Role

Timestamp = TIMESTAMP(timezone=True)


class Base(DeclarativeBase):
    """The base of all tables."""

    type_annotation_map = {str: Text, int: BigInteger, datetime: Timestamp}  # noqa: RUF012 - SQLAlchemy's own form


class File(Base):
    """A file request and its state. The seven columns of the reference design come first."""

    __tablename__ = "files"
    __table_args__ = (
        CheckConstraint("status IN ({})".format(", ".join(f"'{status}'" for status in Status)), name="files_status"),
        Index("files_by_status", "status", "id"),
        # For searches in titles; missing if the database has no pg_trgm.
        Index(
            "files_by_title",
            func.coalesce(literal_column("title_search"), literal_column("title")).label("searched"),
            postgresql_using="gin",
            postgresql_ops={"searched": "gin_trgm_ops"},
        ),
        # Nearly all files of a list are of the queue `default`.
        Index("files_by_queue", "queue", "id", postgresql_where=text("queue <> 'default'")),
        # Only files of accounts: other principals have a colon in their names.
        Index("files_by_owner", "owner", "id", postgresql_where=text("strpos(owner, ':') = 0")),
        # Files of REST without sign-in are left out: limits are off there.
        Index(
            "files_in_flight_by_owner",
            "owner",
            postgresql_where=text("status IN ('pending', 'processing') AND strpos(owner, 'rest:') <> 1"),
        ),
        Index("files_by_end", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        # Files completed by a foreign service, until their hash is known.
        Index("files_without_hash", "id", postgresql_where=text("status = 'completed' AND sha256 IS NULL")),
        # The file that has a key chosen by a foreign service; the key as servers with normalized paths see it.
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
    # The time of the request, in whole milliseconds: the object's key and content depend on it.
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
    # The result of filemill.domain.files.search_text; null for an ASCII title, which is searched itself.
    title_search: Mapped[str | None]
    handler: Mapped[str] = mapped_column(server_default="text")
    parameters: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    inputs: Mapped[dict[str, str] | None] = mapped_column(JSONB)
    queue: Mapped[str] = mapped_column(server_default="default")
    # Of the object; null: the text of the reference design.
    content_type: Mapped[str | None]
    # What the handler reports of the attempt in progress: the part that is done, from 0 to 1, and a text.
    fraction: Mapped[float | None] = mapped_column(REAL)
    message: Mapped[str | None]
    # The name of the principal that submitted it; null: by an earlier version.
    owner: Mapped[str | None]


class StatusCount(Base):
    """The number of files in a status is the sum of its deltas. Triggers append them, the group monitor merges them.

    The status of deleted files is `deleted-` and the status that they had.

    Every transaction would wait for the lock of a single row per status; counting `files` takes a second per million.
    """

    __tablename__ = "status_counts"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    status: Mapped[str]
    delta: Mapped[int]


class OutboxRow(Base):
    """A request that is not published yet. `publish_number` (its sequence) and `partition` are set before."""

    __tablename__ = "outbox"
    __table_args__ = (Index("outbox_by_queue", "queue", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    file_id: Mapped[int]
    run: Mapped[int] = mapped_column(Integer)
    traceparent: Mapped[str]
    accepted_at: Mapped[datetime] = mapped_column(server_default=func.now())
    publish_number: Mapped[int | None]
    partition: Mapped[int | None] = mapped_column(Integer)
    generation: Mapped[int | None] = mapped_column(Integer)
    queue: Mapped[str] = mapped_column(server_default="default")


class TopicGeneration(Base):
    """The topics that a name has had, numbered from 1. Rows about a topic contain this generation.

    `seen_at`: when a process last found this topic; the latest one of a name exists now.
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
    """A sequence number that was discarded with its topic; its request got another one."""

    __tablename__ = "abandoned_numbers"

    publish_number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    file_id: Mapped[int]
    run: Mapped[int] = mapped_column(Integer)
    partition: Mapped[int] = mapped_column(Integer)
    generation: Mapped[int] = mapped_column(Integer)
    abandoned_at: Mapped[datetime] = mapped_column(server_default=func.now())
    queue: Mapped[str] = mapped_column(primary_key=True, server_default="default")


class Publication(Base):
    """Partition and offset of a request on the topic of its queue."""

    __tablename__ = "publications"
    __table_args__ = (Index("publications_by_file", "file_id"),)

    publish_number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    file_id: Mapped[int]
    run: Mapped[int] = mapped_column(Integer)
    partition: Mapped[int] = mapped_column(Integer)
    offset: Mapped[int]
    published_at: Mapped[datetime] = mapped_column(server_default=func.now())
    generation: Mapped[int] = mapped_column(Integer, server_default="1")
    queue: Mapped[str] = mapped_column(primary_key=True, server_default="default")


class RequestLoss(Base):
    """The number of unfinished requests without a record that a worker will process, when last counted."""

    __tablename__ = "request_losses"

    group_id: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int]
    counted_at: Mapped[datetime]


class DeadLetterDismissal(Base):
    """A record of the dead-letter topic that needs no action, by somebody's decision. `timestamp_ms`: its time or 0."""

    __tablename__ = "dead_letter_dismissals"

    partition: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    timestamp_ms: Mapped[int] = mapped_column(BigInteger)
    dismissed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]


class PublishCounter(Base):
    """The next sequence number of a queue. It changes in the transactions that assign numbers, so there are no gaps."""

    __tablename__ = "publish_counter"

    queue: Mapped[str] = mapped_column(primary_key=True)
    next_number: Mapped[int]


class IdempotencyKey(Base):
    """An idempotency key and the ids of its requests; `requested_at`: when a single request was accepted."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("idempotency_keys_by_time", "created_at"),)

    key_hash: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default="{}")
    requested_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LeaseRow(Base):
    """The active holder of a lease (`name`: relay, sync, monitor), its fencing token and expiry."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    fencing: Mapped[int]
    expires_at: Mapped[datetime]


class SyncPosition(Base):
    """The next offset that status sync reads, updated in the transaction that applies the records before it."""

    __tablename__ = "sync_positions"

    topic: Mapped[str] = mapped_column(primary_key=True)
    partition: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    next_offset: Mapped[int]
    generation: Mapped[int] = mapped_column(Integer, server_default="1")


class RejectedMessage(Base):
    """A record of `file.created` or `file.progress` that is invalid or has an unknown file id."""

    __tablename__ = "rejected_messages"
    __table_args__ = (Index("rejected_of_unknown_ids", "rejected_at", postgresql_where=text("code = 'unknown-file'")),)

    topic: Mapped[str] = mapped_column(primary_key=True)
    partition: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, server_default="1")
    reason: Mapped[str]
    code: Mapped[str | None]  # null in rows of older versions
    rejected_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LagSample(Base):
    """The offsets and the lag of one partition at a time. Unknown is null, never zero."""

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
    """The consumer group at a time. `members`: [{"memberId", "clientId", "host", "partitions": [0, 1]}]."""

    __tablename__ = "group_samples"

    group_id: Mapped[str] = mapped_column(primary_key=True)
    sampled_at: Mapped[datetime] = mapped_column(primary_key=True)
    state: Mapped[str]
    protocol: Mapped[str | None]
    members: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)


class OutboxSample(Base):
    """The outbox at a time. `oldest_age_seconds` is null if it was empty."""

    __tablename__ = "outbox_samples"

    sampled_at: Mapped[datetime] = mapped_column(primary_key=True)
    depth: Mapped[int]
    oldest_age_seconds: Mapped[float | None]


class Worker(Base):
    """A worker's latest state. `body` is its last event, `vitals` are those of its last heartbeat."""

    __tablename__ = "workers"

    worker_id: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[datetime | None]
    heard_at: Mapped[datetime]
    kind: Mapped[str]
    body: Mapped[dict[str, Any]] = mapped_column(JSONB)
    vitals: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    starts: Mapped[int] = mapped_column(Integer, server_default="0")


class WorkerEventRow(Base):
    """An event of `worker.events`, keyed by its place there, so that it is stored once."""

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


class WorkerHandler(Base):
    """A handler that a worker announced last. `spec`: its HandlerSpec."""

    __tablename__ = "worker_handlers"
    __table_args__ = (Index("worker_handlers_by_worker", "worker_id"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    worker_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str]
    spec: Mapped[dict[str, Any]] = mapped_column(JSONB)
    announced_at: Mapped[datetime]


class DeliveryRow(Base):
    """A delivery of a file's record to a worker: it started the record at `started_at`.

    Stored when a worker reports progress, when a run is retried, and for each repeated result: one that arrived after
    its run had ended. The delivery that ended the current run may be missing; the file's row has it. `stated_start` is
    by the worker's clock and identifies the delivery, all other times are by the database's. `ended_at` and `outcome`
    are null if no result ended it.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("deliveries_by_file", "file_id", "run", "worker_id", "stated_start", unique=True),
        Index("deliveries_by_start", "started_at"),
        Index("deliveries_repeated", "ended_at", postgresql_where=text("repeated")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    file_id: Mapped[int]
    run: Mapped[int] = mapped_column(Integer)
    worker_id: Mapped[str | None]
    partition: Mapped[int | None] = mapped_column(Integer)
    offset: Mapped[int | None]
    stated_start: Mapped[datetime | None]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    repeated: Mapped[bool] = mapped_column(server_default="false")


class Tombstone(Base):
    """A deleted file. The ledger counts it, and a late event for it is ignored.

    The columns after `deleted_at` keep the file in the figures of past throughput; null in rows of older versions.
    """

    __tablename__ = "tombstones"
    __table_args__ = (Index("tombstones_by_end", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),)

    file_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    run: Mapped[int] = mapped_column(Integer)
    status: Mapped[str]
    s3_location: Mapped[str | None]
    deleted_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True, precision=3))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    worker_id: Mapped[str | None]
    kafka_partition: Mapped[int | None] = mapped_column(Integer)
    title: Mapped[str | None]
    handler: Mapped[str] = mapped_column(server_default="text")
    queue: Mapped[str] = mapped_column(server_default="default")
    owner: Mapped[str | None]


class Operation(Base):
    """The audit log: each change by a person or a program, such as retry, cancel, delete, replay or quiet.

    Append-only: a row that `follows` another one adds to it. A trigger sets `sequence` and the hashes, see
    `filemill.domain.audit_chain`.
    """

    __tablename__ = "operations"
    __table_args__ = (
        Index("operations_by_time", "at"),
        Index("operations_by_detail", "detail", postgresql_using="gin", postgresql_ops={"detail": "jsonb_path_ops"}),
        Index("operations_by_sequence", "sequence", unique=True),
        Index("operations_by_actor", "actor", "sequence"),
        Index("operations_by_action", "action", "sequence"),
        Index("operations_that_follow", "follows", postgresql_where=text("follows IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    action: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(JSONB)
    authentication: Mapped[str | None]
    address: Mapped[str | None]
    request_id: Mapped[str | None]
    follows: Mapped[int | None]
    sequence: Mapped[int]
    previous_hash: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class AuditHeadRow(Base):
    """The number of rows of the audit log and the hash of the last one: one row, which only the trigger changes."""

    __tablename__ = "audit_head"
    __table_args__ = (CheckConstraint("id = 1", name="audit_head_is_one_row"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False, server_default="1")
    count: Mapped[int]
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class Account(Base):
    """A person who signs in, with a password or at an OpenID Connect provider.

    Issuer and subject identify a person of a provider. A disabled account stays, because the audit log names it.
    """

    __tablename__ = "accounts"
    __table_args__ = (
        UniqueConstraint("issuer", "subject", name="accounts_identity"),
        CheckConstraint(
            "(issuer IS NULL) = (subject IS NULL) AND (issuer IS NULL) = (password_hash IS NOT NULL)",
            name="accounts_credential",
        ),
        CheckConstraint("role IN ({})".format(", ".join(f"'{role}'" for role in Role)), name="accounts_role"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    password_hash: Mapped[str | None]
    issuer: Mapped[str | None]
    subject: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disabled_at: Mapped[datetime | None]


class SignInSession(Base):
    """A browser that has signed in. The secret in its cookie is not stored, only its hash.

    `provider_session` is the id of the session at the provider, if it named one.
    """

    __tablename__ = "sessions"
    __table_args__ = (Index("sessions_by_account", "account_id"), Index("sessions_by_expiry", "expires_at"))

    key: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    address: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    used_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    provider_session: Mapped[str | None]


class PersonalToken(Base):
    """A token with which a program uses REST for its owner. Only its hash is stored.

    `role` is the greatest that it has: it never has more than its owner has now. `networks`: the addresses from which
    it is valid; empty: all.
    """

    __tablename__ = "tokens"
    __table_args__ = (
        CheckConstraint("role IN ({})".format(", ".join(f"'{role}'" for role in Role)), name="tokens_role"),
        Index("tokens_by_account", "account_id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    key: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    label: Mapped[str]
    role: Mapped[str]
    networks: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]


class SignInAttempt(Base):
    """A sign-in that has begun at a provider. The secret in the browser's cookie is not stored, only its hash."""

    __tablename__ = "sign_in_attempts"
    __table_args__ = (Index("sign_in_attempts_by_expiry", "expires_at"),)

    key: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    provider: Mapped[str]
    expires_at: Mapped[datetime]


class SignInTries(Base):
    """Attempts to sign in within the current minute, by account and address, and by address."""

    __tablename__ = "sign_in_tries"
    __table_args__ = (Index("sign_in_tries_by_time", "since"),)

    key: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[datetime] = mapped_column(server_default=func.now())
    tries: Mapped[int] = mapped_column(Integer)


class LimitUsage(Base):
    """What a person or an address has used of the limits of submissions; `next_at` is GCRA's, in seconds since 1970."""

    __tablename__ = "limit_usage"
    __table_args__ = (Index("limit_usage_by_time", "used_at"),)

    key: Mapped[str] = mapped_column(primary_key=True)
    next_at: Mapped[float] = mapped_column(Double, server_default=text("0"))
    day: Mapped[date] = mapped_column(server_default=text("'1970-01-01'"))
    bytes: Mapped[int] = mapped_column(server_default=text("0"))
    used_at: Mapped[datetime] = mapped_column(server_default=func.now())
