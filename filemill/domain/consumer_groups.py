"""A consumer group as the broker describes it, and the offsets of its partitions."""

import msgspec


class MemberDescription(msgspec.Struct, frozen=True, rename="camel"):
    """A member of a group and the partitions of one topic that it owns."""

    member_id: str
    client_id: str
    host: str
    partitions: list[int]


class GroupDescription(msgspec.Struct, frozen=True):
    """A group as the broker describes it. `protocol` is classic, consumer, or None if unknown."""

    state: str
    protocol: str | None
    assignor: str | None
    members: list[MemberDescription]


class LogOffsets(msgspec.Struct, frozen=True):
    """Begin, end and committed offset of one partition. None: unknown, or never committed.

    `committed_known`: whether a group was asked. The client cannot ask for a share group's offsets.
    """

    partition: int
    begin: int | None
    end: int | None
    committed: int | None
    committed_known: bool = True

    @property
    def lag(self) -> int | None:
        """The number of offsets from the next record to the end; 0 for an empty partition, None if unknown.

        Records that retention removed before they were committed do not count: they cannot be read any more. Without
        a commit, or with one beyond the end (the topic was recreated), the group reads from the beginning.
        """
        if self.end is None or self.begin is None or not self.committed_known:
            return None
        return self.end - (
            self.begin if self.committed is None or self.committed_beyond_end else max(self.begin, self.committed)
        )

    @property
    def committed_beyond_end(self) -> bool:
        """Whether the committed offset lies beyond the end of the partition."""
        return None not in (self.committed, self.end) and (self.committed or 0) > (self.end or 0)

    @property
    def removed_before_commit(self) -> int:
        """The number of offsets that retention removed before the group committed them."""
        if self.begin is None or self.committed is None:
            return 0
        return max(0, self.begin - self.committed)
