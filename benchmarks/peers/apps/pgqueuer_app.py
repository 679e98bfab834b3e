"""PgQueuer: jobs in Postgres, asyncpg driver, batch dequeue."""

import asyncio
import json
import os
import signal
import time
from datetime import timedelta

import asyncpg
import uvloop
from apps import common
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
effect = common.AsyncEffect()


async def work() -> None:
    """What `pgq run` does; that command fails in 1.6.0 with the typer it installs today."""
    pool = await asyncpg.create_pool(common.PG_DSN, min_size=2, max_size=8)
    pgq = PgQueuer(AsyncpgPoolDriver(pool))

    @pgq.entrypoint("handle")
    async def handle(job: Job) -> None:
        key, value = json.loads(job.payload)
        await effect(key, value)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, pgq.shutdown.set)
    await pgq.run(batch_size=100, heartbeat_timeout=timedelta(seconds=float(os.environ.get("PEER_HEARTBEAT", "30"))))


async def enqueue(n):
    connection = await asyncpg.connect(common.PG_DSN)
    queries = Queries(AsyncpgDriver(connection))
    if common.FRESH:
        await queries.install()
    keys = common.keys(n)
    start = time.perf_counter()
    for i in range(0, n, 100):
        batch = [json.dumps([k, i + j]).encode() for j, k in enumerate(keys[i : i + 100])]
        await queries.enqueue(["handle"] * len(batch), batch, [0] * len(batch))
    return time.perf_counter() - start


async def pending():
    connection = await asyncpg.connect(common.PG_DSN)
    return await connection.fetchval("SELECT count(*) FROM pgqueuer")
