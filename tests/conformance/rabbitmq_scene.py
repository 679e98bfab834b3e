"""What tests of RabbitMQ share: queues of their own, the truth beside them, and another process that holds something."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiormq
import anyio
import anyio.to_thread
from aiormq.abc import AbstractChannel

from crossfoot.queues.queue import Delivery, Held
from crossfoot.queues.rabbitmq import RabbitQueue, ensure
from tests.servers.rabbitmq import RabbitServer

ROOT = Path(__file__).parents[2]


async def made(server: RabbitServer, **settings: Any) -> str:
    return await ensure(f"faults-{uuid4().hex[:12]}", url=server.url, **settings)


def opened(name: str, server: RabbitServer, *, port: int = 0, **options: Any) -> RabbitQueue:
    """To be entered; by another port, if one is given."""
    url = server.url if not port else f"amqp://guest:guest@127.0.0.1:{port}"
    return RabbitQueue(name, url=url, **options)


@asynccontextmanager
async def by_hand(server: RabbitServer) -> AsyncIterator[AbstractChannel]:
    """A channel for what others might do."""
    connection = await aiormq.connect(server.url)
    try:
        yield await connection.channel(on_return_raises=False)
    finally:
        await connection.close()


async def the_one(queue: RabbitQueue, *, lease: float = 30.0, wait: float = 3.0) -> Delivery:
    (delivery,) = await queue.receive(1, lease=lease, wait=wait)
    return delivery


async def dead_of(queue: RabbitQueue) -> list[Held]:
    return [held async for held in queue.dead_letters()]


async def settled_at(queue: RabbitQueue, ready: int, dead: int) -> tuple[int, int]:
    """How many are ready and dead; what the broker does after its answer, or without one, is given three seconds."""
    counted = (-1, -1)
    with anyio.move_on_after(3):
        while counted != (ready, dead):
            await anyio.sleep(0.02)
            depth = await queue.depth()
            counted = (depth.ready, depth.dead)
    return counted


async def control(server: RabbitServer, *words: str) -> str:
    return await anyio.to_thread.run_sync(server.control, *words)


class Told:
    """What a queue says is void, without having been asked."""

    def __init__(self, queue: RabbitQueue) -> None:
        self.receipts: list[str] = []
        self._came = anyio.Event()
        queue.on_lost(self._take)

    async def within(self, seconds: float) -> None:
        with anyio.fail_after(seconds):
            await self._came.wait()

    def _take(self, receipts: Sequence[str]) -> None:
        self.receipts += receipts
        self._came.set()


HOLDS = """
import anyio, sys
from crossfoot.queues.rabbitmq import RabbitQueue

async def hold(name, url):
    async with RabbitQueue(name, url=url) as queue:
        deliveries = await queue.receive(10, lease=queue.capabilities.max_lease, wait=10.0)
        print(len(deliveries), min(one.lease_until for one in deliveries), flush=True)
        await anyio.sleep(600)

anyio.run(hold, *sys.argv[1:])
"""


WAITS = """
import anyio, sys
from crossfoot.queues.rabbitmq import RabbitQueue

async def wait(name, url):
    async with RabbitQueue(name, url=url) as queue, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: queue.receive(10, lease=queue.capabilities.max_lease, wait=600.0))
        await anyio.sleep(0.5)
        print(0, 0, flush=True)

anyio.run(wait, *sys.argv[1:])
"""


class Holder:
    """A process that has received something, and does nothing with it. To make one blocks until it holds something."""

    program = HOLDS

    def __init__(self, name: str, server: RabbitServer) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.program, name, server.url], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self._process.stdout is not None
        self.holds, self.lease_until = map(int, self._process.stdout.readline().split())

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Waiter(Holder):
    """A process that waits for something to receive. To make one blocks until it does."""

    program = WAITS
