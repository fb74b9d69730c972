"""Every commit of a group, read from `__consumer_offsets`. The group's offsets show only the last commit.

The broker compacts that topic, but not its active segment (100 MB by default): no commit in that segment is missing.
"""

import struct

from confluent_kafka import Message

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.reader import messages_to_end
from filemill.config.settings import Settings
from filemill.domain.offsets import StoredCommit

OFFSETS_TOPIC = "__consumer_offsets"
# The key versions of commits; other keys are group metadata.
_COMMIT_KEY_VERSIONS = (0, 1)


def read_commits(settings: Settings) -> list[StoredCommit]:
    """Every commit of the group on `file.create`, in the order of their timestamps. Raises Unavailable."""
    partitions = KafkaAdmin(settings).offsets(None, OFFSETS_TOPIC)
    starts = {part.partition: part.begin or 0 for part in partitions}
    ends = {part.partition: part.end for part in partitions if part.end and part.end > starts[part.partition]}
    messages = messages_to_end(settings, OFFSETS_TOPIC, starts, ends, "audit")
    found = [commit for message in messages if (commit := _commit_in(message, settings)) is not None]
    return sorted(found, key=lambda commit: commit.at)


def _commit_in(message: Message, settings: Settings) -> StoredCommit | None:
    try:
        return _read_commit(_bytes(message.key()), message.value(), settings)
    except (struct.error, IndexError, UnicodeDecodeError):
        return None  # not written by a broker


def _read_commit(key: bytes | None, value: bytes | None, settings: Settings) -> StoredCommit | None:
    if key is None or value is None:
        return None
    read = _Reader(key)
    if read.number("h") not in _COMMIT_KEY_VERSIONS:
        return None
    group, topic, partition = read.text(), read.text(), read.number("i")
    if group != settings.kafka_group or topic != settings.topic_create:
        return None
    read = _Reader(value)
    version, offset = read.number("h"), read.number("q")
    if version >= 3:
        read.number("i")  # the leader's epoch
    metadata = read.compact_text() if version >= 4 else read.text()
    # confluent-kafka includes the NUL at the end of the C string.
    return StoredCommit(partition, offset, metadata.rstrip("\0"), read.number("q") / 1000)


class _Reader:
    """Reads values of Kafka's primitive types in sequence."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, kind: str) -> int:
        (value,) = struct.unpack_from(f">{kind}", self._data, self._at)
        self._at += struct.calcsize(kind)
        return int(value)

    def text(self) -> str:
        return self._take(self.number("h"))

    def compact_text(self) -> str:
        """Its length plus one is an unsigned varint: seven bits a byte, the lowest first."""
        length = shift = 0
        while True:
            byte = self.number("B")
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return self._take(length - 1)

    def _take(self, length: int) -> str:
        self._at += length
        return self._data[self._at - length : self._at].decode()


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
