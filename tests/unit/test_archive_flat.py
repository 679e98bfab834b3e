"""A book that is closed day by day stays as large as it is: past the horizon the archive is tallied by the day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from crossfoot.books.archive import days
from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.books.stock import Part
from crossfoot.clock import SECOND
from tests.unit.archive_rig import FINAL, MINUTE, PATHS, Shelf, told

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

DAY = days.DAY * SECOND

CELLS = 24
"""Measures that a day's messages have at most, of one queue and type."""


@pytest.fixture(params=["sqlite", "postgres"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    place = tmp_path / "book.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = Shelf(place, tmp_path / "archive")
    with closing(made.desk):
        yield made


def a_day(shelf: Shelf, number: int, *, names: tuple[str, ...] = FINAL, minutes: int = 12) -> None:
    """Messages in so many minutes of one day, and its end."""
    begin = shelf.desk.now
    for minute in range(minutes):
        for name in names:
            shelf.add(f"{name}-{number}-{minute}", *PATHS[name])
        shelf.desk.clock.advance(60)
    post_all(shelf.desk.book)
    shelf.desk.clock.advance((begin + DAY - shelf.desk.now) / SECOND)


def rows(shelf: Shelf) -> Counter[str]:
    """How many the tables of the book have, which a database's statistics do not tell so soon."""
    with shelf.desk.book.reading() as connection:
        tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'crossfoot%'"
        if connection.dialect == "postgres":
            tables = """
                SELECT relname FROM pg_class c WHERE relname LIKE 'crossfoot%' AND relkind IN ('r', 'p') AND NOT relispartition
                  AND relnamespace = 'public'::regnamespace
            """
        names = [name for (name,) in connection.execute(tables)]
        return Counter({name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names})


def used_bytes(shelf: Shelf) -> int:
    """Of a SQLite file, without the pages that are free to be used again."""
    pages, free, size = (shelf.one(f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size"))
    return int((pages - free) * size)


def test_a_book_that_is_closed_every_day_stays_as_large_as_it_is(shelf: Shelf) -> None:
    sizes, used = [], []
    for number in range(8):
        a_day(shelf, number)
        shelf.close(before=shelf.desk.now - DAY, horizon=shelf.desk.now - 3 * DAY)
        sizes.append(rows(shelf))
        if "postgresql" not in shelf.place:
            used.append(used_bytes(shelf))

    for settled, later in pairwise(sizes[4:]):
        grown = later - settled
        assert set(grown) <= {"crossfoot_tallies", "crossfoot_archived", "crossfoot_closed"}, grown
        assert grown["crossfoot_closed"] == 1  # a row for each seal
        assert grown["crossfoot_tallies"] == grown["crossfoot_archived"] <= CELLS  # of a day, and not of each minute
    if used:
        assert used[7] - used[4] <= 6 * 4096
    assert shelf.verify().clean
    assert shelf.check().clean


def test_what_is_gathered_into_days_changes_no_answer(shelf: Shelf) -> None:
    for number in range(3):
        a_day(shelf, number, names=tuple(PATHS))
    shelf.newest()
    shelf.close()
    whole = days.whole_days(shelf.desk.now) * SECOND
    parts = [
        Part(),
        Part(until=whole - DAY),
        Part(since=whole - DAY, until=whole),
        Part(type="case.opened", since=whole - 2 * DAY),
    ]
    before, fates = [told(shelf.desk.balance(part=part, depth_of=None)) for part in parts], shelf.fates()
    cells = shelf.one("SELECT count(*) FROM crossfoot_archived")

    done = shelf.close(horizon=shelf.desk.now)

    assert done.gathered > 100
    assert shelf.one("SELECT count(*) FROM crossfoot_archived") <= cells - done.gathered + 4 * CELLS
    assert [told(shelf.desk.balance(part=part, depth_of=None)) for part in parts] == before
    assert shelf.fates() == fates
    assert shelf.verify().clean
    assert shelf.check().clean


def test_of_a_minute_with_messages_in_the_book_these_stay_tallied_by_the_minute(shelf: Shelf) -> None:
    a_day(shelf, 0, names=("settled", "dead"))
    shelf.newest()
    shelf.desk.clock.advance(2 * days.DAY)
    shelf.close(horizon=shelf.desk.now)

    by_minute = f"FROM crossfoot_tallies WHERE bucket % {days.DAY} <> 0 AND count <> 0 AND measure LIKE 'fate %'"
    assert shelf.one(f"SELECT count(*) {by_minute} AND measure NOT IN ('fate dead', 'fate queued')") == 0
    assert shelf.one(f"SELECT CAST(sum(count) AS BIGINT) {by_minute} AND measure = 'fate dead'") >= 11
    assert shelf.one(f"SELECT count(*) FROM crossfoot_archived WHERE bucket % {days.DAY} <> 0") == 0
    assert shelf.verify().clean


def test_what_is_archived_of_a_day_that_was_gathered_is_added_to_it(shelf: Shelf) -> None:
    a_day(shelf, 0, names=("settled", "dead"))
    shelf.newest()
    shelf.desk.clock.advance(3 * days.DAY)
    assert shelf.close(horizon=shelf.desk.now).gathered
    for minute in range(12):
        id_ = f"dead-0-{minute}"
        shelf.desk.write(id_, *((kind, 2) for kind in (Kind.REPLAYED, Kind.RECEIVED, Kind.COMMITTED, Kind.ACKED)))
        shelf.desk.complete(f"bill:{id_}", id_)
    shelf.newest_is("newer")

    done = shelf.close(horizon=shelf.desk.now)

    assert done.pruned == 12
    assert shelf.one("SELECT count(*) FROM crossfoot_tallies WHERE count <> 0 AND measure = 'fate settled'") == 1
    assert shelf.one("SELECT CAST(count AS BIGINT) FROM crossfoot_archived WHERE measure = 'fate settled'") == 24
    assert shelf.verify().clean
    assert shelf.balance().unaccounted == 0


def test_a_day_that_is_not_over_by_then_is_left_as_it_is(shelf: Shelf) -> None:
    shelf.desk.clock.advance((days.whole_days(shelf.desk.now) * SECOND + DAY - shelf.desk.now) / SECOND)
    begin = shelf.desk.now
    shelf.desk.clock.advance(3600)
    a_day(shelf, 0, names=("settled",), minutes=3)
    shelf.newest()

    assert shelf.close(horizon=begin + DAY - MINUTE).gathered == 0
    assert shelf.close(horizon=begin + DAY + MINUTE).gathered == 3 * 6  # four entries, a fate and an operation a minute
