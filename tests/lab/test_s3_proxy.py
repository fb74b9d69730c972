"""The S3 proxy, without and with faults."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from filemill.adapters.s3.store import S3ObjectStore
from filemill.config.settings import Settings
from filemill.errors import Unavailable
from filemill.lab.s3_proxy import FaultMode, S3Proxy


@pytest.fixture
def proxy(settings: Settings) -> Iterator[S3Proxy]:
    with S3Proxy(settings.s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def store(settings: Settings, proxy: S3Proxy) -> S3ObjectStore:
    given = {"s3_endpoint": proxy.url, "server_timeout_seconds": 1.0}
    return S3ObjectStore(settings.model_copy(update=given))


def put(store: S3ObjectStore, key: str) -> None:
    asyncio.run(store.put(key, b"x" * 100_000, {}))


def test_without_a_fault_it_forwards(store: S3ObjectStore) -> None:
    for number in range(3):
        put(store, f"file-{number}")
    assert asyncio.run(store.get("file-2")) == b"x" * 100_000


@pytest.mark.parametrize("code", [503, 404])
def test_it_answers_with_an_error_until_the_fault_ends(proxy: S3Proxy, store: S3ObjectStore, code: int) -> None:
    put(store, "before")
    proxy.set_fault(FaultMode("answer", code=code))
    with pytest.raises(Unavailable):
        put(store, "meanwhile")
    proxy.set_fault(None)
    put(store, "after")


def test_it_fails_a_share_of_the_requests(proxy: S3Proxy, store: S3ObjectStore) -> None:
    proxy.set_fault(FaultMode("answer", share=0.5))
    failed = 0
    for number in range(40):
        try:
            put(store, f"file-{number}")
        except Unavailable:
            failed += 1
    assert 5 < failed < 35


def test_a_hanging_proxy_does_not_answer(proxy: S3Proxy, store: S3ObjectStore) -> None:
    proxy.set_fault(FaultMode("hang"))
    began = time.monotonic()
    with pytest.raises(Unavailable):
        put(store, "never")
    assert time.monotonic() - began > 0.9


def test_a_slow_proxy_answers_late(proxy: S3Proxy, store: S3ObjectStore) -> None:
    proxy.set_fault(FaultMode("slow", seconds=0.3))
    began = time.monotonic()
    put(store, "late")
    assert time.monotonic() - began > 0.3
