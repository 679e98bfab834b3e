"""Replays, from the plan to the end: on a queue beside the book, on one elsewhere, and in PostgreSQL."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest

from crossfoot.books import replays
from crossfoot.books.archive.erase import erase
from crossfoot.books.archive.folder import Folder
from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.books.replays import ABORTED, FINISHED, PAUSED
from crossfoot.errors import QueueUnavailable, ReplayRefused
from crossfoot.message import Message
from crossfoot.recover.replay.halting import halt
from crossfoot.recover.replay.running import Runner
from tests.acceptance.replay_rig import KINDS, QUICK, Clinic, requested
from tests.acceptance.service_rig import eventually

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.anyio]


@pytest.fixture(params=KINDS)
async def clinic(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Clinic]:
    async with requested(request, tmp_path) as made:
        yield made


class TestWhatIsMendedComesBack:
    async def test_dead_letters_settle_once_under_their_identity_and_leave_the_dead_letters(
        self, clinic: Clinic
    ) -> None:
        messages = await clinic.kill("case.released", *(f"case-{number}" for number in range(11)))
        assert await clinic.dead_in_queue() == 11
        clinic.broken.clear()
        number = await clinic.plan()

        replay = await clinic.run(number)

        assert replay.state == FINISHED
        assert sorted(clinic.service.effects) == sorted(message.id for message in messages)
        told = await clinic.report(number)
        assert (told.moved, told.ended, told.waiting, told.letters) == (11, {"settled": 11}, 0, 0)
        assert told.well
        assert await clinic.dead_in_queue() == 0
        assert await clinic.broken_identities() == {}

    async def test_why_has_who_brought_it_back_and_why(self, clinic: Clinic) -> None:
        (message,) = await clinic.kill("case.released", "case-1")
        clinic.broken.clear()
        number = await clinic.plan(why="rounding is mended")
        await clinic.run(number)

        kinds = clinic.service.kinds(message)
        again = kinds[kinds.index(Kind.DEAD_LETTERED) + 1 :]
        assert again[0] is Kind.REPLAYED
        assert Kind.COMMITTED in again
        (details,) = clinic.service.rows(f"SELECT details FROM crossfoot_entries WHERE kind = {Kind.REPLAYED.value}")
        told = json.loads(details)
        assert (told["by"], told["reason"], told["from"], told["replay"]) == (
            "anna",
            "rounding is mended",
            "dead",
            number,
        )
        assert told["of"]

    async def test_a_stage_begins_when_the_one_before_it_has_settled(self, clinic: Clinic) -> None:
        await clinic.kill("case.released", *(f"case-{number}" for number in range(12)))
        clinic.broken.clear()
        number = await clinic.plan()
        await clinic.run(number)

        stages = clinic.service.rows(
            "SELECT stage, count(*), min(moved_at), max(ended_at) FROM crossfoot_replay_members GROUP BY stage ORDER BY stage"
        )
        assert [(stage, count) for stage, count, _, _ in stages] == [(1, 2), (2, 4), (3, 6)]
        for before, after in itertools.pairwise(stages):
            assert after[2] >= before[3]


class TestItStopsItself:
    async def test_when_the_cause_is_there_still(self, clinic: Clinic) -> None:
        await clinic.kill("case.released", *(f"case-{number}" for number in range(20)))
        number = await clinic.plan()

        replay = await clinic.run(number)

        assert replay.state == ABORTED
        assert replay.stage <= 2
        told = await clinic.report(number)
        assert told.waiting >= 18
        assert not told.well
        assert told.failing[0].count >= 1
        assert await clinic.dead_in_queue() == 20
        assert await clinic.broken_identities() == {}

    async def test_when_nothing_ends_it_is_paused_and_goes_on_later(self, clinic: Clinic) -> None:
        await clinic.kill("case.released", "case-1", "case-2", "case-3")
        clinic.broken.clear()
        number = await clinic.plan()
        impatient = msgspec.structs.replace(QUICK, patience=0.3)

        paused = await clinic.run(number, impatient, work=False)
        assert paused.state == PAUSED
        assert "does a worker run" in (paused.note or "")
        finished = await clinic.run(number)

        assert finished.state == FINISHED
        assert len(clinic.service.effects) == 3

    async def test_by_hand(self, clinic: Clinic) -> None:
        await clinic.kill("case.released", *(f"case-{number}" for number in range(30)))
        clinic.broken.clear()
        number = await clinic.plan()
        slow = msgspec.structs.replace(QUICK, rate=10.0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clinic.run, number, slow)
            await eventually(lambda: len(clinic.service.effects) >= 2, "two effects")
            await anyio.to_thread.run_sync(halt, clinic.app.book, number, PAUSED, "slow ledger")
        told = await clinic.report(number)
        assert (told.state, told.note) == (PAUSED, "slow ledger")
        assert 0 < told.moved < 30

        await anyio.to_thread.run_sync(halt, clinic.app.book, number, ABORTED, "no more")
        with pytest.raises(ReplayRefused, match="that is its end"):
            await clinic.run(number, work=False)


class TestThePlan:
    async def test_says_what_will_become_of_each(self, clinic: Clinic) -> None:
        (ready, done, again) = await clinic.kill("case.released", "case-1", "case-2", "case-3")
        clinic.broken.clear()
        await clinic.service.publish("case.released", "case-2")
        await clinic.service.work()
        (odd,) = await clinic.kill("case.odd", "case-9", error=KeyError)
        (copy,) = await clinic.kill("case.released", "case-3")
        number = await clinic.plan()

        assert clinic.classes(number) == {
            ready.id: replays.READY, done.id: replays.COMPLETED, again.id: replays.READY, odd.id: replays.READY,
            copy.id: replays.COMPLETED,
        }  # fmt: skip

        clinic.broken.clear()
        replay = await clinic.run(number)
        assert replay.state == FINISHED
        told = await clinic.report(number)
        assert told.ended == {"settled": 3, "duplicate": 2}

    async def test_by_cause_type_subject_time_and_ids(self, clinic: Clinic) -> None:
        first = await clinic.kill("case.released", "case-1", "case-2")
        second = await clinic.kill("case.odd", "case-1", error=KeyError)
        post_all(clinic.app.book)
        causes = dict(
            clinic.service.rows(
                "SELECT m.id, e.cause FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message "
                f"WHERE e.kind = {Kind.DEAD_LETTERED.value}"
            )
        )
        for selection, messages in (
            ({"causes": (causes[second[0].id],)}, second),
            ({"types": ("case.released",)}, first),
            ({"subjects": ("case-1",)}, [first[0], second[0]]),
            ({"ids": (first[1].id, "unknown")}, [first[1]]),
            ({"since": 0, "until": clinic.app.clock.now()}, [*first, *second]),
        ):
            number = await clinic.plan(**selection)
            assert clinic.classes(number).keys() == {message.id for message in messages}, selection
        with pytest.raises(ReplayRefused, match="nothing to replay"):
            await clinic.plan(subjects=("nobody",))
        with pytest.raises(ReplayRefused, match="nothing to replay"):
            await clinic.plan(until=1)

    async def test_what_is_open_or_settled_is_left_alone(self, clinic: Clinic) -> None:
        (settled,) = await clinic.service.publish("case.released", "case-1")
        await clinic.service.work()
        (queued,) = await clinic.service.publish("case.released", "case-2")
        number = await clinic.plan(ids=(settled.id, queued.id))

        assert clinic.classes(number) == {settled.id: replays.ENDED, queued.id: replays.OPEN}
        await clinic.run(number)
        told = await clinic.report(number)
        assert (told.left, told.moved) == (2, 0)

    async def test_refuses_what_was_published_beyond_the_horizon(self, clinic: Clinic) -> None:
        (old,) = await clinic.kill("case.released", "case-1")
        clinic.grow_old(3_601)
        clinic.broken.clear()
        number = await clinic.plan(horizon=3600.0)

        assert clinic.classes(number) == {old.id: replays.HORIZON}
        replay = await clinic.run(number)
        assert replay.state == FINISHED
        assert clinic.service.effects == []

    async def test_a_plan_that_is_older_than_the_horizon_is_not_run(self, clinic: Clinic) -> None:
        await clinic.kill("case.released", "case-1")
        number = await clinic.plan(horizon=3600.0)
        await anyio.sleep(0.05)
        runner = Runner(clinic.app.book, clinic.app.queue, number, QUICK, horizon=0.01)

        with pytest.raises(ReplayRefused, match="before the horizon"):
            await runner.run()

    async def test_what_the_horizon_has_passed_since_the_plan_is_not_moved(self, clinic: Clinic) -> None:
        (old,) = await clinic.kill("case.released", "case-1")
        clinic.broken.clear()
        number = await clinic.plan(horizon=3600.0)
        assert clinic.classes(number) == {old.id: replays.READY}
        clinic.grow_old(3_601)

        await clinic.run(number)

        told = await clinic.report(number)
        assert (told.changed, told.moved) == (1, 0)
        assert clinic.service.effects == []

    async def test_members_that_were_changed_by_hand_are_not_run(self, clinic: Clinic) -> None:
        await clinic.kill("case.released", "case-1", "case-2")
        number = await clinic.plan()
        clinic.app.book.write(
            lambda connection: connection.execute(
                "DELETE FROM crossfoot_replay_members WHERE message = (SELECT min(message) FROM crossfoot_replay_members)"
            )
        )

        with pytest.raises(ReplayRefused, match="there are others now"):
            await clinic.run(number, work=False)

    async def test_a_member_that_something_happened_to_since_is_left_alone(self, clinic: Clinic) -> None:
        (first, second) = await clinic.kill("case.released", "case-1", "case-2")
        number = await clinic.plan()
        clinic.broken.clear()
        await clinic.app.publish(first)
        await clinic.service.work()

        await clinic.run(number)

        told = await clinic.report(number)
        assert (told.changed, told.moved) == (1, 1)
        assert sorted(clinic.service.effects) == sorted([first.id, second.id])

    async def test_says_how_long_handlers_will_work_by_what_they_took(self, clinic: Clinic) -> None:
        await clinic.service.publish("case.released", "fine-1", "fine-2", "fine-3")
        await clinic.service.work()
        await clinic.kill("case.released", "case-1", "case-2")

        told = await clinic.report(await clinic.plan())

        assert told.load is not None
        assert told.load > 0


class TestTransformations:
    async def test_the_new_payload_is_sent_and_both_are_in_the_book(self, clinic: Clinic) -> None:
        (message,) = await clinic.kill("case.released", "case-1", data={"amount": "12"})
        clinic.broken.clear()

        def mend(old: Message) -> Message:
            return msgspec.structs.replace(old, data={"amount": int(old.data["amount"])})

        number = await clinic.plan(transform=mend)
        await clinic.run(number)

        (before, after) = clinic.service.rows("SELECT before, after FROM crossfoot_replay_members")[0]
        assert json.loads(bytes(before))["data"] == {"amount": "12"}
        assert json.loads(bytes(after))["data"] == {"amount": 12}
        assert clinic.service.effects == [message.id]
        with clinic.app.book.reading() as connection:
            (key,) = connection.execute("SELECT key FROM crossfoot_messages").fetchone()
            from crossfoot.books.queries import body_of

            assert json.loads(bytes(body_of(connection, key) or b""))["data"] == {"amount": 12}

    async def test_are_erased_with_what_the_messages_carried(self, clinic: Clinic, tmp_path: Path) -> None:
        """And a plan that was made before sends nothing of it any more."""
        await clinic.kill("case.released", "case-1", "case-2", data={"amount": "12"})
        clinic.broken.clear()

        def mend(old: Message) -> Message:
            return msgspec.structs.replace(old, data={"amount": int(old.data["amount"])})

        first = await clinic.plan(transform=mend, subjects=("case-2",))
        await clinic.run(first)
        number = await clinic.plan(transform=mend, subjects=("case-1",))
        book, effects = clinic.app.book, list(clinic.service.effects)
        for subject in ("case-1", "case-2"):
            erase(book, Folder(tmp_path / "archive"), subject, who="anna", reason="asked for it")

        kept = clinic.service.rows("SELECT before, after FROM crossfoot_replay_members")
        assert [tuple(row) for row in kept] == [(None, None)] * 2
        await clinic.run(number)
        assert clinic.service.effects == effects
        assert clinic.service.rows("SELECT count(*) FROM crossfoot_messages WHERE body IS NOT NULL") == [0]

    async def test_that_change_the_name_are_refused(self, clinic: Clinic) -> None:
        await clinic.kill("case.released", "case-1")

        with pytest.raises(Exception, match="changed operation"):
            await clinic.plan(transform=lambda old: msgspec.structs.replace(old, operation="another"))


async def test_what_aborts_aborts_though_its_queue_does_not_answer(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    await clinic.kill("case.released", "case-1", "case-2", "case-3")
    number = await clinic.plan()

    async def silent(broker_ids: Sequence[str]) -> int:
        raise QueueUnavailable("no answer")

    monkeypatch.setattr(clinic.app.queue, "forget_dead", silent)
    async with clinic.service.working(attempts=1):
        with anyio.fail_after(60), pytest.raises(QueueUnavailable):
            await Runner(clinic.app.book, clinic.app.queue, number, QUICK, hold=1.0).run()

    told = await clinic.report(number)
    assert told.state == ABORTED
    assert "failed again" in (told.note or "") or "ended badly" in (told.note or "")
