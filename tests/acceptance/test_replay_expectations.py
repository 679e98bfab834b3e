"""A replay whose members take effect without what the business expects of them stops itself; one that waits for it goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest

from crossfoot.books.replays import ABORTED, FINISHED, PAUSED
from crossfoot.recover.replay.halting import halt
from tests.acceptance.replay_rig import KINDS, QUICK, Clinic, requested
from tests.acceptance.service_rig import eventually

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.anyio]

EXPECTED = "case.billed after case.released"


@pytest.fixture(params=KINDS)
async def clinic(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Clinic]:
    async with requested(request, tmp_path) as made:
        yield made


def cases(count: int) -> list[str]:
    return [f"case-{number}" for number in range(count)]


@pytest.mark.parametrize("by", ["message", "subject", "correlation"])
async def test_an_outcome_that_does_not_come_in_time_aborts_in_the_canary(clinic: Clinic, by: str) -> None:
    clinic.app.expect("case.billed", after="case.released", within="1s", by=by)
    await clinic.kill("case.released", *cases(20))
    clinic.broken.clear()
    clinic.forgetful.add("case.released")
    number = await clinic.plan()

    replay = await clinic.run(number)

    assert (replay.state, replay.stage) == (ABORTED, 1)
    assert EXPECTED in (replay.note or "")
    told = await clinic.report(number)
    assert (told.moved, told.ended, told.waiting) == (2, {"settled": 2}, 18)
    assert told.breached == {EXPECTED: 2}
    assert len(told.ids[EXPECTED]) == 2
    assert not told.well


async def test_outcomes_that_come_let_it_go_on_though_the_first_time_was_over_long_ago(clinic: Clinic) -> None:
    clinic.app.expect("case.billed", after="case.released", within="30s", by="subject")
    await clinic.kill("case.released", *cases(9))
    clinic.grow_old(3_600)
    clinic.broken.clear()
    number = await clinic.plan()

    replay = await clinic.run(number)

    assert replay.state == FINISHED
    told = await clinic.report(number)
    assert (told.ended, told.breached, told.awaited, told.well) == ({"settled": 9}, {}, 0, True)


async def test_a_stage_waits_for_an_outcome_that_another_message_brings(clinic: Clinic) -> None:
    clinic.app.expect("case.billed", after="case.released", within="30s", by="subject")
    await clinic.kill("case.released", *cases(4))
    clinic.broken.clear()
    clinic.forgetful.add("case.released")
    number = await clinic.plan()

    async def bill_them() -> None:
        await eventually(lambda: len(clinic.service.effects) == 2, "the canary")
        await anyio.sleep(0.5)
        assert len(clinic.service.effects) == 2  # the second stage has not begun
        assert (await clinic.report(number)).awaited == 2
        await clinic.service.publish("case.billing", *cases(4))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bill_them)
        replay = await clinic.run(number)

    assert replay.state == FINISHED
    assert (await clinic.report(number)).breached == {}


async def test_a_share_that_is_allowed_does_not_abort(clinic: Clinic) -> None:
    clinic.app.expect("case.billed", after="case.released", within="0.5s", by="message")
    await clinic.kill("case.released", *cases(3))
    clinic.broken.clear()
    clinic.forgetful.add("case.released")
    number = await clinic.plan()

    replay = await clinic.run(number, msgspec.structs.replace(QUICK, max_breaches=1.0))

    assert replay.state == FINISHED
    assert (await clinic.report(number)).breached == {EXPECTED: 3}


async def test_a_runner_that_takes_over_judges_what_has_ended_before_it(clinic: Clinic) -> None:
    clinic.app.expect("case.billed", after="case.released", within="2s", by="message")
    await clinic.kill("case.released", *cases(20))
    clinic.broken.clear()
    clinic.forgetful.add("case.released")
    number = await clinic.plan()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clinic.run, number)
        await eventually(lambda: len(clinic.service.effects) == 2, "the canary")
        await anyio.to_thread.run_sync(halt, clinic.app.book, number, PAUSED, "a break")
    replay = await clinic.run(number)

    assert (replay.state, replay.stage) == (ABORTED, 1)
    assert len(clinic.service.effects) == 2


async def test_members_that_waited_for_a_worker_while_it_was_paused_may_be_late(clinic: Clinic) -> None:
    clinic.app.expect("case.billed", after="case.released", within="0.2s", by="subject")
    await clinic.kill("case.released", *cases(2))
    clinic.broken.clear()
    number = await clinic.plan()
    paused = await clinic.run(number, msgspec.structs.replace(QUICK, patience=0.4), work=False)
    assert (paused.state, paused.stage) == (PAUSED, 1)

    replay = await clinic.run(number)

    assert replay.state == FINISHED
    told = await clinic.report(number)
    assert (told.breached, told.late) == ({EXPECTED: 2}, {EXPECTED: 2})


async def test_what_comes_late_pauses_it_and_whoever_goes_on_is_not_asked_again(clinic: Clinic) -> None:
    clinic.app.expect("case.billed", after="case.released", within="0.3s", by="message")
    await clinic.kill("case.released", *cases(2))
    clinic.broken.clear()
    number = await clinic.plan()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work_later, clinic)
        replay = await clinic.run(number, work=False)

    assert replay.state == PAUSED
    assert EXPECTED in (replay.note or "")
    assert "came, but later" in (replay.note or "")
    assert (await clinic.run(number)).state == FINISHED
    told = await clinic.report(number)
    assert (told.breached, told.late) == ({EXPECTED: 2}, {EXPECTED: 2})


async def test_what_never_comes_aborts_also_where_members_had_to_wait(clinic: Clinic) -> None:
    clinic.app.expect("case.billed", after="case.released", within="0.3s", by="message")
    await clinic.kill("case.released", *cases(2))
    clinic.broken.clear()
    clinic.forgetful.add("case.released")
    number = await clinic.plan()
    paused = await clinic.run(number, msgspec.structs.replace(QUICK, patience=0.4), work=False)
    assert paused.state == PAUSED

    replay = await clinic.run(number)

    assert replay.state == ABORTED
    assert "without what" in (replay.note or "")
    told = await clinic.report(number)
    assert (told.breached, told.late) == ({EXPECTED: 2}, {})


async def test_what_another_message_brings_is_waited_for_though_its_time_was_over_when_the_member_took_effect(
    clinic: Clinic,
) -> None:
    clinic.app.expect("case.billed", after="case.released", within="2s", by="subject")
    await clinic.kill("case.released", *cases(2))
    clinic.broken.clear()
    clinic.forgetful.add("case.released")
    number = await clinic.plan()
    assert (await clinic.run(number, msgspec.structs.replace(QUICK, patience=2.2), work=False)).state == PAUSED

    async def bill_them() -> None:
        await eventually(lambda: len(clinic.service.effects) == 2, "the canary")
        await anyio.sleep(0.3)
        await clinic.service.publish("case.billing", *cases(2))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bill_them)
        replay = await clinic.run(number)

    assert replay.state == FINISHED
    assert (await clinic.report(number)).late == {EXPECTED: 2}


async def work_later(clinic: Clinic) -> None:
    await anyio.sleep(1.0)
    await clinic.service.work(attempts=1)
