"""Validators of combinations of settings, each of which is valid by itself.

Each raises PydanticCustomError with a code and a sentence that names the settings.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic_core import PydanticCustomError

from filemill.domain.origins import split_list
from filemill.domain.queues import DEFAULT_QUEUE

if TYPE_CHECKING:  # settings.py calls these validators
    from filemill.config.settings import Settings


# A share consumer holds a batch until all of its records are done; this much time is added for uploads and retries.
SHARE_MARGIN_SECONDS = 15.0

# librdkafka properties that correctness depends on, or that a setting of filemill determines.
_RESERVED_PROPERTIES = {
    "group.id": "it is the setting kafka_group",
    "group.protocol": "it is the setting group_protocol",
    "group.instance.id": "it follows from static_membership and worker_id",
    "partition.assignment.strategy": "it follows from group_protocol",
    "group.remote.assignor": "it follows from group_protocol",
    "session.timeout.ms": "it is the setting session_timeout_ms (classic protocols), or the broker's",
    "heartbeat.interval.ms": "it is the setting heartbeat_interval_ms (classic protocols), or the broker's",
    "max.poll.interval.ms": "it is the setting max_poll_interval_ms",
    "enable.auto.commit": "an offset is committed when its record is finished, not at intervals",
    "enable.auto.offset.store": "an offset is committed when its record is finished, not when it is read",
    "auto.offset.reset": "any value but `earliest` skips requests",
    "share.acknowledgement.mode": "a record is acknowledged when it is finished, not when it is read",
    "enable.idempotence": "without it the client can lose or repeat a result",
    "acks": "with fewer than all, an acknowledged result can be lost",
}


def check_heartbeat_interval(settings: "Settings") -> None:
    """Two lost heartbeats must not end a session."""
    if settings.heartbeat_interval_ms * 3 > settings.session_timeout_ms:
        raise PydanticCustomError(
            "heartbeat_interval_too_long", "heartbeat_interval_ms must be at most a third of session_timeout_ms"
        )


def check_kafka_properties(settings: "Settings") -> None:
    """Properties that are passed through to librdkafka must not break an invariant."""
    for name in settings.kafka_properties:
        if name in _RESERVED_PROPERTIES:
            raise PydanticCustomError(
                "kafka_property_reserved", f"kafka_properties must not set {name}: {_RESERVED_PROPERTIES[name]}"
            )


def check_kafka_security(settings: "Settings") -> None:
    """A user without SASL, or SASL without a user, would connect without the intended rights."""
    signs_in = settings.kafka_security.startswith("sasl_")
    if signs_in and not (settings.kafka_user and settings.kafka_password.get_secret_value()):
        raise PydanticCustomError(
            "kafka_user_missing",
            f"kafka_security={settings.kafka_security} needs kafka_user, and kafka_password or kafka_password_file",
        )
    if not signs_in and settings.kafka_user:
        raise PydanticCustomError(
            "kafka_user_unused", "kafka_user needs kafka_security=sasl_ssl (or sasl_plaintext, without encryption)"
        )
    if settings.kafka_ca_bundle is not None and not settings.kafka_security.endswith("ssl"):
        raise PydanticCustomError("kafka_ca_bundle_unused", "kafka_ca_bundle needs kafka_security=ssl or sasl_ssl")
    if settings.kafka_role_passwords is not None and settings.group_protocol == "share":
        raise PydanticCustomError(
            "kafka_roles_in_share_group",
            "kafka_role_passwords does not work with group_protocol=share: "
            "its workers change the configuration of their group",
        )


def check_drain_seconds(settings: "Settings") -> None:
    """A member does not poll while it drains."""
    if settings.drain_seconds * 1000 >= settings.max_poll_interval_ms:
        raise PydanticCustomError(
            "drain_too_long",
            "drain_seconds must be below max_poll_interval_ms: "
            "a member that drains for longer is removed from its group",
        )


def check_static_membership(settings: "Settings") -> None:
    """A static member needs a stable name, and a protocol with static members."""
    if not settings.static_membership:
        return
    if settings.group_protocol == "share":
        raise PydanticCustomError(
            "static_membership_in_share_group",
            "static_membership does not work with group_protocol=share: share groups have no static members",
        )
    if "worker_id" not in settings.model_fields_set or not settings.worker_id:
        raise PydanticCustomError(
            "static_membership_without_worker_id",
            "static_membership needs worker_id: a name that stays the same after a restart and that no other worker "
            "has (the default, host name and pid, changes)",
        )


def check_share_group(settings: "Settings") -> None:
    """A share group has no order, and holds a batch until its slowest record is done."""
    if settings.group_protocol != "share":
        return
    if settings.ordering == "partition":
        raise PydanticCustomError(
            "ordering_in_share_group",
            "ordering=partition does not work with group_protocol=share: "
            "a share group distributes the records of a partition over workers",
        )
    needed = settings.longest_job_seconds + SHARE_MARGIN_SECONDS
    if needed * 1000 > settings.max_poll_interval_ms:
        raise PydanticCustomError(
            "job_too_long_for_share_group",
            f"a job of {settings.longest_job_seconds:g} s does not work with group_protocol=share: a member polls "
            f"again when its batch is done, so max_poll_interval_ms must be {needed * 1000:.0f} or more",
        )


def check_database_certificates(settings: "Settings") -> None:
    """The system's certificates are used only with verify-full."""
    if settings.database_sslmode == "verify-ca" and settings.database_ca_bundle is None:
        raise PydanticCustomError(
            "ca_bundle_missing",
            "database_sslmode=verify-ca needs database_ca_bundle, the certificates to trust",
        )


def check_database_roles(settings: "Settings") -> None:
    """The superuser creates the other roles, so their names must be known."""
    if settings.database_superuser_user and not (settings.database_owner_user and settings.database_reader_user):
        raise PydanticCustomError(
            "database_roles_missing",
            "database_superuser_user needs database_owner_user and database_reader_user: prepare creates these roles",
        )


def check_queues(settings: "Settings") -> None:
    """Each queue needs a topic and a group of its own; a processor can only serve queues that exist."""
    queues = settings.all_queues
    default = queues[DEFAULT_QUEUE]
    if (default.topic, default.group) != (settings.topic_create, settings.kafka_group):
        raise PydanticCustomError(
            "default_queue_elsewhere",
            "queues_config must not set topic and group of the queue default: they are topic_create and kafka_group",
        )
    topics = settings.pipeline_names.topics
    shared = {topic for topic in topics if topics.count(topic) > 1}
    if shared:
        raise PydanticCustomError("topic_twice", f"each topic needs its own name: {', '.join(sorted(shared))}")
    if len({queue.group for queue in queues.values()}) < len(queues):
        raise PydanticCustomError("queue_group_shared", "queues_config: each queue needs a group of its own")
    unknown = [name for name in split_list(settings.queues) if name not in queues]
    if unknown:
        raise PydanticCustomError(
            "unknown_queue",
            f"queues: there is no queue {', '.join(unknown)}; queues_config has {', '.join(sorted(queues))}",
        )


VALIDATORS: tuple[Callable[["Settings"], None], ...] = (
    check_heartbeat_interval,
    check_kafka_properties,
    check_kafka_security,
    check_drain_seconds,
    check_static_membership,
    check_share_group,
    check_database_certificates,
    check_database_roles,
    check_queues,
)
