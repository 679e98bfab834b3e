"""An SQS queue reached in two ways: through the fault proxy, as the test's subject, and directly, to read the truth."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol
from uuid import uuid4

import pytest
from boto3.session import Session

from crossfoot.queues.queue import Delivery, Held
from crossfoot.queues.sqs import SqsQueue, ensure
from crossfoot.testing.queues import outgoing
from tests.servers.processes import FaultProxy, Server


class Scene:
    """A queue, reached through the fault proxy and directly."""

    def __init__(self, proxied: SqsQueue, direct: SqsQueue, faults: FaultProxy) -> None:
        self.proxied = proxied
        self.direct = direct
        self._faults = faults

    def broken(self, operation: str, fault: dict[str, Any], *, queue: str = "", times: int | None = None) -> None:
        """From now on `operation` on the queue, or on the dead-letter queue named, meets the fault."""
        url_ends = queue or self.direct.name
        rule = {"service": "sqs", "operation": operation, "body": f"ends_with(QueueUrl, '/{url_ends}')", **fault}
        self._faults.break_with(rule if times is None else {**rule, "times": times})

    def faults(self) -> int:
        """How many requests met it."""
        return len(self._faults.fired())

    def heal(self) -> None:
        self._faults.heal()

    async def stored(self) -> int:
        return (await self.direct.depth()).held

    async def delivered(self) -> Delivery:
        await self.direct.publish([outgoing()])
        (delivery,) = await self.proxied.receive(1, lease=30)
        return delivery

    async def dead(self) -> list[Held]:
        return [held async for held in self.direct.dead_letters()]


class SceneOf(Protocol):
    def __call__(self, *, fifo: bool = ..., give_up_after: float = ...) -> AbstractAsyncContextManager[Scene]: ...


@pytest.fixture
def scene_of(ministack: Server, proxy: FaultProxy, aws: Session) -> SceneOf:
    @asynccontextmanager
    async def make(*, fifo: bool = False, give_up_after: float = 10.0) -> AsyncIterator[Scene]:
        name = await ensure(f"faults-{uuid4().hex[:12]}", fifo=fifo, endpoint_url=ministack.url, session=aws)
        common: dict[str, Any] = {"clock": ministack.clock, "session": aws}
        async with (
            SqsQueue(name, endpoint_url=proxy.url, timeout=give_up_after, **common) as proxied,
            SqsQueue(name, endpoint_url=ministack.url, **common) as direct,
        ):
            yield Scene(proxied, direct, proxy)

    return make
