"""SAQ on Redis lists."""

import asyncio
import os

import uvloop
from apps import common
from saq import Queue

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
queue = Queue.from_url(common.REDIS_URL, name="peers")
effect = common.AsyncEffect()


async def handle(ctx, *, order, value):  # 'key' is SAQ's own name for the job's identity
    await effect(order, value)


settings = {"queue": queue, "functions": [handle], "concurrency": common.CONCURRENCY}
if os.environ.get("PEER_SWEEP"):  # every 60 s by default
    settings["timers"] = {"sweep": int(os.environ["PEER_SWEEP"])}


async def enqueue(n):
    await queue.connect()
    if common.FRESH:
        await queue.redis.flushdb()
    # ttl=-1: keep no result.  SAQ's own default lets 20 enqueues run at once.
    return await common.windowed(lambda k, i: queue.enqueue("handle", order=k, value=i, ttl=-1), common.keys(n))


async def pending():
    await queue.connect()
    return await queue.count("incomplete")
