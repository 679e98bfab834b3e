"""Several processes on one queue in PostgreSQL: no message is leased to two of them, and a killed one spoils nothing."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections import Counter
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import SpawnProcess

import anyio
import pytest

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.postgres import PostgresQueue, ensure
from crossfoot.queues.queue import Accepted, Done, Outgoing
from tests.servers.postgres import Postgres

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

spawn = multiprocessing.get_context("spawn")

LEASE = 1.0
"""Seconds; of those who are killed, so that their messages come again while the test waits."""


def consume(url: str, results: Pipe) -> None:
    """Another process: receive and ack until nothing is left, then tell every message it was given."""

    async def work() -> list[tuple[str, str]]:
        given: list[tuple[str, str]] = []
        async with PostgresQueue("orders", url=url, ordered=True) as queue:
            while deliveries := await queue.receive(7, lease=600.0, wait=1.0):
                given += [(one.broker_id, one.attributes.get("line", "")) for one in deliveries]
                answers = await queue.ack([one.receipt for one in deliveries])
                assert all(isinstance(answer, Done) for answer in answers), answers
        return given

    results.send(anyio.run(work))
    results.close()


def work_until_killed(url: str, results: Pipe) -> None:
    """Another process: publish, receive and ack without end, telling what it asks for and what was answered."""

    async def work() -> None:
        async with PostgresQueue("orders", url=url, ordered=True) as queue:
            for number in range(1_000_000):
                keys = [f"{os.getpid()}|{number}.{one}" for one in range(10)]
                results.send(("asked", keys))
                answers = await queue.publish(
                    [
                        Outgoing(key=key, body=key.encode(), partition=f"p{n}" if n < 3 else None)
                        for n, key in enumerate(keys)
                    ]
                )
                results.send(("accepted", [one.key for one in answers if isinstance(one, Accepted)]))
                deliveries = await queue.receive(10, lease=LEASE)
                some = deliveries[::2]
                results.send(("acking", [one.body.decode() for one in some]))
                done = await queue.ack([delivery.receipt for delivery in some])
                acked = [one.body.decode() for one, answer in zip(some, done, strict=True) if isinstance(answer, Done)]
                results.send(("acked", acked))

    anyio.run(work)


def test_processes_that_receive_at_once_never_hold_the_same_message(postgres_url: str) -> None:
    async def fill() -> None:
        await ensure("orders", url=postgres_url)
        async with PostgresQueue("orders", url=postgres_url, ordered=True) as queue:
            await queue.publish([Outgoing(key=f"a|{number}", body=b"x") for number in range(2_000)])
            for line in range(10):
                await queue.publish(
                    [
                        Outgoing(
                            key=f"{line}|{number}", body=b"x", partition=f"line-{line}", attributes={"line": str(line)}
                        )
                        for number in range(50)
                    ]
                )

    anyio.run(fill)
    pipes, processes = [], []
    for _ in range(4):
        ours, theirs = spawn.Pipe(duplex=False)
        process = spawn.Process(target=consume, args=(postgres_url, theirs))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    given = Counter(key for pipe in pipes for key, _ in pipe.recv())
    for process in processes:
        process.join()
    assert len(given) == 2_500
    assert set(given.values()) == {1}


@pytest.mark.crash
def test_processes_killed_at_any_moment_leave_nothing_lost_and_nothing_that_was_acked_comes_back(
    postgres: Postgres, postgres_url: str
) -> None:
    seed = int(os.environ.get("CROSSFOOT_SEED", "7"))
    dice = random.Random(seed)
    anyio.run(lambda: ensure("orders", url=postgres_url))
    told: dict[str, set[str]] = {"asked": set(), "accepted": set(), "acking": set(), "acked": set()}
    for _ in range(4):
        pairs = [_start(postgres_url) for _ in range(3)]
        for _, pipe in pairs:
            _hear(pipe, told)  # it is at work
        for process, pipe in pairs:
            for _ in range(dice.randrange(40)):
                _hear(pipe, told)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            while pipe.poll():
                try:
                    _hear(pipe, told)
                except EOFError:
                    break
    left = anyio.run(_drain, postgres_url)
    assert set(left.values()) <= {1}, f"seed {seed}: delivered twice although it was acked"
    assert told["accepted"] <= told["acking"] | set(left), f"seed {seed}: lost"
    assert not told["acked"] & set(left), f"seed {seed}: acked, and delivered again"
    assert set(left) <= told["asked"], f"seed {seed}: from nowhere"
    assert postgres.run("SELECT FROM crossfoot_queue", database=postgres_url.rpartition("/")[2]) == []


async def _drain(url: str) -> Counter[str]:
    """Everything that is left, once the leases of the dead are over."""
    left: Counter[str] = Counter()
    async with PostgresQueue("orders", url=url, ordered=True) as queue:
        while (await queue.depth()).held:
            deliveries = await queue.receive(100, lease=60.0, wait=2 * LEASE)
            left.update(one.body.decode() for one in deliveries)
            await queue.ack([one.receipt for one in deliveries])
    return left


def _hear(pipe: Pipe, told: dict[str, set[str]]) -> None:
    what, keys = pipe.recv()
    told[what] |= set(keys)


def _start(url: str) -> tuple[SpawnProcess, Pipe]:
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=work_until_killed, args=(url, theirs))
    process.start()
    theirs.close()
    return process, ours


@pytest.mark.crash
def test_a_worker_whose_sessions_are_ended_again_and_again_settles_every_message(
    postgres: Postgres, postgres_url: str
) -> None:
    database = postgres_url.rpartition("/")[2]

    async def work() -> Counter[str]:
        seen: Counter[str] = Counter()
        await ensure("orders", url=postgres_url)
        async with PostgresQueue("orders", url=postgres_url) as queue:
            for group in range(20):
                await queue.publish([Outgoing(key=f"a|{group}.{n}", body=f"{group}.{n}".encode()) for n in range(50)])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(torment)
                with anyio.fail_after(60):
                    while len(seen) < 1_000:
                        try:
                            for one in await queue.receive(20, lease=LEASE, wait=0.2):
                                (answer,) = await queue.ack([one.receipt])
                                if isinstance(answer, Done):
                                    seen[one.body.decode()] += 1
                                elif not answer.lost:
                                    (again,) = await queue.ack([one.receipt])
                                    seen[one.body.decode()] += 1 if isinstance(again, Done) or again.lost else 0
                        except QueueUnavailable:
                            await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            assert (await queue.depth()).held == 0
        return seen

    async def torment() -> None:
        while True:
            await anyio.sleep(0.05)
            postgres.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND application_name = 'crossfoot'",
                database,
            )

    seen = anyio.run(work)
    assert set(seen.values()) == {1}
