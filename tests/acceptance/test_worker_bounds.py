"""A handler's deadline and limit are those of `crossfoot.flow`: what it calls inherits the one, and the other is waited for untried."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from crossfoot import Crossfoot, flow
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.clock import SECOND, ManualClock
from crossfoot.errors import MessageExpired, UsageError
from crossfoot.message import Message, encode
from crossfoot.queues.queue import Delivery, LocalQueue
from crossfoot.worker.failing import judge
from crossfoot.worker.held import Held
from crossfoot.worker.intake import Intake
from crossfoot.worker.retry import Retry
from tests.acceptance.service_rig import FORMS, Service, a_service, eventually

pytestmark = pytest.mark.anyio

BATCHES = pytest.mark.parametrize("batch", [1, 4], ids=["plain", "batch"])

INSERT = "INSERT INTO effects (id, note) VALUES (:id, '')"

HOUR = 3600.0


@pytest.fixture(params=FORMS, ids=repr)
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    async with a_service(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=[form for form in FORMS if form.is_async], ids=repr)
async def loop_service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    async with a_service(request.param, tmp_path) as made:
        yield made


def handle(service: Service, what: Any, type_: str = "case.released", **terms: Any) -> None:
    """Register a handler of this form that writes its row, and does something in between."""

    async def in_loop(message: Message, tx: Any) -> None:
        await tx.execute(INSERT, {"id": message.id})
        done = what(message)
        if inspect.isawaitable(done):
            await done

    def in_thread(message: Message, tx: Any) -> None:
        tx.execute(INSERT, {"id": message.id})
        what(message)

    service.app.handler(type_, name=type_, **terms)(in_loop if service.form.is_async else in_thread)


class TestDeadlines:
    """What a handler calls has what is left of the handler's time, and of its message's."""

    @BATCHES
    async def test_what_a_handler_calls_inherits_its_deadline(self, service: Service, batch: int) -> None:
        left: list[float] = []

        def look(message: Message) -> None:
            with flow.deadline(2 * HOUR):
                left.append(flow.remaining())

        handle(service, look, deadline=HOUR)
        await service.publish("case.released", "case-1", "case-2")
        await service.work(batch=batch)
        assert len(left) == len(service.effects) == 2
        assert all(0 < each <= HOUR for each in left)

    async def test_who_has_none_has_all_the_time(self, service: Service) -> None:
        left: list[float] = []
        handle(service, lambda message: left.append(flow.remaining()))
        await service.publish("case.released", "case-1")
        await service.work()
        assert left == [math.inf]

    async def test_a_message_that_is_of_use_for_an_hour_bounds_what_is_done_for_it(self, service: Service) -> None:
        left: list[float] = []
        handle(service, lambda message: left.append(flow.remaining()), deadline=2 * HOUR)
        until = service.app.clock.now() + int(HOUR * SECOND)
        await service.publish("case.released", "case-1", expirytime=until)
        await service.work()
        assert len(left) == 1
        assert 0 < left[0] <= HOUR + 5

    @BATCHES
    async def test_a_guarded_call_after_the_deadline_is_refused_and_nothing_is_kept(
        self, service: Service, batch: int
    ) -> None:
        def run_late(message: Message) -> None:
            if message.subject == "case-late":
                held = flow.current()
                assert held is not None
                held.at = held.clock()
                flow.check()

        handle(service, run_late, deadline=HOUR)
        late, good = await service.publish("case.released", "case-late", "case-1")
        await service.work(batch=batch, attempts=1)
        assert service.fate(late) is Fate.DEAD
        assert service.effects == [good.id]
        assert all(title.startswith("DeadlineExceeded") for title in service.causes().values())

    async def test_a_deadline_of_its_own_calls_is_its_own_failure(self, service: Service) -> None:
        def too_short(message: Message) -> None:
            with flow.deadline(HOUR / 2) as held:
                held.at = held.clock()
                flow.check()

        handle(service, too_short, deadline=HOUR)
        (message,) = await service.publish("case.released", "case-1")
        await service.work(attempts=1)
        assert service.fate(message) is Fate.DEAD
        assert all(title.startswith("Expired") for title in service.causes().values())

    async def test_a_handler_is_stopped_when_its_message_is_of_no_use_any_more(self, loop_service: Service) -> None:
        service = loop_service
        handle(service, lambda message: anyio.sleep_forever())
        soon = service.app.clock.now() + SECOND // 4
        (message,) = await service.publish("case.released", "case-1", expirytime=soon)
        await service.work()
        assert service.fate(message) is Fate.EXPIRED
        assert service.effects == []

    @pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
    def test_a_deadline_that_is_none_is_refused(self, seconds: float, tmp_path: Path) -> None:
        app = Crossfoot("billing", database=tmp_path / "book.db")
        with pytest.raises(UsageError, match="more than 0"):
            app.handler("case.released", deadline=seconds)(lambda message, tx: None)


def taken(tmp_path: Path, clock: ManualClock, *, local: bool, expired_for: float, life: float) -> Held:
    """A delivery of a message whose time has been over for so many seconds."""
    app = Crossfoot("billing", database=tmp_path / "book.db", clock=clock)
    app.handler("case.released")(lambda message, tx: None)
    app.book.open()
    assert isinstance(app.queue, LocalQueue)
    intake = Intake(app.book, app.queue, app.registry, Retry(), 1, app.queue if local else None)
    over = clock.now() - int(expired_for * SECOND)
    body = encode(app.message("case.released", expirytime=over, time=over - int(life * SECOND)))
    delivery = Delivery(body=body, receipt="1", attempt=1, lease_until=clock.now() + 60 * SECOND)
    (held,) = intake.take([delivery])
    return held


class TestExpirytime:
    """How far the sender's clock is believed."""

    @pytest.mark.parametrize(
        ("local", "expired_for", "life", "left"),
        [
            (True, 0.0, 60.0, None),  # one machine has one clock
            (True, -1.0, 60.0, 1.0),
            (False, 4.0, 60.0, 1.0),  # the sender's may be five seconds ahead
            (False, 5.0, 60.0, None),
            (False, -HOUR, 60.0, 60.0),  # an hour's step of a clock lets nothing live longer than it was to
            (False, 1.0, -1.0, None),  # it never was of any use
        ],
    )
    def test_it_is_dropped_only_when_it_is_over_whatever_the_clocks_say(
        self, tmp_path: Path, local: bool, expired_for: float, life: float, left: float | None
    ) -> None:
        clock = ManualClock()
        held = taken(tmp_path, clock, local=local, expired_for=expired_for, life=life)
        if left is None:
            assert isinstance(held.problem, MessageExpired)
            return
        assert held.problem is None
        assert held.hold is not None
        assert held.hold.until == pytest.approx(clock.monotonic() + left)


