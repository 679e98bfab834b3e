"""Replays, from the plan to the end: on a queue beside the book, on one elsewhere, and in PostgreSQL."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest

from crossfoot.books import replays
from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.books.replays import ABORTED, FINISHED, PAUSED, Replay
from crossfoot.books.stock import take_stock
from crossfoot.books.store import Book
from crossfoot.clock import SECOND
from crossfoot.errors import ReplayRefused
from crossfoot.message import Message
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.recover.replay.planning import Asked, found, plan
from crossfoot.recover.replay.policy import Policy
from crossfoot.recover.replay.report import Report, report
from crossfoot.recover.replay.running import Runner, halt
from crossfoot.recover.replay.selection import Selection
from tests.acceptance.service_rig import FORMS, Service, a_service, eventually
from tests.conformance.database_forms import POSTGRES_FORMS
from tests.conformance.database_rig import Sql, insert

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.anyio]

QUICK = Policy(canary=2, stage=8, rate=10_000.0, window=8, patience=20.0)


class Clinic:
    """A service whose handler fails for what is broken, until it is mended."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.app = service.app
        self.broken: dict[str, type[Exception]] = {}
        clinic = self

        def bill(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            kind = clinic.broken.get(message.type)
            if kind is not None:
                raise kind(f"{message.type} is broken")
            yield insert(message)

        service.handle("case.*", bill, operation="bill:{type}:{subject}")

    async def kill(self, type_: str, *subjects: str, error: type[Exception] = ValueError, **more: Any) -> list[Message]:
        """Messages that die."""
        self.broken[type_] = error
        messages = await self.service.publish(type_, *subjects, **more)
        await self.service.work(attempts=1)
        return messages

    async def plan(
        self, why: str = "mended", horizon: float | None = None, transform: Any = None, **selection: Any
    ) -> int:
        asked = Asked(selection=Selection(**selection), by="anna", why=why, horizon=horizon, transform=transform)
        number, _ = await plan(self.app.book, self.app.queue, self.app.registry, asked)
        return number

    async def run(self, number: int, policy: Policy = QUICK, *, work: bool = True, **pattern: Any) -> Replay:
        """With a worker beside it."""
        book = self.app.book.another()
        runner = Runner(book, self.app.queue, number, policy, hold=1.0)
        try:
            if not work:
                return await runner.run()
            async with self.service.working(attempts=1, **pattern):
                with anyio.fail_after(60):
                    return await runner.run()
        finally:
            book.close()

    async def report(self, number: int) -> Report:
        def read() -> Report:
            post_all(self.app.book)
            with self.app.book.reading() as connection, connection.snapshot():
                return report(connection, found(connection, number))

        return await anyio.to_thread.run_sync(read)

    async def broken_identities(self) -> dict[str, Any]:
        def take() -> dict[str, Any]:
            post_all(self.app.book)
            with self.app.book.reading() as connection:
                stock = take_stock(connection, self.app.clock.now(), depth_of=None)
            return {name: one.notes for name, one in stock.identities.items() if one.holds is False}

        return await anyio.to_thread.run_sync(take)

    async def dead_in_queue(self) -> int:
        await self.app.queue.open()
        return (await self.app.queue.depth()).dead

    def grow_old(self, seconds: int) -> None:
        """Have all messages be published that much earlier."""
        statement = "UPDATE crossfoot_messages SET at = at - ?"
        self.app.book.write(lambda connection: connection.execute(statement, (seconds * SECOND,)))

    def classes(self, number: int) -> dict[str, str]:
        return dict(
            self.service.rows(
                "SELECT m.id, r.class FROM crossfoot_replay_members r JOIN crossfoot_messages m ON m.key = r.message "
                f"WHERE r.replay = {number}"
            )
        )


@asynccontextmanager
async def a_clinic(kind: str, folder: Path, url: str, **settings: Any) -> AsyncIterator[Clinic]:
    form = POSTGRES_FORMS[0] if kind == "postgres" else FORMS[0]
    place: dict[str, Any] = {"url": url, "queue": "postgres:billing", "endpoint": url} if kind == "postgres" else {}
    if kind == "elsewhere":
        Book(folder / "queue.db").open().close()
        place = {"queue": EmbeddedQueue(folder / "queue.db", "billing", ordered=False)}
    if kind == "postgres":
        from crossfoot.queues.postgres import ensure

        await ensure("billing", url=url)
    async with a_service(form, folder, **place, **settings) as service:
        yield Clinic(service)


@pytest.fixture(params=["beside", "elsewhere", pytest.param("postgres", marks=pytest.mark.server)])
async def clinic(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Clinic]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with a_clinic(request.param, tmp_path, url) as made:
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

    async def test_that_change_the_name_are_refused(self, clinic: Clinic) -> None:
        await clinic.kill("case.released", "case-1")

        with pytest.raises(Exception, match="changed operation"):
            await clinic.plan(transform=lambda old: msgspec.structs.replace(old, operation="another"))
