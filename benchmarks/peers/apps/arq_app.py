"""arq: a Redis sorted set polled by each worker process."""

import asyncio

import uvloop
from apps import common
from arq import create_pool
from arq.connections import RedisSettings

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
asyncio.set_event_loop(asyncio.new_event_loop())
redis_settings = RedisSettings.from_dsn(common.REDIS_URL)
QUIET = {
    "version": 1,
    "disable_existing_loggers": True,
    "loggers": {"arq": {"level": "ERROR"}},
}  # a line a job by default
effect = common.AsyncEffect()


async def handle(ctx, key, value):
    await effect(key, value)


class WorkerSettings:
    functions = [handle]
    redis_settings = redis_settings
    max_jobs = common.CONCURRENCY
    poll_delay = 0.01  # 0.5 s by default: each poll starts at most max_jobs jobs
    keep_result = 0
    log_results = False
    handle_signals = True


async def enqueue(n):
    pool = await create_pool(redis_settings)
    if common.FRESH:
        await pool.flushdb()
    return await common.windowed(lambda k, i: pool.enqueue_job("handle", k, i), common.keys(n))


async def pending():
    return await (await create_pool(redis_settings)).zcard("arq:queue")
