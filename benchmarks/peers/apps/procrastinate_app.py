"""Procrastinate: jobs in Postgres, psycopg connector, LISTEN/NOTIFY on."""

import os
import time

import procrastinate
from apps import common

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=common.PG_DSN, min_size=4, max_size=16))
effect = common.AsyncEffect()


@app.task(queue="peers", name="handle")
async def handle(key: str, value: int) -> None:
    await effect(key, value)


if os.environ.get("PEER_RETRY_STALLED"):
    # What the documentation asks for: a periodic job that retries jobs of dead workers.
    @app.periodic(cron="* * * * * */5")
    @app.task(queueing_lock="retry_stalled", pass_context=True, queue="peers")
    async def retry_stalled(context, timestamp):
        for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=10):
            await app.job_manager.retry_job(job)


async def enqueue(n):
    async with app.open_async():
        if common.FRESH:
            await app.schema_manager.apply_schema_async()
        keys = common.keys(n)
        start = time.perf_counter()
        for i in range(0, n, 100):
            await handle.batch_defer_async(*({"key": k, "value": i + j} for j, k in enumerate(keys[i : i + 100])))
        return time.perf_counter() - start


async def pending():
    async with app.open_async():
        row = await app.connector.execute_query_one_async(
            "SELECT count(*) AS n FROM procrastinate_jobs WHERE task_name = 'handle' AND status IN ('todo', 'doing')"
        )
        return row["n"]
