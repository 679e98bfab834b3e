"""The order on the page: that in which things happened, and whose clock says otherwise."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stdout
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.books.entry import Kind
from crossfoot.books.queries import Fact
from crossfoot.cli.output import Output, When
from crossfoot.cli.pages import show_page
from crossfoot.cli.why import as_document
from crossfoot.clock import SECOND, Micros
from crossfoot.recover.happening import contradictions, happened
from crossfoot.recover.lookup import look_up
from crossfoot.recover.why import Page
from tests.unit.book_rig import CAUSE, Desk, Step


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(tmp_path / "book.db")) as desk:
        for name in ("worker-1", "worker-2"):
            desk.book.start_worker(name, "billing")
        yield desk


def at(desk: Desk, seconds: float, kind: Kind, attempt: int = 0, **fields: Any) -> Step:
    return kind, attempt, {"at": desk.now + round(seconds * SECOND), **fields}


def page(desk: Desk, *steps: Step) -> Page:
    """The page of a message whose entries were committed in this order."""
    desk.story("one", *steps)
    with desk.book.reading() as connection:
        told = look_up(connection, "one", desk.now + 3_600 * SECOND)
    assert told.page is not None
    document = as_document(told)
    assert [entry["kind"] for entry in document["entries"]] == [entry.kind for entry in told.page.entries]
    return told.page


def shown(told: Page) -> str:
    with io.StringIO() as written, redirect_stdout(written):
        show_page(Output(When.never), told)
        return written.getvalue()


def kinds(told: Page) -> list[str]:
    return [entry.kind for entry in told.entries]


HAPPY = ["intended", "published", "received", "committed", "acked"]


@pytest.mark.parametrize("places", list(permutations(range(1, 5)))[::3])
def test_entries_are_told_in_the_order_of_their_times_whichever_was_committed_first(
    desk: Desk, places: Sequence[int]
) -> None:
    steps = [
        at(desk, 0, Kind.INTENDED), at(desk, 1, Kind.PUBLISHED), at(desk, 2, Kind.RECEIVED, 1), at(desk, 3, Kind.COMMITTED, 1),
        at(desk, 4, Kind.ACKED, 1),
    ]  # fmt: skip

    told = page(desk, steps[0], *(steps[place] for place in places))

    assert kinds(told) == HAPPY
    assert [moment.what for moment in told.timeline] == HAPPY
    assert re.findall(rf"\+\S+ \S+ +({'|'.join(HAPPY)})\b", shown(told)) == HAPPY
    assert told.clocks == ()


def test_entries_of_one_time_are_told_in_the_order_of_the_book(desk: Desk) -> None:
    told = page(desk, *(at(desk, 0, kind, 1) for kind in (Kind.RECEIVED, Kind.COMMITTED, Kind.ACKED)))

    assert kinds(told) == ["received", "committed", "acked"]
    assert told.clocks == ()


def test_a_clock_that_was_set_back_is_told_and_the_known_order_kept(desk: Desk) -> None:
    told = page(
        desk, at(desk, 0, Kind.INTENDED), at(desk, 1, Kind.PUBLISHED), at(desk, 60, Kind.RECEIVED, 1, worker=1),
        at(desk, 2, Kind.COMMITTED, 1, worker=1), at(desk, 3, Kind.ACKED, 1, worker=1),
    )  # fmt: skip

    assert kinds(told) == HAPPY
    (clock,) = told.clocks
    assert clock.startswith("committed of delivery 1 bears a time 58 s before received of delivery 1, which came first")
    assert "the clock of worker worker-1" in clock
    assert "was set back by at least that" in clock
    assert "clocks" in shown(told)


def test_clocks_of_two_workers_that_differ_are_told_by_the_numbers_of_their_deliveries(desk: Desk) -> None:
    failure = {"cause": CAUSE.fingerprint, "due": desk.now}
    told = page(
        desk, at(desk, 0, Kind.PUBLISHED), at(desk, 10, Kind.RECEIVED, 1, worker=1),
        at(desk, 11, Kind.FAILED, 1, worker=1, **failure), at(desk, 4, Kind.RECEIVED, 2, worker=2),
        at(desk, 5, Kind.COMMITTED, 2, worker=2),
    )  # fmt: skip

    assert [delivery.number for delivery in told.deliveries] == [1, 2]
    (clock,) = told.clocks
    assert "received of delivery 2 bears a time 6 s before received of delivery 1" in clock
    assert "differ by at least that" in clock


def test_a_sender_whose_clock_is_ahead_is_told(desk: Desk) -> None:
    told = page(desk, at(desk, 9, Kind.INTENDED), at(desk, 9, Kind.PUBLISHED), at(desk, 2, Kind.RECEIVED, 1, worker=1))

    assert kinds(told)[0] == "intended"
    assert "the clocks of the sender and worker worker-1" in told.clocks[0]


def test_what_did_not_end_is_told_when_its_lease_was_over_among_what_happened_then(desk: Desk) -> None:
    told = page(
        desk, at(desk, 0, Kind.INTENDED), at(desk, 1, Kind.RECEIVED, 1, worker=1, due=desk.now + 31 * SECOND),
        at(desk, 2, Kind.PUBLISHED), at(desk, 31, Kind.RECEIVED, 2, worker=2), at(desk, 32, Kind.COMMITTED, 2, worker=2),
    )  # fmt: skip

    assert [one.what for one in told.timeline] == [
        "intended",
        "received",
        "published",
        "no end",
        "received",
        "committed",
    ]
    times = [one.at for one in told.timeline]
    assert times == sorted(times)


def test_a_publication_that_was_only_booked_late_is_not_said_to_have_come_after_the_end(desk: Desk) -> None:
    failure = {"cause": CAUSE.fingerprint, "due": desk.now}
    told = page(
        desk, at(desk, 0, Kind.INTENDED), at(desk, 2, Kind.RECEIVED, 1), at(desk, 3, Kind.FAILED, 1, **failure),
        at(desk, 4, Kind.DEAD_LETTERED, 1, **failure), at(desk, 1, Kind.PUBLISHED),
    )  # fmt: skip

    assert "sent again" not in told.reason


def test_deliveries_are_counted_without_the_number_that_sending_again_takes(desk: Desk) -> None:
    failure = {"cause": CAUSE.fingerprint, "due": desk.now}
    told = page(
        desk, at(desk, 0, Kind.PUBLISHED), at(desk, 1, Kind.RECEIVED, 1), at(desk, 2, Kind.FAILED, 1, **failure),
        at(desk, 3, Kind.RECEIVED, 2), at(desk, 4, Kind.DEAD_LETTERED, 2, **failure), at(desk, 5, Kind.REPLAYED, 2, delivery=0),
        at(desk, 5, Kind.PUBLISHED, 3, delivery=0), at(desk, 6, Kind.RECEIVED, 4), at(desk, 7, Kind.COMMITTED, 4),
    )  # fmt: skip

    assert [one.number for one in told.deliveries] == [1, 2, 3]
    assert "on its 3rd delivery" in told.reason
    assert [one.delivery for one in told.timeline if one.what == "received"] == [1, 2, 3]


def fact(number: int, kind: Kind, attempt: int, delivery: int, moment: Micros) -> Fact:
    return Fact(message=1, number=number, kind=kind, attempt=attempt, delivery=delivery, at=moment)


histories = st.lists(
    st.tuples(st.sampled_from(sorted(Kind)), st.integers(0, 3), st.integers(0, 3), st.integers(0, 20)), max_size=12
).map(lambda rows: [fact(number, *row) for number, row in enumerate(rows, 1)])


@given(histories)
def test_without_a_contradiction_the_order_is_that_of_times_and_any_order_tells_all(entries: list[Fact]) -> None:
    told = happened(entries)

    assert sorted(entry.number for entry in told) == [entry.number for entry in entries]
    if not contradictions(entries):
        assert [entry.at for entry in told] == sorted(entry.at for entry in entries)
    places = {entry.number: place for place, entry in enumerate(told)}
    assert all(places[one.first.number] < places[one.then.number] for one in contradictions(entries))
