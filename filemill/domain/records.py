"""Records of a topic, and the identity of a topic. Pure."""

import msgspec

from filemill.domain.messages import Headers
from filemill.errors import InvalidMessage


class Record(msgspec.Struct, frozen=True):
    """One record of a topic as read.

    `timestamp_ms` is the broker's (`by_broker`) or the producer's, as the topic is configured; 0 if there is none, or
    if it is not within the years 1970 to 9999. `headers_error`: why the headers cannot be read; `headers` is empty
    then. `deliveries_left`: how often a share group will deliver the record again; None in a consumer group.
    """

    topic: str
    partition: int
    offset: int
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    deliveries_left: int | None = None
    headers_error: str | None = None
    by_broker: bool = False

    def require_readable_headers(self) -> None:
        """Raise InvalidMessage if the headers cannot be read."""
        if self.headers_error is not None:
            raise InvalidMessage(self.headers_error)


class TopicIdentity(msgspec.Struct, frozen=True):
    """The identity of a topic: its id and its cluster's. A topic that is recreated under the name has another id."""

    topic_id: str
    cluster_id: str
    partitions: int

    def is_same_topic(self, other: "TopicIdentity | None") -> bool:
        """Whether the other one is this topic, with the same or another number of partitions."""
        return other is not None and (self.topic_id, self.cluster_id) == (other.topic_id, other.cluster_id)
