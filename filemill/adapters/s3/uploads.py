"""Multipart uploads through boto3, each call on a thread."""

import asyncio
import contextlib
import functools
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from filemill.adapters.s3.admin import boto_errors, s3_client
from filemill.config.settings import Settings
from filemill.domain.content import CONTENT_TYPE
from filemill.errors import NotFound

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class OpenUpload(msgspec.Struct, frozen=True):
    """A multipart upload that was neither completed nor aborted."""

    key: str
    upload_id: str
    begun_at: datetime


class S3Upload:
    """A multipart upload. (port: Upload)."""

    def __init__(self, settings: Settings, client: "S3Client", key: str, upload_id: str) -> None:
        self._settings = settings
        self._client = client
        self._key = key
        self._upload_id = upload_id
        self._tags: dict[int, str] = {}

    async def put_part(self, number: int, data: bytes) -> None:
        """Send a part."""
        self._tags[number] = await asyncio.to_thread(self._put_part, number, data)

    def _put_part(self, number: int, data: bytes) -> str:
        with boto_errors(self._settings):
            return self._client.upload_part(
                Bucket=self._settings.s3_bucket,
                Key=self._key,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=data,
            )["ETag"]

    async def complete(self) -> None:
        """Make the object of the parts."""
        await asyncio.to_thread(self._complete)

    def _complete(self) -> None:
        with boto_errors(self._settings):
            self._client.complete_multipart_upload(
                Bucket=self._settings.s3_bucket,
                Key=self._key,
                UploadId=self._upload_id,
                MultipartUpload={
                    "Parts": [{"PartNumber": number, "ETag": self._tags[number]} for number in sorted(self._tags)]
                },
            )

    async def abort(self) -> None:
        """Discard the parts."""
        await asyncio.to_thread(self._abort)

    def _abort(self) -> None:
        with contextlib.suppress(NotFound), boto_errors(self._settings, self._key):
            self._client.abort_multipart_upload(
                Bucket=self._settings.s3_bucket, Key=self._key, UploadId=self._upload_id
            )


class S3Uploads:
    """Begins, lists and aborts multipart uploads. Its client is made at the first call."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @functools.cached_property
    def _client(self) -> "S3Client":
        return s3_client(self._settings)

    async def begin(self, key: str, metadata: Mapping[str, str]) -> S3Upload:
        """Begin an upload. Raises Unavailable."""
        return await asyncio.to_thread(self._begin, key, metadata)

    def _begin(self, key: str, metadata: Mapping[str, str]) -> S3Upload:
        with boto_errors(self._settings):
            answer = self._client.create_multipart_upload(
                Bucket=self._settings.s3_bucket,
                Key=key,
                ContentType=metadata.get("Content-Type", CONTENT_TYPE),
                Metadata={name: value for name, value in metadata.items() if name != "Content-Type"},
            )
        return S3Upload(self._settings, self._client, key, answer["UploadId"])

    def open(self) -> Iterator[OpenUpload]:
        """All uploads of the bucket that were neither completed nor aborted. Raises Unavailable."""
        with boto_errors(self._settings):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._settings.s3_bucket)
            for page in pages:
                for upload in page.get("Uploads", []):
                    yield OpenUpload(upload["Key"], upload["UploadId"], upload["Initiated"])

    def abort(self, key: str, upload_id: str) -> None:
        """Discard the parts of an upload. No effect if there is no such upload. Raises Unavailable."""
        with contextlib.suppress(NotFound), boto_errors(self._settings, key):
            self._client.abort_multipart_upload(Bucket=self._settings.s3_bucket, Key=key, UploadId=upload_id)
