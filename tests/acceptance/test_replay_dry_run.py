"""A dry run says what the handlers of a replay's members do, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest

from crossfoot import Noop
from crossfoot.books import replays
from crossfoot.books.replays import FINISHED
from crossfoot.errors import ReplayRefused
from crossfoot.message import Message
from crossfoot.recover.replay.rehearsing import Rehearsal, Rehearsed
from tests.acceptance.replay_rig import Clinic, a_clinic
from tests.conformance.database_forms import FILE_FORMS, POSTGRES_FORMS
from tests.conformance.database_rig import Form, Sql, insert

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.anyio]

ON_A_FILE = [form for form in FILE_FORMS if not form.django]
ON_A_SERVER = [form for form in POSTGRES_FORMS if not form.django]


@pytest.fixture(params=[*ON_A_FILE, *(pytest.param(form, marks=pytest.mark.server) for form in ON_A_SERVER)], ids=str)
async def clinic(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Clinic]:
    form: Form = request.param
    url = request.getfixturevalue("postgres_url") if form.postgres else ""
    async with a_clinic("postgres" if form.postgres else "beside", tmp_path, url, form) as made:
        yield made


def everything(clinic: Clinic) -> dict[str, list[Any]]:
    """All rows of all tables, those of the book and of the queue as well."""
    form = clinic.service.form
    names = (
        "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'"
        if form.postgres else "SELECT name FROM sqlite_master WHERE type = 'table'"
    )  # fmt: skip
    return {
        name: sorted(map(repr, clinic.service.rows(f'SELECT * FROM "{name}"'))) for name in clinic.service.rows(names)
    }


async def tried(clinic: Clinic, number: int, **bounds: Any) -> dict[str | None, Rehearsed]:
    """By subject."""
    app = clinic.app
    rehearsal = Rehearsal(app.book, app.queue.name, app.registry, app.database, **({"rate": 10_000.0} | bounds))
    return {one.subject: one for one in await rehearsal.run(number)}


async def test_each_member_tells_what_its_handler_did_and_nothing_is_kept_or_sent(clinic: Clinic) -> None:
    broken = True
    calls: list[str] = []

    def try_it(message: Message, tx: Any) -> Generator[Sql, Any, Any]:
        calls.append(message.subject or "")
        if broken or message.subject == "still-broken":
            raise KeyError("no such tariff")
        if message.subject == "nothing-to-do":
            return Noop("its amount is zero")
        if message.subject != "swallows":
            yield insert(message)
            tx.outcome("trial.billed", amount=12)
            tx.send("trial.told", subject=message.subject, data={})
            tx.receipt("bank", "r-7")
        return None

    clinic.service.handle("trial.made", try_it, operation="try:{subject}")
    subjects = ["settles", "still-broken", "nothing-to-do", "swallows"]
    await clinic.service.publish("trial.made", *subjects)
    await clinic.service.work(attempts=1)
    broken = False
    number = await clinic.plan()
    before = everything(clinic)
    calls.clear()

    told = await tried(clinic, number)

    assert everything(clinic) == before
    assert calls == subjects
    assert {subject: one.would for subject, one in told.items()} == {
        "settles": "would settle", "still-broken": "fails", "nothing-to-do": "nothing to do", "swallows": "no proof",
    }  # fmt: skip
    good, bad = told["settles"], told["still-broken"]
    assert (good.rows, good.outcomes, good.sent, good.receipts) == (
        1,
        ("trial.billed",),
        ("trial.told",),
        ("bank:r-7",),
    )
    assert good.took > 0
    assert told["nothing-to-do"].reason == "its amount is zero"
    (booked,) = clinic.service.rows("SELECT DISTINCT cause FROM crossfoot_replay_members")
    assert bad.cause == booked
    assert "KeyError" in (bad.title or "")
    assert "tariff" not in repr(told)  # an exception's words may hold business values

    await clinic.run(number)
    assert {one.subject for one in told.values() if one.would == "would settle"} == {"settles"}
    (effect,) = clinic.service.effects
    assert effect == good.id


async def test_events_in_order_are_tried_and_what_was_overtaken_is_not(clinic: Clinic) -> None:
    broken = {1, 2, 4}

    def follow(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        if message.sequence in broken:
            raise ValueError("broken")
        yield insert(message)

    clinic.service.handle("event.*", follow, in_order=True)
    for number in (1, 2, 3, 4):
        await clinic.app.publish(clinic.app.message("event.made", subject="case-1", sequence=number, id=f"e{number}"))
    await clinic.service.work(attempts=1)
    broken.clear()
    number = await clinic.plan()
    assert clinic.classes(number) == {"e1": replays.STALE, "e2": replays.STALE, "e4": replays.READY}
    app = clinic.app
    before = everything(clinic)

    told = await Rehearsal(app.book, app.queue.name, app.registry, app.database, rate=10_000.0).run(number)

    assert [(one.id, one.would) for one in told] == [
        ("e4", "would settle")
    ]  # the plan says that 3 has overtaken 1 and 2
    assert everything(clinic) == before


async def test_only_so_many_are_tried_as_asked_for_and_none_of_one_that_is_over(clinic: Clinic) -> None:
    await clinic.kill("case.released", *(f"case-{number}" for number in range(5)))
    clinic.broken.clear()
    number = await clinic.plan()

    assert len(await tried(clinic, number, most=2)) == 2
    assert len(await tried(clinic, number)) == 5
    replay = await clinic.run(number)
    assert replay.state == FINISHED
    with pytest.raises(ReplayRefused, match="nothing to try"):
        await tried(clinic, number)


async def test_what_is_checked_at_the_commit_is_checked(clinic: Clinic) -> None:
    if not clinic.service.form.postgres:
        return  # SQLite's own checks of a commit cannot be asked for before it: the guide says so
    clinic.service.form.outside(
        str(clinic.service.path),
        "ALTER TABLE effects ADD CONSTRAINT once UNIQUE (note) DEFERRABLE INITIALLY DEFERRED",
        (),
    )

    def write_twice(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        yield Sql("INSERT INTO effects VALUES (:id, 'same')", {"id": message.id})
        yield Sql("INSERT INTO effects VALUES (:id, 'same')", {"id": message.id})

    clinic.service.handle("twice.*", write_twice)
    await clinic.service.publish("twice.made", "case-1")
    await clinic.service.work(attempts=1)
    number = await clinic.plan()

    told = await tried(clinic, number)

    assert told["case-1"].would == "fails"
    assert "Unique" in (told["case-1"].title or "")
