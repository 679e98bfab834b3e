"""Why tells of what was promised after a message: whether it came, and what to do where it did not; in both books.

The law: `why` never says that nothing is to do where `outcomes` names the message.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from crossfoot.books import expected, sql
from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.books.promised import LOOKED, NOT_MET, Standing
from crossfoot.cli.why import as_document, well
from crossfoot.dialect import translate
from crossfoot.outcomes.evaluating import accept, evaluate, register, reports
from crossfoot.outcomes.expectation import expect
from crossfoot.postgres.connection import connect
from crossfoot.recover.lookup import Found, look_up
from crossfoot.recover.why import Page
from tests.servers.plans import generic_plan, read_as_a_whole, rows_read
from tests.servers.postgres import Databases
from tests.unit.book_rig import CAUSE, Lectern, Step

pytest_plugins = ["tests.servers.postgres_fixtures", "tests.unit.desk_fixtures"]

RELEASED, ISSUED = "case.released", "invoice.issued"
PUBLISHED: Step = (Kind.PUBLISHED, 0)
RECEIVED: Step = (Kind.RECEIVED, 1)
SETTLED: tuple[Step, ...] = (PUBLISHED, RECEIVED, (Kind.COMMITTED, 1), (Kind.ACKED, 1))
NOTHING_TO_DO: tuple[Step, ...] = (PUBLISHED, RECEIVED, (Kind.NOOP, 1, {"details": {"reason": "it is free"}}))
DEAD: tuple[Step, ...] = (
    PUBLISHED,
    RECEIVED,
    (Kind.FAILED, 1, {"cause": CAUSE.fingerprint}),
    (Kind.DEAD_LETTERED, 1),
)
LATER = 301


def promise(desk: Lectern, **more: Any) -> None:
    register(desk.book, [expect(ISSUED, after=RELEASED, within="5m", **more)])


def settle(desk: Lectern, id_: str, *outcomes: str, **attributes: Any) -> None:
    desk.story(id_, *SETTLED, **{"subject": id_, **attributes})
    record(desk, id_, *outcomes, **attributes)


def record(desk: Lectern, id_: str, *outcomes: str, **attributes: Any) -> None:
    for name in outcomes:
        desk.execute(
            sql.INSERT_OUTCOME, desk.keys[id_], name, attributes.get("subject", id_), desk.now, None
        )  # fmt: skip


def found(desk: Lectern, name: str) -> Found:
    with desk.book.reading() as connection:
        return look_up(connection, name, desk.now)


def page(desk: Lectern, name: str) -> Page:
    told = found(desk, name).page
    assert told is not None
    return told


def look(desk: Lectern) -> None:
    """What a worker does every few seconds."""
    post_all(desk.book)
    evaluate(desk.book)


def standings(desk: Lectern, name: str) -> list[str]:
    return [one.standing.value for one in page(desk, name).expected]


@pytest.mark.parametrize("looked", [False, True], ids=["before it was evaluated", "after"])
class TestOfOneMessage:
    def test_what_is_missing_stands_in_the_first_lines_with_what_to_do(self, desk: Lectern, looked: bool) -> None:
        promise(desk)
        settle(desk, "m")
        desk.clock.advance(LATER)
        if looked:
            look(desk)

        told = page(desk, "m")

        assert told.fate == "settled"
        assert told.needs_somebody
        assert told.reason.endswith("What was promised has not come: invoice.issued, due 1 s ago.")
        assert "The program promises invoice.issued within 5 min after every case.released" in " ".join(told.story)
        commands = [step.command for step in told.next]
        assert "crossfoot outcomes" in commands
        assert commands[-1] == "crossfoot outcomes --accept m --reason '...'"
        assert not well(found(desk, "m"))

    def test_so_does_what_came_late(self, desk: Lectern, looked: bool) -> None:
        promise(desk)
        settle(desk, "m")
        desk.clock.advance(LATER)
        if looked:
            look(desk)
        settle(desk, "later", ISSUED, subject="m", type="case.closed")

        told = page(desk, "m")

        assert told.reason.endswith("What was promised came late: invoice.issued, by 1 s.")
        assert told.needs_somebody
        assert told.next[-1].command == "crossfoot outcomes --accept m --reason '...'"

    def test_what_came_in_time_or_has_time_needs_nobody(self, desk: Lectern, looked: bool) -> None:
        promise(desk)
        settle(desk, "met", ISSUED)
        desk.clock.advance(LATER)
        settle(desk, "waits")
        if looked:
            look(desk)

        assert standings(desk, "met") == ["met"]
        assert standings(desk, "waits") == ["waiting"]
        assert page(desk, "met").next == page(desk, "waits").next == ()
        assert well(found(desk, "met"))
        assert well(found(desk, "waits"))

    def test_what_its_fate_excuses_needs_nobody(self, desk: Lectern, looked: bool) -> None:
        promise(desk)
        desk.story("m", *NOTHING_TO_DO, subject="m")
        desk.clock.advance(LATER)
        if looked:
            look(desk)

        assert standings(desk, "m") == ["excused"]
        assert not page(desk, "m").needs_somebody
        assert "nothing more is expected of one that is noop" in " ".join(page(desk, "m").story)

    def test_a_dead_one_is_told_both(self, desk: Lectern, looked: bool) -> None:
        promise(desk)
        desk.story("m", *DEAD, subject="m")
        desk.clock.advance(LATER)
        if looked:
            look(desk)

        told = page(desk, "m")

        assert told.fate == "dead"
        assert "What was promised has not come" in told.reason
        assert "crossfoot dead list --by-cause" in [step.command for step in told.next]

    @pytest.mark.parametrize("by", ["correlation", "message"])
    def test_whatever_they_have_in_common(self, desk: Lectern, looked: bool, by: str) -> None:
        promise(desk, by=by)
        settle(desk, "met", ISSUED, correlation="flow-1")
        settle(desk, "missing", correlation="flow-2")
        settle(desk, "elsewhere", ISSUED, subject="missing", type="case.closed")
        desk.clock.advance(LATER)
        if looked:
            look(desk)

        assert (standings(desk, "met"), standings(desk, "missing")) == (["met"], ["missing"])


def test_who_accepted_it_is_told_and_nobody_is_needed_any_more(desk: Lectern) -> None:
    promise(desk)
    settle(desk, "m")
    desk.clock.advance(LATER)
    look(desk)
    accept(desk.book, ["m"], by="anna", reason="invoiced by hand")

    told = page(desk, "m")

    assert standings(desk, "m") == ["excused"]
    assert not told.needs_somebody
    assert told.next == ()
    assert "it did not come, and anna accepted that at" in " ".join(told.story)
    assert "invoiced by hand" in " ".join(told.story)
    (one,) = as_document(found(desk, "m"))["expected"]
    assert (one["standing"], one["accepted"]["by"], one["accepted"]["reason"]) == (
        "excused",
        "anna",
        "invoiced by hand",
    )


def test_what_was_met_stays_met_when_the_outcome_lies_in_the_archive(desk: Lectern) -> None:
    promise(desk)
    settle(desk, "m", ISSUED)
    look(desk)
    desk.execute("DELETE FROM crossfoot_outcomes")  # as a closing takes those of another message out
    desk.clock.advance(LATER)

    assert standings(desk, "m") == ["met"]


def test_a_list_marks_those_that_lack_it(desk: Lectern) -> None:
    promise(desk, by="message")
    settle(desk, "one", ISSUED, subject="case-1")
    settle(desk, "two", subject="case-1")
    settle(desk, "another", subject="case-1", type="case.closed")
    desk.clock.advance(LATER)

    listed = found(desk, "case-1")

    assert listed.lacking == 1
    assert not well(listed)
    assert {line.message.id: [one.outcome for one in line.lacks] for line in listed.listed} == {
        "one": [], "two": [ISSUED], "another": [],
    }  # fmt: skip
    look(desk)
    accept(desk.book, ["two"], by="anna", reason="by hand")
    assert found(desk, "case-1").lacking == 0
    assert well(found(desk, "case-1"))


def test_what_nobody_promised_and_nearly_all_have_is_told_too(desk: Lectern) -> None:
    for number in range(25):
        settle(desk, f"m{number}", *([ISSUED] if number != 7 else []))
        desk.complete(f"bill:{number}", f"m{number}")

    told = page(desk, "m7")

    (step,) = told.next
    assert "24 of the last 25 case.released that took effect ended with it" in step.do
    assert step.command == "crossfoot check"
    assert not told.needs_somebody, "nothing was promised"
    assert page(desk, "m8").next == ()


def test_a_type_of_which_nothing_is_expected_is_told_nothing(desk: Lectern) -> None:
    promise(desk)
    settle(desk, "m", type="case.closed")
    desk.clock.advance(LATER)

    assert page(desk, "m").expected == ()


@pytest.mark.parametrize("seed", range(5))
def test_why_never_says_that_nothing_is_to_do_where_outcomes_names_the_message(desk: Lectern, seed: int) -> None:
    """Histories that are drawn, asked of before an evaluation and after it."""
    dice = Random(seed)
    promise(desk)
    ids = [f"m{number}" for number in range(12)]
    for id_ in ids:
        desk.story(id_, *dice.choice((SETTLED, DEAD, NOTHING_TO_DO, (PUBLISHED,))), subject=id_)
        desk.clock.advance(dice.choice((0, 60, 200)))
        about = dice.choice(ids)
        if about in desk.keys and dice.random() < 0.5:
            desk.story(f"for-{id_}", *SETTLED, type="case.closed", subject=about)
            record(desk, f"for-{id_}", ISSUED, subject=about)
        if dice.random() < 0.3:
            look(desk)
    desk.clock.advance(dice.choice((0, 100, 1000)))
    before = {id_: page(desk, id_) for id_ in ids}
    look(desk)
    with desk.book.reading() as connection:
        (report,) = reports(connection, desk.now)
    after = {id_: page(desk, id_) for id_ in ids}
    for pages in (before, after):
        for which, named in (("missing", report.missing_messages), ("late", report.late_messages)):
            told = {id_ for id_, one in pages.items() if one.expected[0].standing is Standing(which)}
            assert told == {one.id for one in named}
    assert all(one.next and one.needs_somebody for one in after.values() if one.expected[0].standing == "missing")


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
def test_so_it_is_in_postgresql_whatever_is_missing(databases: Databases) -> None:
    with databases.one() as url:
        book = Lectern(url)
        book.execute(
            "INSERT INTO crossfoot_expected (expectation, message, id, at, due) "
            "SELECT 'x', g, 'm' || g, 0, 1 FROM generate_series(1, 50000) AS g"
        )
        book.execute("ANALYZE crossfoot_expected")
        plain = connect(url)
        plan = generic_plan(plain.raw, translate(NOT_MET), {"name": "x", "keys": "[4711]"})
        plain.close()
        book.close()
    assert read_as_a_whole(plan) == set()
    assert rows_read(plan, set()) <= 10


@pytest.mark.parametrize("by", LOOKED)
def test_a_message_is_looked_up_by_index(tmp_path: Path, by: str) -> None:
    book = Lectern(tmp_path / "book.db")
    asked: dict[str, Any] = {
        "name": "x", "outcome": ISSUED, "after": RELEASED, "since": 0, "skew": 0, "place": "9", "keys": "[1]",
    }  # fmt: skip
    try:
        with book.book.reading() as connection:
            for statement in (LOOKED[by], NOT_MET):
                plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", asked)]
                scans = [
                    step for step in plan if step.startswith("SCAN") and "json_each" not in step and " f" not in step
                ]
                assert scans == [], plan
    finally:
        book.close()
    assert set(expected.FOUND) == set(LOOKED)
