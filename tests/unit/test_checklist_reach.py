"""A bounded look never reads as a total: its finding says what was looked at, and of how much."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crossfoot.books.entry import Kind
from crossfoot.books.failures import ASKED, unkept
from crossfoot.books.posting import post_all
from crossfoot.recover.checklist import looking
from crossfoot.recover.checklist import survey as surveying
from crossfoot.recover.checklist.findings import CODES, Finding
from crossfoot.recover.checklist.reach import ENTRIES, OPERATIONS, READ
from crossfoot.recover.checklist.survey import Attached, Bounds, Service, survey
from crossfoot.recover.checklist.walk import Report, walk
from tests.unit.book_rig import CAUSE, QUEUE, Desk, Step

FAILURE: dict[str, Any] = {"cause": CAUSE.fingerprint}
DIED: tuple[Step, ...] = (
    (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1, FAILURE), (Kind.DEAD_LETTERED, 1, FAILURE),
)  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(tmp_path / "book.db")) as desk:
        yield desk


def checked(desk: Desk, *, newest: int = 1_000, of_each: int = 1_000, **service: Any) -> Report:
    post_all(desk.book)
    with desk.book.reading() as connection:
        bounds = Bounds(newest=newest, of_each=of_each)
        return walk(survey(connection, desk.now, service=Service(**service), depth_of=None, bounds=bounds))


def found(report: Report, code: str) -> Finding:
    (one,) = [finding for finding in report.findings if finding.code == code]
    return one


def test_every_finding_is_exact_or_says_what_it_rests_on() -> None:
    exact = {"unaccounted", "acked-without-proof", "books-differ", "promise-broken", "setting"}

    assert set(READ) | ENTRIES | OPERATIONS | exact == set(CODES)
    assert not exact & (set(READ) | ENTRIES | OPERATIONS)


def test_dead_letters_behind_those_that_were_read_are_counted_in_the_evidence(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveying, "SHOWN", 2)  # the oldest that are read beside the newest
    for number in range(9):
        desk.story(f"dead-{number}", *DIED, body=None)

    cut, whole = checked(desk, of_each=4), checked(desk)

    assert (found(cut, "no-payload").count, found(whole, "no-payload").count) == (6, 9)
    for code in ("failing", "no-payload"):
        assert found(cut, code).figures["looked at"] == "6 of the 9 messages that are dead"
        assert "looked at" not in found(whole, code).figures


def test_that_payloads_are_not_kept_is_asked_of_every_dead_letter_that_is_read(desk: Desk) -> None:
    keys = [desk.register(f"m-{number}", body=None if number % 3 == 0 else b"{}") for number in range(2 * ASKED + 7)]

    with desk.book.reading() as connection:
        assert unkept(connection, keys) == set(keys[::3])


def test_what_rests_on_the_newest_operations_says_so(desk: Desk) -> None:
    for number, sequence in enumerate((2, 1)):
        desk.story(
            f"m-{number}",
            (Kind.PUBLISHED, 0),
            (Kind.RECEIVED, 1),
            (Kind.COMMITTED, 1),
            subject="case-1",
            sequence=sequence,
        )
        desk.complete(f"do:{number}", f"m-{number}")

    assert found(checked(desk, newest=2), "out-of-order").figures["looked at"] == "the newest 2 operations"
    assert "looked at" not in found(checked(desk, newest=3), "out-of-order").figures


def test_the_speed_of_a_queue_says_over_which_time_it_was_measured(desk: Desk) -> None:
    queue = {QUEUE: Attached(name=QUEUE, retention=3_600.0)}
    for number in range(30):
        desk.story(f"waits-{number}", (Kind.PUBLISHED, 0))
    desk.clock.advance(3_000)
    for number in range(4):
        desk.story(f"done-{number}", (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.COMMITTED, 1))
        desk.clock.advance(30)

    whole, cut = (found(checked(desk, newest=newest, attached=queue), "loss-ahead").figures for newest in (1_000, 6))

    assert (whole["handled a second"], whole["measured over"]) == ("0.00667", "the last 10 min")
    assert (cut["handled a second"], cut["measured over"]) == ("0.0333", "the newest 6 entries, the last 1 min")


def test_events_behind_those_whose_way_was_followed_are_counted_in_the_note(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "MOST_FOLLOWED", 4)
    for case in range(3):
        for sequence in (1, 2):
            desk.story(f"m-{case}-{sequence}", (Kind.PUBLISHED, 0), subject=f"case-{case}", sequence=sequence)
        for sequence in (2, 1):
            desk.write(f"m-{case}-{sequence}", (Kind.RECEIVED, 1), (Kind.COMMITTED, 1))
            desk.complete(f"do:{case}:{sequence}", f"m-{case}-{sequence}")

    note = next(one.note for one in checked(desk).answers if one.question == "once")

    assert note.startswith("2 events took effect after a later one of the subject")
    assert note.endswith("1 more such event is older, and was not looked at")


def test_what_is_looked_up_of_single_messages_is_found_by_index(desk: Desk) -> None:
    desk.story("dead", *DIED, body=None)
    for sequence in (2, 1):
        desk.story(
            f"m-{sequence}",
            (Kind.PUBLISHED, 0),
            (Kind.RECEIVED, 1),
            (Kind.COMMITTED, 1),
            subject="case-1",
            sequence=sequence,
        )
        desk.complete(f"do:{sequence}", f"m-{sequence}")
    post_all(desk.book)
    statements: list[str] = []

    with desk.book.reading() as connection:
        assert isinstance(connection, sqlite3.Connection)
        connection.set_trace_callback(statements.append)
        survey(connection, desk.now, depth_of=None)
        connection.set_trace_callback(None)
        plans = {
            one: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {one}")]
            for one in statements
            if one.startswith("SELECT")
        }

    assert sum("AND body IS NOT NULL" in one for one in plans) == 1
    assert sum(one.endswith("WHERE message = 2 ORDER BY id") for one in plans) == 1
    # The newest operations and outcomes are read from the end of their keys, what is not settled from an index of nothing else.
    large = re.compile(
        r"SCAN (crossfoot_(messages|entries)|m|e|f)\b(?! USING COVERING INDEX crossfoot_messages_unsettled)"
    )
    assert {one: steps for one, steps in plans.items() if any(large.match(step) for step in steps)} == {}