class TestLimits:
    """No more calls of a handler at once than its limit has permits; who finds none is handed back untried."""

    async def test_no_more_run_at_once_than_there_are_permits(self, loop_service: Service) -> None:
        service = loop_service
        limit = flow.Limit(2, waiting=12, wait=60)
        running = most = 0

        async def work(message: Message) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            running -= 1

        async def handler(message: Message, tx: Any) -> None:
            await work(message)
            await tx.execute(INSERT, {"id": message.id})

        service.app.handler("case.released", limit=limit)(handler)
        await service.publish("case.released", *[f"case-{number}" for number in range(12)])
        await service.work(concurrency=6)
        assert len(service.effects) == 12
        assert most <= 2
        assert (limit.counts.granted, limit.in_use, limit.waiting) == (12, 0, 0)

    @BATCHES
    async def test_a_permit_is_given_back_whatever_becomes_of_the_delivery(self, service: Service, batch: int) -> None:
        limit = flow.Limit(1, wait=60)

        def fail(message: Message) -> None:
            if message.subject == "case-bad":
                raise ValueError("no")

        handle(service, fail, limit=limit)
        await service.publish("case.released", "case-1", "case-bad", "case-2")
        await service.work(batch=batch, attempts=2)
        assert len(service.effects) == 2
        assert (limit.in_use, limit.waiting) == (0, 0)

    @BATCHES
    async def test_who_finds_no_permit_is_handed_back_untried(self, service: Service, batch: int) -> None:
        limit = flow.Limit(1, wait=0)
        handle(service, lambda message: None, "case.priced", limit=limit)
        handle(service, lambda message: None, "case.released")
        async with limit.permit():
            (priced,) = await service.publish("case.priced", "case-1")
            (released,) = await service.publish("case.released", "case-1")
            async with service.working(batch=batch, attempts=1):
                await eventually(lambda: Kind.RELEASED in service.kinds(priced), "it to be handed back")
                await eventually(lambda: service.effects == [released.id], "the other to be handled")
        assert Kind.FAILED not in service.kinds(priced)
        assert service.effects == [released.id]

        await service.work(batch=batch, attempts=1)
        assert service.fate(priced) is Fate.SETTLED

    def test_what_a_refusal_asks_for_is_waited_for(self, tmp_path: Path) -> None:
        clock = ManualClock()
        held = taken(tmp_path, clock, local=True, expired_for=-HOUR, life=HOUR)
        failure = judge(held, flow.Rejected("pricing answered 429", retry_after=7.0), Retry(), clock.now())
        assert failure.pause >= 7
        assert failure.entry.kind is Kind.FAILED

    def test_a_number_is_no_limit(self, tmp_path: Path) -> None:
        app = Crossfoot("billing", database=tmp_path / "book.db")
        with pytest.raises(UsageError, match=r"flow\.Limit\(10\)"):
            app.handler("case.released", limit=3)(lambda message, tx: None)  # type: ignore[arg-type] # what is refused
