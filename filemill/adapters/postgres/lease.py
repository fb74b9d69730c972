"""A lease: one active relay, sync or monitor, however many run.

A row with holder, fencing number and expiry. (An advisory lock would survive a holder that is stopped: tried, no
take-over in 30 s.) A holder proves itself inside each of its transactions with `fence`, which also renews.
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
# Not after the expiry: a holder that overslept is a standby like the others, even where nobody took over meanwhile.
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
    """One process's view of the lease `name`. (port: Lease).

    `holder` must differ between processes; `seconds` is how long a silent holder is believed. One thread.
    """

    def __init__(self, engine: sa.Engine, name: str, holder: str, seconds: float) -> None:
        self._engine = engine
        self._identity = {"name": name, "holder": holder, "seconds": seconds}
        self.fencing: int | None = None

    def acquire(self) -> bool:
        """Renew, or take where it is free or expired."""
        with self._engine.begin() as connection:
            if self._renew(connection):
                return True
            self.fencing = connection.execute(_ACQUIRE, self._identity).scalar()
        return self.fencing is not None

    def fence(self, connection: sa.Connection) -> None:
        """Prove, in a transaction of the holder's work, that the lease is still ours; raises NotLeader.

        The row stays locked until the transaction ends, so nobody can take over between this and the commit.
        """
        if not self._renew(connection):
            self.fencing = None
            raise NotLeader(f"{self._identity['holder']} does not hold the lease {self._identity['name']!r} any more")

    def release(self) -> None:
        """Let it expire now."""
        if self.fencing is None:
            return
        with self._engine.begin() as connection:
            connection.execute(_RELEASE, {**self._identity, "fencing": self.fencing})
        self.fencing = None

    def _renew(self, connection: sa.Connection) -> bool:
        if self.fencing is None:
            return False
        return connection.execute(_RENEW, {**self._identity, "fencing": self.fencing}).scalar() is not None
