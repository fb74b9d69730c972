"""Records of a topic, and the identity of a topic."""

import msgspec

from filemill.domain.messages import Headers
from filemill.errors import InvalidMessage


class Record(msgspec.Struct, frozen=True):
    """One record of a topic as read.

    `timestamp_ms` is the broker's or the producer's, as the topic is set up; 0 if there is none, or if it is not within
    the years 1970 to 9999. `headers_error`: why the headers cannot be read; `headers` is empty then.
    """

    topic: str
    partition: int
    offset: int
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    deliveries_left: int | None = None  # how often a share group will hand it out again; None where nobody counts
    headers_error: str | None = None
    by_broker: bool = False  # whether the timestamp is the broker's: a producer may write any

    def require_readable_headers(self) -> None:
        """Raise InvalidMessage if the headers cannot be read."""
        if self.headers_error is not None:
            raise InvalidMessage(self.headers_error)


class TopicIdentity(msgspec.Struct, frozen=True):
    """Which topic has a name now: its id and its cluster's, which another topic of that name has not."""

    topic_id: str
    cluster_id: str
    partitions: int

    def is_same_topic(self, other: "TopicIdentity | None") -> bool:
        """Whether the other is this very topic, whatever partitions were added."""
        return other is not None and (self.topic_id, self.cluster_id) == (other.topic_id, other.cluster_id)
