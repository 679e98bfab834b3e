"""A service whose messages travel by Kafka: the same handlers, the same commands, and books that balance."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.queues.kafka import KafkaQueue
from crossfoot.worker.reconcile import Reconciliation
from tests.acceptance.broker_suite import ServiceOf, TheSameHandlers, fail, fates
from tests.acceptance.service_rig import FORMS, Form, Service, a_service, eventually
from tests.acceptance.shell import crossfoot
from tests.conformance.database_rig import bill
from tests.servers.kafka import MockCluster

pytest_plugins = ["tests.servers.kafka_fixtures"]

pytestmark = [
    pytest.mark.anyio, pytest.mark.server, pytest.mark.usefixtures("no_blocking_calls"), pytest.mark.xdist_group("kafka"),
]  # fmt: skip


@pytest.fixture
def service_of(kafka_mock: MockCluster, tmp_path: Path) -> ServiceOf:
    """A service with a topic and a group of its own."""

    @asynccontextmanager
    async def make(form: Form = FORMS[0], *, partitions: int = 1, **settings: Any) -> AsyncIterator[Service]:
        topic = f"billing-{uuid4().hex[:12]}"
        for name in (topic, f"{topic}.dead"):
            await anyio.to_thread.run_sync(kafka_mock.make_topic, name, partitions)
        queue = f"kafka:{topic}?group=of-{topic}&session=2"
        async with a_service(form, tmp_path, queue=queue, endpoint=kafka_mock.url, lease=2.0, **settings) as service:
            yield service

    return make


class TestTheSameHandlers(TheSameHandlers):
    pass


class TestCounting:
    """Kafka counts no deliveries: the book does."""

    async def test_a_message_that_fails_in_one_worker_after_the_other_is_given_up_in_the_end(
        self, service_of: ServiceOf, kafka_mock: MockCluster
    ) -> None:
        async with service_of() as service:
            service.handle("case.released", fail)
            (message,) = await service.publish("case.released", "case-1")
            for failures in (1, 2):
                async with service.working(attempts=3, base=60.0):
                    await eventually(lambda: service.kinds(message).count(Kind.FAILED) >= failures, "a failure")  # noqa: B023 - awaited here
                await service.app.queue.close()  # what waited in its memory comes again
            await service.work(attempts=3)
            assert await fates(service, message) == [Fate.DEAD]
            assert service.kinds(message).count(Kind.FAILED) == 3


class TestWhatTheLogForgets:
    """Found by looking."""

    async def test_what_was_deleted_before_it_was_read_is_expired_by_name(
        self, service_of: ServiceOf, kafka_mock: MockCluster
    ) -> None:
        async with service_of() as service:
            service.handle("case.released", bill)
            topic = service.app.queue.name.partition("/")[0]
            first = await service.publish("case.released", "case-0")
            await service.work()
            await service.app.queue.close()
            gone = await service.publish("case.released", "case-1", "case-2")
            (there,) = await service.publish("case.released", "case-3")
            await anyio.to_thread.run_sync(kafka_mock.delete_records, topic, 0, 3)
            await service.work()
            await anyio.sleep(0.05)
            await Reconciliation(service.app.book, service.app.queue, patience=0.02).run()
            assert await fates(service, *first, *gone, there) == [
                Fate.SETTLED, Fate.EXPIRED, Fate.EXPIRED, Fate.SETTLED,
            ]  # fmt: skip


class TestCommands:
    """What a reader types."""

    async def test_the_balance_asks_the_topic(self, service_of: ServiceOf, tmp_path: Path) -> None:
        async with service_of() as service:
            service.handle("case.released", bill)
            await service.publish("case.released", "case-1", "case-2")
            await service.work()
            await service.publish("case.released", "case-3")

            def ask() -> Any:
                variables: dict[str, Any] = {
                    "CROSSFOOT_DATABASE": str(service.path),
                    "CROSSFOOT_QUEUE": str(service.app.settings.queue),
                    "CROSSFOOT_ENDPOINT": str(service.app.settings.endpoint),
                }
                return json.loads(crossfoot(tmp_path, "balance", "--json", **variables).stdout)

            told = await anyio.to_thread.run_sync(ask)
            assert (told["balanced"], told["unaccounted"]) == (True, 0)
            assert told["identities"]["holdings"]["holds"], told["identities"]["holdings"]

    async def test_the_worker_names_what_is_missing(self, kafka_mock: MockCluster) -> None:
        queue = KafkaQueue("nowhere?group=letters", servers=kafka_mock.url)
        with pytest.raises(Exception, match="topic nowhere does not exist"):
            await queue.open()
        await queue.close()
