"""Deadlines and leases: what takes too long is cut short or fenced, and what is alive keeps its lease."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.message import Message
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Delivery, NotDone, ReceiptAnswer
from tests.acceptance.service_rig import FORMS, Form, Service, a_service, eventually
from tests.conformance.database_rig import Sql, bill, insert
from tests.unit.embedded_rig import SteppingClock

pytestmark = pytest.mark.anyio

BATCHES = pytest.mark.parametrize("batch", [1, 4], ids=["plain", "batch"])


@pytest.fixture(params=[form for form in FORMS if form.is_async], ids=repr)
async def loop_service(
    request: pytest.FixtureRequest, tmp_path: Path, no_blocking_calls: None
) -> AsyncIterator[Service]:
    async with a_service(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=[form for form in FORMS if not form.is_async], ids=repr)
async def thread_service(
    request: pytest.FixtureRequest, tmp_path: Path, no_blocking_calls: None
) -> AsyncIterator[Service]:
    async with a_service(request.param, tmp_path) as made:
        yield made


INSERT = "INSERT INTO effects (id, note) VALUES (:id, '')"


def slow_to(subject: str, wait: Callable[[], Awaitable[None]]) -> Any:
    """An asynchronous handler that waits for one subject, after it has written."""

    async def slow(message: Message, tx: Any) -> None:
        await tx.execute(INSERT, {"id": message.id})
        if message.subject == subject:
            await wait()

    return slow


class TestDeadlines:
    """A handler has so many seconds and no more."""

    @BATCHES
    async def test_an_asynchronous_handler_is_cancelled_at_its_deadline(
        self, loop_service: Service, batch: int
    ) -> None:
        service = loop_service
        service.app.handler("case.released", deadline=0.2)(slow_to("case-stuck", anyio.sleep_forever))
        good = await service.publish("case.released", "case-1", "case-2")
        (stuck,) = await service.publish("case.released", "case-stuck")
        good += await service.publish("case.released", "case-3")
        started = time.monotonic()
        await service.work(batch=batch, attempts=2, concurrency=1)  # another lane would wait for its lock

        assert time.monotonic() - started < 10
        assert service.fate(stuck) is Fate.DEAD
        assert all(title.startswith("DeadlineExceeded") for title in service.causes().values())
        assert sorted(service.effects) == sorted(message.id for message in good)
        assert {service.fate(message) for message in good} == {Fate.SETTLED}

    @BATCHES
    async def test_a_handler_that_swallows_its_cancellation_is_fenced(self, loop_service: Service, batch: int) -> None:
        service = loop_service

        async def stubborn() -> None:
            try:
                await anyio.sleep_forever()
            except BaseException:  # noqa: BLE001 - the bug
                return

        service.app.handler("case.released", deadline=0.1)(slow_to("case-stuck", stubborn))
        stuck, good = await service.publish("case.released", "case-stuck", "case-1")
        await service.work(batch=batch, attempts=2, concurrency=1)
        assert service.fate(stuck) is Fate.DEAD
        assert service.effects == [good.id]

    @BATCHES
    async def test_a_synchronous_handler_cannot_be_cancelled_and_is_fenced(
        self, thread_service: Service, batch: int
    ) -> None:
        service = thread_service

        @service.app.handler("case.released", deadline=0.15)
        def slow(message: Message, tx: Any) -> None:
            tx.execute(INSERT, {"id": message.id})
            if message.subject == "case-stuck":
                time.sleep(0.3)

        good = await service.publish("case.released", "case-1", "case-2")
        (stuck,) = await service.publish("case.released", "case-stuck")
        await service.work(batch=batch, attempts=2, concurrency=1)
        assert service.fate(stuck) is Fate.DEAD
        assert all(title.startswith("DeadlineExceeded") for title in service.causes().values())
        assert sorted(service.effects) == sorted(message.id for message in good)

    async def test_in_a_batch_each_deadline_runs_from_where_its_own_handler_begins(
        self, thread_service: Service
    ) -> None:
        service = thread_service

        @service.app.handler("case.released", deadline=0.4)
        def slowish(message: Message, tx: Any) -> None:
            tx.execute(INSERT, {"id": message.id})
            time.sleep(0.15)

        await service.publish("case.released", *[f"case-{number}" for number in range(4)])
        await service.work(batch=4, concurrency=1)
        assert len(service.effects) == 4
        assert service.rows("SELECT 1 FROM crossfoot_entries WHERE kind = ?", Kind.FAILED.value) == []


class TestLeases:
    """Nobody else gets a message while its handler is alive; nobody commits it after it was given away."""

    LEASE = 2.0
    """Two thirds of it may pass without a heartbeat: longer than a busy machine stands still."""
    SLOW = 3.0

    async def test_a_handler_slower_than_its_lease_is_not_joined_by_a_second_one(self, loop_service: Service) -> None:
        service = loop_service

        @service.app.handler("case.released")
        async def slow(message: Message, tx: Any) -> None:
            await anyio.sleep(self.SLOW)
            await tx.execute(INSERT, {"id": message.id})

        await self.assert_kept(service)

    async def test_nor_is_a_synchronous_one(self, thread_service: Service) -> None:
        service = thread_service

        @service.app.handler("case.released")
        def slow(message: Message, tx: Any) -> None:
            time.sleep(self.SLOW)
            tx.execute(INSERT, {"id": message.id})

        await self.assert_kept(service)

    async def assert_kept(self, service: Service) -> None:
        (message,) = await service.publish("case.released", "case-slow")
        async with service.working(lease=self.LEASE), service.working(lease=self.LEASE):
            await eventually(lambda: service.effects, "the slow handler to commit")
        kinds = service.kinds(message)
        assert kinds.count(Kind.RECEIVED) == 1
        assert service.effects == [message.id]
        if (
            service.app.database.lazy
        ):  # else the open transaction keeps everybody from the queue, who would extend included
            assert kinds.count(Kind.EXTENDED) >= 2

    async def test_when_the_lease_is_lost_an_asynchronous_handler_is_cancelled_and_nothing_is_kept(
        self, tmp_path: Path, no_blocking_calls: None
    ) -> None:
        async with a_service(FORMS[1], tmp_path) as service:
            running = anyio.Event()

            async def wait_long() -> None:
                running.set()
                await anyio.sleep(30)

            @service.app.handler("case.released")
            async def slow(message: Message, tx: Any) -> None:
                await wait_long()
                await tx.execute(INSERT, {"id": message.id})

            (message,) = await service.publish("case.released", "case-1")
            async with service.working(lease=0.6):
                await running.wait()
                take_away(service.path)
                await eventually(lambda: Kind.FAILED in service.kinds(message), "the heartbeat to notice")
            assert service.effects == []
            assert all(title.startswith("LeaseLost") for title in service.causes().values())

    async def test_in_a_batch_the_handler_whose_lease_is_lost_is_cancelled_and_the_others_go_on(
        self, tmp_path: Path, no_blocking_calls: None
    ) -> None:
        """The queue is in another file, so that the batch's transaction keeps nobody from it."""
        other = Crossfoot("other", database=tmp_path / "queue.db")
        await anyio.to_thread.run_sync(lambda: other.book.open().close())
        queue = EmbeddedQueue(tmp_path / "queue.db", "billing")
        async with a_service(FORMS[1], tmp_path, queue=queue) as service:
            running = anyio.Event()

            async def wait_for_ever() -> None:
                running.set()
                await anyio.sleep_forever()

            service.app.handler("case.released")(slow_to("case-slow", wait_for_ever))
            one, slow, two = await service.publish("case.released", "case-1", "case-slow", "case-2")
            async with service.working(lease=0.6, batch=4, concurrency=1, attempts=1):
                await running.wait()
                take_away(tmp_path / "queue.db", slow.id)
                await eventually(lambda: Kind.FAILED in service.kinds(slow), "the heartbeat to notice")
                await eventually(lambda: len(service.effects) == 2, "the others to commit")
            assert sorted(service.effects) == sorted((one.id, two.id))
            assert all(title.startswith("LeaseLost") for title in service.causes().values())

    @BATCHES
    async def test_when_the_lease_is_lost_a_synchronous_handler_is_fenced(
        self, tmp_path: Path, no_blocking_calls: None, batch: int
    ) -> None:
        async with a_service(FORMS[0], tmp_path) as service:
            running, go_on = threading.Event(), threading.Event()

            @service.app.handler("case.released")
            def slow(message: Message, tx: Any) -> None:
                running.set()
                go_on.wait(10)
                tx.execute(INSERT, {"id": message.id})

            (message,) = await service.publish("case.released", "case-1")
            async with service.working(lease=30.0, batch=batch):
                await eventually(running.is_set, "the handler to run")
                take_away(service.path)
                go_on.set()
                await eventually(lambda: Kind.FAILED in service.kinds(message), "the late commit to be refused")
            assert service.effects == []
            assert all(title.startswith("LeaseLost") for title in service.causes().values())


