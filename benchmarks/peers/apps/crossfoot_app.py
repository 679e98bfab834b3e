"""crossfoot: book and effect in PostgreSQL, the queue by PEER_BROKER (postgres | redis | amqp | nats).

The worker is `crossfoot worker`, whose settings come from the environment. The effect goes through the handler's own
transaction, so it commits with its operation, its entries and, where the queue is in the same database, its ack.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from apps import common

from crossfoot import Crossfoot, Noop

MANY = os.environ.get("PEER_MANY") == "True"
BROKER = os.environ.get("PEER_BROKER", "postgres")
LEASE = float(os.environ.get("CROSSFOOT_LEASE", "30"))
GROUP = 100
AMQP = common.AMQP_URL.removesuffix("//")
QUEUES = {
    "postgres": "embedded",
    "redis": f"{common.REDIS_URL}/crossfoot",
    "amqp": f"{AMQP}/crossfoot",
    "nats": f"{common.NATS_URL}/CROSSFOOT/peers",
}

app = Crossfoot("peers", database=common.PG_DSN, queue=QUEUES[BROKER])
statement = common.sql("%s", "%s")

if common.WORKLOAD == "noop":

    @app.handler("order.placed", operation="{subject}")
    def handle(message):
        common.mark()
        return Noop("the benchmark's handler that does nothing")

elif MANY:

    @app.handler("order.placed", operation="{subject}", many=True)
    def handle(messages, tx):
        if common.WORKLOAD == "crash":
            time.sleep(common.CRASH_SLEEP)
        rows = [(message.subject, message.data["value"]) for message in messages]
        tx.execute(
            statement.replace("(%s, %s)", ", ".join(["(%s, %s)"] * len(rows))), [field for row in rows for field in row]
        )
        for _ in rows:
            common.mark()
        if common.WORKLOAD == "crash":
            time.sleep(common.CRASH_SLEEP)

else:

    @app.handler("order.placed", operation="{subject}")
    def handle(message, tx):
        if common.WORKLOAD == "crash":
            time.sleep(common.CRASH_SLEEP)
        tx.execute(statement, (message.subject, message.data["value"]))
        common.mark()
        if common.WORKLOAD == "crash":
            time.sleep(common.CRASH_SLEEP)


async def fresh():
    """An empty queue."""
    if BROKER == "redis":
        import redis

        from crossfoot.queues.redis import ensure

        redis.from_url(common.REDIS_URL).flushdb()
        await ensure(QUEUES[BROKER])
    elif BROKER == "nats":
        import nats

        from crossfoot.queues.nats import ensure

        raw = await nats.connect(common.NATS_URL)
        for stream in await raw.jetstream().streams_info():
            await raw.jetstream().delete_stream(stream.config.name)
        await raw.close()
        await ensure(QUEUES[BROKER], lease=LEASE)
    elif BROKER == "amqp":
        import aiormq

        from crossfoot.queues.rabbitmq import ensure

        connection = await aiormq.connect(f"{AMQP}/%2F")
        channel = await connection.channel()
        for name in ("crossfoot", "crossfoot.dead"):
            await channel.queue_delete(name)
        await connection.close()
        await ensure(QUEUES[BROKER])


async def enqueue(n):
    if common.FRESH:
        await fresh()
    app.book.open()
    await app.queue.open()
    keys = common.keys(n)
    start = time.perf_counter()
    for first in range(0, n, GROUP):
        group = enumerate(keys[first : first + GROUP], first)
        await app.publish(*(app.message("order.placed", subject=key, data={"value": i}) for i, key in group))
    seconds = time.perf_counter() - start
    await app.aclose()
    return seconds


async def pending():
    await app.queue.open()
    depth = await app.queue.depth()
    await app.aclose()
    return depth.held + depth.dead


def check(n):
    """What does not add up in the books: they must balance, and have a fate for every message."""
    command = [str(Path(sys.executable).parent / "crossfoot"), "balance", "--json", "--db", common.PG_DSN]
    env = {**os.environ, "CROSSFOOT_QUEUE": QUEUES[BROKER]}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        return [f"balance said {done.stderr[-300:]!r}"]
    books = json.loads(done.stdout)
    problems = []
    if books["published"] != n:
        problems.append(f"the books have {books['published']} published")
    if books["unaccounted"]:
        problems.append(f"{books['unaccounted']} unaccounted")
    if not books["balanced"]:
        problems.append(f"the books do not balance: {books.get('problems')}")
    wanted = "noop" if common.WORKLOAD == "noop" else "settled"
    if books["fates"].get(wanted) != n:
        problems.append(f"fates {books['fates']}")
    return problems
