"""What a plan leaves and tells: members that cannot be mended, plans that failed, other replays of the same messages, who runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest

from crossfoot.books import replays
from crossfoot.books.entry import Kind
from crossfoot.books.replays import ABORTED, FINISHED, PAUSED, PLANNING, RUNNING
from crossfoot.books.replays_reported import LEFT_ALONE
from crossfoot.clock import SECOND
from crossfoot.errors import ReplayRefused, UsageError
from crossfoot.message import Message
from crossfoot.recover.replay.halting import halt
from crossfoot.recover.replay.planning import Asked, found, plan
from crossfoot.recover.replay.rehearsing import Rehearsal
from crossfoot.recover.replay.report import report
from crossfoot.recover.replay.selection import Selection
from tests.acceptance.replay_rig import Clinic, requested

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.anyio]


@pytest.fixture(params=["beside", pytest.param("postgres", marks=pytest.mark.server)])
async def clinic(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Clinic]:
    async with requested(request, tmp_path) as made:
        yield made


def as_number(old: Message) -> Message:
    return msgspec.structs.replace(old, data={"amount": int(old.data["amount"])})


async def kill_one_by_one(clinic: Clinic, *amounts: str) -> list[Message]:
    messages = []
    for number, amount in enumerate(amounts):
        messages += await clinic.kill("case.released", f"case-{number}", data={"amount": amount})
    clinic.broken.clear()
    return messages


def count(clinic: Clinic, table: str) -> int:
    (number,) = clinic.service.rows(f"SELECT count(*) FROM crossfoot_{table}")
    return int(number)


async def test_one_payload_that_cannot_be_mended_is_a_member_that_stays_and_is_named(clinic: Clinic) -> None:
    odd, good = await kill_one_by_one(clinic, "secret", "12")

    number = await clinic.plan(transform=as_number)
    await clinic.run(number)

    told = await clinic.report(number)
    (stays,) = [one for one in told.classes if not one.moves]
    assert (stays.name, stays.count, told.ids[stays.name]) == (replays.UNMENDABLE, 1, (odd.id,))
    assert "ValueError" in (stays.reason or "")
    assert "test_replay_told.py:" in (stays.reason or "")
    assert "secret" not in (stays.reason or "")
    assert (told.left, told.ended, told.mended) == (1, {"settled": 1}, 1)
    assert clinic.service.effects == [good.id]


@pytest.mark.parametrize("returned", [None, "another id"])
async def test_a_plan_that_fails_leaves_nothing_behind(clinic: Clinic, returned: str | None) -> None:
    await kill_one_by_one(clinic, "1", "2")

    def wrong(old: Message) -> Any:
        return None if returned is None else msgspec.structs.replace(old, id=returned)

    with pytest.raises(UsageError):
        await clinic.plan(transform=wrong)

    assert (count(clinic, "replays"), count(clinic, "replay_members")) == (0, 0)


async def test_a_plan_that_was_aborted_while_it_was_made_says_so_and_keeps_no_member(clinic: Clinic) -> None:
    await kill_one_by_one(clinic, "1", "2")
    app = clinic.app

    def abort(done: int, total: int) -> None:
        (number,) = clinic.service.rows("SELECT number FROM crossfoot_replays")
        halt(app.book, number, ABORTED, "the wrong cause")

    with pytest.raises(ReplayRefused, match="aborted while it was planned"):
        await plan(app.book, app.queue, app.registry, Asked(selection=Selection(), by="anna", why="mended"), abort)

    assert clinic.service.rows("SELECT state FROM crossfoot_replays") == [ABORTED]
    assert count(clinic, "replay_members") == 0


async def test_what_a_planner_that_was_killed_has_left_can_be_aborted(clinic: Clinic) -> None:
    await kill_one_by_one(clinic, "1", "2")
    number = await clinic.plan()
    clinic.app.book.write(
        lambda connection: connection.execute(
            "UPDATE crossfoot_replays SET state = 'planning', count = 0, d0 = 0, d1 = 0"
        )
    )
    assert (await clinic.report(number)).state == PLANNING
    with pytest.raises(ReplayRefused, match=f"replay abort {number}"):
        await clinic.run(number, work=False)

    await anyio.to_thread.run_sync(halt, clinic.app.book, number, ABORTED, "its planner was killed")

    told = await clinic.report(number)
    assert (told.state, told.unchanged, told.members, told.waiting) == (ABORTED, True, 0, 0)
    assert count(clinic, "replay_members") == 0


async def test_a_plan_says_with_which_other_replays_it_shares_members_and_each_is_moved_once(clinic: Clinic) -> None:
    messages = await kill_one_by_one(clinic, "1", "2", "3")
    first, second = await clinic.plan(), await clinic.plan(subjects=("case-0", "case-1"))
    assert [(one.replay, one.state, one.count) for one in (await clinic.report(second)).shared] == [
        (first, "planned", 2)
    ]
    assert (await clinic.report(second)).shared[0].ids == tuple(message.id for message in messages[:2])
    await anyio.to_thread.run_sync(halt, clinic.app.book, first, PAUSED, "not now")
    assert [(one.replay, one.state) for one in (await clinic.report(second)).shared] == [(first, PAUSED)]

    async with clinic.service.working(attempts=1), anyio.create_task_group() as tasks:
        for number in (first, second):
            tasks.start_soon(run_beside, clinic, number)

    assert sorted(clinic.service.effects) == sorted(message.id for message in messages)
    replayed = clinic.service.rows(f"SELECT message FROM crossfoot_entries WHERE kind = {Kind.REPLAYED.value}")
    assert len(replayed) == len(set(replayed)) == 3
    one, other = await clinic.report(first), await clinic.report(second)
    assert (one.state, other.state) == (FINISHED, FINISHED)
    assert (one.moved + other.moved, one.changed + other.changed) == (3, 2)
    assert one.shared == other.shared == ()


async def run_beside(clinic: Clinic, number: int) -> None:
    """While a worker runs that somebody else has begun."""
    await clinic.run(number, work=False)


async def test_a_member_that_was_left_alone_is_not_said_to_move(clinic: Clinic) -> None:
    (message,) = await kill_one_by_one(clinic, "1")
    number = await clinic.plan()
    await clinic.app.publish(message)
    await clinic.service.work()

    await clinic.run(number)

    told = await clinic.report(number)
    assert [(one.name, one.moves, one.count) for one in told.classes] == [(LEFT_ALONE, False, 1)]
    assert told.ids[LEFT_ALONE] == (message.id,)


async def test_a_replay_whose_members_were_changed_by_hand_is_neither_tried_nor_suggested(clinic: Clinic) -> None:
    await kill_one_by_one(clinic, "1", "2")
    number = await clinic.plan()
    first = "DELETE FROM crossfoot_replay_members WHERE message = (SELECT min(message) FROM crossfoot_replay_members)"
    clinic.app.book.write(lambda connection: connection.execute(first))
    app = clinic.app

    with pytest.raises(ReplayRefused, match="there are others now"):
        await Rehearsal(app.book, app.queue.name, app.registry, app.database, rate=10_000.0).run(number)

    told = await clinic.report(number)
    assert (told.waiting, told.runs, told.well) == (1, False, False)


async def test_a_cause_is_named_by_how_it_begins_and_a_time_is_told(clinic: Clinic) -> None:
    await kill_one_by_one(clinic, "1")
    (cause,) = clinic.service.rows("SELECT fingerprint FROM crossfoot_causes")

    told = await clinic.report(await clinic.plan(causes=(cause[:4],), since=SECOND))

    assert (told.selection.causes, told.selection.since, told.selection.ids) == (
        (cause,),
        "1970-01-01T00:00:01.000000Z",
        0,
    )
    with pytest.raises(ReplayRefused, match="no cause begins with"):
        await clinic.plan(causes=("zz",))
    with pytest.raises(ReplayRefused, match="is dead, since 2242-"):
        await clinic.plan(since=2**33 * SECOND)


async def test_the_last_sign_of_life_of_who_runs_it_is_told_and_when_that_is_too_long_ago(clinic: Clinic) -> None:
    await kill_one_by_one(clinic, "1")
    number = await clinic.plan()
    now = clinic.app.clock.now()
    row = ("bank-7:4711:abc", now + SECOND, '{"hold": 2.0}', now, number, now)
    clinic.app.book.write(lambda connection: connection.execute(replays.CLAIM, row))

    with clinic.app.book.reading() as connection, connection.snapshot():
        replay = found(connection, number)
        alive, gone = report(connection, replay, now), report(connection, replay, now + 2 * SECOND)

    assert (alive.state, alive.runner, alive.runner_seen_at, alive.runner_gone) == (
        RUNNING,
        "bank-7:4711",
        now - SECOND,
        False,
    )
    assert alive.well
    assert gone.runner_gone
    assert not gone.well
