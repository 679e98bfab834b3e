"""The bounds no peer can pass here: the same effect without any task queue, timed in this process.

`python -m apps limits_app run <name> N`
"""

import asyncio
import json
import os
import sqlite3
import tempfile
import threading
import time

import asyncpg
import uvloop
from apps import common

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
INSERT = common.EFFECT_SQL.format("$1", "$2")
MULTI = "INSERT INTO effects SELECT * FROM unnest($1::text[], $2::int[]) ON CONFLICT (key) DO NOTHING"


def answer(n, seconds, check="ok", **more):
    return {"per_s": n / seconds, "seconds": seconds, "check": check, **more}


def batches(n, size):
    rows = [(k, i) for i, k in enumerate(common.keys(n))]
    return [rows[i : i + size] for i in range(0, n, size)]


# -------------------------------------------------------------------- Postgres
async def pg_insert(n, connections):
    pool = [await asyncpg.connect(common.PG_DSN) for _ in range(connections)]
    rows = iter([(k, i) for i, k in enumerate(common.keys(n))])

    async def worker(connection):
        statement = await connection.prepare(INSERT)
        for row in rows:  # one iterator shared by all: each takes the next row
            await statement.fetch(*row)  # autocommit: every row is its own transaction

    start = time.perf_counter()
    await asyncio.gather(*map(worker, pool))
    seconds = time.perf_counter() - start
    count = await pool[0].fetchval("SELECT count(*) FROM effects")
    return answer(n, seconds, "ok" if count == n else f"{count} rows")


async def pg_batch(n, multirow):
    connection = await asyncpg.connect(common.PG_DSN)
    work = batches(n, 100)
    start = time.perf_counter()
    for batch in work:
        async with connection.transaction():
            if multirow:
                keys, values = zip(*batch, strict=True)
                await connection.execute(MULTI, keys, values)
            else:
                await connection.executemany(INSERT, batch)
    seconds = time.perf_counter() - start
    count = await connection.fetchval("SELECT count(*) FROM effects")
    return answer(n, seconds, "ok" if count == n else f"{count} rows")


async def pg_queue(n, size, connections, multirow):
    """Take messages, apply their effects and delete them, in one transaction: nothing lost, nothing twice."""
    pool = [await asyncpg.connect(common.PG_DSN) for _ in range(connections)]
    await pool[0].execute("CREATE TABLE queue (id bigserial PRIMARY KEY, body jsonb NOT NULL)")
    start = time.perf_counter()
    for batch in batches(n, 100):
        await pool[0].execute(
            "INSERT INTO queue (body) SELECT unnest($1::jsonb[])",
            [json.dumps({"key": k, "value": i}) for k, i in batch],
        )
    enqueue_s = time.perf_counter() - start
    await pool[0].execute("ANALYZE queue")

    async def worker(connection):
        take = await connection.prepare(f"SELECT id, body FROM queue ORDER BY id LIMIT {size} FOR UPDATE SKIP LOCKED")
        drop = await connection.prepare("DELETE FROM queue WHERE id = ANY($1)")
        while True:
            async with connection.transaction():
                rows = await take.fetch()
                if not rows:
                    return
                effects = [(body["key"], body["value"]) for body in (json.loads(r["body"]) for r in rows)]
                if multirow:
                    await connection.execute(MULTI, *zip(*effects, strict=True))
                elif size == 1:
                    await connection.execute(INSERT, *effects[0])
                else:
                    await connection.executemany(INSERT, effects)
                await drop.fetch([r["id"] for r in rows])

    start = time.perf_counter()
    await asyncio.gather(*map(worker, pool))
    seconds = time.perf_counter() - start
    count = await pool[0].fetchval("SELECT count(*) FROM effects")
    return answer(n, seconds, "ok" if count == n else f"{count} rows", enqueue_per_s=n / enqueue_s)


# ---------------------------------------------------------------------- SQLite
def sqlite(n, synchronous, size):
    folder = tempfile.mkdtemp(prefix="peers-")
    path = os.path.join(folder, "effects.db")
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={synchronous}")
    db.execute("CREATE TABLE effects (key text PRIMARY KEY, value int) WITHOUT ROWID")
    statement = "INSERT INTO effects VALUES (?, ?) ON CONFLICT DO NOTHING"
    work = batches(n, size)
    start = time.perf_counter()
    for batch in work:
        if size == 1:
            db.execute(statement, batch[0])
        else:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(statement, batch)
            db.execute("COMMIT")
    seconds = time.perf_counter() - start
    count = db.execute("SELECT count(*) FROM effects").fetchone()[0]
    db.close()
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    os.rmdir(folder)
    return answer(n, seconds, "ok" if count == n else f"{count} rows")


