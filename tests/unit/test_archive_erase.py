"""Erasure: what one subject's messages carried goes from book and archive, and every seal stays true."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crossfoot.books.archive.erase import erase
from crossfoot.books.entry import Kind
from crossfoot.recover.records import Records
from tests.unit.archive_rig import HAPPY, Shelf, told

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

ANNA = "customer-anna"


@pytest.fixture(params=["sqlite", "postgres"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    place = tmp_path / "book.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = Shelf(place, tmp_path / "archive")
    with closing(made.desk):
        made.fill(1)
        made.add("hers-1", *HAPPY, subject=ANNA)
        made.fill(1, prefix="more-")
        made.add("hers-2", *HAPPY, subject=ANNA)
        made.newest()
        made.close(most=6)
        made.desk.clock.advance(60)
        made.add("hers-hot", *HAPPY, subject=ANNA)
        made.add("hers-dead", (Kind.RECEIVED, 1), (Kind.DEAD_LETTERED, 1), subject=ANNA)
        made.desk.clock.advance(60)
        made.add("hers-open", (Kind.PUBLISHED, 0, {"due": made.desk.now}), subject=ANNA)
        made.verify()
        yield made


def body_of(shelf: Shelf, id_: str) -> bytes | None:
    from crossfoot.books.archive.past import past_of

    with shelf.desk.book.reading() as connection:
        past = past_of(shelf.place, str(shelf.folder.path))
        past.renew(connection)
        records = Records(connection, past)
        (row,) = records.named("message id", id_, 5)
        return records.body_of(row)


def test_a_subjects_payloads_are_erased_and_nobody_elses(shelf: Shelf) -> None:
    before = {name: body_of(shelf, name) for name in shelf.named}
    assert all(before.values())
    head = shelf.check().head

    done = erase(shelf.desk.book, shelf.folder, ANNA, who="anna", reason="asked for it")

    assert (done.book, done.archive, done.open, done.dead) == (2, 2, 1, 1)
    gone = {"hers-1", "hers-2", "hers-hot", "hers-dead"}
    assert {name for name in shelf.named if body_of(shelf, name) is None} == gone
    assert {name: body_of(shelf, name) for name in shelf.named if name not in gone} == {
        name: body for name, body in before.items() if name not in gone
    }
    found = shelf.check()
    assert found.clean, found.faults
    assert (found.head, found.erased) == (head, 1)


def test_what_became_of_them_stays_known(shelf: Shelf) -> None:
    fates, balance = shelf.fates(), told(shelf.balance())

    erase(shelf.desk.book, shelf.folder, ANNA, who="anna", reason="asked for it")

    assert shelf.fates() == fates
    assert told(shelf.balance()) == balance
    assert shelf.verify().clean


def test_no_file_holds_what_was_erased(shelf: Shelf, tmp_path: Path) -> None:
    erase(shelf.desk.book, shelf.folder, ANNA, who="anna", reason="asked for it")

    carried = shelf.everything_carried()
    assert b"secret of hers-1" not in carried
    assert b"secret of hers-open" in carried
    assert b"secret of settled-0" in carried
    if shelf.desk.book.connection.dialect == "sqlite":
        raw = (tmp_path / "book.db").read_bytes() + (tmp_path / "book.db-wal").read_bytes()
        assert b"secret of hers-hot" not in raw
        assert b"secret of hers-open" in raw


def test_who_asked_for_it_and_why_is_in_the_book(shelf: Shelf) -> None:
    erase(shelf.desk.book, shelf.folder, ANNA, who="anna", reason="asked for it")

    with shelf.desk.book.reading() as connection:
        rows = connection.execute("SELECT subject, who, reason, payloads FROM crossfoot_erased").fetchall()
    assert [tuple(row) for row in rows] == [(ANNA, "anna", "asked for it", 4)]


def test_erasing_again_erases_nothing(shelf: Shelf) -> None:
    erase(shelf.desk.book, shelf.folder, ANNA, who="anna", reason="asked for it")
    done = erase(shelf.desk.book, shelf.folder, ANNA, who="anna", reason="once more")

    assert (done.book, done.archive, done.seals) == (0, 0, ())
    assert shelf.check().clean


def test_what_is_archived_later_is_archived_without(shelf: Shelf) -> None:
    erase(shelf.desk.book, shelf.folder, ANNA, who="anna", reason="asked for it")
    shelf.newest_is("newest-2")
    shelf.close()

    assert "hers-hot" not in shelf.hot()
    assert body_of(shelf, "hers-hot") is None
    assert shelf.check().clean
