"""What every queue does for a service in the same way: the same handlers come to the same ends.

A file of tests about one broker has a fixture `service_of`, which makes a service with a queue of its own there, and names the classes
that hold for it. What only that broker does stays in its file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import msgspec
import pytest

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import post_all
from crossfoot.message import Message
from crossfoot.queues.queue import KeepsExpired, Outgoing
from crossfoot.worker.reconcile import Reconciliation
from tests.acceptance.service_rig import FORMS, Form, Service, eventually
from tests.conformance.database_rig import Sql, bill, insert

ServiceOf = Callable[..., Any]


async def fates(service: Service, *messages: Message) -> list[Fate]:
    """As posted now."""
    await anyio.to_thread.run_sync(post_all, service.app.book)
    return [service.fate(message) for message in messages]


async def look(service: Service, times: int = 1, *, hides: bool = False) -> None:
    """Compare the queue with the book, when nothing is quite fresh, and without waiting for anything to be overdue; nor, unless
    it `hides` something, for what it may hide."""
    await anyio.sleep(0.05)
    queue = service.app.queue
    if queue.capabilities.hides and not hides:
        queue._capabilities = msgspec.structs.replace(queue.capabilities, hides=0.0)  # type: ignore[attr-defined]  # those that hide have it
    reconciliation = Reconciliation(service.app.book, queue, patience=0.02)
    for _ in range(times):
        await reconciliation.run()


def fail(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    yield insert(message)
    raise RuntimeError("the printer is on fire")


class TheSameHandlers:
    """What is in `test_worker.py`, on another queue."""

    counts_exactly: ClassVar[bool] = True
    """Whether a delivery that was taken back on its way is not counted."""
    tells_reasons: ClassVar[bool] = True
    """Whether a dead letter says why it died."""

    @pytest.mark.parametrize("form", FORMS, ids=repr)
    async def test_a_message_settles_with_proof_before_its_ack(self, service_of: ServiceOf, form: Form) -> None:
        async with service_of(form) as service:
            service.handle("case.released", bill)
            (message,) = await service.publish("case.released", "case-1")
            await service.work()
            assert service.fate(message) is Fate.SETTLED
            assert service.kinds(message) == [
                Kind.INTENDED, Kind.PUBLISHED, Kind.RECEIVED, Kind.COMMITTED, Kind.ACKED,
            ]  # fmt: skip
            assert (await service.app.queue.depth()).held == 0

    @pytest.mark.parametrize("batch", [1, 8], ids=["plain", "batch"])
    async def test_a_message_published_twice_settles_once(self, service_of: ServiceOf, batch: int) -> None:
        async with service_of() as service:
            service.handle("case.released", bill)
            message = service.app.message("case.released", subject="case-1")
            await service.app.publish(message, message)
            await service.work(batch=batch)
            assert service.effects == [message.id]
            assert service.fate(message) is Fate.SETTLED

    async def test_after_its_last_attempt_it_lies_in_the_dead_letters_with_its_cause(
        self, service_of: ServiceOf
    ) -> None:
        async with service_of() as service:
            service.handle("case.released", fail)
            messages = await service.publish("case.released", "case-1", "case-2")
            await service.app.queue.publish([Outgoing(key="stray|1", body=b"\xff not an event")])
            await service.work(attempts=3)
            for message in messages:
                assert service.fate(message) is Fate.DEAD
                assert service.kinds(message).count(Kind.FAILED) == 3
            assert any("RuntimeError" in title for title in service.causes().values())
            dead = [held async for held in service.app.queue.dead_letters()]
            first, *others = sorted(held.attempt for held in dead)
            assert (first, len(others)) == (1, 2)
            assert all(attempt == 3 or (attempt > 3 and not self.counts_exactly) for attempt in others)
            if self.tells_reasons:
                assert sum("RuntimeError" in held.reason for held in dead) == 2
            assert service.rows("SELECT fate FROM crossfoot_messages WHERE type = 'unreadable'") == [Fate.DEAD]


class DeadUnheard:
    """Workers that die with a message in their hands, or over burying it."""

    async def test_one_that_was_in_the_hands_of_workers_that_died_is_not_to_blame(self, service_of: ServiceOf) -> None:
        async with service_of() as service:
            service.handle("case.released", bill)
            (message,) = await service.publish("case.released", "case-1")
            for _ in range(7):  # each died with it in its hands
                assert await service.app.queue.receive(1, lease=0.01, wait=2.0)
            await service.work(attempts=2)
            assert service.fate(message) is Fate.SETTLED
            assert service.effects == [message.id]

    async def test_what_lies_among_the_dead_without_the_book_knowing_is_dead(self, service_of: ServiceOf) -> None:
        async with service_of() as service:
            (message,) = await service.publish("case.released", "case-1")
            (delivery,) = await service.app.queue.receive(1, lease=30.0, wait=1.0)
            await service.app.queue.dead_letter([delivery], reason="its worker died before it could say so")
            await look(service)
            assert await fates(service, message) == [Fate.DEAD]


class KeepingExpired:
    """A queue that shows what its retention is over for, before it forgets that."""

    async def test_a_message_past_the_retention_is_booked_as_expired_and_only_then_forgotten(
        self, service_of: ServiceOf
    ) -> None:
        async with service_of(retention=0.2) as service:
            (message,) = await service.publish("case.released", "case-1")
            await service.app.queue.publish([Outgoing(key="stray|1", body=b"nobody's envelope")])
            await anyio.sleep(0.3)
            assert await service.app.queue.receive(10, lease=30.0) == []
            assert await Reconciliation(service.app.book, service.app.queue).run() == {
                Kind.EXPIRED: 2, Kind.DEAD_LETTERED: 0, Kind.VANISHED: 0,
            }  # fmt: skip
            assert await fates(service, message) == [Fate.EXPIRED]
            assert service.rows("SELECT fate FROM crossfoot_messages WHERE type = 'unreadable'") == [Fate.EXPIRED]
            queue = service.app.queue
            assert isinstance(queue, KeepsExpired)
            assert await queue.expired() == []


class AServerOfItsOwn:
    """A server that comes and goes does not end the worker. The file's fixture `own_server` is one that can be killed, and what
    `service_of` is told of it."""

    async def test_a_worker_goes_on_when_the_server_is_started_again(
        self, service_of: ServiceOf, own_server: tuple[Any, dict[str, Any]]
    ) -> None:
        server, told = own_server
        async with service_of(**told) as service:
            service.handle("case.released", bill)
            async with service.working(lease=2.0):
                await service.publish("case.released", "case-1")
                await eventually(lambda: len(service.effects) == 1, "the first message")
                await anyio.to_thread.run_sync(server.kill)
                await anyio.sleep(0.3)
                await anyio.to_thread.run_sync(server.start)
                await service.publish("case.released", "case-2")
                await eventually(lambda: len(service.effects) == 2, "the second message")
            assert set(service.ids_by_fate()) == {Fate.SETTLED}

    async def test_what_was_published_while_it_was_away_is_sent_by_the_relay(
        self, service_of: ServiceOf, own_server: tuple[Any, dict[str, Any]]
    ) -> None:
        server, told = own_server
        async with service_of(**told) as service:
            service.handle("case.released", bill)
            await anyio.to_thread.run_sync(server.kill)
            with pytest.raises(Exception, match=r"was asked nothing|nothing was sent"):
                await service.publish("case.released", "case-1")
            await anyio.to_thread.run_sync(server.start)
            await anyio.sleep(0.5)  # a client that was refused a moment ago does not ask again at once
            await service.work()
            assert len(service.effects) == 1
