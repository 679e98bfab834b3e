"""The conformance suite over RabbitMQ, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Unpack
from uuid import uuid4

import pytest

from crossfoot.queues.queue import Queue
from crossfoot.queues.rabbitmq import RabbitQueue, ensure
from crossfoot.testing.queues import QueueConformance, QueueSettings
from tests.conformance.engine import Engine
from tests.servers.rabbitmq import RabbitServer

pytest_plugins = ["tests.servers.rabbitmq_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("no_blocking_calls"), pytest.mark.xdist_group("rabbitmq")]


class OnRabbit(QueueConformance, Engine):
    """The suite over one kind of queue. The server's clock is the machine's, so time really passes here."""

    server: RabbitServer
    kind = "quorum"

    @pytest.fixture(autouse=True)
    def _server(self, rabbit: RabbitServer) -> None:
        self.server = rabbit

    @asynccontextmanager
    async def make_queue(self, **settings: Unpack[QueueSettings]) -> AsyncIterator[Queue]:
        async with self._client(await self.made(f"orders-{uuid4().hex[:12]}", settings)) as queue:
            yield queue

    async def made(self, name: str, settings: QueueSettings) -> str:
        return await ensure(
            name,
            url=self.server.url,
            kind=self.kind,
            max_attempts=settings.get("max_attempts"),
            retention=settings.get("retention"),
        )

    def served_by(self) -> str:
        return f"RabbitMQ {self.server.control('version').strip()}"

    def twin(self, queue: Queue) -> Queue:
        return self._client(queue.name)

    def missing_queue(self) -> Queue:
        return self._client("nowhere")

    def _client(self, name: str) -> RabbitQueue:
        return RabbitQueue(name, url=self.server.url)


class TestAQuorumQueue(OnRabbit):
    """It counts deliveries, and gives a message up by itself."""

    engine = "RabbitMQ quorum"


class TestAClassicQueue(OnRabbit):
    """It only says that a message was delivered before; we count."""

    engine = "RabbitMQ classic"
    kind = "classic"

    async def made(self, name: str, settings: QueueSettings) -> str:
        settings.pop("max_attempts", None)  # it has no such limit, and says so
        return await super().made(name, settings)
