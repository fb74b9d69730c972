"""S3 by boto3, for everything but the hot path: buckets, downloads, what people do by hand."""

from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from filemill.adapters.s3 import gist
from filemill.retry import Unavailable
from filemill.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def s3_client(settings: Settings) -> "S3Client":
    """A boto3 client with short timeouts and one retry."""
    timeout = settings.server_timeout_seconds
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.aws_access_key_id.get_secret_value(),
        aws_secret_access_key=settings.aws_secret_access_key.get_secret_value(),
        config=Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            retries={"total_max_attempts": 2, "mode": "standard"},
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
