"""Settings that are right each by itself and wrong together. Each rule gives a sentence, or None where all is well."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # settings.py applies these rules
    from filemill.config.settings import Settings


# A share group's batch is held until all of it is done: with this much to spare for its upload and its retries.
SHARE_MARGIN_SECONDS = 15.0

# What the guarantees stand on, and what a setting of ours says already.
_RESERVED_PROPERTIES = {
    "group.id": "it is the setting kafka_group",
    "group.protocol": "it is the setting group_protocol",
    "group.instance.id": "it follows from static_membership and worker_id",
    "partition.assignment.strategy": "it follows from group_protocol",
    "group.remote.assignor": "it follows from group_protocol",
    "session.timeout.ms": "it is the setting session_timeout_ms (classic protocols), or the broker's",
    "heartbeat.interval.ms": "it is the setting heartbeat_interval_ms (classic protocols), or the broker's",
    "max.poll.interval.ms": "it is the setting max_poll_interval_ms",
    "enable.auto.commit": "an offset is committed when its record is finished, not by time",
    "enable.auto.offset.store": "an offset is committed when its record is finished, not when it was read",
    "auto.offset.reset": "anything but `earliest` skips requests",
    "share.acknowledgement.mode": "a record is acknowledged when it is finished, not when it was read",
    "enable.idempotence": "without it a result can be lost or repeated by the client",
    "acks": "with fewer than all, an acknowledged result can be lost",
}


def check_heartbeat_interval(settings: "Settings") -> str | None:
    """Three heartbeats may get lost before a member is out."""
    if settings.heartbeat_interval_ms * 3 > settings.session_timeout_ms:
        return "heartbeat_interval_ms must be at most a third of session_timeout_ms"
    return None


def check_kafka_properties(settings: "Settings") -> str | None:
    """The pass-through to librdkafka does not undo what is promised."""
    for name in settings.kafka_properties:
        if name in _RESERVED_PROPERTIES:
            return f"kafka_properties must not set {name}: {_RESERVED_PROPERTIES[name]}"
    return None


def check_drain_seconds(settings: "Settings") -> str | None:
    """A member that drains does not poll."""
    if settings.drain_seconds * 1000 >= settings.max_poll_interval_ms:
        return (
            "drain_seconds must be below max_poll_interval_ms: a member that drains for longer is put out of its group"
        )
    return None


def check_static_membership(settings: "Settings") -> str | None:
    """A static member needs a name that survives a restart, and a protocol that knows such members."""
    if not settings.static_membership:
        return None
    if settings.group_protocol == "share":
        return "static_membership does not go with group_protocol=share: a share group assigns nothing to keep"
    if "worker_id" not in settings.model_fields_set or not settings.worker_id:
        return (
            "static_membership needs worker_id, a name that stays the same over a restart and that no other worker has "
            "(its default, host name and pid, does not stay)"
        )
    return None


def check_share_group(settings: "Settings") -> str | None:
    """A share group has no order, and holds a batch of records for as long as its slowest takes."""
    if settings.group_protocol != "share":
        return None
    if settings.ordering == "partition":
        return (
            "ordering=partition does not go with group_protocol=share: a share group spreads a partition over workers"
        )
    needed = settings.longest_job_seconds + SHARE_MARGIN_SECONDS
    if needed * 1000 > settings.max_poll_interval_ms:
        return (
            f"a job of {settings.longest_job_seconds:g} s does not go with group_protocol=share: a member polls "
            f"again when its batch is done, so max_poll_interval_ms must be {needed * 1000:.0f} or more"
        )
    return None


def check_database_certificates(settings: "Settings") -> str | None:
    """Whom to trust is the system's affair only where the name is checked too."""
    if settings.database_sslmode == "verify-ca" and settings.database_ca_bundle is None:
        return "database_sslmode=verify-ca needs database_ca_bundle, the certificates that vouch for PostgreSQL"
    return None


def check_database_roles(settings: "Settings") -> str | None:
    """Who makes the roles has to know them all."""
    if settings.database_superuser_user and not (settings.database_owner_user and settings.database_reader_user):
        return "database_superuser_user needs database_owner_user and database_reader_user: prepare makes these roles"
    return None


VALIDATORS: tuple[Callable[["Settings"], str | None], ...] = (
    check_heartbeat_interval,
    check_kafka_properties,
    check_drain_seconds,
    check_static_membership,
    check_share_group,
    check_database_certificates,
    check_database_roles,
)