# ------------------------------------------------------------------------- SQS
AWS = {
    "region_name": "us-east-1",
    "aws_access_key_id": "x",
    "aws_secret_access_key": "x",
    "endpoint_url": os.environ.get("SQS_URL"),
}


def sqs_entries(n):
    return [
        [{"Id": str(j), "MessageBody": json.dumps({"key": k, "value": i})} for j, (k, i) in enumerate(batch)]
        for batch in batches(n, 10)
    ]


def sqs_boto3(n, threads):
    import boto3
    from botocore.config import Config

    client = boto3.client("sqs", config=Config(max_pool_connections=threads), **AWS)
    url = client.create_queue(QueueName=f"limit-{time.time_ns()}")["QueueUrl"]

    def spread(function):
        start = time.perf_counter()
        pool = [threading.Thread(target=function) for _ in range(threads)]
        [t.start() for t in pool]
        [t.join() for t in pool]
        return time.perf_counter() - start

    work = iter(sqs_entries(n))
    lock = threading.Lock()
    done = []

    def send():
        while True:
            with lock:
                entries = next(work, None)
            if entries is None:
                return
            client.send_message_batch(QueueUrl=url, Entries=entries)

    def consume():
        while len(done) < n:
            got = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
            if not got:
                return
            client.delete_message_batch(
                QueueUrl=url, Entries=[{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(got)]
            )
            done.extend(m["MessageId"] for m in got)

    send_s, seconds = spread(send), spread(consume)
    client.delete_queue(QueueUrl=url)
    return answer(n, seconds, "ok" if len(set(done)) == n else f"{len(set(done))} messages", enqueue_per_s=n / send_s)


async def sqs_aio(n, width):
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    async with get_session().create_client("sqs", config=AioConfig(max_pool_connections=width), **AWS) as client:
        url = (await client.create_queue(QueueName=f"limit-{time.time_ns()}"))["QueueUrl"]
        work = iter(sqs_entries(n))
        done = []

        async def send():
            for entries in work:
                await client.send_message_batch(QueueUrl=url, Entries=entries)

        async def consume():
            while len(done) < n:
                got = (await client.receive_message(QueueUrl=url, MaxNumberOfMessages=10)).get("Messages", [])
                if not got:
                    return
                await client.delete_message_batch(
                    QueueUrl=url,
                    Entries=[{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(got)],
                )
                done.extend(m["MessageId"] for m in got)

        start = time.perf_counter()
        await asyncio.gather(*(send() for _ in range(width)))
        send_s = time.perf_counter() - start
        start = time.perf_counter()
        await asyncio.gather(*(consume() for _ in range(width)))
        seconds = time.perf_counter() - start
        await client.delete_queue(QueueUrl=url)
    return answer(n, seconds, "ok" if len(set(done)) == n else f"{len(set(done))} messages", enqueue_per_s=n / send_s)


LIMITS = {
    "pg-insert-c1": lambda n: pg_insert(n, 1),
    "pg-insert-c8": lambda n: pg_insert(n, 8),
    "pg-insert-c32": lambda n: pg_insert(n, 32),
    "pg-insert-batch100": lambda n: pg_batch(n, False),
    "pg-insert-multirow100": lambda n: pg_batch(n, True),
    "pg-skiplocked-batch100": lambda n: pg_queue(n, 100, 1, False),
    "pg-skiplocked-multirow100": lambda n: pg_queue(n, 100, 1, True),
    "pg-skiplocked-1": lambda n: pg_queue(n, 1, 8, False),
    "sqlite-full-1": lambda n: sqlite(n, "FULL", 1),
    "sqlite-full-100": lambda n: sqlite(n, "FULL", 100),
    "sqlite-normal-1": lambda n: sqlite(n, "NORMAL", 1),
    "sqlite-normal-100": lambda n: sqlite(n, "NORMAL", 100),
    "sqs-boto3": lambda n: sqs_boto3(n, 1),
    "sqs-boto3-t8": lambda n: sqs_boto3(n, 8),
    "sqs-aiobotocore": lambda n: sqs_aio(n, 8),
}


def run(name, n):
    return LIMITS[name](n)
