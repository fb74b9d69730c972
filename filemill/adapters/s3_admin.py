"""S3 by boto3, for everything but the hot path: buckets, downloads, what people do by hand."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from filemill.adapters.s3 import gist
from filemill.ports import Missing, StoredObject
from filemill.retry import Unavailable
from filemill.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def s3_client(settings: Settings, session: boto3.Session | None = None) -> "S3Client":
    """A boto3 client that tries twice, and gives up within the server timeout."""
    attempts = 2
    timeout = settings.server_timeout_seconds / attempts
    return (session or boto3).client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.aws_access_key_id.get_secret_value(),
        aws_secret_access_key=settings.aws_secret_access_key.get_secret_value(),
        config=Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            retries={"total_max_attempts": attempts, "mode": "standard"},
            s3={"addressing_style": "path"},
        ),
    )


def create_bucket(settings: Settings) -> bool:
    """Create the bucket where it is missing; whether it was. Raises retry.Unavailable."""
    client = s3_client(settings)
    try:
        client.create_bucket(Bucket=settings.s3_bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            return False
        raise Unavailable(f"S3 at {settings.s3_endpoint} refused to create {settings.s3_bucket}: {error}") from None
    except BotoCoreError as error:
        raise Unavailable(f"S3 at {settings.s3_endpoint} is away: {gist(error)}") from None
    return True


def bucket_exists(settings: Settings) -> bool:
    """Whether the bucket is there. Raises retry.Unavailable."""
    try:
        s3_client(settings).head_bucket(Bucket=settings.s3_bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] in {"404", "NoSuchBucket"}:
            return False
        raise Unavailable(f"S3 at {settings.s3_endpoint} refused: {error}") from None
    except BotoCoreError as error:
        raise Unavailable(f"S3 at {settings.s3_endpoint} is away: {gist(error)}") from None
    return True


def list_objects(settings: Settings) -> Iterator[list[StoredObject]]:
    """All objects of the bucket, in pages, by their keys' bytes. Raises retry.Unavailable."""
    core = botocore.session.get_session()
    # Nobody reads the times, and botocore takes 0.1 ms for each.
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    with _errors(settings, ""):
        client = s3_client(settings, boto3.Session(botocore_session=core))
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=settings.s3_bucket):
            yield [StoredObject(entry["Key"], entry["Size"]) for entry in page.get("Contents", [])]


def read_object(settings: Settings, key: str) -> bytes:
    """An object's bytes. Raises Missing, also for a key that the service refuses; retry.Unavailable."""
    with _errors(settings, key):
        return s3_client(settings).get_object(Bucket=settings.s3_bucket, Key=key)["Body"].read()


@contextlib.contextmanager
def _errors(settings: Settings, key: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "NoSuchBucket":
            raise Unavailable(f"S3 at {settings.s3_endpoint} has no bucket {settings.s3_bucket}") from None
        if key and code in {"NoSuchKey", "404", "InvalidRequest", "KeyTooLongError"}:
            raise Missing(key) from None
        raise Unavailable(f"S3 at {settings.s3_endpoint} refused: {error}") from None
    except ParamValidationError:
        raise Missing(key) from None
    except BotoCoreError as error:
        raise Unavailable(f"S3 at {settings.s3_endpoint} is away: {gist(error)}") from None
