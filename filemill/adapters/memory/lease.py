"""In-memory Lease."""

from filemill.adapters.memory.database import MemoryDatabase, _HeldLease
from filemill.errors import NotLeader


class MemoryLease:
    """The lease `name`, as one process uses it. (port: Lease)."""

    def __init__(self, database: MemoryDatabase, name: str, holder: str, seconds: float) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._seconds = seconds
        self.fencing: int | None = None

    def acquire(self) -> bool:
        """Renew the lease, or take it if it is free or expired."""
        with self._database.transaction():
            if self._renew():
                return True
            self.fencing = None
            held, now = self._database.leases.get(self._name), self._database.clock()
            if held is None or held.expires_at <= now:
                self.fencing = held.fencing + 1 if held else 1
                self._database.leases[self._name] = _HeldLease(self._holder, self.fencing, now + self._seconds)
            return self.fencing is not None

    def fence(self) -> None:
        """Renew the lease at the beginning of a transaction of its holder. Raises NotLeader."""
        if not self._renew():
            self.fencing = None
            raise NotLeader(f"{self._holder} does not hold the lease {self._name!r} any more")

    def release(self) -> None:
        """Let the lease expire now."""
        if self.fencing is None:
            return
        with self._database.transaction():
            if self._renew():
                self._database.leases[self._name].expires_at = self._database.clock()
        self.fencing = None

    def _renew(self) -> bool:
        held, now = self._database.leases.get(self._name), self._database.clock()
        if held is None or (held.holder, held.fencing) != (self._holder, self.fencing) or held.expires_at <= now:
            return False
        held.expires_at = now + self._seconds
        return True