class Remote(EmbeddedQueue):
    """A queue in a file of its own; a receive takes `seconds`, while the wall clock may be set."""

    def __init__(self, path: Path, clock: SteppingClock) -> None:
        Crossfoot("other", database=path).book.open().close()
        super().__init__(path, "billing", ordered=False, clock=clock)
        self._time = clock
        self.seconds = self.set_by = 0.0
        self.acks = 0
        self.extends = True
        self.waits: list[float] = []

    async def extend(self, receipts: Sequence[str], *, lease: float) -> list[ReceiptAnswer]:
        if self.extends:
            return await super().extend(receipts, lease=lease)
        return [NotDone(receipt, "not now", lost=False) for receipt in receipts]

    async def receive(self, limit: int, *, lease: float, wait: float = 0.0) -> list[Delivery]:
        self.waits.append(wait)
        got = await super().receive(limit, lease=lease, wait=wait)
        if got:
            self._time.advance(self.seconds)
            self._time.step(self.set_by)
        return got

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        self.acks += len(receipts)
        return await super().ack(receipts)


class TestTheClockOfALease:
    """A lease is over by the monotonic clock, counted from before it was asked for; the wall may say what it likes."""

    @pytest.fixture
    def clock(self) -> SteppingClock:
        return SteppingClock()

    @pytest.fixture
    def remote(self, tmp_path: Path, clock: SteppingClock) -> Remote:
        return Remote(tmp_path / "queue.db", clock)

    async def end(
        self, form: Form, folder: Path, clock: SteppingClock, queue: Remote | None, *, takes: float, set_by: float = 0.0,
        batch: int = 1,
    ) -> list[Kind]:  # fmt: skip
        """How a delivery ended whose handler takes so long, while the wall clock is set; its lease is 30 seconds."""

        def slow(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            if message.subject == "case-slow":
                clock.advance(takes)
                clock.step(set_by)

        async with a_service(form, folder, clock=clock, queue=queue) as service:
            service.handle("case.released", slow)
            (message,) = await service.publish("case.released", "case-slow")
            if batch > 1:
                await service.publish("case.released", "case-1", "case-2")
            async with service.working(lease=30.0, batch=batch, concurrency=1):
                ends = {Kind.COMMITTED, Kind.FAILED}
                kinds: list[Kind] = await eventually(lambda: [k for k in service.kinds(message) if k in ends], "an end")
            if set(kinds) == {Kind.FAILED}:  # more than one, if a lease that was over was taken up again meanwhile
                assert message.id not in service.effects
                assert [title.partition(" ")[0] for title in service.causes().values()] == ["LeaseLost"]
                assert Kind.ACKED not in service.kinds(message)
            return kinds[:1]

    @BATCHES
    @pytest.mark.parametrize("form", FORMS, ids=repr)
    async def test_a_wall_clock_set_back_does_not_keep_a_lease_alive_that_is_over(
        self, form: Form, tmp_path: Path, clock: SteppingClock, remote: Remote, batch: int
    ) -> None:
        kinds = await self.end(form, tmp_path, clock, remote, takes=30.0, set_by=-3_600.0, batch=batch)
        assert kinds == [Kind.FAILED]
        assert remote.acks == 0

    @pytest.mark.parametrize("set_by", [3_600.0, 0.0, -3_600.0])
    async def test_nor_does_one_set_ahead_end_a_lease_that_runs(
        self, tmp_path: Path, clock: SteppingClock, remote: Remote, set_by: float
    ) -> None:
        assert await self.end(FORMS[0], tmp_path, clock, remote, takes=29.9, set_by=set_by) == [Kind.COMMITTED]

    async def test_it_runs_from_before_the_receive_was_asked_for_though_the_wall_was_set_back_meanwhile(
        self, tmp_path: Path, clock: SteppingClock, remote: Remote
    ) -> None:
        remote.seconds, remote.set_by = 10.0, -3_600.0
        remote.extends = False  # a third of it is over when it begins, so that it may be extended at any moment
        assert await self.end(FORMS[0], tmp_path, clock, remote, takes=20.0) == [Kind.FAILED]

    async def test_and_is_not_shorter_for_that(self, tmp_path: Path, clock: SteppingClock, remote: Remote) -> None:
        remote.seconds = 10.0
        assert await self.end(FORMS[0], tmp_path, clock, remote, takes=19.9) == [Kind.COMMITTED]

    async def test_so_no_receive_waits_until_little_is_left_of_it(
        self, tmp_path: Path, clock: SteppingClock, remote: Remote
    ) -> None:
        async with a_service(FORMS[0], tmp_path, clock=clock, queue=remote) as service:
            service.handle("case.released", bill)
            async with service.working(lease=2.0, wait=20.0):
                await eventually(lambda: remote.waits, "a receive")
        assert set(remote.waits) == {0.5}

    async def test_what_the_queue_itself_says_of_a_shorter_lease_is_believed(
        self, tmp_path: Path, clock: SteppingClock, remote: Remote
    ) -> None:
        remote.set_by = 10.0
        assert await self.end(FORMS[0], tmp_path, clock, remote, takes=20.0) == [Kind.FAILED]

    @pytest.mark.parametrize("form", FORMS, ids=repr)
    async def test_an_ack_in_the_transaction_knows_better_than_any_clock(
        self, form: Form, tmp_path: Path, clock: SteppingClock
    ) -> None:
        """Nobody else took the message, and the row that is deleted proves it."""
        assert await self.end(form, tmp_path, clock, None, takes=31.0) == [Kind.COMMITTED]


def take_away(path: Path, id_: str = "%") -> None:
    """Another consumer gets the message, as if the lease had run out."""
    with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
        connection.execute(
            "UPDATE crossfoot_queue SET token = 'somebody-else-------' WHERE state = 0 AND message LIKE ?",
            (f"%|{id_}",),
        )
