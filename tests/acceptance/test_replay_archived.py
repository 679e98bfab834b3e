"""Replays and the archive: what has ended is told and stays, what was completed is not done again, and a replay is answered for later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec
import pytest

from crossfoot.books import replays
from crossfoot.books.archive.close import Closed, close
from crossfoot.books.archive.erase import erase
from crossfoot.books.archive.folder import Folder
from crossfoot.books.archive.past import Past, past_of
from crossfoot.books.posting import post_all
from crossfoot.books.replays import ABORTED, FINISHED
from crossfoot.clock import SECOND
from crossfoot.errors import ArchiveBroken, ReplayRefused
from crossfoot.message import Message
from crossfoot.recover.replay.halting import halt
from crossfoot.recover.replay.planning import Asked, found, plan
from crossfoot.recover.replay.policy import Policy
from crossfoot.recover.replay.report import Report, report
from crossfoot.recover.replay.running import Runner
from crossfoot.recover.replay.selection import Selection
from tests.acceptance.replay_rig import QUICK, Clinic, a_clinic

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.anyio]

AGES = 10**9
"""Seconds by which every operation key is past the horizon."""


class Ward:
    """A service that died of something, and its archive."""

    def __init__(self, clinic: Clinic, folder: Path) -> None:
        self.clinic = clinic
        self.folder = Folder(folder)

    @property
    def past(self) -> Past:
        return past_of(str(self.clinic.app.book.path), str(self.folder.path))

    async def close(self, *, horizon: int = -AGES) -> Closed:
        """Close what has ended, though it did a moment ago; the newest message always stays.

        Args:
            horizon: seconds from now, before which operation keys are forgotten.
        """
        await self.clinic.service.publish("case.noted", "newest")
        await self.clinic.service.work(attempts=1)
        now = self.clinic.app.clock.now()
        return await anyio.to_thread.run_sync(
            lambda: close(self.clinic.app.book, self.folder, now + 120 * SECOND, horizon=now + horizon * SECOND)
        )

    async def plan(self, **selection: Any) -> tuple[Report, list[str]]:
        asked = Asked(selection=Selection(**selection), by="anna", why="mended")
        app = self.clinic.app
        number, unknown = await plan(app.book, app.queue, app.registry, asked, past=self.past)
        return await self.report(number), unknown

    async def report(self, number: int) -> Report:
        def read() -> Report:
            post_all(self.clinic.app.book)
            with self.clinic.app.book.reading() as connection, connection.snapshot():
                return report(connection, found(connection, number), past=self.past)

        return await anyio.to_thread.run_sync(read)


@pytest.fixture(params=["beside", pytest.param("postgres", marks=pytest.mark.server)])
async def ward(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ward]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with a_clinic(request.param, tmp_path, url) as made:
        yield Ward(made, tmp_path / "archive")


async def test_what_is_archived_is_told_by_its_id_and_stays(ward: Ward) -> None:
    clinic = ward.clinic
    (settled,) = await clinic.service.publish("case.released", "case-1")
    await clinic.service.work()
    assert (await ward.close()).pruned == 1
    effects = list(clinic.service.effects)

    planned, unknown = await ward.plan(ids=(settled.id, "nobody"))

    assert unknown == ["nobody"]
    assert [(one.name, one.moves, one.count) for one in planned.classes] == [(replays.ENDED, False, 1)]
    assert (
        planned.classes[0].reason
        == "it is settled, and lies in the archive under seal 1; a copy of it would be suppressed"
    )
    assert planned.ids == {replays.ENDED: (settled.id,)}
    assert (planned.members, planned.left, planned.unchanged) == (1, 1, True)
    assert (await clinic.run(planned.number)).state == FINISHED
    assert clinic.service.effects == effects


async def test_past_the_horizon_the_plan_says_that_a_copy_would_take_effect_again(ward: Ward) -> None:
    clinic = ward.clinic
    (settled,) = await clinic.service.publish("case.released", "case-1")
    await clinic.service.work()
    assert (await ward.close(horizon=AGES)).forgotten == 1

    planned, _ = await ward.plan(ids=(settled.id,))

    assert [(one.name, one.count) for one in planned.classes] == [(replays.HORIZON, 1)]
    assert "would take effect again" in (planned.classes[0].reason or "")


async def test_a_dead_message_whose_operation_an_archived_one_completed_is_suppressed(ward: Ward) -> None:
    clinic = ward.clinic
    await clinic.kill("case.released", "case-1")
    clinic.broken.clear()
    await clinic.service.publish("case.released", "case-1")
    await clinic.service.work()
    assert (await ward.close()).pruned == 1
    effects = list(clinic.service.effects)

    planned, _ = await ward.plan()
    assert [(one.name, one.count) for one in planned.classes] == [(replays.COMPLETED, 1)]
    await clinic.run(planned.number)

    assert (await ward.report(planned.number)).ended == {"duplicate": 1}
    assert clinic.service.effects == effects


async def test_past_the_horizon_it_is_refused_for_only_the_archive_knows(ward: Ward) -> None:
    clinic = ward.clinic
    (dead,) = await clinic.kill("case.released", "case-1")
    clinic.broken.clear()
    (settled,) = await clinic.service.publish("case.released", "case-1")
    await clinic.service.work()
    (other,) = await clinic.kill("case.odd", "case-2")
    clinic.broken.clear()
    assert (await ward.close(horizon=AGES)).pruned == 1
    effects = list(clinic.service.effects)

    planned, _ = await ward.plan()

    assert clinic.classes(planned.number) == {dead.id: replays.HORIZON, other.id: replays.READY}
    (refused,) = [one for one in planned.classes if one.name == replays.HORIZON]
    assert f"completed by message {settled.id}, which is archived under seal 1" in (refused.reason or "")
    await clinic.run(planned.number)
    assert (await ward.report(planned.number)).ended == {"settled": 1}
    assert len(clinic.service.effects) == len(effects) + 1


async def test_a_plan_is_not_run_when_keys_were_forgotten_since(ward: Ward) -> None:
    """What another message completed since the plan, and was archived and forgotten, takes no effect again."""
    clinic = ward.clinic
    await clinic.kill("case.released", "case-1")
    clinic.broken.clear()
    planned, _ = await ward.plan()
    assert [one.name for one in planned.classes] == [replays.READY]
    await clinic.service.publish("case.released", "case-1")
    await clinic.service.work()
    assert (await ward.close(horizon=AGES)).forgotten == 1
    effects = list(clinic.service.effects)

    with pytest.raises(ReplayRefused, match="plan it again"):
        await Runner(clinic.app.book, clinic.app.queue, planned.number, QUICK).run()

    assert clinic.service.effects == effects
    again, _ = await ward.plan()
    assert [one.name for one in again.classes] == [replays.HORIZON]


async def test_a_damaged_file_of_names_hides_no_operation_that_was_completed(ward: Ward) -> None:
    """A plan believes the archive's files only where they are what was sealed, or what is done would take effect again."""
    clinic = ward.clinic
    await clinic.kill("case.released", "case-1")
    clinic.broken.clear()
    await clinic.service.publish("case.released", "case-1")
    await clinic.service.work()
    await ward.close(horizon=AGES)
    (names,) = ward.folder.path.glob("*.names")
    data = names.read_bytes()
    names.write_bytes(data[:26] + bytes(len(data) - 26))

    planned, _ = await ward.plan()

    assert [one.name for one in planned.classes] == [replays.HORIZON]


