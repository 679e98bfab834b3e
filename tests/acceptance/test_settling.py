"""What settling does with the queue's copy, and what it books: only what the queue has confirmed, and its reason first."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

import anyio.to_thread
import msgspec
import pytest

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.clock import SECOND, ManualClock
from crossfoot.errors import DatabaseUnavailable, DiskFull, LeaseLost, MessageExpired, QueueUnavailable
from crossfoot.message import Message
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Capabilities, Delivery, NotDone, ReceiptAnswer
from crossfoot.worker.held import Held
from crossfoot.worker.intake import Intake
from crossfoot.worker.retry import Retry
from crossfoot.worker.settling import Settling
from tests.acceptance.service_rig import FORMS, Service, a_service
from tests.conformance.database_rig import bill

pytestmark = pytest.mark.anyio

REMOTE = pytest.mark.parametrize("scene", ["another file"], indirect=True)
"""Where it is one transaction there are no answers to get lost."""


class Reluctant(EmbeddedQueue):
    """Its dead letters may take nothing, and it lets nobody wait for more than ten seconds."""

    reluctance: Exception | None = None
    says_no = False
    delays: tuple[float, ...] = ()

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, max_release_delay=10.0)

    async def release(self, receipts: Sequence[str], *, delay: float = 0.0) -> list[ReceiptAnswer]:
        self.delays = (*self.delays, delay)
        return await super().release(receipts, delay=delay)

    async def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[ReceiptAnswer]:
        if self.reluctance is not None:
            raise self.reluctance
        if self.says_no:
            return [NotDone(one.receipt, "the dead letters are full", lost=False) for one in deliveries]
        return await super().dead_letter(deliveries, reason=reason)


class Scene:
    """Deliveries in a worker's hands, and the settling of their ends; local or not, as the queue's file has it."""

    def __init__(self, service: Service, clock: ManualClock, queue: Reluctant, *, local: bool) -> None:
        self.service, self.clock, self.queue, self.local = service, clock, queue, local
        self.forgotten: list[Held] = []
        self.told = 0

    def settling(self, **retry: float) -> Settling:
        def tell() -> None:
            self.told += 1

        retries = msgspec.structs.replace(Retry(attempts=2, base=1.0), **retry)
        return Settling(
            self.service.app.book, self.queue, retries, local=self.queue if self.local else None,
            forget=self.forgotten.extend, sent=tell,
        )  # fmt: skip

    async def taken(self) -> tuple[Message, Held]:
        """A message, received and booked."""
        if not len(self.service.app.registry):
            self.service.handle("case.released", bill)
        (message,) = await self.service.publish("case.released", "case-1")
        (delivery,) = await self.queue.receive(1, lease=30.0)
        book = self.service.app.book
        intake = Intake(book, self.queue, self.service.app.registry, Retry(), 1, self.queue if self.local else None)
        (held,) = await anyio.to_thread.run_sync(intake.take, [delivery])
        return message, held

    async def taken_away(self, held: Held) -> None:
        """The lease runs out, and somebody else gets the message."""
        await self.queue.release([held.delivery.receipt])
        await self.queue.receive(1, lease=30.0)

    def ends(self, message: Message) -> list[Kind]:
        """What was written after it was received."""
        kinds = self.service.kinds(message)
        return kinds[kinds.index(Kind.RECEIVED) + 1 :]

    def lying(self) -> list[tuple[int, float]]:
        """State, and seconds until it can be received, of what the queue holds."""
        with closing(sqlite3.connect(self.queue.path)) as connection:
            rows = connection.execute("SELECT state, visible_at FROM crossfoot_queue").fetchall()
        return [(state, (visible - self.clock.now()) / SECOND) for state, visible in rows]


@pytest.fixture(params=["same file", "another file"])
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    clock, local = ManualClock(), request.param == "same file"
    path = tmp_path / ("billing.db" if local else "queue.db")
    if not local:
        Crossfoot("other", database=path).book.open().close()
    queue = Reluctant(path, "billing", ordered=False, clock=clock)
    async with a_service(FORMS[0], tmp_path, queue=queue, clock=clock) as service:
        yield Scene(service, clock, queue, local=local)


async def test_a_failure_is_handed_back_for_its_pause(scene: Scene) -> None:
    message, held = await scene.taken()
    await scene.settling(base=8.0).settle([(held, RuntimeError("not yet"))])
    assert scene.ends(message) == [Kind.FAILED]
    ((state, pause),) = scene.lying()
    due, at = scene.service.rows("SELECT due, at FROM crossfoot_entries WHERE kind = ?", Kind.FAILED.value)[0]
    assert state == 0
    assert pause == pytest.approx((due - at) / SECOND, abs=1e-5)


async def test_the_last_failure_is_buried_after_it_was_booked(scene: Scene) -> None:
    message, held = await scene.taken()
    await scene.settling(attempts=1).settle([(held, RuntimeError("never"))])
    assert scene.ends(message) == [Kind.FAILED, Kind.DEAD_LETTERED]
    assert [state for state, _ in scene.lying()] == [2]


async def test_what_has_expired_is_acked_with_its_reason(scene: Scene) -> None:
    message, held = await scene.taken()
    await scene.settling().settle([(held, MessageExpired("too late"))])
    assert scene.ends(message) == [Kind.EXPIRED, Kind.ACKED]
    assert scene.lying() == []


async def test_what_somebody_else_holds_is_left_to_them(scene: Scene) -> None:
    for end, booked in (
        (RuntimeError("never"), [Kind.FAILED]),
        (MessageExpired("too late"), [Kind.EXPIRED]),
        (LeaseLost("somebody else has it"), [Kind.FAILED]),
    ):
        message, held = await scene.taken()
        await scene.taken_away(held)
        before = scene.lying()
        await scene.settling(attempts=1).settle([(held, end)])
        assert scene.lying() == before
        assert [kind for kind in scene.ends(message) if kind is not Kind.ACK_FAILED] == booked


async def test_a_lease_that_anothers_handler_cost_it_does_not_count_as_tried(scene: Scene) -> None:
    message, held = await scene.taken()
    await scene.taken_away(held)
    blameless = LeaseLost("the event loop stood still")
    blameless.counts = False
    settling = scene.settling(attempts=1)
    await settling.settle([(held, blameless)])
    assert scene.ends(message) == [Kind.RELEASED]


async def test_what_did_not_come_to_the_dead_letters_is_not_said_to_be_there(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    _, held = await scene.taken()
    await scene.taken_away(held)
    await scene.settling(attempts=1).settle([(held, RuntimeError("never"))])
    assert "goes to the dead letters" not in caplog.text
    assert "could not be moved to the dead letters" in caplog.text
    assert "it comes again by itself" in caplog.text


@REMOTE
@pytest.mark.parametrize("reluctance", [QueueUnavailable("no connection"), None])
async def test_nothing_is_dead_before_the_dead_letters_have_it(
    scene: Scene, reluctance: QueueUnavailable | None, caplog: pytest.LogCaptureFixture
) -> None:
    scene.queue.reluctance, scene.queue.says_no = reluctance, reluctance is None
    message, held = await scene.taken()
    await scene.settling(attempts=1).settle([(held, RuntimeError("never"))])
    assert scene.ends(message) == [Kind.FAILED]
    assert [state for state, _ in scene.lying()] == [0]
    assert "could not be moved to the dead letters" in caplog.text


@REMOTE
async def test_no_pause_is_longer_than_the_queue_grants(scene: Scene) -> None:
    for _ in range(12):
        _, held = await scene.taken()
        await scene.settling(base=200.0).settle([(held, RuntimeError("not yet"))])
    assert max(scene.queue.delays) == 10.0


@pytest.mark.parametrize("error", [DatabaseUnavailable("gone"), DiskFull("full")], ids=["gone", "full"])
async def test_a_database_that_cannot_be_used_stops_the_worker_and_nothing_is_booked_or_acked(
    scene: Scene, error: Exception
) -> None:
    message, held = await scene.taken()
    before = scene.lying()
    wrapped = RuntimeError("in a driver's wrapping")
    wrapped.__cause__ = error
    for one in (error, wrapped) if isinstance(error, DiskFull) else (error,):
        with pytest.raises(type(error)):
            await scene.settling().settle([(held, one)])
    assert scene.ends(message) == []
    assert scene.lying() == before
    assert held in scene.forgotten, "nobody waits for it when the worker ends"


async def test_a_queue_that_a_handler_could_not_reach_stops_nobody(scene: Scene) -> None:
    message, held = await scene.taken()
    await scene.settling().settle([(held, QueueUnavailable("the other team's"))])
    assert scene.ends(message) == [Kind.FAILED]


async def test_what_was_not_begun_is_handed_back_at_once(scene: Scene) -> None:
    message, held = await scene.taken()
    await scene.settling().settle([(held, None)])
    assert scene.ends(message) == [Kind.RELEASED]
    ((state, pause),) = scene.lying()
    assert (state, pause <= 0) == (0, True)


async def test_the_relay_is_told_when_something_was_sent_and_only_then(scene: Scene) -> None:
    for sends in (False, True):
        _, held = await scene.taken()
        assert held.work is not None
        held.work.sends = sends
        await scene.settling().settle([(held, None)])
        assert scene.told == int(sends)
        await scene.queue.ack([(await scene.queue.receive(1, lease=30.0))[0].receipt])


async def test_a_failed_message_has_its_operation_in_the_book(scene: Scene) -> None:
    message, held = await scene.taken()
    assert held.work is not None
    await scene.settling().settle([(held, RuntimeError("not yet"))])
    named = scene.service.rows("SELECT operation FROM crossfoot_messages WHERE id = ?", message.id)
    assert named == [held.work.operation], "so that `why` finds it"
