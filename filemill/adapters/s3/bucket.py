"""The bucket of the settings, for everything that is not on the hot path: read, delete, list."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from filemill.adapters.s3.admin import boto_errors, bucket_exists, create_bucket, list_objects
from filemill.adapters.s3.errors import S3ErrorCode
from filemill.config.settings import Settings
from filemill.errors import Unavailable
from filemill.ports import StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Bucket:
    """Reads, deletes and lists objects. Any thread. Each method raises Unavailable."""

    def __init__(self, settings: Settings, client: "S3Client") -> None:
        self._settings = settings
        self._client = client

    def exists(self) -> bool:
        """Whether the bucket exists."""
        return bucket_exists(self._settings, self._client)

    def create(self) -> bool:
        """Create the bucket unless it exists; returns whether it did."""
        return create_bucket(self._settings)

    def read(self, key: str, at_most: int | None = None) -> bytes:
        """An object's bytes, the first `at_most` of them. Raises NotFound, also if the service refuses the key."""
        with self._errors(key):
            answer = self._client.get_object(Bucket=self._settings.s3_bucket, Key=key)
            return answer["Body"].read(at_most)

    def delete(self, key: str) -> None:
        """Delete an object; an absent one is no error. Raises NotFound if the service refuses the key."""
        with self._errors(key):
            self._client.delete_object(Bucket=self._settings.s3_bucket, Key=key)

    def list(self) -> Iterator[list[StoredObject]]:
        """All objects in pages, ordered by their keys' bytes."""
        return list_objects(self._settings)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """As `boto_errors`, but an unknown answer about one object is Unavailable, so that the caller can continue."""
        try:
            with boto_errors(self._settings, key):
                yield
        except ClientError as error:
            problem = f"S3 at {self._settings.s3_endpoint} gave an unexpected answer for {key}: {error}"
            raise Unavailable(problem, code=S3ErrorCode.BUG) from None
