"""Every way to the database keeps the same promise: the effect, its operation key, its entries and what it sends are one.

Many forms, one suite: the drivers of SQLite and PostgreSQL, SQLAlchemy over them, Django; `database_forms` names them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Sequence
from typing import Any

import anyio
import pytest
from psycopg.rows import dict_row

from crossfoot.books.entry import Kind
from crossfoot.effects.proof import Noop
from crossfoot.effects.sequence import InOrder
from crossfoot.effects.work import Work
from crossfoot.errors import EnvelopeInvalid, LeaseLost, NoProof, TransactionMisuse
from crossfoot.message import Message
from crossfoot.queues.queue import Done
from crossfoot.worker.parking import resume_overdue
from tests.conformance.database_rig import Call, Scene, Sql, a_message, bill, insert

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = pytest.mark.anyio


def bill_and_tell(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    yield insert(message)
    tx.outcome("invoice.issued", amount=120)
    tx.send("invoice.issued", subject=message.subject, data={"amount": 120})


def fail_after_all(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    yield from bill_and_tell(message, tx)
    raise RuntimeError("the printer is on fire")


@pytest.mark.proves("law 2")
class TestOneTransaction:
    """Everything or nothing."""

    async def test_the_effect_commits_with_its_key_its_entries_its_outcome_and_what_it_sends(
        self, scene: Scene
    ) -> None:
        work = scene.work(scene.handler(bill_and_tell, operation="bill:{subject}"))

        assert await scene.perform(work) is Kind.COMMITTED

        assert scene.effects == [work.message.id]
        assert scene.rows("SELECT key, message, kind FROM crossfoot_operations") == [
            ("bill:case-1", work.hold.key, Kind.COMMITTED)
        ]
        assert scene.kinds(work) == [Kind.COMMITTED]
        assert scene.rows("SELECT message, name, subject, facts FROM crossfoot_outcomes") == [
            (work.hold.key, "invoice.issued", "case-1", '{"amount":120}')
        ]
        assert scene.rows("SELECT queue FROM crossfoot_outbox") == ["billing"]
        sent = scene.rows("SELECT key, causation FROM crossfoot_messages WHERE type = 'invoice.issued'")
        assert [cause for _, cause in sent] == [work.message.id]
        assert scene.rows("SELECT kind FROM crossfoot_entries WHERE message = ?", sent[0][0]) == [Kind.INTENDED]

    async def test_nothing_is_seen_before_the_commit_and_all_of_it_after(self, scene: Scene) -> None:
        seen: list[int] = []

        def look(message: Message, tx: Any) -> Generator[Sql | Call, Any, None]:
            yield insert(message)
            seen.append(len(scene.effects) + len(scene.rows("SELECT 1 FROM crossfoot_operations")))

        await scene.perform(scene.work(scene.handler(look)))

        assert seen == [0]
        assert len(scene.effects) + len(scene.rows("SELECT 1 FROM crossfoot_operations")) == 2

    async def test_a_handler_that_raises_leaves_nothing(self, scene: Scene) -> None:
        work = scene.work(scene.handler(fail_after_all))

        with pytest.raises(RuntimeError, match="printer"):
            await scene.perform(work)

        scene.assert_nothing_was_kept(of=work)

    async def test_after_a_failure_the_same_lane_goes_on(self, scene: Scene) -> None:
        with pytest.raises(RuntimeError):
            await scene.perform(scene.work(scene.handler(fail_after_all)))

        work = scene.work(scene.handler(bill))
        assert await scene.perform(work) is Kind.COMMITTED
        assert scene.effects == [work.message.id]

    async def test_a_result_left_unread_by_a_failure_does_not_stop_the_next_delivery(self, scene: Scene) -> None:
        """The traceback keeps the result alive, the result its snapshot, and on an old snapshot nobody can write."""
        for number in range(3):
            scene.write("INSERT INTO scratch VALUES (?)", number)

        def leave_unread(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            result = yield Sql("SELECT number FROM scratch")
            assert result is not None
            raise RuntimeError("in the middle of it")

        with pytest.raises(RuntimeError) as raised:
            await scene.perform(scene.work(scene.handler(leave_unread)))
        scene.write("INSERT INTO scratch VALUES (4)")

        assert await scene.perform(scene.work(scene.handler(bill))) is Kind.COMMITTED
        assert raised.value.__traceback__ is not None

    async def test_a_handler_may_change_its_row_factory(self, driver_scene: Scene) -> None:
        scene = driver_scene
        if scene.form.django:
            return  # it has models

        def as_dicts(message: Message, tx: Any) -> Generator[Sql | Call, Any, None]:
            def change(connection: Any) -> None:
                if scene.form.postgres:
                    connection.row_factory = dict_row
                    return
                connection.row_factory = lambda cursor, row: dict(
                    zip([column[0] for column in cursor.description], row, strict=True)
                )

            yield Call(change)
            yield insert(message)
            tx.send("invoice.issued", subject=message.subject)

        handler = scene.handler(as_dicts, in_order=InOrder())
        await scene.perform(scene.work(handler, a_message(sequence=1)))
        assert await scene.perform(scene.work(handler, a_message(sequence=2))) is Kind.COMMITTED
        assert len(scene.effects) == 2

    async def test_a_handler_may_change_its_text_factory(self, file_driver_scene: Scene) -> None:
        scene = file_driver_scene

        def as_bytes(message: Message, tx: Any) -> Generator[Sql | Call, Any, None]:
            def change(connection: Any) -> None:
                connection.text_factory = bytes

            yield Call(change)
            yield insert(message)

        handler = scene.handler(as_bytes, in_order=InOrder())
        first, second = a_message(sequence=1), a_message(sequence=2, predecessor=1)
        assert await scene.perform(scene.work(handler, second)) is Kind.PARKED
        assert await scene.perform(scene.work(handler, first)) is Kind.COMMITTED
        assert scene.rows("SELECT typeof(queue) || typeof(identity) FROM crossfoot_outbox") == ["texttext"]


class TestWhenItBegins:
    """No lock is held while nothing is written."""

    async def test_a_lazy_form_holds_no_lock_before_the_first_statement(self, file_scene: Scene) -> None:
        scene = file_scene
        refused: list[Exception] = []

        def think_first(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            try:
                scene.write("INSERT INTO scratch VALUES (1)", patience=0)
            except sqlite3.OperationalError as error:
                refused.append(error)
            yield insert(message)

        assert await scene.perform(scene.work(scene.handler(think_first))) is Kind.COMMITTED
        assert len(refused) == (0 if scene.database.lazy else 1)

    async def test_from_the_first_statement_on_nobody_else_writes(self, file_scene: Scene) -> None:
        scene = file_scene
        refused: list[str] = []

        def write_then_think(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            try:
                scene.write("INSERT INTO scratch VALUES (1)", patience=0)
            except sqlite3.OperationalError as error:
                refused.append(str(error))

        await scene.perform(scene.work(scene.handler(write_then_think)))
        assert refused == ["database is locked"]
        scene.write("INSERT INTO scratch VALUES (1)", patience=0)


@pytest.mark.proves("law 3")
class TestOnce:
    """One operation, one effect, whoever asks and however often."""

    async def test_the_second_message_of_an_operation_is_suppressed_and_names_the_first(self, scene: Scene) -> None:
        handler = scene.handler(bill, operation="bill:{subject}")
        first, second = scene.work(handler), scene.work(handler)
        await scene.perform(first)

        assert await scene.perform(second) is Kind.SUPPRESSED

        assert scene.effects == [first.message.id]
        assert scene.kinds(second) == [Kind.SUPPRESSED]
        (details,) = scene.rows("SELECT details FROM crossfoot_entries WHERE message = ?", second.hold.key)
        assert details == f'{{"operation":"bill:case-1","by":{first.hold.key}}}'

    async def test_the_same_message_delivered_again_changes_nothing(self, scene: Scene) -> None:
        handler, message = scene.handler(bill), a_message()
        await scene.perform(scene.work(handler, message))

        assert await scene.perform(scene.work(handler, message)) is Kind.SUPPRESSED
        assert scene.effects == [message.id]

    async def test_a_duplicate_stops_at_its_first_statement(self, scene: Scene) -> None:
        reached: list[str] = []

        def talk(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            reached.append(message.id)

        handler = scene.handler(talk, operation="bill:{subject}")
        first = scene.work(handler)
        await scene.perform(first)
        await scene.perform(scene.work(handler))
        assert reached == [first.message.id]

    async def test_a_duplicate_known_beforehand_never_reaches_the_handler(self, scene: Scene) -> None:
        entered: list[str] = []

        def enter(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            entered.append(message.id)
            yield insert(message)

        handler = scene.handler(enter, operation="bill:{subject}")
        first = scene.work(handler)
        await scene.perform(first)
        assert await scene.perform(scene.work(handler, eager=True)) is Kind.SUPPRESSED
        assert entered == [first.message.id]

    @pytest.mark.parametrize("caught", [Exception, BaseException])
    async def test_a_handler_that_catches_everything_does_not_hide_that_it_is_a_duplicate(
        self, scene: Scene, caught: type[BaseException]
    ) -> None:
        def catch(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            try:
                yield insert(message)
            except caught:
                yield insert(message, "again")

        handler = scene.handler(catch, operation="bill:{subject}")
        first, second = scene.work(handler), scene.work(handler)
        await scene.perform(first)
        assert await scene.perform(second) is Kind.SUPPRESSED
        assert scene.effects == [first.message.id]

    async def test_of_two_at_once_the_second_waits_and_finds_the_operation_complete(self, scene: Scene) -> None:
        handler = scene.handler(bill, operation="bill:{subject}")
        await self._at_once(scene, [scene.work(handler) for _ in range(4)])

    async def test_of_two_versions_at_once_one_handles_the_message_whatever_each_calls_its_operation(
        self, scene: Scene
    ) -> None:
        message = a_message()
        names = [f"version-{version}:{{subject}}" for version in range(4)]
        works = [scene.work(scene.handler(bill, operation=name), message) for name in names]
        await self._at_once(scene, works)

        told = scene.rows("SELECT details FROM crossfoot_entries WHERE kind = ?", Kind.SUPPRESSED.value)
        (completed,) = scene.rows("SELECT key FROM crossfoot_operations")
        assert {json.loads(details)["operation"] for details in told} == {completed}
        assert scene.rows("SELECT operation FROM crossfoot_messages") == [completed]

    async def test_what_another_version_completed_is_done_in_a_batch_too(self, scene: Scene) -> None:
        first, other = a_message(), a_message(subject="case-2")
        await scene.perform(scene.work(scene.handler(bill, operation="old:{subject}"), first))
        renamed = scene.handler(bill, operation="new:{subject}")
        works = [scene.work(renamed, message) for message in (first, other)]

        assert await scene.perform_batch(works) == [Kind.SUPPRESSED, Kind.COMMITTED]
        assert scene.effects == [first.id, other.id]

    async def _at_once(self, scene: Scene, works: Sequence[Work]) -> None:
        sessions = [await scene.another_session() for _ in works]
        ends: list[Kind] = []

        async def one(number: int) -> None:
            alone = Scene(scene.form, scene.path, scene.database, scene.book, scene.queue)
            alone.session = sessions[number]
            ends.append(await alone.perform(works[number]))
            await alone.close_session(sessions[number])

        async with anyio.create_task_group() as tasks:
            for number in range(len(works)):
                tasks.start_soon(one, number)

        assert sorted(ends) == [Kind.SUPPRESSED, Kind.SUPPRESSED, Kind.SUPPRESSED, Kind.COMMITTED]
        assert len(scene.effects) == 1

    async def test_a_failure_does_not_use_the_operation_up(self, scene: Scene) -> None:
        with pytest.raises(RuntimeError):
            await scene.perform(scene.work(scene.handler(fail_after_all, operation="bill:{subject}")))
        assert await scene.perform(scene.work(scene.handler(bill, operation="bill:{subject}"))) is Kind.COMMITTED


@pytest.mark.proves("law 4")
class TestProof:
    """What counts as done."""

    async def test_without_any_evidence_nothing_is_done(self, scene: Scene) -> None:
        def nothing(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield Sql("SELECT * FROM effects")
            yield Sql("UPDATE effects SET note = 'x' WHERE id = 'nobody'")
            yield Sql("INSERT OR IGNORE INTO taken VALUES (1)")

        work = scene.work(scene.handler(nothing))
        with pytest.raises(NoProof, match="changed no row, declared no outcome and sent no message"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)

    async def test_a_swallowed_failure_is_no_proof(self, scene: Scene) -> None:
        def swallow(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            try:
                yield Sql("INSERT INTO taken VALUES (1)")
            except Exception:  # noqa: BLE001 - what the test is about
                return

        work = scene.work(scene.handler(swallow))
        with pytest.raises(NoProof, match=r"(?i)it went on: \w+: .*unique"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)

    async def test_an_outcome_a_message_or_a_receipt_is_proof_without_rows(self, scene: Scene) -> None:
        def outcome(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            tx.outcome("reminder.sent")
            yield from ()

        def send(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            tx.send("reminder.wanted")
            yield from ()

        def receipt(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            tx.receipt("stripe", "ch_1")
            yield from ()

        for number, story in enumerate((outcome, send, receipt)):
            work = scene.work(scene.handler(story, name=f"handler-{number}"))
            assert await scene.perform(work) is Kind.COMMITTED

    async def test_a_noop_is_booked_with_its_reason_and_completes_the_operation(self, scene: Scene) -> None:
        def decline(message: Message, tx: Any) -> Generator[Sql, Any, Noop]:
            yield from ()
            return Noop("amount is zero")

        work = scene.work(scene.handler(decline, operation="bill:{subject}"))
        assert await scene.perform(work) is Kind.NOOP
        assert scene.rows("SELECT details FROM crossfoot_entries") == ['{"reason":"amount is zero"}']
        assert scene.rows("SELECT kind FROM crossfoot_operations") == [Kind.NOOP]

    async def test_rows_are_no_proof_where_an_outcome_is_asked_for(self, scene: Scene) -> None:
        work = scene.work(scene.handler(bill, proves=["invoice.issued"]))
        with pytest.raises(NoProof, match=r"without the outcome that proves it, invoice\.issued"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        assert await scene.perform(scene.work(scene.handler(bill_and_tell, proves=["invoice.issued"])))


@pytest.mark.proves("law 4")
class TestSavepoints:
    """What a savepoint undid did not happen."""

    async def test_work_rolled_back_to_a_savepoint_and_swallowed_is_no_proof(self, scene: Scene) -> None:
        def try_and_forget(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield Sql("SAVEPOINT attempt")
            yield insert(message)
            yield Sql("ROLLBACK TO attempt")
            yield Sql("RELEASE attempt")

        work = scene.work(scene.handler(try_and_forget))
        with pytest.raises(NoProof):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)

    async def test_what_stands_outside_the_savepoint_still_counts(self, file_scene: Scene) -> None:
        scene = file_scene

        def half(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message, "kept")
            yield Sql('SAVEPOINT "Attempt 1"')
            yield insert(message, "undone")
            yield Sql("/* not this time */ rollback transaction to savepoint [attempt 1]")
            yield Sql('RELEASE SAVEPOINT "ATTEMPT 1"')

        work = scene.work(scene.handler(half))
        assert await scene.perform(work) is Kind.COMMITTED
        assert scene.rows("SELECT note FROM effects") == ["kept"]
        assert scene.rows("SELECT details FROM crossfoot_entries") == ['{"rows":1}']

    async def test_nested_savepoints_are_taken_apart(self, scene: Scene) -> None:
        def nest(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield Sql("SAVEPOINT a")
            yield insert(message, "1")
            yield Sql("SAVEPOINT b")
            yield insert(message, "2")
            yield Sql("ROLLBACK TO b")
            yield insert(message, "3")
            yield Sql("RELEASE b")
            yield Sql("SAVEPOINT a")
            yield insert(message, "4")
            yield Sql("ROLLBACK TO a")
            yield Sql("RELEASE a")
            yield Sql("RELEASE a")

        assert await scene.perform(scene.work(scene.handler(nest))) is Kind.COMMITTED
        assert scene.rows("SELECT note FROM effects") == ["1", "3"]
        assert scene.rows("SELECT details FROM crossfoot_entries") == ['{"rows":2}']


@pytest.mark.proves("law 9")
class TestInOrder:
    """Events of one subject take effect in order, in the same transaction as everything else."""

    async def test_the_next_applies_the_stale_is_superseded_and_the_early_is_parked(self, scene: Scene) -> None:
        handler = scene.handler(bill, in_order=InOrder(contiguous=True))
        works = {number: scene.work(handler, a_message(id=str(number), sequence=number)) for number in (1, 2, 3, 5)}

        assert await scene.perform(works[1]) is Kind.COMMITTED
        assert await scene.perform(works[3]) is Kind.PARKED
        assert await scene.perform(works[5]) is Kind.PARKED
        assert scene.rows("SELECT identity FROM crossfoot_outbox") == []
        assert await scene.perform(works[2]) is Kind.COMMITTED
        assert await scene.perform(scene.work(handler, a_message(id="old", sequence=2))) is Kind.SUPERSEDED

        assert scene.effects == ["1", "2"]
        assert scene.rows("SELECT identity FROM crossfoot_outbox") == ["billing|3"]
        assert scene.rows("SELECT sequence, predecessor FROM crossfoot_parked") == [(5, 4)]
        assert scene.kinds(works[3]) == [Kind.PARKED, Kind.RESUMED]

    async def test_a_duplicate_whose_turn_has_come_lets_those_behind_it_go(self, scene: Scene) -> None:
        handler = scene.handler(bill, in_order=InOrder(contiguous=True), operation="{data.what}")
        made = {
            number: scene.work(handler, a_message(id=str(number), sequence=number, data={"what": what}))
            for number, what in ((1, "open"), (2, "open"), (3, "close"), (5, "open"), (6, "pay"))
        }
        assert await scene.perform(made[1]) is Kind.COMMITTED
        assert await scene.perform(made[3]) is Kind.PARKED
        assert await scene.perform(made[6]) is Kind.PARKED
        assert await scene.perform(made[5]) is Kind.SUPPRESSED, "early, and no gap is jumped for it"
        assert scene.rows("SELECT last FROM crossfoot_sequences") == [1]

        assert await scene.perform(made[2]) is Kind.SUPPRESSED
        assert made[2].sends, "the relay is told"
        assert scene.rows("SELECT last FROM crossfoot_sequences") == [2]
        assert scene.rows("SELECT identity FROM crossfoot_outbox") == ["billing|3"]
        assert scene.rows("SELECT sequence FROM crossfoot_parked") == [6]
        assert await scene.perform(scene.work(handler, made[3].message)) is Kind.COMMITTED
        assert scene.effects == ["1", "3"]

    async def test_a_failure_neither_advances_the_sequence_nor_wakes_who_waits(self, scene: Scene) -> None:
        in_order = InOrder(contiguous=True)
        await scene.perform(scene.work(scene.handler(bill, in_order=in_order), a_message(sequence=2)))
        with pytest.raises(RuntimeError):
            await scene.perform(scene.work(scene.handler(fail_after_all, in_order=in_order), a_message(sequence=1)))
        assert scene.rows("SELECT last FROM crossfoot_sequences") == []
        assert scene.rows("SELECT sequence FROM crossfoot_parked") == [2]
        assert scene.rows("SELECT 1 FROM crossfoot_outbox") == []

    async def test_when_its_patience_is_over_the_early_one_is_applied_and_the_gap_is_booked(self, scene: Scene) -> None:
        handler = scene.handler(bill, in_order=InOrder(contiguous=True))
        first, early = (scene.work(handler, a_message(id=str(number), sequence=number)) for number in (1, 3))
        await scene.perform(first)
        await scene.perform(early)
        assert resume_overdue(scene.book) == 0
        scene.write("UPDATE crossfoot_parked SET until = 1")
        assert resume_overdue(scene.book) == 1
        assert resume_overdue(scene.book) == 0, "it is sent on once"
        assert scene.rows("SELECT identity, base FROM crossfoot_outbox") == [("billing|3", 1)]

        assert await scene.perform(scene.work(handler, early.message)) is Kind.COMMITTED
        assert scene.rows("SELECT details FROM crossfoot_entries WHERE kind = ?", Kind.COMMITTED.value) == [
            '{"rows":1}', '{"rows":1,"gap":2}',
        ]  # fmt: skip
        assert scene.rows("SELECT 1 FROM crossfoot_parked") == []
        assert await scene.perform(scene.work(handler, a_message(id="2", sequence=2))) is Kind.SUPERSEDED
        assert scene.effects == ["1", "3"]

    async def test_one_that_was_sent_on_already_is_not_sent_again_by_its_late_predecessor(self, scene: Scene) -> None:
        handler = scene.handler(bill, in_order=InOrder(contiguous=True))
        works = {number: scene.work(handler, a_message(id=str(number), sequence=number)) for number in (1, 3, 2)}
        await scene.perform(works[1])
        await scene.perform(works[3])
        scene.write("UPDATE crossfoot_parked SET until = 1")
        resume_overdue(scene.book)
        assert await scene.perform(works[2]) is Kind.COMMITTED
        assert scene.rows("SELECT identity FROM crossfoot_outbox") == ["billing|3"]
        assert scene.rows("SELECT 1 FROM crossfoot_parked") == []
        assert await scene.perform(scene.work(handler, works[3].message)) is Kind.COMMITTED
        assert scene.effects == ["1", "2", "3"]

    @pytest.mark.parametrize("lacking", [{"sequence": None}, {"subject": None}], ids=["sequence", "subject"])
    async def test_an_event_that_has_no_place_in_any_order_is_refused(
        self, scene: Scene, lacking: dict[str, Any]
    ) -> None:
        begun: list[str] = []

        def begin(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            begun.append(message.id)
            yield insert(message)

        work = scene.work(scene.handler(begin, in_order=InOrder()), a_message(**{"sequence": 1} | lacking))
        with pytest.raises(EnvelopeInvalid, match="needs a subject and a sequence"):
            await scene.perform(work)
        assert begun == []
        scene.assert_nothing_was_kept(of=work)

    async def test_each_queue_has_sequences_of_its_own(self, scene: Scene) -> None:
        handler = scene.handler(bill, in_order=InOrder())
        assert await scene.perform(scene.work(handler, a_message(sequence=2))) is Kind.COMMITTED
        elsewhere = scene.work(handler, a_message(sequence=1))
        elsewhere.hold.queue = "letters"
        assert await scene.perform(elsewhere) is Kind.COMMITTED

    @pytest.mark.parametrize("batch", [False, True], ids=["plain", "batch"])
    async def test_an_early_event_is_acked_with_its_parking_or_not_parked_at_all(
        self, file_scene: Scene, batch: bool
    ) -> None:
        scene = file_scene
        handler = scene.handler(bill, in_order=InOrder(contiguous=True))
        messages = [a_message(id=id_, subject=id_, sequence=2) for id_ in ("held", "lost")]
        receipts = [(await scene.delivered(message)).receipt for message in messages]
        works = [
            scene.work(handler, message, ack=scene.queue.ack_statement(receipt))
            for message, receipt in zip(messages, receipts, strict=True)
        ]
        await scene.queue.release(receipts[1:])
        if batch:
            kind, error = await scene.perform_batch(works)
            assert isinstance(error, LeaseLost)
        else:
            kind = await scene.perform(works[0])
            with pytest.raises(LeaseLost, match="somebody else holds it by now"):
                await scene.perform(works[1])
        assert kind is Kind.PARKED
        assert [scene.kinds(work) for work in works] == [[Kind.PARKED, Kind.ACKED], []]
        assert scene.rows("SELECT subject FROM crossfoot_parked") == ["held"]
        assert (await scene.queue.depth()).held == 1


class TestWhatIsSent:
    """Messages of a handler, in the outbox with its effect."""

    async def test_the_same_message_sent_again_is_one_message_and_goes_out_twice(self, scene: Scene) -> None:
        def tell(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            tx.send("invoice.issued", id="told")
            yield from ()

        for _ in range(2):
            assert await scene.perform(scene.work(scene.handler(tell))) is Kind.COMMITTED
        assert scene.rows("SELECT identity FROM crossfoot_outbox") == ["billing|told"] * 2
        assert scene.rows("SELECT count(*) FROM crossfoot_messages WHERE id = 'told'") == [1]

    @pytest.mark.parametrize("payloads", [True, False])
    async def test_the_book_keeps_what_it_carries_only_if_it_may(self, scene: Scene, payloads: bool) -> None:
        def tell(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            tx.send("invoice.issued", id="told", data={"patient": "Ada"})
            yield from ()

        await scene.perform(scene.work(scene.handler(tell), payloads=payloads))
        (kept,) = scene.rows("SELECT body IS NOT NULL FROM crossfoot_messages WHERE id = 'told'")
        assert bool(kept) is payloads
        (waiting,) = scene.rows("SELECT body FROM crossfoot_outbox")
        assert b"Ada" in waiting


class TestAnOperationWithoutItsEntry:
    """What only a handler leaves that ended the transaction itself, in a way that nobody saw."""

    @pytest.mark.parametrize("batch", [False, True], ids=["plain", "batch"])
    async def test_is_not_passed_off_as_a_duplicate(self, scene: Scene, batch: bool) -> None:
        work = scene.work(scene.handler(bill))
        scene.write(
            "INSERT INTO crossfoot_operations (key, message, kind, at) VALUES (?, ?, ?, 1)",
            work.operation, work.hold.key, Kind.COMMITTED.value,
        )  # fmt: skip
        if batch:
            (error,) = await scene.perform_batch([work])
            assert isinstance(error, TransactionMisuse)
        else:
            with pytest.raises(TransactionMisuse, match="must be looked at by a person"):
                await scene.perform(work)
        assert scene.kinds(work) == []

    async def test_of_another_message_is_one(self, scene: Scene) -> None:
        handler = scene.handler(bill, operation="bill:{subject}")
        first, second = scene.work(handler), scene.work(handler)
        await scene.perform(first)
        assert await scene.perform(second) is Kind.SUPPRESSED
        named = scene.rows("SELECT operation FROM crossfoot_messages WHERE key = ?", second.hold.key)
        assert named == ["bill:case-1"], "so that `why` finds it"


class TestTheAckInTheTransaction:
    """Where the queue is a table of the same file."""

    @pytest.mark.proves("transactional_ack", engine="SQLite")
    async def test_the_ack_commits_with_the_effect(self, file_scene: Scene) -> None:
        scene = file_scene
        message = a_message()
        delivery = await scene.delivered(message)
        work = scene.work(scene.handler(bill), message, ack=scene.queue.ack_statement(delivery.receipt))

        assert await scene.perform(work) is Kind.COMMITTED
        assert (await scene.queue.depth()).held == 0
        assert scene.kinds(work) == [Kind.COMMITTED, Kind.ACKED]

    @pytest.mark.proves("transactional_ack", engine="SQLite")
    async def test_a_failure_leaves_the_message_in_the_queue(self, file_scene: Scene) -> None:
        scene = file_scene
        message = a_message()
        delivery = await scene.delivered(message)
        work = scene.work(scene.handler(fail_after_all), message, ack=scene.queue.ack_statement(delivery.receipt))
        with pytest.raises(RuntimeError):
            await scene.perform(work)
        assert await scene.queue.extend([delivery.receipt], lease=30) == [Done(delivery.receipt)]

    async def test_a_late_commit_is_fenced_when_somebody_else_holds_the_message(self, file_scene: Scene) -> None:
        scene = file_scene
        message = a_message()
        late = await scene.delivered(message)
        await scene.queue.release([late.receipt])
        (current,) = await scene.queue.receive(1, lease=30.0)

        work = scene.work(scene.handler(bill), message, ack=scene.queue.ack_statement(late.receipt))
        with pytest.raises(LeaseLost, match="somebody else holds it by now"):
            await scene.perform(work)

        scene.assert_nothing_was_kept(of=work)
        assert await scene.queue.ack([current.receipt]) == [Done(current.receipt)]

    async def test_a_duplicate_is_settled_even_when_its_lease_is_gone(self, file_scene: Scene) -> None:
        scene = file_scene
        message = a_message()
        late = await scene.delivered(message)
        handler = scene.handler(bill)
        await scene.perform(scene.work(handler, message, ack=scene.queue.ack_statement(late.receipt)))
        again = scene.work(handler, message, ack=scene.queue.ack_statement(late.receipt))
        assert await scene.perform(again) is Kind.SUPPRESSED

    async def test_the_fence_is_asked_before_the_commit_and_nothing_is_kept_when_it_refuses(self, scene: Scene) -> None:
        def refuse() -> None:
            raise LeaseLost("the lease is over")

        work = scene.work(scene.handler(bill_and_tell), fence=refuse)
        with pytest.raises(LeaseLost):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
