"""In PostgreSQL a range of keys whose messages are all archived goes as a whole, and nothing is missed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crossfoot.books import cutting
from crossfoot.books.archive.close import close
from crossfoot.books.archive.folder import Folder
from crossfoot.books.archive.past import past_of
from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.recover.lookup import look_up
from tests.unit.book_rig import Lectern
from tests.unit.test_cutting_postgres import cut_of, grow_old, is_true, lies_in, plain, settle, tend

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]


@pytest.fixture
def desk(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lectern]:
    """Its clock is the server's, too, so that weeks can pass."""
    with closing(Lectern(postgres_url)) as made:
        monkeypatch.setattr(cutting, "server_time", lambda _: made.now)
        yield made


def closed(desk: Lectern, folder: Path) -> int:
    return close(desk.book, Folder(folder), desk.now, horizon=0).dropped


def test_an_empty_quiet_range_is_dropped_and_a_late_entry_lies_in_the_rest(desk: Lectern, tmp_path: Path) -> None:
    grow_old(desk)
    before = cut_of(desk).ranges
    key = desk.keys["week-0"]

    dropped = closed(desk, tmp_path)

    after = cut_of(desk)
    assert dropped == len(before) - len(after.ranges) > 0
    assert after.ranges == before[dropped:]
    assert after.current is not None
    is_true(desk)
    desk.write("week-0", (Kind.ACKED, 1))
    assert lies_in(desk, key)[0] == "crossfoot_entries_rest"
    is_true(desk)
    with desk.book.reading() as connection:
        page = look_up(connection, "week-0", desk.now, past=past_of(desk.book.path, str(tmp_path))).page
    assert page is not None
    assert page.archived is not None
    assert (page.fate, page.archived.late) == ("settled", 1)


def test_a_range_with_a_dead_letter_stays(desk: Lectern, tmp_path: Path) -> None:
    tend(desk)
    desk.story("dead", (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.DEAD_LETTERED, 1))
    grow_old(desk)

    closed(desk, tmp_path)

    assert lies_in(desk, desk.keys["dead"])[0].startswith("crossfoot_entries")
    assert desk.keys["dead"] in cut_of(desk).ranges[0]
    is_true(desk)


def test_a_range_that_somebody_reads_is_left_and_dropped_another_time(
    desk: Lectern, tmp_path: Path, postgres_url: str
) -> None:
    grow_old(desk)
    with plain(postgres_url) as reader, reader.snapshot():
        reader.execute("SELECT count(*) FROM crossfoot_entries").fetchone()
        assert closed(desk, tmp_path) == 0
        is_true(desk)

    assert closed(desk, tmp_path) > 0
    is_true(desk)


def test_ranges_go_on_being_made(desk: Lectern, tmp_path: Path) -> None:
    grow_old(desk)
    closed(desk, tmp_path)
    grow_old(desk, weeks=2)
    settle(desk, "later")
    post_all(desk.book)
    closed(desk, tmp_path)

    assert cut_of(desk).following is not None
    assert not cutting.look(desk.book.connection).asks_for_something(desk.now)
    is_true(desk)
