"""S3 through boto3, for everything except the hot path: buckets, downloads, manual operations."""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES, ConfigValueStore, ConstantProvider
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from filemill.adapters.errors import ErrorCategory
from filemill.adapters.s3.errors import S3ErrorRule, classify, unavailable, unreachable
from filemill.config.settings import Settings
from filemill.errors import NotFound
from filemill.ports import StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# The errors for a key that the service rejects; a foreign file service may have chosen such a key.
_REJECTED_KEY = {"InvalidArgument", "InvalidRequest", "InvalidURI"}
_BUCKET_EXISTS = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}
_FIRST_KEY = "filemill-first-object"

_creating = threading.Lock()  # a session creates one client at a time


def s3_client(settings: Settings, session: boto3.Session | None = None) -> "S3Client":
    """A boto3 client that tries twice within the server timeout. It reads no configuration but the settings."""
    attempts = 2
    timeout = settings.server_timeout_seconds / attempts
    proxy = settings.s3_proxy
    with _creating:
        client: S3Client = (session or _session()).client(
            "s3",
            endpoint_url=settings.s3_endpoint,
            region_name=settings.s3_region,
            aws_access_key_id=settings.aws_access_key_id.get_secret_value(),
            aws_secret_access_key=settings.aws_secret_access_key.get_secret_value(),
            aws_session_token=settings.s3_session_token.get_secret_value() or None,
            verify=str(settings.s3_ca_bundle) if settings.s3_ca_bundle is not None else True,
            config=Config(
                connect_timeout=timeout,
                read_timeout=timeout,
                retries={"total_max_attempts": attempts, "mode": "standard"},
                s3={"addressing_style": "path"},
                proxies={"http": proxy, "https": proxy} if proxy else {},
            ),
        )
    client.meta.events.register("before-parameter-build.s3", _follow_no_redirect)
    return client


def _follow_no_redirect(context: dict[str, Any], **_: Any) -> None:  # noqa: ANN401 - botocore's
    """Follow no redirect to another region: with a fixed endpoint botocore would repeat it forever."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def isolated_core() -> botocore.session.Session:
    """A botocore session that reads neither AWS_* nor ~/.aws: everything that they could set has its default."""
    core = botocore.session.Session()
    fixed = {name: ConstantProvider(default) for name, (_, _, default, _) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()}
    nothing = {name: ConstantProvider(os.devnull) for name in ("config_file", "credentials_file")}
    core.register_component("config_store", ConfigValueStore({**fixed, **nothing}))
    return core


@functools.cache
def _session() -> boto3.Session:
    return boto3.Session(botocore_session=isolated_core())


def create_bucket(settings: Settings) -> bool:
    """Create the bucket unless it exists; returns whether it was created. Raises Unavailable.

    Writes an object into a new bucket and deletes it: SeaweedFS allocates a bucket's storage at its first objects,
    and delays those that arrive meanwhile by a second.
    """
    client = s3_client(settings)
    with boto_errors(settings):
        try:
            client.create_bucket(Bucket=settings.s3_bucket)
        except ClientError as error:
            if _code(error) not in _BUCKET_EXISTS:
                raise
            return False
        client.put_object(Bucket=settings.s3_bucket, Key=_FIRST_KEY, Body=b"-")
        client.delete_object(Bucket=settings.s3_bucket, Key=_FIRST_KEY)
    return True


def bucket_exists(settings: Settings, client: "S3Client | None" = None) -> bool:
    """Whether the bucket exists. Raises Unavailable."""
    try:
        with boto_errors(settings, settings.s3_bucket):
            (client or s3_client(settings)).head_bucket(Bucket=settings.s3_bucket)
    except NotFound:
        return False
    return True


def list_objects(settings: Settings) -> Iterator[list[StoredObject]]:
    """All objects of the bucket in pages, ordered by their keys' bytes. Raises Unavailable."""
    core = isolated_core()
    # The timestamps are not used, and botocore needs 0.1 ms to parse one.
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    with boto_errors(settings):
        client = s3_client(settings, boto3.Session(botocore_session=core))
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=settings.s3_bucket):
            yield [StoredObject(entry["Key"], entry["Size"]) for entry in page.get("Contents", [])]


def read_object(settings: Settings, key: str) -> bytes:
    """An object's bytes. Raises NotFound, also if the service rejects the key, and Unavailable."""
    with boto_errors(settings, key):
        return s3_client(settings).get_object(Bucket=settings.s3_bucket, Key=key)["Body"].read()


@contextlib.contextmanager
def boto_errors(settings: Settings, wanted: str = "") -> Iterator[None]:
    """Translate boto3's errors, by their rules.

    `wanted` is the key of the requested object, if there is one: NotFound is raised if it does not exist.
    """
    try:
        yield
    except ClientError as error:
        code = _code(error)
        rule = _rule_of(error, code)
        if wanted and (rule.category is ErrorCategory.NOT_FOUND or code in _REJECTED_KEY):
            raise NotFound(wanted) from None
        if rule.category is ErrorCategory.BUG:
            raise
        rule = classify("NoSuchBucket") if rule.category is ErrorCategory.NOT_FOUND else rule
        raise unavailable(settings, rule, code) from None
    except ParamValidationError:
        if wanted:
            raise NotFound(wanted) from None
        raise
    except BotoCoreError as error:
        raise unreachable(settings, error) from None


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _rule_of(error: ClientError, code: str) -> S3ErrorRule:
    about: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
    status = about.get("HTTPStatusCode")
    return classify(code, status, skew_seconds=_skew_seconds(about.get("HTTPHeaders", {})))


def _skew_seconds(headers: Mapping[str, str]) -> float:
    """How far the service's clock is ahead of ours, by the response; 0 without a date in it."""
    try:
        return (parsedate_to_datetime(headers["date"]) - datetime.now(UTC)).total_seconds()
    except (KeyError, ValueError, TypeError):
        return 0.0