async def test_files_of_another_seal_are_not_believed(ward: Ward) -> None:
    clinic = ward.clinic
    await clinic.kill("case.released", "case-1")
    clinic.broken.clear()
    for subject in ("case-1", "case-2"):
        await clinic.service.publish("case.released", subject)
        await clinic.service.work()
        await ward.close(horizon=AGES)
    one, other = (min(ward.folder.path.glob(f"*-{number:06d}-*.facts.parquet")) for number in (1, 2))
    one.write_bytes(other.read_bytes())

    with pytest.raises(ArchiveBroken, match="not what was sealed"):
        await ward.plan()


async def test_a_replay_is_answered_for_when_its_members_are_archived(ward: Ward) -> None:
    clinic = ward.clinic
    dead = await clinic.kill("case.released", "case-1", "case-2")
    (settled,) = await clinic.service.publish("case.fine", "case-3")
    await clinic.service.work()
    clinic.broken.clear()
    ids = tuple(message.id for message in (settled, *dead))
    planned, _ = await ward.plan(ids=ids)
    await clinic.run(planned.number)
    before = await ward.report(planned.number)
    assert (before.well, before.ended, before.left) == (True, {"settled": 2}, 1)

    assert (await ward.close()).pruned == 3

    assert await ward.report(planned.number) == before


async def test_a_member_on_its_way_stays_in_the_book_until_the_replay_has_seen_it_end(ward: Ward) -> None:
    clinic = ward.clinic
    await clinic.kill("case.released", "case-1")
    clinic.broken.clear()
    planned, _ = await ward.plan()
    impatient = Policy(canary=2, stage=8, rate=10_000.0, window=8, patience=0.2)
    assert (await clinic.run(planned.number, impatient, work=False)).state == "paused"
    await clinic.service.work()

    assert (await ward.close()).pruned == 0
    assert (await Runner(clinic.app.book, clinic.app.queue, planned.number, QUICK).run()).state == FINISHED
    assert (await ward.close()).pruned == 2
    assert (await ward.report(planned.number)).ended == {"settled": 1}


async def test_an_aborted_replay_tells_after_the_closing_how_its_members_ended(ward: Ward) -> None:
    clinic = ward.clinic
    await clinic.kill("case.released", "case-1", "case-2", "case-3")
    clinic.broken.clear()
    planned, _ = await ward.plan()
    impatient = Policy(canary=2, stage=8, rate=10_000.0, window=8, patience=0.2)
    assert (await clinic.run(planned.number, impatient, work=False)).state == "paused"
    await anyio.to_thread.run_sync(halt, clinic.app.book, planned.number, ABORTED, "one was forgotten")
    await clinic.service.work()
    rest, _ = await ward.plan()
    await clinic.run(rest.number)
    before = await ward.report(planned.number)
    assert (before.ended, before.waiting, before.changed, before.unchanged) == ({"settled": 2}, 1, 0, True)

    assert (await ward.close()).pruned == 3

    after = await ward.report(planned.number)
    assert (after.ended, after.waiting, after.changed, after.unchanged) == ({"settled": 2}, 0, 1, True)


