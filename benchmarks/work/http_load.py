"""People who ask over HTTP, by the clock: an open loop, so that a slow answer does not make the next request later."""

import asyncio
import time
from collections.abc import Generator
from statistics import quantiles

import httpx

from benchmarks import requests
from filemill.settings import Settings

CONNECTIONS = 32


def post(settings: Settings, files: int, rate: float) -> Generator[None, None, dict[str, float]]:
    """`POST /api/files` so many times, so often a second; latencies in ms from the intended moment."""
    url = f"http://{settings.host}:{settings.port}/api/files"
    bodies = [{"title": file.title, "description": file.description} for file in requests.files(files)]
    latencies: list[float] = []
    statuses: list[int] = []

    async def one(client: httpx.AsyncClient, body: dict[str, str], intended: float) -> None:
        answer = await client.post(url, json=body)
        latencies.append((time.perf_counter() - intended) * 1000)
        statuses.append(answer.status_code)

    async def everything() -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        async with httpx.AsyncClient(limits=limits, timeout=30) as client, asyncio.TaskGroup() as group:
            began = time.perf_counter()
            for number, body in enumerate(bodies):
                intended = began + number / rate
                await asyncio.sleep(max(0.0, intended - time.perf_counter()))
                group.create_task(one(client, body, intended))

    yield
    asyncio.run(everything())
    marks = quantiles(latencies, n=1000, method="inclusive")
    return {
        "accepted": float(sum(status == 201 for status in statuses)),
        "p50_ms": marks[499],
        "p99_ms": marks[989],
        "greatest_ms": max(latencies),
    }
