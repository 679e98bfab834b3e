"""What a worker does with a message: one sentence a test, over every form of database where the form could matter."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec
import pytest

from crossfoot import Crossfoot, Noop
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.fate import Fate
from crossfoot.clock import SECOND
from crossfoot.effects.sequence import InOrder
from crossfoot.errors import DiskFull, HandlerConflict, QueueUnavailable, UsageError
from crossfoot.message import Message
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Delivery, Outgoing
from crossfoot.worker.alone import Alone
from crossfoot.worker.held import Held
from crossfoot.worker.intake import Intake
from crossfoot.worker.retry import Retry
from crossfoot.worker.settling import Settling
from tests.acceptance.service_rig import FORMS, Service, a_service, eventually
from tests.conformance.database_rig import Call, Sql, bill, insert

pytestmark = pytest.mark.anyio


@pytest.fixture(params=FORMS, ids=repr)
async def service(request: pytest.FixtureRequest, tmp_path: Path, no_blocking_calls: None) -> AsyncIterator[Service]:
    async with a_service(request.param, tmp_path) as made:
        yield made


MARKED = "INSERT INTO effects (id, note) VALUES (:id, '')"


def fail(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    yield insert(message)
    raise RuntimeError("the printer is on fire")


def fail_once(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    seen: set[str] = getattr(fail_once, "seen", set())
    fail_once.seen = seen | {message.id}  # type: ignore[attr-defined] # the handler's memory of the first time
    if message.id not in seen:
        raise RuntimeError("the printer is warming up")
    yield insert(message)


class Amount(msgspec.Struct):
    amount: int


class TestSuccess:
    """A message that can be handled."""

    async def test_it_settles_with_proof_before_its_ack(self, service: Service) -> None:
        service.handle("case.released", bill)
        (message,) = await service.publish("case.released", "case-1")
        await service.work()
        assert service.fate(message) is Fate.SETTLED
        assert service.kinds(message) == [Kind.PUBLISHED, Kind.RECEIVED, Kind.COMMITTED, Kind.ACKED]
        assert (await service.app.queue.depth()).held == 0

    async def test_a_noop_settles_it_with_a_reason(self, service: Service) -> None:
        def decline(message: Message, tx: Any) -> Generator[Sql, Any, Noop]:
            yield from ()
            return Noop("nothing to bill")

        service.handle("case.released", decline)
        (message,) = await service.publish("case.released", "case-1")
        await service.work()
        assert service.fate(message) is Fate.NOOP
        details = service.rows("SELECT details FROM crossfoot_entries WHERE kind = ?", Kind.NOOP.value)
        assert details == ['{"reason":"nothing to bill"}']

    @pytest.mark.parametrize("batch", [1, 8], ids=["plain", "batch"])
    async def test_a_second_message_for_the_same_operation_ends_as_a_duplicate(
        self, service: Service, batch: int
    ) -> None:
        service.handle("case.released", bill, operation="bill:{subject}")
        messages = await service.publish("case.released", *["case-1"] * 3)
        await service.work(batch=batch)
        assert len(service.effects) == 1
        fates = sorted(service.fate(message) for message in messages)
        assert fates == [Fate.SETTLED, Fate.DUPLICATE, Fate.DUPLICATE]

    @pytest.mark.parametrize("batch", [1, 8], ids=["plain", "batch"])
    async def test_a_message_published_twice_settles_once(self, service: Service, batch: int) -> None:
        service.handle("case.released", bill)
        message = service.app.message("case.released", subject="case-1")
        await service.app.publish(message, message)
        await service.work(batch=batch)
        assert service.effects == [message.id]
        assert service.fate(message) is Fate.SETTLED
        assert Kind.FAILED not in service.kinds(message)

    async def test_a_batch_that_is_done_again_finds_its_messages_as_they_came(self, service: Service) -> None:
        def take_out(message: Message, tx: Any) -> Generator[Sql, Any, Noop | None]:
            if not message.data.pop("fee", 0):
                return Noop("nothing to bill")
            yield insert(message)
            if message.subject == "case-bad":
                yield Sql("INSERT OR ROLLBACK INTO taken VALUES (1)")
            return None

        service.handle("case.released", take_out)
        *good, bad = await service.publish("case.released", "case-1", "case-2", "case-3", "case-bad", data={"fee": 3})
        await service.work(batch=10, concurrency=1, attempts=1)

        assert sorted(service.effects) == sorted(message.id for message in good)
        assert service.fate(bad) is Fate.DEAD


class TestRetry:
    """A message whose handler fails."""

    async def test_it_is_tried_again_after_a_pause_and_then_settles(self, service: Service) -> None:
        service.handle("case.released", fail_once)
        (message,) = await service.publish("case.released", "case-1")
        await service.work(attempts=3, base=0.2)

        assert service.fate(message) is Fate.SETTLED
        rows = service.rows("SELECT kind, at, due FROM crossfoot_entries WHERE kind IN (6, 10) ORDER BY id")
        (_, _, _), (_, failed_at, due), (_, again_at, _) = rows
        assert 0 <= due - failed_at <= 0.2 * SECOND, "full jitter: anything from nothing to the base"
        assert again_at >= due - 5_000, "not before its pause is over"

    async def test_pauses_grow_and_never_pass_their_bound(self, service: Service) -> None:
        service.handle("case.released", fail)
        messages = await service.publish("case.released", *[f"case-{number}" for number in range(12)])
        await service.work(attempts=4, base=0.02)
        rows = service.rows(
            "SELECT attempt, due - at FROM crossfoot_entries WHERE kind = ? AND attempt < 4", Kind.FAILED.value
        )
        assert len(rows) == 3 * len(messages)
        for attempt, pause in rows:
            assert 0 <= pause <= 0.02 * 2 ** (attempt - 1) * SECOND
        assert max(pause for attempt, pause in rows if attempt == 3) > 0.02 * SECOND, "the third may last longer"

    async def test_after_its_last_attempt_it_lies_in_the_dead_letters_with_its_cause(self, service: Service) -> None:
        service.handle("case.released", fail)
        messages = await service.publish("case.released", "case-1", "case-2")
        await service.work(attempts=3)

        assert service.effects == []
        ((fingerprint, title),) = service.causes().items()
        assert "RuntimeError" in title
        details = service.rows("SELECT DISTINCT details FROM crossfoot_entries WHERE cause = ?", fingerprint)
        assert all(re.search(r'"raised":"tests/acceptance/test_worker\.py:\d+ fail\(\)"', one) for one in details)
        for message in messages:
            assert service.fate(message) is Fate.DEAD
            assert service.kinds(message).count(Kind.FAILED) == 3
        reasons = service.rows("SELECT dead_reason FROM crossfoot_queue WHERE state = 2")
        assert len(reasons) == 2
        assert all(reason.endswith(f"[{fingerprint}]") for reason in reasons)

    @pytest.mark.parametrize("queues_most", [1, 2])
    async def test_where_the_queue_is_less_patient_it_is_buried_by_the_worker_with_its_cause(
        self, tmp_path: Path, queues_most: int
    ) -> None:
        queue = EmbeddedQueue(tmp_path / "billing.db", "billing", ordered=False, max_attempts=queues_most)
        async with a_service(FORMS[0], tmp_path, queue=queue) as service:
            service.handle("case.released", fail)
            (message,) = await service.publish("case.released", "case-1")
            await service.work(attempts=5)
            assert service.fate(message) is Fate.DEAD
            assert service.kinds(message).count(Kind.FAILED) == queues_most
            (fingerprint,) = service.causes()
            (reason,) = service.rows("SELECT dead_reason FROM crossfoot_queue WHERE state = 2")
            assert reason.endswith(f"[{fingerprint}]")

    async def test_the_neighbours_of_a_failing_message_settle(self, service: Service) -> None:
        service.handle("case.released", bill)
        service.handle("case.broken", fail)
        await service.publish("case.released", "case-1", "case-2")
        (broken,) = await service.publish("case.broken", "case-3")
        good = await service.publish("case.released", "case-4")
        await service.work(batch=8)
        assert service.fate(broken) is Fate.DEAD
        assert len(service.effects) == 3
        assert service.fate(good[0]) is Fate.SETTLED

    async def test_a_send_that_its_queue_would_never_take_fails_the_handler_and_nothing_of_it_is_kept(
        self, service: Service
    ) -> None:
        def enclose(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            tx.send("invoice.issued", subject=message.subject, data={"pdf": "x" * service.app.settings.max_bytes})

        service.handle("case.released", enclose)
        (message,) = await service.publish("case.released", "case-1")
        await service.work(attempts=1)

        assert service.fate(message) is Fate.DEAD
        assert service.effects == []
        assert service.rows("SELECT count(*) FROM crossfoot_messages") == [1], "nothing was sent"
        (told,) = service.rows("SELECT details FROM crossfoot_entries WHERE kind = ?", int(Kind.FAILED))
        assert "invoice.issued" in told
        assert "queue billing takes at most 1,048,576: store the data elsewhere" in told

    async def test_a_queue_that_a_handler_cannot_reach_is_that_deliverys_failure(self, service: Service) -> None:
        def call_out(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            raise QueueUnavailable("the other team's queue does not answer")

        service.handle("case.broken", call_out)
        service.handle("case.released", bill)
        await service.publish("case.broken", "case-1")
        (message,) = await service.publish("case.released", "case-2")
        await service.work()
        assert service.effects == [message.id]

    async def test_a_full_disk_under_a_database_of_the_handlers_own_is_that_deliverys_failure(
        self, service: Service, tmp_path: Path
    ) -> None:
        def write() -> None:
            with closing(sqlite3.connect(tmp_path / "elsewhere.db")) as other:
                other.execute("CREATE TABLE IF NOT EXISTS archive (body BLOB)")
                other.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size instead: now it is full
                other.execute("INSERT INTO archive VALUES (zeroblob(200000))")

        def archive(message: Message, tx: Any) -> Generator[Sql | Call, Any, None]:
            yield insert(message)
            yield Call(lambda _: anyio.to_thread.run_sync(write) if service.form.is_async else write())

        service.handle("case.archived", archive)
        service.handle("case.released", bill)
        (archived,) = await service.publish("case.archived", "case-1")
        (message,) = await service.publish("case.released", "case-2")
        await service.work(attempts=2)

        assert service.kinds(archived).count(Kind.FAILED) == 2
        (told, *_) = service.rows("SELECT details FROM crossfoot_entries WHERE cause NOT NULL")
        assert "database or disk is full" in told
        assert service.fate(archived) is Fate.DEAD
        assert service.effects == [message.id]

    @pytest.mark.usefixtures("page_limits")
    async def test_a_full_disk_under_our_own_database_stops_the_worker(self, service: Service) -> None:
        def fill(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield Sql("PRAGMA max_page_count = 1")
            yield insert(message, "x" * 200_000)

        service.handle("case.released", fill)
        (message,) = await service.publish("case.released", "case-1")
        with pytest.raises(DiskFull, match=r"billing\.db is full"):
            await service.work()

        assert service.kinds(message)[-1] is Kind.RECEIVED
        assert service.rows("SELECT count(*) FROM crossfoot_queue WHERE state < 2") == [1], "it was not acked"

    async def test_a_result_left_unread_by_a_failure_does_not_stop_the_worker(self, service: Service) -> None:
        def leave_unread(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            result = yield Sql("SELECT number FROM taken UNION ALL SELECT 2 UNION ALL SELECT 3")
            assert result is None, "in the middle of reading"

        service.handle("case.broken", leave_unread)
        service.handle("case.released", bill)
        await service.publish("case.broken", "case-1", "case-2")
        good = await service.publish("case.released", "case-3", "case-4")
        await service.work()
        assert sorted(service.effects) == sorted(message.id for message in good)


class TestBlame:
    """What a message is not to blame for is not counted against it; and what its handler may not do is."""

    async def test_deliveries_that_were_handed_back_unbegun_use_up_no_attempt(self, service: Service) -> None:
        service.handle("case.released", bill)
        (message,) = await service.publish("case.released", "case-1")
        for _ in range(12):
            async with service.working(attempts=1, concurrency=1) as worker:
                worker.stop()
            (delivery,) = await service.app.queue.receive(1, lease=30.0)
            helds = await anyio.to_thread.run_sync(_taken, service, delivery)
            settling = Settling(
                service.app.book,
                service.app.queue,
                Retry(attempts=1),
                local=None,
                forget=lambda _: None,
                sent=lambda: None,
            )
            await settling.settle([(held, None) for held in helds])
        assert service.kinds(message).count(Kind.RELEASED) == 12
        await service.work(attempts=1)
        assert service.fate(message) is Fate.SETTLED

    async def test_a_message_whose_workers_die_with_it_is_given_up_at_last(self, service: Service) -> None:
        service.handle("case.released", bill)
        (message,) = await service.publish("case.released", "case-1")
        await abandoned(service, Retry(attempts=1).deaths)
        assert service.kinds(message).count(Kind.RECEIVED) == Retry().deaths
        await abandoned(service, 1)
        await service.work(attempts=1)
        assert service.fate(message) is Fate.DEAD
        assert service.effects == []
        assert [title.partition(" ")[0] for title in service.causes().values()] == ["WornOut"]

    async def test_one_that_was_only_there_when_workers_died_is_not_to_blame(self, service: Service) -> None:
        service.handle("case.released", bill)
        (message,) = await service.publish("case.released", "case-1")
        await abandoned(service, 40, begun=False)
        await service.work(attempts=1)
        assert service.effects == [message.id]
        assert service.fate(message) is Fate.SETTLED

    async def test_one_that_is_suspected_and_only_fails_dies_of_that(self, service: Service) -> None:
        service.handle("case.released", fail)
        (message,) = await service.publish("case.released", "case-1")
        await abandoned(service, 10, begun=False)
        await service.work(attempts=7)
        assert service.fate(message) is Fate.DEAD
        assert service.kinds(message).count(Kind.FAILED) == 7
        assert [title.partition(" ")[0] for title in service.causes().values()] == ["RuntimeError"]

    async def test_those_that_are_suspected_are_handled_one_at_a_time_and_say_before_that_they_begin(
        self, service: Service
    ) -> None:
        running: list[str] = []
        overlaps: list[list[str]] = []

        async def awork(message: Message, tx: Any) -> None:
            enter(message)
            await anyio.sleep(0.05)
            running.remove(message.id)
            await tx.execute(MARKED, {"id": message.id})

        def work(message: Message, tx: Any) -> None:
            enter(message)
            time.sleep(0.05)
            running.remove(message.id)
            tx.execute(MARKED, {"id": message.id})

        def enter(message: Message) -> None:
            running.append(message.id)
            overlaps.append(list(running))

        service.app.handler("case.released")(awork if service.form.is_async else work)
        messages = await service.publish("case.released", "case-1", "case-2", "case-3")
        await service.app.queue.open()
        deliveries = await service.app.queue.receive(3, lease=30.0)
        for delivery in deliveries:
            await anyio.to_thread.run_sync(_taken, service, delivery)
        await service.app.queue.release([delivery.receipt for delivery in deliveries])
        await service.work(attempts=1, concurrency=3)

        assert sorted(map(len, overlaps)) == [1, 1, 1]
        assert sorted(service.effects) == sorted(message.id for message in messages)
        for message in messages:
            kinds = service.kinds(message)
            assert kinds.index(Kind.EXTENDED) < kinds.index(Kind.COMMITTED)

    async def test_one_death_less_and_it_is_handled(self, service: Service) -> None:
        service.handle("case.released", bill)
        (message,) = await service.publish("case.released", "case-1")
        await abandoned(service, Retry().deaths)
        await service.work(attempts=1)
        assert service.effects == [message.id]

    async def test_what_is_complete_is_not_given_up_however_often_it_comes(self, service: Service) -> None:
        service.handle("case.released", bill, operation="bill:{subject}")
        await service.publish("case.released", "case-1")
        await service.work()
        (again,) = await service.publish("case.released", "case-1")
        await abandoned(service, 20)
        await service.work(attempts=1)
        assert service.fate(again) is Fate.DUPLICATE

    @pytest.mark.parametrize(
        "what", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()], ids=repr
    )
    async def test_a_handler_that_would_end_its_process_or_its_task_fails_its_delivery_only(
        self, service: Service, what: BaseException
    ) -> None:
        def quit_once(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            if message.subject == "case-bad":
                raise what

        service.handle("case.released", quit_once)
        bad, good = await service.publish("case.released", "case-bad", "case-1")
        await service.work(attempts=2)
        assert service.effects == [good.id]
        assert service.fate(bad) is Fate.DEAD
        assert [title.partition(" ")[0] for title in service.causes().values()] == ["HandlerQuit"]

    @pytest.mark.parametrize("raises", [True, False])
    async def test_a_child_that_a_handler_forks_and_leaves_running_ends_where_its_handler_does(
        self, service: Service, raises: bool
    ) -> None:
        children = []

        def fork(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            if child := os.fork():
                children.append(child)
            elif raises:
                raise SystemExit(3)
            else:
                signal.alarm(20)  # that it ends, should it go on after all

        service.handle("case.released", fork)
        messages = await service.publish("case.released", "case-1", "case-2")
        await service.work()
        waited = [await anyio.to_thread.run_sync(os.waitpid, child, 0) for child in children]
        ends = [os.waitstatus_to_exitcode(status) for _, status in waited]
        assert ends == [70, 70], "only one of both may go on with connections and event loop"
        assert sorted(service.effects) == sorted(message.id for message in messages)

    @pytest.mark.parametrize("waits", [True, False])
    @pytest.mark.parametrize("batch", [1, 10])
    async def test_a_handler_that_cancels_its_own_task_fails_its_delivery_only(
        self, service: Service, waits: bool, batch: int
    ) -> None:
        if not service.form.is_async:
            return  # it has no task

        def cancel(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            if message.subject == "case-bad":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                if waits:
                    yield Sql("SELECT 1")

        service.handle("case.released", cancel)
        bad, good = await service.publish("case.released", "case-bad", "case-1")
        await service.work(attempts=2, batch=batch, concurrency=1)
        assert service.effects == [good.id]
        assert service.fate(bad) is Fate.DEAD
        assert [title.partition(" ")[0] for title in service.causes().values()] == ["HandlerQuit"]

    @pytest.mark.parametrize(
        ("name", "facts"),
        [("invoice.issued", {"amount": float("nan")}), ("invoice.\ud800", {}), ("invoice.issued", {"who": "\ud800"})],
        ids=["nan", "half a name", "half a text"],
    )
    async def test_an_outcome_that_cannot_be_written_down_fails_where_it_is_told(
        self, service: Service, name: str, facts: dict[str, Any]
    ) -> None:
        def tell(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            tx.outcome(name, **facts)

        service.handle("case.released", tell)
        (message,) = await service.publish("case.released", "case-1")
        await service.work(attempts=1)
        assert service.fate(message) is Fate.DEAD
        (title,) = service.causes().values()
        assert title.startswith("UsageError at handler tell")

    async def test_a_list_of_messages_is_no_message(self, service: Service) -> None:
        messages: Any = [service.app.message("case.released")]
        with pytest.raises(UsageError, match=r"one by one, as in publish\(\*messages\), or a type .* not a list"):
            await service.app.publish(messages)

    async def test_a_forgotten_await_is_no_effect_and_said_so(self, service: Service) -> None:
        if not service.form.is_async:
            return  # there is nothing to await

        @service.app.handler("case.released")
        async def forget(message: Message, tx: Any) -> None:
            tx.execute("INSERT INTO effects (id, note) VALUES (:id, '')", {"id": message.id})
            tx.outcome("invoice.issued")

        (message,) = await service.publish("case.released", "case-1")
        await service.work(attempts=1)
        assert service.fate(message) is Fate.DEAD
        assert service.effects == []
        (details,) = service.rows("SELECT details FROM crossfoot_entries WHERE kind = ?", Kind.FAILED.value)
        assert "tx.execute() was called and not awaited" in details


async def abandoned(service: Service, times: int, *, begun: bool = True) -> None:
    """Worker after worker takes the message in, and dies: of it, if its handler had begun."""
    await service.app.queue.open()
    for _ in range(times):
        (delivery,) = await service.app.queue.receive(1, lease=30.0)
        await anyio.to_thread.run_sync(_begun if begun else _taken, service, delivery)
        await service.app.queue.release([delivery.receipt])


def _taken(service: Service, delivery: Delivery) -> list[Held]:
    number = service.app.book.start_worker("hands-back", "billing")
    intake = Intake(service.app.book, service.app.queue, service.app.registry, Retry(attempts=1), number, None)
    return intake.take([delivery])


def _begun(service: Service, delivery: Delivery) -> None:
    for held in _taken(service, delivery):
        if held.suspect:
            with Alone(service.app.book).turn(held):
                pass


async def test_a_copy_is_numbered_after_all_that_is_booked_and_not_only_after_what_is_posted(service: Service) -> None:
    """Else it would be handled and buried under numbers that another copy has left behind, and stay *retrying* for ever."""
    service.handle("case.released", bill)
    (message,) = await service.publish("case.released", "case-1")
    queue, book = service.app.queue, service.app.book
    await queue.open()
    (first,) = await queue.receive(1, lease=60.0)
    (held,) = await anyio.to_thread.run_sync(_taken, service, first)
    assert held.hold is not None
    failed = Entry(message=held.hold.key, kind=Kind.FAILED, attempt=3, at=book.clock.now())
    await anyio.to_thread.run_sync(book.append, [failed])
    await queue.publish([Outgoing(key=message.key, body=first.body)])
    numbers = []
    for _ in range(3):
        (copy,) = await queue.receive(1, lease=60.0)
        (held,) = await anyio.to_thread.run_sync(_taken, service, copy)
        assert held.hold is not None
        numbers.append(held.hold.attempt)
        await queue.release([copy.receipt])
    assert numbers == [1, 4, 5], "the first one cannot know of what is not posted, and does no harm"


async def test_a_suspect_of_one_kind_of_lane_waits_for_one_of_the_other(service: Service) -> None:
    """Two at once would both be blamed for the death of their worker."""
    service.handle("case.released", bill)
    await service.publish("case.released", "case-1", "case-2")
    deliveries = await service.app.queue.receive(2, lease=60)
    one, other = await anyio.to_thread.run_sync(lambda: [held for each in deliveries for held in _taken(service, each)])
    alone, order = Alone(service.app.book), list[str]()
    begun, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with alone.turn(one):
            begun.set()
            assert go_on.wait(60)
            order.append("first")

    async def second() -> None:
        async with alone.aturn(other):
            order.append("second")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, first)
        await anyio.to_thread.run_sync(begun.wait, 60)
        tasks.start_soon(second)
        await anyio.sleep(0.2)
        go_on.set()

    assert order == ["first", "second"]


class TestPoison:
    """A message that no later delivery can mend goes to the dead letters at once."""

    async def test_bytes_that_are_no_envelope(self, service: Service) -> None:
        service.handle("case.released", bill)
        await service.publish("case.released", "case-1")
        await service.app.queue.publish([Outgoing(key="stray|1", body=b"\xff not an event")])
        await service.work(attempts=5)
        rows = service.rows("SELECT fate, key FROM crossfoot_messages WHERE type = 'unreadable'")
        assert [fate for fate, _ in rows] == [Fate.DEAD]
        deliveries = service.rows("SELECT count(*) FROM crossfoot_entries WHERE message = ? AND kind = 6", rows[0][1])
        assert deliveries == [1]
        assert len(service.effects) == 1

    async def test_a_payload_that_does_not_fit_and_the_place_is_its_cause(self, service: Service) -> None:
        service.handle("case.released", bill, payload=Amount)
        (wrong,) = await service.publish("case.released", "case-1", data={"amount": "much"})
        (right,) = await service.publish("case.released", "case-2", data={"amount": 120})
        await service.work(attempts=5)
        assert service.fate(wrong) is Fate.DEAD
        assert service.kinds(wrong).count(Kind.RECEIVED) == 1
        assert "$.amount" in next(iter(service.causes().values()))
        assert service.effects == [right.id]

    async def test_a_message_without_what_its_operation_key_needs(self, service: Service) -> None:
        service.handle("case.released", bill, operation="bill:{data.order}")
        (message,) = await service.publish("case.released", "case-1", data={"amount": 1})
        await service.work(attempts=5)
        assert service.fate(message) is Fate.DEAD
        assert service.kinds(message).count(Kind.RECEIVED) == 1

    async def test_a_payload_type_that_raises_anything_fails_its_delivery_and_not_the_worker(
        self, service: Service
    ) -> None:
        class Odd(msgspec.Struct):
            amount: int

            def __post_init__(self) -> None:
                raise ZeroDivisionError("somebody else's bug")

        service.handle("case.odd", bill, payload=Odd)
        service.handle("case.released", bill, name="bill-2")
        (odd,) = await service.publish("case.odd", "case-1", data={"amount": 1})
        (message,) = await service.publish("case.released", "case-2")
        await service.work()
        assert service.fate(odd) is Fate.DEAD
        assert service.effects == [message.id]


class TestInOrder:
    """Events of one subject that are in hand together take effect by their sequence, whatever lanes are free."""

    async def test_none_is_called_stale_because_a_later_one_was_quicker(self, service: Service) -> None:
        service.handle("case.changed", bill, in_order=True)
        messages = [
            service.app.message("case.changed", subject=f"case-{case}", sequence=number)
            for number in (3, 1, 4, 2)
            for case in range(5)
        ]
        await service.app.publish(*messages)
        await service.work(concurrency=4)
        assert {service.fate(message) for message in messages} == {Fate.SETTLED}
        made = {message.id: message for message in messages}
        for case in range(5):
            applied = [made[id_].sequence for id_ in service.effects if made[id_].subject == f"case-{case}"]
            assert applied == [1, 2, 3, 4]

    async def test_a_stale_event_does_not_keep_its_operation_from_a_later_one(self, service: Service) -> None:
        service.handle("case.changed", bill, in_order=True, operation="{subject}:{data.what}")
        made = [
            service.app.message("case.changed", subject="case-1", sequence=number, data={"what": what})
            for number, what in ((2, "address"), (1, "close"), (3, "close"))
        ]
        for message in made:  # one at a time, so that the first is really stale
            await service.app.publish(message)
            await service.work(concurrency=1)
        assert [service.fate(message) for message in made] == [Fate.SETTLED, Fate.SUPERSEDED, Fate.SETTLED]

    async def test_an_early_one_comes_again_after_its_predecessor_and_its_deliveries_count_on(
        self, service: Service
    ) -> None:
        service.handle("case.changed", bill, in_order=InOrder(contiguous=True))
        second, first = (service.app.message("case.changed", subject="case-1", sequence=number) for number in (2, 1))
        await service.app.publish(second)
        await service.work()
        assert service.fate(second) is Fate.PARKED
        await service.app.publish(first)
        await service.work()
        assert service.effects == [first.id, second.id]
        assert service.rows(
            """SELECT e.kind, e.attempt FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message
            WHERE m.id = ? AND e.kind IN (6, 13, 23) ORDER BY e.id""",
            second.id,
        ) == [(Kind.RECEIVED, 1), (Kind.PARKED, 1), (Kind.RECEIVED, 2), (Kind.COMMITTED, 2)]

    async def test_one_that_fails_does_not_hold_up_those_behind_it(self, service: Service) -> None:
        def fail_first(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            if message.sequence == 1:
                raise RuntimeError("the first one always fails")
            yield insert(message)

        service.handle("case.changed", fail_first, in_order=True)
        messages = [service.app.message("case.changed", subject="case-1", sequence=number) for number in (1, 2, 3)]
        await service.app.publish(*messages)
        await service.work(concurrency=4, attempts=1)
        assert [service.fate(message) for message in messages] == [Fate.DEAD, Fate.SETTLED, Fate.SETTLED]


class TestOthers:
    """Messages nobody wants, or nobody knows."""

    async def test_an_unknown_type_is_handed_back_for_a_newer_version_and_dies_at_last(self, service: Service) -> None:
        service.handle("case.released", bill)
        (message,) = await service.publish("case.reopened", "case-1")
        await service.work(attempts=3)
        assert service.fate(message) is Fate.DEAD
        assert service.kinds(message).count(Kind.FAILED) == 3
        assert next(iter(service.causes().values())).startswith("UnknownType")

    async def test_a_newer_version_that_comes_in_time_handles_it(self, service: Service) -> None:
        service.handle("case.released", bill)
        (message,) = await service.publish("case.reopened", "case-1")
        async with service.working(attempts=1, base=0.01):
            await eventually(lambda: service.kinds(message).count(Kind.RELEASED) > 3, "the old version to hand it back")
        assert Kind.FAILED not in service.kinds(message)
        service.handle("case.reopened", bill, name="reopen")
        await service.work(attempts=1)
        assert service.fate(message) is Fate.SETTLED

    async def test_a_type_that_nobody_knows_for_long_enough_is_tried_no_more(self, service: Service) -> None:
        service.handle("case.released", bill)
        (message,) = await service.publish("case.reopened", "case-1")
        async with service.working(retry=Retry(attempts=2, base=0.01, unknown_for=0.2)):
            await eventually(lambda: Kind.DEAD_LETTERED in service.kinds(message), "it to be dead-lettered")
        assert service.fate(message) is Fate.DEAD
        assert service.kinds(message).count(Kind.RELEASED) >= 1
        assert service.kinds(message).count(Kind.FAILED) == 2
        assert next(iter(service.causes().values())).startswith("UnknownType")

    async def test_an_expired_message_is_booked_as_expired_and_never_reaches_its_handler(
        self, service: Service
    ) -> None:
        service.handle("case.released", bill)
        past = service.app.clock.now() - SECOND
        (message,) = await service.publish("case.released", "case-1", expirytime=past)
        await service.work()
        assert service.fate(message) is Fate.EXPIRED
        assert service.effects == []
        assert (await service.app.queue.depth()).held == 0

    async def test_a_handler_that_changes_the_working_folder_leaves_the_book_where_it_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (elsewhere := tmp_path / "elsewhere").mkdir()
        async with a_service(FORMS[0], Path()) as service:

            def move(message: Message, tx: Any) -> Generator[Sql, Any, None]:
                yield insert(message)
                os.chdir(elsewhere)

            service.handle("case.released", move)
            messages = await service.publish("case.released", "case-1", "case-2")
            async with service.working(reconcile=0.05) as worker:
                ends: list[Held] = []
                worker.on_settled = ends.append
                await eventually(lambda: len(ends) == 2, "both ends")
                place = str(tmp_path / "billing.db")
                posted = "SELECT count(*) FROM crossfoot_messages WHERE fate = ?"
                await eventually(
                    lambda: service.form.outside(place, posted, (int(Fate.SETTLED),), 10.0) == [(2,)], "the posting"
                )
            found = service.form.outside(place, "SELECT id FROM effects", (), 10.0)
            assert sorted(id_ for (id_,) in found) == sorted(message.id for message in messages)
        assert list(elsewhere.iterdir()) == []

    async def test_a_handler_that_changes_the_row_factory_does_not_disturb_the_next_one(self, service: Service) -> None:
        if service.form.orm:
            return  # a session has none

        def as_dicts(message: Message, tx: Any) -> Generator[Sql | Call, Any, None]:
            def change(connection: Any) -> None:
                connection.row_factory = lambda cursor, row: {"first": row[0]}

            yield Call(change)
            yield insert(message)
            tx.send("case.released", subject=message.subject)

        service.handle("case.opened", as_dicts)
        service.handle("case.released", bill)
        await service.publish("case.opened", "case-1", "case-2")
        await service.work()
        assert len(service.effects) == 4


class TestRegistering:
    """Wrong use is told at once, with the remedy."""

    async def test_a_type_has_one_handler(self, tmp_path: Path) -> None:
        app = Crossfoot("billing", database=str(tmp_path / "billing.db"))

        @app.handler("case.released")
        def first(message: Message, tx: Any) -> None: ...

        with pytest.raises(HandlerConflict, match=r"first and second both take 'case\.released'"):

            @app.handler("case.released")
            def second(message: Message, tx: Any) -> None: ...

    @pytest.mark.parametrize("other", ["embedded:letters", "rabbitmq:letters", "redis://127.0.0.2/letters"])
    async def test_two_queues_of_one_name_are_refused_wherever_they_are(self, tmp_path: Path, other: str) -> None:
        with pytest.raises(UsageError, match=r"two queues of this service are called 'letters"):
            Crossfoot(
                "billing",
                database=tmp_path / "b.db",
                queue="redis:letters",
                queues=[other, "kafka:letters?group=letters"],
            )

    async def test_its_own_queue_may_be_named_among_those_it_sends_to(self, tmp_path: Path) -> None:
        queues = ["embedded:letters", "embedded:invoices", "embedded:letters"]
        app = Crossfoot("billing", database=tmp_path / "b.db", queue="embedded:letters", queues=queues)
        assert app.queues["letters"] is app.queue
        assert sorted(app.queues) == ["invoices", "letters"]

    async def test_a_service_without_handlers_has_nothing_to_run(self, tmp_path: Path) -> None:
        app = Crossfoot("billing", database=str(tmp_path / "billing.db"))
        with pytest.raises(UsageError, match="no handler to run"):
            await app.worker().run(until_idle=True)
