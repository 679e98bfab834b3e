"""What would have happened: of a message that came to nothing, told from what others of its kind came to; in both books."""

from __future__ import annotations

from typing import Any

import pytest

from crossfoot.books import sql
from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.outcomes.evaluating import register
from crossfoot.outcomes.expectation import expect
from crossfoot.recover.lookup import look_up
from tests.unit.book_rig import CAUSE, QUEUE, Lectern, Step

pytest_plugins = ["tests.servers.postgres_fixtures", "tests.unit.desk_fixtures"]

PUBLISHED: Step = (Kind.PUBLISHED, 0)
RECEIVED: Step = (Kind.RECEIVED, 1)
FAILED: Step = (Kind.FAILED, 1, {"cause": CAUSE.fingerprint})
DEAD: tuple[Step, ...] = (PUBLISHED, RECEIVED, FAILED, (Kind.DEAD_LETTERED, 1))
SETTLED: tuple[Step, ...] = (PUBLISHED, RECEIVED, (Kind.COMMITTED, 1), (Kind.ACKED, 1))


def settle(desk: Lectern, id_: str, *outcomes: str, caused: str = "", **attributes: Any) -> None:
    desk.story(id_, *SETTLED, **attributes)
    desk.complete(f"bill:{id_}", id_)
    for name in outcomes:
        desk.execute(sql.INSERT_OUTCOME, desk.keys[id_], name, None, desk.now, None)
    if caused:
        desk.story(f"{id_}-mail", PUBLISHED, type=caused, causation=id_, correlation=id_)


def would_have(desk: Lectern, id_: str) -> str:
    post_all(desk.book)
    with desk.book.reading() as connection:
        page = look_up(connection, id_, desk.now).page
    assert page is not None
    return " ".join(page.would_have)


def others(desk: Lectern) -> None:
    for number in range(3):
        settle(desk, f"m{number}", "invoice.issued", caused="mail.wanted" if number else "")
    settle(desk, "another", "case.archived", type="case.closed")
    settle(desk, "elsewhere", "case.audited", queue="audit")


def test_a_dead_message_would_have_come_to_what_others_of_its_kind_come_to(desk: Lectern) -> None:
    others(desk)
    register(desk.book, [expect("invoice.issued", after="case.released", within="5m")])
    desk.story("dead", *DEAD, operation="bill:4711")

    told = would_have(desk, "dead")

    assert "Its operation bill:4711 would have been completed; nobody has completed it." in told
    assert f"Of the last 3 case.released on queue {QUEUE} that took effect, all ended with invoice.issued." in told
    assert "Of these, 2 caused mail.wanted." in told
    assert "The program promises invoice.issued after every case.released." in told
    assert "case.archived" not in told
    assert "case.audited" not in told


@pytest.mark.parametrize(
    "steps",
    [
        (PUBLISHED, (Kind.VANISHED, 0)), ((Kind.INTENDED, 0), (Kind.REFUSED, 0)), (PUBLISHED, (Kind.EXPIRED, 0)),
        (PUBLISHED, RECEIVED, FAILED), (PUBLISHED, RECEIVED, (Kind.SUPERSEDED, 1, {"details": {"sequence": 4}})),
    ],
    ids=["vanished", "refused", "expired", "retrying", "superseded"],
)  # fmt: skip
def test_so_would_others_that_came_to_nothing(desk: Lectern, steps: tuple[Step, ...]) -> None:
    others(desk)
    desk.story("lost", *steps, subject="case-1", sequence=3)

    told = would_have(desk, "lost")

    assert "all ended with invoice.issued" in told
    assert ("after a later event of case-1" in told) is (steps[-1][0] is Kind.SUPERSEDED)


def test_nothing_is_said_of_what_took_effect_or_still_may(desk: Lectern) -> None:
    others(desk)
    desk.story("waits", PUBLISHED)

    assert would_have(desk, "m1") == ""
    assert would_have(desk, "waits") == ""


def test_where_another_message_completed_its_operation_nothing_is_missing(desk: Lectern) -> None:
    settle(desk, "first", "invoice.issued")
    desk.story("dead", *DEAD, operation="bill:first")

    assert would_have(desk, "dead") == "Nothing is missing: its operation bill:first was completed by first."


def test_of_one_alone_it_is_said_without_counting(desk: Lectern) -> None:
    settle(desk, "m0", "invoice.issued", caused="mail.wanted")
    desk.story("dead", *DEAD)

    told = would_have(desk, "dead")

    assert (
        f"The only case.released on queue {QUEUE} among the newest messages that took effect ended with invoice.issued."
        in told
    )
    assert "It caused mail.wanted." in told


@pytest.mark.parametrize(("type_", "told"), [("case.relesed", True), ("case.released", False), ("mail.wanted", False)])
def test_who_waits_under_a_type_that_looks_misspelt_is_told_so(desk: Lectern, type_: str, told: bool) -> None:
    others(desk)
    desk.story("waits", PUBLISHED, type=type_)
    post_all(desk.book)
    with desk.book.reading() as connection:
        page = look_up(connection, "waits", desk.now).page

    assert page is not None
    assert page.fate == "queued"
    assert any("but case.released was" in step.do for step in page.next) is told


def test_of_a_kind_that_never_took_effect_nothing_is_made_up(desk: Lectern) -> None:
    desk.story("dead", *DEAD)

    assert "the book does not know what it comes to" in would_have(desk, "dead")
