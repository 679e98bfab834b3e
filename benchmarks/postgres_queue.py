"""A queue in PostgreSQL: messages a second through it while an old transaction elsewhere keeps VACUUM away, and what it costs
to wake somebody.

    python benchmarks/postgres_queue.py                          all of it, on a server of its own
    python benchmarks/postgres_queue.py --messages 200000 --only old,none
    python benchmarks/postgres_queue.py --url postgresql://me@host/empty

Every message is published before the clock starts, received in groups of a hundred by four tasks of one process, and acked;
commits wait for the disk. The run `beginning` reads every claim from the beginning, as a queue without places would; it is
given up after a minute.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))

from crossfoot.queues.postgres import PostgresQueue, ensure, receiving
from crossfoot.queues.postgres.places import Places
from crossfoot.queues.queue import Outgoing
from tests.servers.postgres import postgres_running

BODY = b'{"specversion":"1.0","data":{"amount":' + b"1" * 150 + b"}}"
CONSUMERS, GROUP, TENTH = 4, 100, 10
GIVE_UP_SECONDS = 60.0

RUNS = {
    "none": "no old transaction",
    "old": "an old transaction (REPEATABLE READ)",
    "writer": "an old transaction that has written",
    "beginning": "an old transaction; claims read from the beginning",
}


@contextmanager
def old_transaction(url: str, kind: str) -> Iterator[None]:
    """What a report, a dump or a forgotten session does to everybody else."""
    if kind == "none":
        yield
        return
    with psycopg.connect(url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM pg_class")
        if kind == "writer":
            connection.execute("CREATE TEMPORARY TABLE t (number integer)")
        yield
        connection.rollback()


async def publish(queue: PostgresQueue, messages: int) -> float:
    """Seconds it took."""
    began = time.monotonic()
    for start in range(0, messages, 1_000):
        await queue.publish([Outgoing(key=f"benchmark|{number}", body=BODY) for number in range(start, start + 1_000)])
    return time.monotonic() - began


class Tenth(NamedTuple):
    """When so many messages were through, and how many pages had been looked at by then."""

    done: int
    at: float
    pages: int


def pages(connection: psycopg.Connection[Any]) -> int:
    """Of the table and its indexes, since it exists; the server counts with about a second's delay."""
    row = connection.execute(
        "SELECT heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read FROM pg_statio_user_tables "
        "WHERE relname = 'crossfoot_queue'"
    ).fetchone()
    assert row is not None
    return int(row[0])


async def consume(queue: PostgresQueue, messages: int, tenths: list[Tenth], statistics: psycopg.Connection[Any]) -> int:
    """Receive and ack everything. Returns how many there were."""
    done = 0
    began = time.monotonic()
    tenths.append(Tenth(0, began, pages(statistics)))

    async def work() -> None:
        nonlocal done
        while time.monotonic() - began < GIVE_UP_SECONDS or len(tenths) > 2:
            deliveries = await queue.receive(GROUP, lease=30.0)
            if not deliveries:
                return
            await queue.ack([one.receipt for one in deliveries])
            done += len(deliveries)
            if done >= len(tenths) * messages // TENTH:
                tenths.append(Tenth(done, time.monotonic(), pages(statistics)))

    async with anyio.create_task_group() as tasks:
        for _ in range(CONSUMERS):
            tasks.start_soon(work)
    return done


async def through(url: str, kind: str, messages: int) -> None:
    """One run, and its line."""
    await ensure("benchmark", url=url)
    tenths: list[Tenth] = []
    async with PostgresQueue("benchmark", url=url, timeout=60.0) as queue:
        with old_transaction(url, kind), psycopg.connect(url, autocommit=True) as statistics:
            publishing = await publish(queue, messages)
            with from_the_beginning(kind == "beginning"):
                done = await consume(queue, messages, tenths, statistics)
            await anyio.sleep(1.5)
            tenths.append(Tenth(done, time.monotonic(), pages(statistics)))
        held = (await queue.depth()).held
    if len(tenths) == TENTH + 2:
        figures = f"{figure(tenths[0], tenths[1])} | {figure(tenths[-3], tenths[-2])}"
    else:
        figures = f"{figure(tenths[0], tenths[-1])} | given up after {done:,}"
    check = "ok" if held == messages - done and (kind == "beginning" or not held) else f"{held:,} are left"
    print(f"| {RUNS[kind]} | {messages / publishing:,.0f} | {figures} | {check} |", flush=True)