async def test_a_paused_replay_goes_on_without_members_that_ended_otherwise_and_are_archived(ward: Ward) -> None:
    clinic = ward.clinic
    await clinic.kill("case.released", "case-1", "case-2")
    clinic.broken.clear()
    first, _ = await ward.plan(subjects=("case-1",))
    both, _ = await ward.plan()
    await clinic.run(first.number)
    assert (await ward.close()).pruned == 1

    assert (await clinic.run(both.number)).state == FINISHED

    told = await ward.report(both.number)
    assert (told.ended, told.changed, told.unchanged) == ({"settled": 1}, 1, True)


async def test_what_is_erased_is_not_kept_by_a_plan_and_not_brought_back_by_it(ward: Ward) -> None:
    clinic = ward.clinic

    def mend(message: Message) -> Message:
        return msgspec.structs.replace(message, data={"mended": message.data})

    async def kept() -> int:
        statement = "SELECT count(*) FROM crossfoot_replay_members WHERE before IS NOT NULL OR after IS NOT NULL"
        (count,) = clinic.service.rows(statement)
        return int(count)

    await clinic.kill("case.released", "case-1")
    clinic.broken.clear()
    await clinic.run(await clinic.plan(transform=mend))
    assert (await ward.close()).pruned == 1
    await clinic.kill("case.moved", "case-1", "case-2")
    clinic.broken.clear()
    number = await clinic.plan(transform=mend)
    assert await kept() == 3

    await anyio.to_thread.run_sync(
        lambda: erase(clinic.app.book, ward.folder, "case-1", who="anna", reason="asked for it")
    )

    assert await kept() == 1
    await clinic.run(number)
    told = await ward.report(number)
    assert (told.ended, told.changed) == ({"settled": 1}, 1)
    bodies = "SELECT count(*) FROM crossfoot_messages WHERE subject = 'case-1' AND body IS NOT NULL"
    assert clinic.service.rows(bodies) == [0]


async def test_a_plan_tells_how_long_its_members_take_where_others_of_their_type_were_handled(ward: Ward) -> None:
    clinic = ward.clinic
    await clinic.service.publish("case.released", "case-1", "case-2", "case-3")
    await clinic.service.work()
    await clinic.kill("case.released", "case-4")

    planned, _ = await ward.plan()

    assert planned.load is not None
    assert 0 <= planned.load < 60


async def a_copy_to_be_suppressed(ward: Ward) -> int:
    """Somebody planned to bring back a dead message whose operation another one has completed."""
    clinic = ward.clinic
    await clinic.kill("case.released", "case-1")
    clinic.broken.clear()
    await clinic.service.publish("case.released", "case-1")
    await clinic.service.work()
    await clinic.kill("case.odd", "case-2")
    clinic.broken.clear()
    planned, _ = await ward.plan()
    assert {one.name: one.count for one in planned.classes} == {replays.READY: 1, replays.COMPLETED: 1}
    return planned.number


async def test_a_replay_is_refused_when_keys_of_what_was_completed_since_its_plan_are_forgotten(ward: Ward) -> None:
    number = await a_copy_to_be_suppressed(ward)
    assert (await ward.close(horizon=AGES)).forgotten > 0
    effects = list(ward.clinic.service.effects)

    with pytest.raises(ReplayRefused, match="operations that were completed since are forgotten; plan it again"):
        await ward.clinic.run(number, work=False)

    assert ward.clinic.service.effects == effects
    assert (await ward.report(number)).state == "paused"


async def test_what_was_to_be_suppressed_by_a_key_that_is_forgotten_since_is_left_alone(ward: Ward) -> None:
    clinic = ward.clinic
    number = await a_copy_to_be_suppressed(ward)
    later = "UPDATE crossfoot_replays SET at = at + ?"
    clinic.app.book.write(lambda connection: connection.execute(later, (2 * AGES * SECOND,)))
    assert (await ward.close(horizon=AGES)).forgotten > 0
    effects = list(clinic.service.effects)

    assert (await clinic.run(number)).state == FINISHED

    told = await ward.report(number)
    assert (told.ended, told.changed) == ({"settled": 1}, 1)
    assert len(clinic.service.effects) == len(effects) + 1


async def test_past_the_horizon_nothing_is_planned_without_the_archive(ward: Ward) -> None:
    await a_copy_to_be_suppressed(ward)
    assert (await ward.close(horizon=AGES)).forgotten > 0
    ward.folder.path.rename(ward.folder.path.with_name("elsewhere"))

    with pytest.raises(ArchiveBroken, match="only the archive knows, and the archive is not at"):
        await ward.plan()
