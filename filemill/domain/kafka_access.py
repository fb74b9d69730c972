"""What each role may do in Kafka: the access control lists (ACLs) of the parts of a deployment.

A role has what it needs and nothing else. A processor, for example, cannot write requests or commands.
"""

import enum
from collections.abc import Mapping

import msgspec

# The user of a role in Kafka begins with this.
USER_PREFIX = "filemill-"


class KafkaRole(enum.StrEnum):
    """A part of a deployment with its own Kafka user. The value is also the name of its password's file."""

    DASHBOARD = "dashboard"
    RELAY = "relay"
    PROCESSOR = "processor"
    SYNC = "sync"
    MONITOR = "monitor"

    @property
    def user(self) -> str:
        """The name of its user."""
        return f"{USER_PREFIX}{self.value}"


# The clients of each role that read partitions outside of a group, by the name of their `reader_group`.
READERS = {
    KafkaRole.PROCESSOR: ("commands",),
    KafkaRole.SYNC: ("status-sync",),
    KafkaRole.DASHBOARD: ("browser", "dlq", "offsets", "verify"),
}


def reader_group(reader: str) -> str:
    """The group id of a client that reads outside of a group. Nothing is committed, but librdkafka requires one."""
    return f"{USER_PREFIX}{reader}"


class Resource(enum.StrEnum):
    """A kind of resource in Kafka."""

    TOPIC = "topic"
    GROUP = "group"


class Operation(enum.StrEnum):
    """An operation on a resource, as Kafka names it. Read, write and alter include describe."""

    READ = "read"
    WRITE = "write"
    ALTER = "alter"
    DESCRIBE = "describe"


class Grant(msgspec.Struct, frozen=True):
    """The permission for one operation on one topic or group. Everything else is denied."""

    resource: Resource
    name: str
    operation: Operation


class PipelineNames(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the pipeline's topics and groups. `requests` are the topics of the queues, `groups` their groups."""

    requests: tuple[str, ...]
    groups: tuple[str, ...]
    results: str
    progress: str
    dead_letters: str
    events: str
    commands: str

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics."""
        return (*self.requests, self.results, self.progress, self.dead_letters, self.events, self.commands)


def grants(names: PipelineNames) -> Mapping[KafkaRole, frozenset[Grant]]:
    """What each role may do."""

    def on_topics(operation: Operation, *topics: str) -> set[Grant]:
        return {Grant(Resource.TOPIC, topic, operation) for topic in topics}

    def on_groups(operation: Operation) -> set[Grant]:
        return {Grant(Resource.GROUP, group, operation) for group in names.groups}

    relays = on_topics(Operation.WRITE, *names.requests)
    found = {
        KafkaRole.RELAY: relays,
        KafkaRole.PROCESSOR: on_topics(Operation.READ, *names.requests, names.commands)
        | on_topics(Operation.WRITE, names.results, names.progress, names.dead_letters, names.events)
        | on_groups(Operation.READ),
        KafkaRole.SYNC: on_topics(Operation.READ, names.results, names.progress, names.events),
        KafkaRole.MONITOR: on_topics(Operation.DESCRIBE, *names.topics) | on_groups(Operation.DESCRIBE),
        # It hosts a relay, shows the records of all topics, resets offsets, adds partitions and commands workers.
        KafkaRole.DASHBOARD: relays
        | on_topics(Operation.READ, *names.topics)
        | on_topics(Operation.ALTER, *names.requests)
        | on_topics(Operation.WRITE, names.commands)
        | on_groups(Operation.READ),
    }
    for role, readers in READERS.items():  # librdkafka asks for the coordinator of any group id
        found[role] |= {Grant(Resource.GROUP, reader_group(reader), Operation.DESCRIBE) for reader in readers}
    return {role: frozenset(of_role) for role, of_role in found.items()}