def figure(one: Tenth, other: Tenth) -> str:
    """Messages a second, and pages a message."""
    count = max(1, other.done - one.done)
    return f"{count / (other.at - one.at):,.0f} | {(other.pages - one.pages) / count:.1f}"


@contextmanager
def from_the_beginning(wanted: bool) -> Iterator[None]:
    """Have every claim read from the beginning."""
    kept = receiving.after
    if wanted:
        receiving.after = lambda asked, look: Places()
    try:
        yield
    finally:
        receiving.after = kept


def wake(url: str, seconds: float = 3.0, clients: int = 8, rounds: int = 5) -> None:
    """Transactions of one message each, from several clients: without a call, with a NOTIFY inside, and with one of its own
    afterwards at most every 10 ms."""
    anyio.run(lambda: ensure("benchmark", url=url))

    def work(how: str, counts: list[int], index: int) -> None:
        queue = PostgresQueue("benchmark", url=url)
        last = 0.0
        with psycopg.connect(url, autocommit=True) as connection:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                with connection.transaction():
                    for sql, parameters in queue.publish_statements([Outgoing(key="benchmark|1", body=BODY)], 0):
                        connection.execute(sql.replace("?", "%s").encode(), parameters)
                    if how == "inside":
                        connection.execute("SELECT pg_notify('benchmark', '')")
                if how == "afterwards" and time.monotonic() - last > 0.01:
                    last = time.monotonic()
                    connection.execute("SELECT pg_notify('benchmark', '')")
                counts[index] += 1

    ways = {
        "none": "nobody is told",
        "inside": "NOTIFY in the transaction",
        "afterwards": "afterwards, at most every 10 ms",
    }
    rates: dict[str, list[float]] = {how: [] for how in ways}
    for _ in range(rounds):
        for how in ways:
            counts = [0] * clients
            threads = [threading.Thread(target=work, args=(how, counts, index)) for index in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rates[how].append(sum(counts) / seconds)
    print(f"\n| {clients} clients, one message a transaction | transactions/s, median (range) |\n|---|---:|")
    for how, title in ways.items():
        print(
            f"| {title} | {statistics.median(rates[how]):,.0f} ({min(rates[how]):,.0f}-{max(rates[how]):,.0f}) |",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--only", default=",".join([*RUNS, "wake"]), help=f"of {', '.join(RUNS)}, wake")
    parser.add_argument("--url", help="an empty database to use instead of a server of our own")
    asked = parser.parse_args()
    with ExitStack() as stack:
        server = None
        if not asked.url:
            server = stack.enter_context(
                postgres_running(shared_buffers="512MB", max_wal_size="8GB", autovacuum_naptime="10s")
            )
        print(f"{platform.machine()}, {platform.python_version()}, {asked.messages:,} messages; messages/s\n")
        tenth = f"{asked.messages // TENTH:,}"
        print(f"| | published | first {tenth} | pages a message | last {tenth} | pages a message | check |")
        print("|---|---:|---:|---:|---:|---:|---|")
        for number, kind in enumerate(asked.only.split(",")):
            url = asked.url
            if server is not None:
                server.run(f"CREATE DATABASE run_{number}")
                url = server.url(f"run_{number}")
            if kind == "wake":
                wake(url)
            else:
                anyio.run(through, url, kind, asked.messages)
            if server is not None:
                server.run(f"DROP DATABASE run_{number} WITH (FORCE)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
