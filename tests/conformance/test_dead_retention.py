"""How long a queue remembers its dead letters, as the real servers tell it: who decides what to bring back first asks for it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest

from crossfoot.queues.kafka import KafkaQueue
from crossfoot.queues.kafka import ensure as ensure_kafka
from crossfoot.queues.kafka.answers import import_client
from crossfoot.queues.nats import NatsQueue
from crossfoot.queues.nats import ensure as ensure_nats
from crossfoot.queues.queue import Queue
from crossfoot.queues.rabbitmq import RabbitQueue
from crossfoot.queues.telling import TellsSettings, Told
from tests.conformance.rabbitmq_scene import by_hand, made
from tests.servers.kafka import Tansu
from tests.servers.nats import NatsServer
from tests.servers.rabbitmq import RabbitServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytest_plugins = ["tests.servers.nats_fixtures", "tests.servers.kafka_fixtures", "tests.servers.rabbitmq_fixtures"]

pytestmark = [pytest.mark.anyio, pytest.mark.server]

DAY = 86_400


async def told(queue: Queue) -> Told:
    await queue.open()
    try:
        assert isinstance(queue, TellsSettings)
        return await queue.told()
    finally:
        await queue.close()


@asynccontextmanager
async def client_of(nats_server: NatsServer) -> AsyncIterator[Any]:
    import nats

    client = await nats.connect(nats_server.url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


@pytest.mark.xdist_group("nats")
async def test_nats_tells_when_the_stream_of_the_dead_forgets(nats_server: NatsServer) -> None:
    stream = f"orders-{uuid4().hex[:8]}"
    name = await ensure_nats(f"{stream}/billing", servers=nats_server.url)
    assert (await told(NatsQueue(name, servers=nats_server.url))).dead_retention is None

    async with client_of(nats_server) as jetstream:
        config = (await jetstream.stream_info(f"{stream}-dead")).config
        config.max_age = 7 * DAY
        await jetstream.update_stream(config)

    assert (await told(NatsQueue(name, servers=nats_server.url))).dead_retention == 7 * DAY


@pytest.mark.xdist_group("rabbitmq")
async def test_rabbitmq_tells_when_the_queue_of_the_dead_forgets(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    assert (await told(RabbitQueue(name, url=rabbit.url))).dead_retention is None

    async with by_hand(rabbit) as channel:
        await channel.queue_delete(f"{name}.dead")
        assert (await told(RabbitQueue(name, url=rabbit.url))).dead_retention is None
        lasting: dict[str, Any] = {"x-queue-type": "quorum", "x-message-ttl": 3_600_000}
        await channel.queue_declare(f"{name}.dead", durable=True, arguments=lasting)

    assert (await told(RabbitQueue(name, url=rabbit.url))).dead_retention == 3_600


@pytest.mark.xdist_group("kafka")
async def test_kafka_tells_when_the_topic_of_the_dead_forgets(tansu: Tansu) -> None:
    topic = f"orders-{uuid4().hex[:8]}"
    place = f"{topic}?group=billing"

    def make(name: str, config: dict[str, str]) -> None:
        kafka = import_client()
        client = kafka.admin.AdminClient({"bootstrap.servers": tansu.address})
        for answer in client.create_topics([kafka.admin.NewTopic(name, 1, 1, config=config)]).values():
            answer.result()

    await anyio.to_thread.run_sync(make, topic, {})
    assert (await told(KafkaQueue(place, servers=tansu.address))).buries is False
    await anyio.to_thread.run_sync(
        make, f"{topic}.dead", {"retention.ms": "3600000", "cleanup.policy": "compact,delete"}
    )

    answer = await told(KafkaQueue(place, servers=tansu.address))
    assert (answer.buries, answer.dead_retention) == (True, 3_600)
    assert [
        text for text in answer.warnings if text.startswith(f"of its dead letters in {topic}.dead: it is compacted")
    ]

    kept = f"orders-{uuid4().hex[:8]}?group=billing"
    await ensure_kafka(kept, servers=tansu.address)
    assert (await told(KafkaQueue(kept, servers=tansu.address))).dead_retention is None
