"""Leases: one active relay, sync or monitor, however many processes run.

A lease is a row with holder, fencing token and expiry. (An advisory lock stays with a suspended holder: when tried,
nobody took over within 30 s.) In each of its transactions a holder calls `fence`, which checks and renews the lease.
"""

import sqlalchemy as sa

from filemill.errors import NotLeader

_ACQUIRE = sa.text("""
    INSERT INTO leases (name, holder, fencing, expires_at)
    VALUES (:name, :holder, 1, clock_timestamp() + make_interval(secs => :seconds))
    ON CONFLICT (name) DO UPDATE
    SET holder = :holder, fencing = leases.fencing + 1, expires_at = excluded.expires_at
    WHERE leases.expires_at <= clock_timestamp()
    RETURNING fencing
""")
# An expired lease is not renewed: its holder is a standby like the others, even if no process has taken over.
_RENEW = sa.text("""
    UPDATE leases SET expires_at = clock_timestamp() + make_interval(secs => :seconds)
    WHERE name = :name AND holder = :holder AND fencing = :fencing AND expires_at > clock_timestamp()
    RETURNING fencing
""")
_RELEASE = sa.text("""
    UPDATE leases SET expires_at = clock_timestamp()
    WHERE name = :name AND holder = :holder AND fencing = :fencing
""")


class PostgresLease:
    """The lease `name`, as one process uses it. (port: Lease).

    `holder` must be unique for each process; the lease expires `seconds` after its last renewal. One thread.
    """

    def __init__(self, engine: sa.Engine, name: str, holder: str, seconds: float) -> None:
        self._engine = engine
        self._identity = {"name": name, "holder": holder, "seconds": seconds}
        self.fencing: int | None = None

    def acquire(self) -> bool:
        """Renew the lease, or take it if it is free or expired."""
        with self._engine.begin() as connection:
            if self._renew(connection):
                return True
            self.fencing = connection.execute(_ACQUIRE, self._identity).scalar()
        return self.fencing is not None

    def fence(self, connection: sa.Connection) -> None:
        """Renew the lease in a transaction of its holder. Raises NotLeader.

        The row stays locked until the transaction ends, so no process can take over before the commit.
        """
        if not self._renew(connection):
            self.fencing = None
            raise NotLeader(f"{self._identity['holder']} does not hold the lease {self._identity['name']!r} any more")

    def release(self) -> None:
        """Let the lease expire now."""
        if self.fencing is None:
            return
        with self._engine.begin() as connection:
            connection.execute(_RELEASE, {**self._identity, "fencing": self.fencing})
        self.fencing = None

    def _renew(self, connection: sa.Connection) -> bool:
        if self.fencing is None:
            return False
        return connection.execute(_RENEW, {**self._identity, "fencing": self.fencing}).scalar() is not None
