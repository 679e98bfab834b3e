"""An asynchronous handler that blocks is named, with its line; and those beside it are not blamed for what it cost them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.clock import ManualClock
from crossfoot.effects.perform import acalled
from crossfoot.errors import LeaseLost
from crossfoot.message import Message, encode
from crossfoot.queues.queue import Delivery
from crossfoot.worker.held import Held
from crossfoot.worker.intake import Intake
from crossfoot.worker.retry import Retry
from crossfoot.worker.standstill import Watch
from tests.acceptance.service_rig import FORMS, a_service

pytestmark = pytest.mark.anyio

LEASE = 1.2
LOOKS = 12
"""Looks at a thread, a twelfth of a lease apart, that prove that it was held up for longer than a quarter of the lease."""


class Transaction:
    """As much of one as a call asks for."""

    def end(self) -> None: ...


class Scene:
    """Deliveries in hand, and a watch whose clock stands still unless a test moves it."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.resumed = 0
        self.app = Crossfoot("billing", database=folder / "billing.db", clock=self.clock)
        self.watch = Watch(LEASE, self.clock, self.resume)
        self.app.handler("case.blocking", name="blocking")(self.block)
        self.app.handler("case.quick", name="quick")(lambda message, tx: None)
        self.app.book.open()
        self.intake = Intake(self.app.book, self.app.queue, self.app.registry, Retry(), 1, None)

    def resume(self) -> None:
        self.resumed += 1

    def taken(self, type_: str) -> Held:
        delivery = Delivery(
            body=encode(self.app.message(type_)),
            receipt=type_,
            attempt=1,
            lease_until=self.clock.now() + int(LEASE * 1e6),
        )
        (held,) = self.intake.take([delivery])
        return held

    async def block(self, message: Message, tx: Any) -> None:
        self.hold_up()

    def hold_up(self) -> None:
        """Keep whoever calls this busy until the watch has seen it often enough."""
        until(lambda: len(self.watch._looks) >= LOOKS)
        self.clock.advance(7)

    async def work(self, *helds: Held) -> None:
        """Call their handlers, while the watch watches."""
        async with anyio.create_task_group() as tasks:
            await self.begin(tasks)
            for held in helds:
                assert held.work is not None
                await acalled(held.work, held.work.message, Transaction())  # type: ignore[arg-type] # see `Transaction`
                await self.answered()
            tasks.cancel_scope.cancel()

    async def begin(self, tasks: TaskGroup) -> None:
        """Have the watch look at this loop."""
        tasks.start_soon(self.watch.run)
        await self.answered()

    async def answered(self, before: Callable[[], object] = lambda: None) -> None:
        """The loop has given the watch a sign of life."""
        answer, given = self.watch._answer, anyio.Event()

        def answers() -> None:
            before()
            answer()
            given.set()

        self.watch._answer = answers  # type: ignore[method-assign] # it is what the loop is asked for
        await given.wait()
        self.watch._answer = answer  # type: ignore[method-assign] # as above


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    return await anyio.to_thread.run_sync(Scene, tmp_path)


async def test_the_handler_that_holds_up_the_loop_is_named_with_its_line(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.work(scene.taken("case.blocking"))

    told = [record for record in caplog.records if "the event loop stood still for 7.0 s" in record.getMessage()]
    assert len(told) == 1
    assert told[0].levelno == logging.WARNING
    assert "in handler blocking, at tests/acceptance/test_standstill.py:" in told[0].getMessage()
    assert "until() (case.blocking " in told[0].getMessage()
    assert scene.resumed == 1


async def test_a_place_is_not_told_again_and_again(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    await scene.work(*(scene.taken("case.blocking") for _ in range(3)))
    assert scene.resumed == 3
    assert caplog.text.count("the event loop stood still for") == 1


async def test_who_lost_its_lease_to_anothers_handler_says_whose_and_is_not_charged(scene: Scene) -> None:
    blocking, quick = scene.taken("case.blocking"), scene.taken("case.quick")
    await scene.work(blocking)

    explained = scene.watch.explain(quick, LeaseLost("somebody else may hold it"))
    assert isinstance(explained, LeaseLost)
    assert "the event loop of this worker stood still for 7.0 s in handler blocking, at " in str(explained)
    assert not explained.counts

    itself = scene.watch.explain(blocking, LeaseLost("somebody else may hold it"))
    assert isinstance(itself, LeaseLost)
    assert "stood still for 7.0 s in its own handler, at tests/acceptance/test_standstill.py:" in str(itself)
    assert itself.counts


async def test_what_nobody_was_seen_at_is_charged_as_ever(scene: Scene) -> None:
    """Its own handler, in a thread, may have run what lets no other thread run: then nobody could look."""
    quick = scene.taken("case.quick")
    async with anyio.create_task_group() as tasks:
        await scene.begin(tasks)
        await scene.answered(
            before=lambda: scene.clock.advance(7)
        )  # and nothing else: as if the process had been stopped
        tasks.cancel_scope.cancel()

    explained = scene.watch.explain(quick, LeaseLost("somebody else may hold it"))
    assert isinstance(explained, LeaseLost)
    assert explained.counts


async def test_another_failure_or_a_lease_that_ran_out_later_is_left_as_it_is(scene: Scene) -> None:
    await scene.work(scene.taken("case.blocking"))
    scene.clock.advance(60)
    late = scene.taken("case.quick")
    scene.clock.advance(LEASE + 1)
    for error in (RuntimeError("no"), LeaseLost("too slow")):
        assert scene.watch.explain(late, error) is error


async def test_neighbours_keep_their_leases_when_the_loop_turns_again(tmp_path: Path) -> None:
    """Their leases are extended before anything is received, so that this worker does not take its own messages anew."""
    lease = 2.0
    async with a_service(FORMS[0], tmp_path) as service:

        @service.app.handler("case.blocking")
        async def blocking(message: Message, tx: Any) -> None:
            time.sleep(lease * 1.25)  # noqa: ASYNC251 - the fault
            tx.outcome("done")

        @service.app.handler("case.quick")
        def quick(message: Message, tx: Any) -> None:
            tx.outcome("done")

        messages = await service.publish("case.blocking", "case-1")
        messages += await service.publish("case.quick", "case-2", "case-3", "case-4")
        await service.work(lease=lease, wait=0.05)

        assert {service.fate(message) for message in messages} == {Fate.SETTLED}
        for message in messages:
            kinds = service.kinds(message)
            assert kinds.count(Kind.RECEIVED) == 1
            assert not {Kind.FAILED, Kind.RELEASED} & set(kinds)
