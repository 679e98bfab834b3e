"""A service whose messages travel by RabbitMQ: the same handlers, the same commands, and books that balance.

What the broker moves or drops by itself is found, and what it takes back while a handler runs is not committed.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.message import Message
from crossfoot.queues.queue import Outgoing
from crossfoot.queues.rabbitmq import ensure
from tests.acceptance.broker_suite import DeadUnheard, ServiceOf, TheSameHandlers, fates, look
from tests.acceptance.killed_service import SERVICE, kill_and_ask
from tests.acceptance.service_rig import FORMS, Form, Service, a_service, eventually
from tests.acceptance.shell import crossfoot
from tests.conformance.database_rig import bill, insert
from tests.conformance.rabbitmq_scene import Holder, Waiter, by_hand, control, the_one
from tests.servers.processes import free_port
from tests.servers.rabbitmq import RabbitServer

pytest_plugins = ["tests.servers.rabbitmq_fixtures"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.server,
    pytest.mark.usefixtures("no_blocking_calls"),
    pytest.mark.xdist_group("rabbitmq"),
]


@pytest.fixture
def service_of(rabbit: RabbitServer, tmp_path: Path) -> ServiceOf:
    """A service with a queue of its own on the server."""

    @asynccontextmanager
    async def make(
        form: Form = FORMS[0], made: dict[str, Any] | None = None, **settings: Any
    ) -> AsyncIterator[Service]:
        name = await ensure(f"billing-{uuid4().hex[:12]}", url=rabbit.url, **(made or {}))
        async with a_service(form, tmp_path, queue=f"rabbitmq:{name}", endpoint=rabbit.url, **settings) as service:
            yield service

    return make


class TestAQuorumQueue(TheSameHandlers, DeadUnheard):
    counts_exactly = False

    @pytest.fixture
    def service_of(self, service_of: ServiceOf) -> ServiceOf:
        return partial(service_of, made={"kind": "quorum"})


class TestAClassicQueue(TheSameHandlers, DeadUnheard):
    counts_exactly = False

    @pytest.fixture
    def service_of(self, service_of: ServiceOf) -> ServiceOf:
        return partial(service_of, made={"kind": "classic"})


class TestTakenBack:
    """A connection is the lease there is."""

    async def test_a_handler_whose_connection_is_lost_is_stopped_at_once_and_its_message_settles_at_the_next_one(
        self, service_of: ServiceOf, rabbit: RabbitServer
    ) -> None:
        async with service_of(FORMS[1]) as service:
            began: list[float] = []
            ended: list[float] = []

            async def slow(message: Message, tx: Any) -> None:
                await tx.execute(*insert(message))
                began.append(time.monotonic())
                try:
                    if len(began) == 1:
                        await anyio.sleep(30)
                finally:
                    ended.append(time.monotonic())

            service.app.handler("case.released")(slow)
            (message,) = await service.publish("case.released", "case-1")
            async with service.working(attempts=5):
                await eventually(lambda: began, "the handler")
                await control(rabbit, "close_all_connections", "tested")
                closed = time.monotonic()
                await eventually(lambda: service.effects, "the second delivery")
                await eventually(lambda: service.kinds(message).count(Kind.ACKED), "its ack")
            assert ended[0] - closed < 1.0, "no beat of the leases was waited for"
            assert service.effects == [message.id]
            assert await fates(service, message) == [Fate.SETTLED]
            assert service.kinds(message).count(Kind.FAILED) == 1
            assert ["LeaseLost" in title for title in service.causes().values()] == [True]

    async def test_what_was_committed_before_the_connection_was_lost_is_not_done_again(
        self, service_of: ServiceOf, rabbit: RabbitServer
    ) -> None:
        async with service_of() as service:
            service.handle("case.released", bill)
            messages = await service.publish("case.released", *[f"case-{number}" for number in range(60)])
            async with service.working(attempts=50, concurrency=2):
                for _ in range(3):
                    await anyio.sleep(0.15)
                    await control(rabbit, "close_all_connections", "tested")
                await eventually(
                    lambda: len(set(service.effects)) == 60 and (service.app.queue.depth()), "every effect"
                )
            await service.work(attempts=50)
            assert sorted(service.effects) == sorted(message.id for message in messages)
            assert set(await fates(service, *messages)) == {Fate.SETTLED}

    async def test_a_worker_goes_on_when_the_server_is_started_again(
        self, service_of: ServiceOf, rabbit: RabbitServer
    ) -> None:
        async with service_of() as service:
            service.handle("case.released", bill)
            async with service.working():
                await service.publish("case.released", "case-1")
                await eventually(lambda: len(service.effects) == 1, "the first message")
                rabbit.kill()
                try:
                    with pytest.raises(Exception, match=r"was asked nothing|nothing was sent"):
                        await service.publish("case.released", "case-2")
                finally:
                    rabbit.start()
                await eventually(lambda: len(service.effects) == 2, "the message that the relay sent")
            assert set(service.ids_by_fate()) == {Fate.SETTLED}


class TestWhatTheBrokerHides:
    """Found by looking."""

    async def test_what_it_moved_to_the_dead_letters_is_dead_for_its_reason(self, service_of: ServiceOf) -> None:
        async with service_of(made={"retention": 0.3, "max_attempts": 2}) as service:
            service.handle("case.released", bill)
            (old,) = await service.publish("case.released", "case-1")
            await anyio.sleep(0.5)
            (worn,) = await service.publish("case.released", "case-2")
            for _ in range(2):  # two workers that say nothing any more
                assert await service.app.queue.receive(1, lease=0.05, wait=2.0)
                await anyio.sleep(0.1)
            await look(service)
            assert await fates(service, old, worn) == [Fate.DEAD, Fate.DEAD]
            told = service.rows(
                "SELECT e.details FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message "
                f"WHERE e.kind = {int(Kind.DEAD_LETTERED)} ORDER BY m.subject"
            )
            assert [json.loads(details)["reason"].rpartition(": ")[2] for details in told] == [
                "expired", "delivery_limit",
            ]  # fmt: skip

    async def test_what_a_full_queue_dropped_without_a_word_is_vanished(self, service_of: ServiceOf) -> None:
        bare = {
            "kind": "classic",
            "arguments": {"x-max-length": 1, "x-overflow": "drop-head", "x-dead-letter-routing-key": "nowhere"},
        }
        async with service_of(made=bare) as service:
            service.handle("case.released", bill)
            dropped, there = await service.publish("case.released", "case-1", "case-2")
            await service.work()
            await look(service, 2)
            assert await fates(service, dropped, there) == [Fate.VANISHED, Fate.SETTLED]

    async def test_what_somebody_purged_is_vanished_and_what_a_frozen_worker_holds_is_not(
        self, service_of: ServiceOf, rabbit: RabbitServer
    ) -> None:
        async with service_of() as service, by_hand(rabbit) as channel:
            service.handle("case.released", bill)
            name = service.app.queue.name
            (held,) = await service.publish("case.released", "case-1")
            holder = await anyio.to_thread.run_sync(Holder, name, rabbit)
            try:
                holder.freeze()
                (purged,) = await service.publish("case.released", "case-2")
                await channel.queue_purge(name)
                await look(service, 3)
                assert await fates(service, held, purged) == [Fate.QUEUED, Fate.QUEUED], "nobody can know yet"
            finally:
                await anyio.to_thread.run_sync(holder.kill)
            await service.work()
            await look(service, 2)
            assert await fates(service, held, purged) == [Fate.SETTLED, Fate.VANISHED]

    @pytest.mark.parametrize(
        "kind",
        [
            pytest.param(kind, marks=pytest.mark.proves("hides", engine=f"RabbitMQ {kind}"))
            for kind in ("quorum", "classic")
        ],
    )
    async def test_what_came_to_a_frozen_worker_that_waited_is_not_vanished(
        self, service_of: ServiceOf, rabbit: RabbitServer, kind: str
    ) -> None:
        async with service_of(made={"kind": kind}) as service:
            waiter = await anyio.to_thread.run_sync(Waiter, service.app.queue.name, rabbit)
            try:
                waiter.freeze()
                (message,) = await service.publish("case.released", "case-1")
                assert (await service.app.queue.depth()).held == 0, "it is counted nowhere, because nobody could say so"
                await look(service, 4, hides=True)
                assert await fates(service, message) == [Fate.QUEUED]
            finally:
                await anyio.to_thread.run_sync(waiter.kill)
            service.handle("case.released", bill)
            await service.work()
            assert await fates(service, message) == [Fate.SETTLED]

    @pytest.mark.proves("hides", engine="RabbitMQ quorum")
    async def test_what_waits_for_room_on_its_way_back_into_a_full_queue_is_not_vanished(
        self, service_of: ServiceOf
    ) -> None:
        async with service_of(made={"max_length": 1}) as service:
            queue = service.app.queue
            (message,) = await service.publish("case.released", "case-1")
            await queue.release([(await the_one(queue)).receipt], delay=0.5)
            for _ in range(5):  # a quorum queue takes some more than its limit
                await queue.publish([Outgoing(key="stray|1", body=b"{}")])
            await anyio.sleep(1.0)
            while taken := await queue.receive(10, lease=30.0, wait=0.5):
                await queue.ack([delivery.receipt for delivery in taken])
            assert (await queue.depth()).held == 0, "it is sent again minutes later, and counted nowhere until then"
            await look(service, 4, hides=True)
            assert await fates(service, message) == [Fate.QUEUED]

    async def test_what_another_process_holds_is_allowed_for_in_the_balance(
        self, service_of: ServiceOf, tmp_path: Path
    ) -> None:
        async with service_of(FORMS[1]) as service:
            go_on = anyio.Event()

            async def slow(message: Message, tx: Any) -> None:
                await go_on.wait()
                await tx.execute(*insert(message))

            service.app.handler("case.released")(slow)
            await service.publish("case.released", *[f"case-{number}" for number in range(40)])
            async with service.working(concurrency=1):
                depth = service.app.queue.depth
                await eventually(lambda: _all_in_hand(depth), "everything in hand")
                told = await anyio.to_thread.run_sync(_balance, tmp_path, service)
                go_on.set()
            assert (told["holds"], "40 open" in told["notes"][0]) == (True, True), told


async def _all_in_hand(depth: Callable[[], Any]) -> bool:
    found = await depth()
    return (found.ready, found.in_flight) == (0, 40)


def _balance(folder: Path, service: Service) -> Any:
    """As another process sees it."""
    variables: dict[str, Any] = {
        "CROSSFOOT_DATABASE": str(service.path),
        "CROSSFOOT_QUEUE": str(service.app.settings.queue),
        "CROSSFOOT_ENDPOINT": str(service.app.settings.endpoint),
    }
    return json.loads(crossfoot(folder, "balance", "--json", **variables).stdout)["identities"]["holdings"]


class TestProcesses:
    """Worker processes that are killed, and what the commands tell afterwards."""

    @pytest.mark.parametrize("kind", ["quorum", "classic"])
    async def test_workers_killed_in_between_leave_every_effect_once_and_nothing_unaccounted(
        self, tmp_path: Path, rabbit: RabbitServer, kind: str
    ) -> None:
        name = await ensure(f"billing-{uuid4().hex[:12]}", url=rabbit.url, kind=kind)
        await anyio.to_thread.run_sync(kill_and_ask, tmp_path, f"{rabbit.url}/{name}")

    async def test_a_queue_that_is_not_there_ends_a_worker_with_2_and_a_remedy(
        self, rabbit: RabbitServer, tmp_path: Path
    ) -> None:
        def ask() -> None:
            (tmp_path / "billing.py").write_text(SERVICE)
            secret = f"amqp://me:s3cret@127.0.0.1:{free_port()}"
            for endpoint, says in (
                (rabbit.url, "queue nowhere does not exist at amqp://127.0.0.1"),
                (secret, "queue nowhere cannot be reached"),
            ):
                done = crossfoot(
                    tmp_path, "worker", "billing:app", code=2,
                    CROSSFOOT_QUEUE="rabbitmq:nowhere", CROSSFOOT_ENDPOINT=endpoint,
                )  # fmt: skip
                assert says in done.stderr
                assert "s3cret" not in done.stdout + done.stderr

        await anyio.to_thread.run_sync(ask)
