"""Hash and size of objects that a foreign file service wrote.

A service written from the reference design alone reports neither. They are computed from the object, so that `verify`
can compare them later.
"""

import threading
import time

import sqlalchemy as sa
import structlog

from filemill.adapters.postgres.foreign_results import files_without_hash, store_hash
from filemill.adapters.s3.bucket import Bucket
from filemill.domain.content import sha256_hex
from filemill.errors import NotFound, Unavailable

log = structlog.get_logger("foreign")

ROUND_SECONDS = 2.0
ROUND_FILES = 100
RETRY_SECONDS = 60.0
# Larger than any file of filemill. A larger foreign object keeps no hash: it is not read into memory.
OBJECT_MAX_BYTES = 16 * 1024 * 1024


class HashFiller:
    """Fills in `sha256` and `size` of completed rows that lack them. One thread; several processes do no harm."""

    def __init__(self, engine: sa.Engine, bucket: Bucket) -> None:
        self._engine = engine
        self._bucket = bucket
        self._retry_at: dict[int, float] = {}

    def run(self, stop: threading.Event) -> None:
        """Fill in until `stop` is set; continues after a server was unreachable."""
        while not stop.wait(ROUND_SECONDS):
            try:
                self.fill()
            except Unavailable as error:
                log.debug("Cannot compute hashes now", error=str(error))

    def fill(self) -> int:
        """One round; returns how many rows were completed. Raises Unavailable."""
        now = time.monotonic()
        self._retry_at = {file_id: moment for file_id, moment in self._retry_at.items() if moment > now}
        with self._engine.connect() as connection:
            rows = files_without_hash(connection, ROUND_FILES + len(self._retry_at))
        due = [(file_id, key) for file_id, key in rows if file_id not in self._retry_at]
        return sum(self._fill_one(file_id, key, now) for file_id, key in due[:ROUND_FILES])

    def _fill_one(self, file_id: int, key: str, now: float) -> bool:
        try:
            body = self._bucket.read(key, OBJECT_MAX_BYTES + 1)
        except (NotFound, Unavailable) as error:
            log.warning("Cannot read a foreign object", file=file_id, key=key, error=str(error))
            self._retry_at[file_id] = now + RETRY_SECONDS
            return False
        if len(body) > OBJECT_MAX_BYTES:
            log.warning("A foreign object is too large to hash", file=file_id, key=key)
            self._retry_at[file_id] = now + RETRY_SECONDS
            return False
        with self._engine.begin() as connection:
            return store_hash(connection, file_id, key, sha256_hex(body), len(body))
