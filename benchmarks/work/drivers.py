"""Clients with the same properties for all arms, so that arms differ only in their design."""

import asyncio
import json
import os
from datetime import timedelta
from typing import Any

import boto3
import psycopg
import uvloop
from botocore.config import Config
from confluent_kafka import Consumer, TopicPartition
from obstore.store import S3Store

from filemill.adapters.client_environment import forget_libpq_variables, without_s3_variables
from filemill.adapters.postgres.connection import libpq_parameters
from filemill.adapters.s3.admin import isolated_core
from filemill.config.settings import Settings


def uvloop_runner() -> asyncio.Runner:
    """An asyncio runner on uvloop, as in our processes and in `faststream run`."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def postgres(settings: Settings) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection to PostgreSQL."""
    forget_libpq_variables()
    return psycopg.connect(**postgres_parameters(settings))


def postgres_parameters(settings: Settings) -> dict[str, Any]:
    """Connection parameters for psycopg."""
    return libpq_parameters(settings)


def producer_properties(settings: Settings, linger_ms: int = 5) -> dict[str, Any]:
    """Properties of an idempotent producer with acks=all, as in the pipeline."""
    return {
        "bootstrap.servers": settings.kafka_broker,
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": linger_ms,
        **settings.kafka_properties,
    }


def member_properties(settings: Settings, group: str) -> dict[str, Any]:
    """Properties of a member of a classic group with manual commits."""
    return {
        "bootstrap.servers": settings.kafka_broker,
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": settings.heartbeat_interval_ms,
        **settings.kafka_properties,
    }


def print_assigned(_consumer: Consumer, partitions: list[TopicPartition]) -> None:
    """A callback for on_assign: print the assigned partitions on standard output."""
    print(json.dumps({"event": "assigned", "owned": [part.partition for part in partitions]}), flush=True)


def s3_by_obstore(settings: Settings) -> S3Store:
    """A client of obstore with one thread, which is fastest on two cores."""
    os.environ.setdefault("TOKIO_WORKER_THREADS", "1")
    timeout = timedelta(seconds=settings.server_timeout_seconds)
    with without_s3_variables(certificates=True):
        return S3Store(
            settings.s3_bucket,
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            access_key_id=settings.aws_access_key_id.get_secret_value(),
            secret_access_key=settings.aws_secret_access_key.get_secret_value(),
            virtual_hosted_style_request=False,
            client_options={"allow_http": True, "timeout": timeout, "connect_timeout": timeout},
        )


def s3_by_boto3(settings: Settings) -> Any:  # noqa: ANN401 - boto3 creates its classes at run time
    """A client of boto3."""
    return boto3.Session(botocore_session=isolated_core()).client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.aws_access_key_id.get_secret_value(),
        aws_secret_access_key=settings.aws_secret_access_key.get_secret_value(),
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )
