"""Taskiq on Redis streams (taskiq-redis RedisStreamBroker), no result backend."""

import os

from apps import common
from taskiq_redis import RedisStreamBroker

options = {}
if os.environ.get("PEER_IDLE_MS"):  # 600,000 ms by default
    options["idle_timeout"] = int(os.environ["PEER_IDLE_MS"])
broker = RedisStreamBroker(common.REDIS_URL, consumer_id="0", **options)
effect = common.AsyncEffect()


@broker.task
async def handle(key: str, value: int) -> None:
    await effect(key, value)


async def enqueue(n):
    import redis.asyncio

    if common.FRESH:
        await redis.asyncio.from_url(common.REDIS_URL).flushdb()
    await broker.startup()
    seconds = await common.windowed(handle.kiq, common.keys(n))
    await broker.shutdown()
    return seconds


def pending():
    import redis

    groups = redis.from_url(common.REDIS_URL).xinfo_groups("taskiq")
    return sum(g["pending"] + (g["lag"] or 0) for g in groups)
