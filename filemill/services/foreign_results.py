"""Hashes and sizes of what a foreign file service completed.

A service written from the seed's document alone reports neither; they are taken from the object itself, so that the row
can be verified later.
"""

import threading
import time
from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog
from botocore.exceptions import BotoCoreError, ClientError

from filemill.adapters.postgres.tables import File
from filemill.domain.content import sha256_hex
from filemill.errors import Unavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = structlog.get_logger("foreign")

ROUND_SECONDS = 2.0
ROUND_FILES = 100
RETRY_SECONDS = 60.0
# More than any file of ours; a foreign object beyond it is left without a hash rather than read into memory.
OBJECT_MAX_BYTES = 16 * 1024 * 1024


class HashFiller:
    """Fills in `sha256` and `size` of completed rows that have none. One thread; harmless if several run."""

    def __init__(self, engine: sa.Engine, client: "S3Client", bucket: str) -> None:
        self._engine = engine
        self._client = client
        self._bucket = bucket
        self._again_at: dict[int, float] = {}

    def run(self, stop: threading.Event) -> None:
        """Fill in until told to stop; outlives servers that are away."""
        while not stop.wait(ROUND_SECONDS):
            try:
                self.fill()
            except Unavailable as error:
                log.debug("No hashes for now", error=str(error))

    def fill(self) -> int:
        """One round; returns how many rows it completed."""
        now = time.monotonic()
        self._again_at = {file_id: moment for file_id, moment in self._again_at.items() if moment > now}
        wanted = (
            sa.select(File.id, File.s3_location)
            .where(File.status == "completed", File.sha256.is_(None), File.s3_location.is_not(None))
            .order_by(File.id)
            .limit(ROUND_FILES + len(self._again_at))
        )
        with self._engine.connect() as connection:
            rows = [(row.id, row.s3_location) for row in connection.execute(wanted) if row.id not in self._again_at]
        return sum(self._fill_one(file_id, key, now) for file_id, key in rows[:ROUND_FILES])

    def _fill_one(self, file_id: int, key: str, now: float) -> bool:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            body = answer["Body"].read(OBJECT_MAX_BYTES + 1)
        except (ClientError, BotoCoreError) as error:
            log.warning("A foreign object cannot be read", file=file_id, key=key, error=str(error))
            self._again_at[file_id] = now + RETRY_SECONDS
            return False
        if len(body) > OBJECT_MAX_BYTES:
            log.warning("A foreign object is too large to hash", file=file_id, key=key)
            self._again_at[file_id] = now + RETRY_SECONDS
            return False
        change = (
            sa.update(File)
            .where(File.id == file_id, File.s3_location == key, File.sha256.is_(None))
            .values(sha256=sha256_hex(body), size=len(body))
        )
        with self._engine.begin() as connection:
            return connection.execute(change).rowcount > 0
