"""`archive verify`: a bit that is flipped anywhere is found, and so is what is missing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crossfoot.books.archive import prune
from crossfoot.books.archive.folder import FACTS, NAMES, PAYLOADS, SUFFIXES
from tests.unit.archive_rig import Shelf

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]


@pytest.fixture(params=["sqlite", "postgres"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    place = tmp_path / "book.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = Shelf(place, tmp_path / "archive")
    with closing(made.desk):
        made.fill()
        made.newest()
        made.close(most=8)
        assert made.check().clean
        yield made


def files(shelf: Shelf, suffix: str) -> list[Path]:
    return sorted(shelf.folder.path.glob(f"*{suffix}"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flipped_bit_is_found_wherever_it_is(shelf: Shelf, suffix: str) -> None:
    """At the first and last byte, in the footer, and at so many places between that each kind of page is hit."""
    chance = random.Random(7)
    for number, path in enumerate(files(shelf, suffix), 1):
        whole = path.read_bytes()
        places = {0, 3, 4, len(whole) - 1, len(whole) - 5, len(whole) - 9, *chance.sample(range(len(whole)), 25)}
        for place in places:
            spoilt = bytearray(whole)
            spoilt[place] ^= 1 << chance.randrange(8)
            path.write_bytes(spoilt)
            found = shelf.check()
            assert [(fault.what, fault.seal, fault.file) for fault in found.faults if fault.what != "sums"] == [
                ("file changed", number, path.name)
            ], place
        path.write_bytes(whole)
    assert shelf.check().clean


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("how", ["missing", "cut short", "empty", "another seal's"])
def test_a_file_that_is_not_there_as_a_whole_is_found(shelf: Shelf, suffix: str, how: str) -> None:
    first, second = files(shelf, suffix)
    whole = first.read_bytes()
    if how == "missing":
        first.unlink()
    else:
        first.write_bytes({"cut short": whole[:-1], "empty": b"", "another seal's": second.read_bytes()}[how])

    found = shelf.check()

    assert (found.faults[0].seal, found.faults[0].file) == (1, first.name)
    assert found.faults[0].what == ("file missing" if how == "missing" else "file changed")


CHANGES = {
    "a seal's digest": "UPDATE crossfoot_closed SET digest = 'f' || substr(digest, 2) WHERE number = 1",
    "a seal's chain": "UPDATE crossfoot_closed SET chain = 'x' || substr(chain, 2) WHERE number = 1",
    "the digest of sums": "UPDATE crossfoot_closed SET sums = 'x' || substr(sums, 2) WHERE number = 2",
    "a file's digest": "UPDATE crossfoot_closed SET payloads = 'x' || substr(payloads, 2) WHERE number = 2",
    "when it was sealed": "UPDATE crossfoot_closed SET at = at + 1 WHERE number = 1",
    "how many messages": "UPDATE crossfoot_closed SET messages = messages - 1 WHERE number = 1",
    "how many entries": "UPDATE crossfoot_closed SET entries = entries + 1 WHERE number = 2",
    "how many were pruned": "UPDATE crossfoot_closed SET pruned = pruned - 1 WHERE number = 1",
    "how many entries were pruned": "UPDATE crossfoot_closed SET pruned_entries = pruned_entries - 1 WHERE number = 1",
    "which were left": "UPDATE crossfoot_closed SET skipped = '[' || lowest || ']' WHERE number = 1",
    "a seal taken away": "DELETE FROM crossfoot_closed WHERE number = 1",
    "the last seal taken away": "DELETE FROM crossfoot_closed WHERE number = 2",
    "a sum": "UPDATE crossfoot_archived SET count = count + 1 WHERE measure = 'fate noop' AND count = 1",
    "a sum's digest": "UPDATE crossfoot_archived SET d1 = d1 + 1 WHERE measure = 'entry acked'",
    "a sum taken away": "DELETE FROM crossfoot_archived WHERE measure = 'operation'",
    "the book's own id": "UPDATE crossfoot_facts SET value = 'x' || substr(value, 2) WHERE name = 'book'",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_book_says_of_the_archive_cannot_be_changed_unseen(shelf: Shelf, change: str) -> None:
    shelf.desk.execute(CHANGES[change])

    assert not shelf.check().clean


@pytest.mark.parametrize("change", ["a sum", "a sum's digest", "a sum taken away"])
def test_verify_sees_sums_that_were_changed_without_a_look_at_the_files(shelf: Shelf, change: str) -> None:
    shelf.desk.execute(CHANGES[change])

    assert set(shelf.verify().counts) == {"tally"}


def test_a_file_made_anew_with_other_facts_is_found(shelf: Shelf) -> None:
    """Its maker has the digest of its bytes written into the book, and cannot know the chain's."""
    first, second = files(shelf, FACTS)
    first.write_bytes(second.read_bytes())
    digest = shelf.folder.digest(first.name.removesuffix(FACTS), FACTS)
    shelf.desk.execute("UPDATE crossfoot_closed SET facts = ? WHERE number = 1", digest)

    assert {"chain", "facts"} <= {fault.what for fault in shelf.check().faults}


def test_payloads_of_other_messages_are_found(shelf: Shelf) -> None:
    first, second = files(shelf, PAYLOADS)
    first.write_bytes(second.read_bytes())
    digest = shelf.folder.digest(first.name.removesuffix(PAYLOADS), PAYLOADS)
    shelf.desk.execute("UPDATE crossfoot_closed SET payloads = ? WHERE number = 1", digest)

    assert {fault.what for fault in shelf.check().faults} == {"payloads"}


def test_what_a_killed_closing_left_is_told_and_is_no_fault(shelf: Shelf) -> None:
    with shelf.desk.book.reading() as connection:
        name = prune.seals(connection)[0].name.rpartition("-")[0] + "-00000000"
    (shelf.folder.path / f"{name}{NAMES}.part").write_bytes(b"x")

    found = shelf.check()

    assert (found.clean, found.left_over) == (True, (name,))
    assert shelf.close().removed == (name,)
    assert shelf.check().left_over == ()
