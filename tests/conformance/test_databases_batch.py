"""A batch is one transaction with a savepoint each: it ends as if its messages had been handled one by one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from crossfoot.books import sql
from crossfoot.books.entry import Kind
from crossfoot.effects.proof import Noop
from crossfoot.effects.sequence import InOrder
from crossfoot.effects.work import Work
from crossfoot.errors import LeaseLost, NoProof, Unavailable
from crossfoot.message import Message
from tests.conformance.database_rig import Call, Form, Scene, Sql, Story, a_message, a_scene, bill, insert
from tests.conformance.test_databases_misuse import Effect, Taken

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True, params=[False, True], ids=["careful", "optimistic"])
def optimistic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Every law of batches holds in both manners."""
    monkeypatch.setattr(Scene, "optimistic", request.param)
    return bool(request.param)


def fail(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    yield insert(message)
    tx.outcome("invoice.issued")
    tx.send("invoice.issued", subject=message.subject)
    raise RuntimeError("the printer is on fire")


def swallow(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    try:
        yield Sql("INSERT INTO taken VALUES (1)")
    except Exception:  # noqa: BLE001 - what the test is about
        return


def decline(message: Message, tx: Any) -> Generator[Sql, Any, Noop]:
    yield Sql("SELECT 1")
    return Noop("nothing to bill")


def tell(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    tx.send("invoice.issued", subject=message.subject, id=f"told-{message.id}")
    yield from ()


def half(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    yield insert(message, "kept")
    yield Sql("SAVEPOINT attempt")
    yield insert(message, "undone")
    yield Sql("ROLLBACK TO attempt")


def end_it(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    yield insert(message)
    yield Sql("COMMIT")


def kinds_of(results: Sequence[Kind | Exception]) -> list[Kind | str]:
    return [result if isinstance(result, Kind) else type(result).__name__ for result in results]


class TestNeighbours:
    """One bad message does not spoil the others."""

    @pytest.mark.parametrize("bad", [fail, swallow, end_it])
    @pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
    async def test_a_bad_message_is_undone_and_its_neighbours_commit(
        self, scene: Scene, bad: Story, place: int
    ) -> None:
        works = [scene.work(scene.handler(bill)) for _ in range(3)]
        works[place] = scene.work(scene.handler(bad, name="bad"))

        results = await scene.perform_batch(works)

        assert [isinstance(result, Exception) for result in results] == [number == place for number in range(3)]
        good = [work for number, work in enumerate(works) if number != place]
        assert scene.effects == [work.message.id for work in good]
        assert [scene.kinds(work) for work in good] == [[Kind.COMMITTED]] * 2
        scene.assert_nothing_was_kept(of=works[place])

    async def test_a_whole_batch_of_bad_messages_leaves_nothing_and_no_lock(self, scene: Scene) -> None:
        works = [scene.work(scene.handler(fail)) for _ in range(3)]
        assert kinds_of(await scene.perform_batch(works)) == ["RuntimeError"] * 3
        for work in works:
            scene.assert_nothing_was_kept(of=work)

    async def test_a_lost_lease_undoes_its_own_work_only(self, file_scene: Scene) -> None:
        scene = file_scene
        messages = [a_message() for _ in range(3)]
        deliveries = [await scene.delivered(message) for message in messages]
        await scene.queue.release([deliveries[1].receipt])
        works = [
            scene.work(scene.handler(bill), message, ack=scene.queue.ack_statement(delivery.receipt))
            for message, delivery in zip(messages, deliveries, strict=True)
        ]
        results = await scene.perform_batch(works)
        assert kinds_of(results) == [Kind.COMMITTED, "LeaseLost", Kind.COMMITTED]
        assert (await scene.queue.depth()).held == 1

    async def test_when_a_batch_is_done_again_each_handler_gets_its_message_as_it_came(self, file_scene: Scene) -> None:
        scene = file_scene

        def take_out(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message, str(message.data.pop("fee")))

        messages = [a_message(data={"fee": 3}) for _ in range(2)]
        deliveries = [await scene.delivered(message) for message in messages]
        await scene.queue.release([deliveries[1].receipt])
        works = [
            scene.work(scene.handler(take_out), message, ack=scene.queue.ack_statement(delivery.receipt))
            for message, delivery in zip(messages, deliveries, strict=True)
        ]
        assert kinds_of(await scene.perform_batch(works)) == [Kind.COMMITTED, "LeaseLost"]

    async def test_a_transaction_that_broke_is_given_up_as_a_whole_and_does_not_stop_the_worker(
        self, file_scene: Scene
    ) -> None:
        """The worker then goes through the batch one by one; an `Unavailable` would have stopped it."""
        scene = file_scene

        def break_it(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield Sql("INSERT OR ROLLBACK INTO taken VALUES (1)")

        works = [scene.work(scene.handler(story)) for story in (bill, break_it, bill)]
        with pytest.raises(Exception, match="no such savepoint") as raised:
            await scene.perform_batch(works)
        assert not isinstance(raised.value, Unavailable)
        for work in works:
            scene.assert_nothing_was_kept(of=work)
        assert await scene.perform(scene.work(scene.handler(bill))) is Kind.COMMITTED

    async def test_what_a_failed_work_had_pending_in_the_orm_session_does_not_come_with_the_next(
        self, orm_scene: Scene
    ) -> None:
        scene = orm_scene

        def add_and_fail(message: Message, tx: Any) -> Generator[Call, Any, None]:
            yield Call(lambda session: session.add(Effect(id=message.id, note="pending")))
            raise RuntimeError("before the flush")

        works = [scene.work(scene.handler(story)) for story in (bill, add_and_fail, bill)]
        assert kinds_of(await scene.perform_batch(works)) == [Kind.COMMITTED, "RuntimeError", Kind.COMMITTED]
        assert scene.effects == [works[0].message.id, works[2].message.id]
        assert scene.rows("SELECT details FROM crossfoot_entries") == ['{"rows":1}'] * 2

    @pytest.mark.parametrize("caught", [False, True], ids=["raised", "swallowed"])
    @pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
    async def test_a_flush_that_fails_does_not_roll_its_neighbours_back(
        self, orm_scene: Scene, caught: bool, place: int
    ) -> None:
        scene = orm_scene

        def flush_and_fail(message: Message, tx: Any) -> Generator[Call, Any, None]:
            yield Call(lambda session: session.add_all([Effect(id=message.id, note="half"), Taken(number=1)]))
            try:
                yield Call(lambda session: session.flush())
            except Exception:
                if not caught:
                    raise

        works = [scene.work(scene.handler(bill)) for _ in range(3)]
        works[place] = scene.work(scene.handler(flush_and_fail, name="flush"))
        results = await scene.perform_batch(works)

        assert [isinstance(result, Exception) for result in results] == [number == place for number in range(3)]
        good = [work for number, work in enumerate(works) if number != place]
        assert scene.effects == [work.message.id for work in good]
        assert [scene.kinds(work) for work in good] == [[Kind.COMMITTED]] * 2
        scene.assert_nothing_was_kept(of=works[place])


@pytest.mark.proves("law 3")
class TestWithinABatch:
    """What one message did, the next one sees."""

    async def test_a_duplicate_within_the_batch_is_suppressed(self, scene: Scene) -> None:
        handler = scene.handler(bill, operation="bill:{subject}")
        works = [scene.work(handler) for _ in range(3)]
        assert await scene.perform_batch(works) == [Kind.COMMITTED, Kind.SUPPRESSED, Kind.SUPPRESSED]
        assert len(scene.effects) == 1

    async def test_the_same_message_twice_in_a_batch_is_settled_once_and_nobody_is_accused(self, scene: Scene) -> None:
        handler, message = scene.handler(bill), a_message()
        works = [scene.work(handler, message) for _ in range(2)]
        assert await scene.perform_batch(works) == [Kind.COMMITTED, Kind.SUPPRESSED]
        assert scene.effects == [message.id]

    async def test_a_failure_leaves_its_operation_to_the_next_of_the_batch(self, scene: Scene) -> None:
        works = [scene.work(scene.handler(story, operation="bill:{subject}")) for story in (fail, bill)]
        results = await scene.perform_batch(works)
        assert kinds_of(results) == ["RuntimeError", Kind.COMMITTED]
        assert scene.effects == [works[1].message.id]

    async def test_the_order_of_a_subject_is_kept_within_the_batch(self, scene: Scene) -> None:
        handler = scene.handler(bill, in_order=InOrder(contiguous=True))
        works = [scene.work(handler, a_message(id=str(number), sequence=number)) for number in (1, 3, 2)]
        works.append(scene.work(handler, a_message(id="late", sequence=1)))
        assert await scene.perform_batch(works) == [Kind.COMMITTED, Kind.PARKED, Kind.COMMITTED, Kind.SUPERSEDED]
        assert scene.effects == ["1", "2"]
        assert scene.rows("SELECT identity FROM crossfoot_outbox") == ["billing|3"]

    async def test_the_fence_of_each_is_asked_and_nothing_is_written_or_acked_of_what_it_refuses(
        self, file_scene: Scene
    ) -> None:
        scene = file_scene

        def refuse() -> None:
            raise LeaseLost("the lease is over")

        def bill_and_tell(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield from bill(message, tx)
            tx.send("invoice.issued", subject=message.subject)

        works = []
        for fence in (None, refuse, None):
            message = a_message()
            ack = scene.queue.ack_statement((await scene.delivered(message)).receipt)
            works.append(scene.work(scene.handler(bill_and_tell), message, fence=fence, ack=ack))
        assert kinds_of(await scene.perform_batch(works)) == [Kind.COMMITTED, "LeaseLost", Kind.COMMITTED]
        assert [scene.kinds(work) for work in works] == [[Kind.COMMITTED, Kind.ACKED], [], [Kind.COMMITTED, Kind.ACKED]]
        assert scene.rows("SELECT message FROM crossfoot_queue") == [works[1].message.key]
        scene.assert_nothing_was_kept(of=works[1])

    async def test_rows_of_one_are_no_proof_of_the_next(self, scene: Scene) -> None:
        works = [scene.work(scene.handler(story)) for story in (bill, swallow)]
        results = await scene.perform_batch(works)
        assert isinstance(results[1], NoProof)


class TestOptimism:
    """Savepoints are spared until they are missed."""

    async def work(
        self, scene: Scene, stories: Sequence[Story], patch: pytest.MonkeyPatch
    ) -> tuple[list[Kind | str], int]:
        """How a batch ended, and how many savepoints it took."""
        session = await scene.open_session()
        marks, mark = itertools.count(), session.mark

        def counted() -> Any:
            next(marks)
            return mark()

        with patch.context() as patched:
            patched.setattr(session, "mark", counted)
            works = [scene.work(scene.handler(story)) for story in stories]
            return kinds_of(await scene.perform_batch(works)), next(marks)

    async def test_a_batch_in_which_all_goes_well_takes_none(
        self, scene: Scene, optimistic: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ends = await self.work(scene, [bill, bill, bill], monkeypatch)
        assert ends == ([Kind.COMMITTED] * 3, 0 if optimistic else 3)

    async def test_after_a_failure_all_is_done_again_and_the_next_batch_takes_them(
        self, scene: Scene, optimistic: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []

        def note_and_bill(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            calls.append(message.id)
            yield insert(message)

        ends, _ = await self.work(scene, [note_and_bill, fail, note_and_bill], monkeypatch)
        assert ends == [Kind.COMMITTED, "RuntimeError", Kind.COMMITTED]
        assert len(calls) == (3 if optimistic else 2)
        assert len(scene.effects) == 2
        for savepoints in (3, 0 if optimistic else 3):
            assert await self.work(scene, [bill, bill, bill], monkeypatch) == ([Kind.COMMITTED] * 3, savepoints)


STORIES = (bill, bill, fail, swallow, decline, tell, half)


class TestBatchEqualsPlain:
    """The same deliveries, in one transaction or in one each, end in the same books and the same effects."""

    @pytest.mark.parametrize("seed", range(6))
    async def test_whatever_the_messages(
        self, scene: Scene, seed: int, tmp_path: Path, url_for: Callable[[Form], str]
    ) -> None:
        folder = tmp_path / "batch"
        folder.mkdir()
        async with a_scene(scene.form, folder, url_for(scene.form)) as other:
            ends = [await plain(scene, deliveries(scene, seed))]
            ends.append(kinds_of(await other.perform_batch(deliveries(other, seed))))
            assert ends[0] == ends[1]
            assert books(scene) == books(other)

    async def test_what_is_left_to_its_turn_is_not_claimed_by_one_behind_it(self, scene: Scene) -> None:
        """That one may fail, and the other would be its duplicate."""
        early, other = a_message(subject="case-1", sequence=5), a_message(subject="case-2")
        waits = scene.handler(bill, in_order=InOrder(contiguous=True), operation="early:{subject}")
        named = scene.handler(bill, operation="bill:{source}")
        works = [scene.work(waits, early), scene.work(named, early), scene.work(named, other)]
        more = [scene.work(scene.handler(bill)) for _ in range(sql.GROUP)]

        ends = await scene.perform_batch(works + more)
        assert ends[:3] == [Kind.PARKED, Kind.COMMITTED, Kind.SUPPRESSED]

    async def test_a_copy_is_suppressed_by_what_its_own_message_completed_rather_than_by_another_one(
        self, scene: Scene
    ) -> None:
        first, other = a_message(subject="case-1"), a_message(subject="case-2")
        former, renamed = (scene.handler(bill, operation=name) for name in ("old:{subject}", "new:{source}"))
        await scene.perform(scene.work(former, first))
        await scene.perform(scene.work(renamed, other))
        copy = scene.work(renamed, first)

        assert await scene.perform_batch([copy]) == [Kind.SUPPRESSED]
        (details,) = scene.rows("SELECT details FROM crossfoot_entries WHERE kind = ?", Kind.SUPPRESSED.value)
        assert details == f'{{"operation":"old:case-1","by":{copy.hold.key}}}'


def deliveries(scene: Scene, seed: int) -> list[Work]:
    """Sixty deliveries, two whole groups and a rest, of which some ask for the same operation, some again, some in order."""
    chance = random.Random(seed)
    messages: list[Message] = []
    works = []
    for number in range(60):
        if messages and chance.random() < 0.15:
            message = chance.choice(messages)
        else:
            subject = f"case-{chance.randrange(12)}"
            message = a_message(id=str(number), subject=subject, sequence=chance.randrange(1, 6))
            messages.append(message)
        story = chance.choice(STORIES)
        in_order = InOrder(contiguous=True) if chance.random() < 0.3 else None
        operation = "bill:{subject}" if chance.random() < 0.5 else None
        works.append(scene.work(scene.handler(story, in_order=in_order, operation=operation), message))
    return works


async def plain(scene: Scene, works: Sequence[Work]) -> list[Kind | str]:
    results: list[Kind | Exception] = []
    for work in works:
        try:
            results.append(await scene.perform(work))
        except Exception as error:  # noqa: BLE001 - compared below
            results.append(error)
    return kinds_of(results)


def books(scene: Scene) -> dict[str, list[Any]]:
    """Everything that was committed, but for times and numbers."""
    return {
        "effects": scene.rows("SELECT id, note FROM effects ORDER BY 1, 2"),
        "operations": scene.rows(
            "SELECT o.key, m.id, o.kind FROM crossfoot_operations o JOIN crossfoot_messages m ON m.key = o.message ORDER BY 1"
        ),
        "entries": scene.rows(
            """SELECT m.id, e.kind, e.details FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message
            ORDER BY 1, 2, 3"""
        ),
        "outbox": scene.rows("SELECT identity FROM crossfoot_outbox ORDER BY 1"),
        "sequences": scene.rows("SELECT handler, subject, last FROM crossfoot_sequences ORDER BY 1, 2"),
        "parked": scene.rows("SELECT subject, sequence, predecessor FROM crossfoot_parked ORDER BY 1, 2"),
        "outcomes": scene.rows("SELECT name, subject FROM crossfoot_outcomes ORDER BY 1, 2"),
    }
