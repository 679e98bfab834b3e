"""The conformance suite over Kafka, on the client's mock cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Unpack
from uuid import uuid4

import anyio.to_thread
import pytest
from confluent_kafka import libversion

from crossfoot.queues.kafka import KafkaQueue
from crossfoot.queues.queue import Queue
from crossfoot.testing.queues import QueueConformance, QueueSettings
from tests.conformance.engine import Engine
from tests.servers.differences import expect_difference
from tests.servers.kafka import MockCluster

pytest_plugins = ["tests.servers.kafka_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("no_blocking_calls"), pytest.mark.xdist_group("kafka")]


class TestTheMockCluster(QueueConformance, Engine):
    """A topic has one partition here: what one consumer has leased is then not given to another one that joins the group.

    The cluster knows no retention of its own: the test plays the part of who cleans the log up.
    """

    engine = "Kafka"
    patience = 0.3
    server: MockCluster

    @pytest.fixture(autouse=True)
    def _server(self, kafka_mock: MockCluster, request: pytest.FixtureRequest) -> None:
        self.server = kafka_mock
        self.forgets = ""
        expect_difference("mock", "kafka", request)

    @asynccontextmanager
    async def make_queue(self, **settings: Unpack[QueueSettings]) -> AsyncIterator[Queue]:
        topic = f"orders-{uuid4().hex[:12]}"
        for name in (topic, f"{topic}.dead"):
            await anyio.to_thread.run_sync(self.server.make_topic, name)
        self.forgets = topic if settings.get("retention", 1e9) < 60 else ""
        async with self._client(topic) as queue:
            yield queue

    async def pass_time(self, seconds: float) -> None:
        await super().pass_time(seconds)
        if self.forgets:
            await anyio.to_thread.run_sync(self.server.delete_records, self.forgets, 0, 1)

    def served_by(self) -> str:
        return f"the mock cluster of librdkafka {libversion()[0]}"

    def twin(self, queue: Queue) -> Queue:
        return self._client(queue.name.partition("/")[0])

    def missing_queue(self) -> Queue:
        return self._client("nowhere")

    def _client(self, topic: str) -> KafkaQueue:
        return KafkaQueue(topic, servers=self.server.url, group=f"letters-of-{topic}")
