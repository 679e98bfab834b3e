"""streaQ: Redis streams, batched enqueue."""

import os
import time
from datetime import timedelta

from apps import common
from streaq import Worker

worker = Worker(
    redis_url=common.REDIS_URL,
    concurrency=common.CONCURRENCY,
    idle_timeout=timedelta(seconds=int(os.environ.get("PEER_IDLE_S", "60"))),
    anyio_kwargs={"use_uvloop": True},
)
effect = common.AsyncEffect()


@worker.task(ttl=0, silent=True)
async def handle(key: str, value: int) -> None:
    await effect(key, value)


async def enqueue(n):
    async with worker:
        if common.FRESH:
            await worker.redis.flushdb()
        keys = common.keys(n)
        start = time.perf_counter()
        for i in range(0, n, 100):
            await worker.enqueue_many([handle.enqueue(k, i + j) for j, k in enumerate(keys[i : i + 100])])
        return time.perf_counter() - start


async def pending():
    async with worker:
        return await worker.queue_size()
