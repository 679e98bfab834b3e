"""The conformance suite over NATS JetStream, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Unpack
from uuid import uuid4

import pytest

from crossfoot.queues.nats import NatsQueue, ensure
from crossfoot.queues.queue import Queue
from crossfoot.testing.queues import QueueConformance, QueueSettings
from tests.servers.nats import NatsServer

pytest_plugins = ["tests.servers.nats_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("no_blocking_calls"), pytest.mark.xdist_group("nats")]


class OnNats(QueueConformance):
    """The suite over one kind of stream. The server's clock is the machine's, so time really passes here."""

    server: NatsServer
    lease = 30.0

    @pytest.fixture(autouse=True)
    def _server(self, nats: NatsServer) -> None:
        self.server = nats

    @asynccontextmanager
    async def make_queue(self, **settings: Unpack[QueueSettings]) -> AsyncIterator[Queue]:
        name = await ensure(
            f"orders-{uuid4().hex[:12]}/billing",
            servers=self.server.url,
            max_attempts=settings.get("max_attempts"),
            retention=settings.get("retention"),
            lease=self.lease,
        )
        queue = self._client(name)
        await queue.open()
        try:
            yield queue
        finally:
            await queue.close()

    def twin(self, queue: Queue) -> Queue:
        return self._client(queue.name)

    def missing_queue(self) -> Queue:
        return self._client("orders/nowhere")

    def _client(self, name: str) -> NatsQueue:
        return NatsQueue(name, servers=self.server.url)


class TestLeasesOfTheConsumersOwn(OnNats):
    """Leases are mostly as long as the consumer's `ack_wait`."""


class TestLeasesLongerThanTheConsumers(OnNats):
    """Each delivery is leased anew by a request of its own."""

    lease = 2.0
