"""Closing: what has ended for good goes into the archive, and every question is answered as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crossfoot.books.archive import prune
from crossfoot.books.archive.folder import FACTS, SUFFIXES
from crossfoot.books.archive.past import past_of
from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.outcomes.evaluating import accept, evaluate, register, reports
from crossfoot.outcomes.expectation import expect
from tests.unit.archive_rig import FINAL, HAPPY, MINUTE, PATHS, Shelf, told

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]


@pytest.fixture(params=["sqlite", "postgres"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    place = tmp_path / "book.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = Shelf(place, tmp_path / "archive")
    with closing(made.desk):
        made.fill()
        made.newest()
        yield made


def test_what_has_ended_for_good_leaves_the_book_and_the_rest_stays(shelf: Shelf) -> None:
    done = shelf.close()

    assert done.messages == done.pruned == len(FINAL) * 3
    assert shelf.hot() == [*(f"{name}-{n}" for n in range(3) for name in PATHS if name not in FINAL), "newest"]
    assert shelf.one("SELECT count(*) FROM crossfoot_entries") == 3 * (4 + 4) + 1
    assert shelf.one("SELECT count(*) FROM crossfoot_removed") == 0
    assert shelf.one("SELECT count(*) FROM crossfoot_pruning") == 0


def test_balance_why_and_verify_answer_as_before(shelf: Shelf) -> None:
    balance, fates = told(shelf.balance()), shelf.fates()
    pages = {name: shelf.why(name).page for name in shelf.named}

    shelf.close()

    assert told(shelf.balance()) == balance
    assert balance["unaccounted"] == 0
    assert shelf.fates() == fates
    assert shelf.verify().clean
    for name, before in pages.items():
        after = shelf.why(name).page
        assert before is not None
        assert after is not None
        for field in (
            "message",
            "fate",
            "reason",
            "entries",
            "timeline",
            "deliveries",
            "operation",
            "outcomes",
            "causes",
        ):
            assert getattr(after, field) == getattr(before, field), (name, field)
        assert (after.archived is not None) is (name.split("-")[0] in FINAL)


def test_what_was_promised_after_an_archived_message_is_told_and_accepted_as_before(shelf: Shelf) -> None:
    register(shelf.desk.book, [expect("invoice.issued", after="case.released", within="1m")])
    evaluate(shelf.desk.book)
    shelf.close()

    with shelf.desk.book.reading() as connection:
        (report,) = reports(connection, shelf.desk.now, limit=1000)
    named = {one.id: one for one in report.missing_messages}
    assert (named["settled-1"].subject, named["settled-1"].fate) == ("case-settled-1", "archived, seal 1")
    assert (named["dead-1"].subject, named["dead-1"].fate) == ("case-dead-1", "dead")
    page = shelf.why("settled-1").page
    assert page is not None
    assert page.archived is not None
    assert page.needs_somebody
    assert page.next[-1].command == "crossfoot outcomes --accept settled-1 --reason '...'"
    assert accept(shelf.desk.book, ["case-settled-1"], by="anna", reason="by hand") == ["settled-1"]
    page = shelf.why("settled-1").page
    assert page is not None
    assert not page.needs_somebody


NAMES = {
    "case-settled-1": "subject",
    "flow-noop-2": "correlation id",
    "bill:retried-0": "operation key",
    "tests|duplicate-1": "message key",
}


@pytest.mark.parametrize(("name", "kind"), NAMES.items())
def test_what_is_archived_is_found_by_every_name(shelf: Shelf, name: str, kind: str) -> None:
    before = shelf.why(name)
    shelf.close()

    found = shelf.why(name)
    assert (found.kind, found.count) == (kind, 1)
    assert found.page is not None
    assert before.page is not None
    assert found.page.message == before.page.message


def test_the_names_of_a_subject_are_found_in_the_book_and_in_the_archive_together(shelf: Shelf) -> None:
    shelf.add("early", *HAPPY, subject="case-7")
    shelf.desk.clock.advance(60)
    shelf.add("late", (Kind.PUBLISHED, 0, {"due": shelf.desk.now}), subject="case-7")
    shelf.close()

    found = shelf.why("case-7")
    assert [(line.message.id, line.fate) for line in found.listed] == [("late", "queued"), ("early", "settled")]
    assert found.count == 2


def test_a_bucket_with_open_messages_is_left_as_it_is(shelf: Shelf) -> None:
    shelf.desk.clock.advance(60)
    shelf.add("done", *HAPPY)
    shelf.add("open", (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1))
    shelf.desk.clock.advance(120)
    shelf.add("last", (Kind.PUBLISHED, 0))

    done = shelf.close()

    assert {"done", "open"} <= set(shelf.hot())
    assert done.open == 2  # that of `newest`, too
    shelf.desk.write("open", (Kind.COMMITTED, 1), (Kind.ACKED, 1))
    shelf.desk.complete("bill:open", "open")
    shelf.desk.clock.advance(60)
    shelf.add("very last", (Kind.PUBLISHED, 0))
    shelf.close()
    assert not {"done", "open"} & set(shelf.hot())
    assert shelf.verify().clean


def test_what_was_written_about_a_moment_ago_stays(shelf: Shelf) -> None:
    shelf.desk.write("settled-0", (Kind.ACKED, 1))

    shelf.close()

    assert "settled-0" in shelf.hot()


def test_closing_again_does_nothing(shelf: Shelf) -> None:
    shelf.close()
    files = sorted(path.name for path in shelf.folder.path.iterdir())

    again = shelf.close()

    assert (again.seals, again.pruned) == ((), 0)
    assert sorted(path.name for path in shelf.folder.path.iterdir()) == files


def test_numbers_are_not_given_again(shelf: Shelf) -> None:
    """SQLite gives the number of the newest row again when that is removed."""
    highest = shelf.one("SELECT max(key) FROM crossfoot_messages"), shelf.one("SELECT max(id) FROM crossfoot_entries")
    shelf.desk.write("newest", (Kind.RECEIVED, 1), (Kind.COMMITTED, 1), (Kind.ACKED, 1))
    shelf.desk.complete("bill:newest", "newest")
    shelf.desk.clock.advance(120)
    shelf.close()

    shelf.desk.clock.advance(60)
    key = shelf.desk.register("another")
    assert key > highest[0]
    shelf.desk.write("another", (Kind.PUBLISHED, 0))
    assert shelf.one("SELECT max(id) FROM crossfoot_entries") > highest[1]
    assert shelf.verify().clean
    assert told(shelf.balance())["unaccounted"] == 0


def test_a_closed_message_that_comes_again_is_kept_and_told(shelf: Shelf) -> None:
    shelf.close()
    shelf.desk.clock.advance(60)
    shelf.add("settled-1", (Kind.RECEIVED, 2), (Kind.SUPPRESSED, 2), (Kind.ACKED, 2), subject="case-settled-1")

    page = shelf.why("settled-1").page

    assert page is not None
    assert page.fate == "settled"
    assert page.archived is not None
    assert page.archived.late == 3
    assert [line.kind for line in page.entries][-3:] == ["received", "suppressed", "acked"]
    assert shelf.verify().clean
    assert told(shelf.balance())["unaccounted"] == 0


def test_one_that_came_again_and_was_closed_again_is_one_message(shelf: Shelf) -> None:
    before = shelf.why("settled-1").page
    shelf.close()
    shelf.desk.clock.advance(60)
    shelf.add("settled-1", (Kind.RECEIVED, 2), (Kind.SUPPRESSED, 2), (Kind.ACKED, 2), subject="case-settled-1")
    shelf.newest_is("newest-2")
    assert shelf.close().pruned == 1

    found = shelf.why("settled-1")

    assert (found.count, shelf.why("case-settled-1").count) == (1, 1)
    assert found.page is not None
    assert before is not None
    assert (found.page.fate, found.page.operation) == ("settled", before.operation)
    assert [line.kind for line in found.page.entries][-4:] == ["acked", "received", "suppressed", "acked"]
    assert shelf.verify().clean
    assert shelf.check().clean
    assert told(shelf.balance())["unaccounted"] == 0


def test_a_late_entry_under_the_old_key_is_kept_and_told(shelf: Shelf) -> None:
    shelf.close()
    shelf.desk.write("settled-1", (Kind.ACKED, 1))
    post_all(shelf.desk.book)

    page = shelf.why("settled-1").page

    assert page is not None
    assert page.archived is not None
    assert (page.fate, page.archived.late) == ("settled", 1)
    found = shelf.verify()
    assert (found.clean, found.late) == (True, 1)


def test_what_is_written_while_it_is_archived_keeps_a_message_in_the_book(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossfoot import boundaries

    def write(boundary: object) -> None:
        if boundary is boundaries.ArchiveBoundary.BEFORE_SEAL and "settled-1" in shelf.hot():
            shelf.desk.write("settled-1", (Kind.ACKED, 1, {"details": {"late": 1}}))

    before = told(shelf.balance())
    boundaries.install(write)
    try:
        done = shelf.close()
    finally:
        boundaries.install(None)

    assert (done.messages, done.pruned) == (15, 14)
    assert "settled-1" in shelf.hot()
    page = shelf.why("settled-1").page
    assert page is not None
    assert len(page.entries) == len(HAPPY) + 1
    assert shelf.verify().clean
    assert told(shelf.balance()) == before
    assert shelf.check().clean
    shelf.desk.clock.advance(120)
    shelf.add("last", (Kind.PUBLISHED, 0))
    assert shelf.close().pruned == 1
    assert "settled-1" not in shelf.hot()
    page = shelf.why("settled-1").page
    assert page is not None
    assert len(page.entries) == len(HAPPY) + 1
    assert shelf.verify().clean
    assert shelf.check().clean


def test_operation_keys_stay_for_the_whole_horizon(shelf: Shelf) -> None:
    ended = shelf.desk.now
    shelf.close()
    assert shelf.one("SELECT count(*) FROM crossfoot_operations") == 9

    shelf.desk.clock.advance(6000)
    shelf.add("young", *HAPPY)
    shelf.close(before=shelf.desk.now, horizon=ended - 3 * MINUTE)
    assert shelf.one("SELECT count(*) FROM crossfoot_operations") == 9 - 6 + 1

    assert shelf.verify().clean
    assert set(told(shelf.balance())["identities"].values()) == {True, None}  # queues were not asked
    page = shelf.why("settled-0").page
    assert page is not None
    assert page.operation is not None
    assert page.operation.by_this


def test_keys_are_forgotten_behind_those_of_messages_that_stay(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked at a few at a time, the oldest first, and the young not at all."""
    monkeypatch.setattr(prune, "FORGOTTEN", 2)
    for number in range(3):
        shelf.add(f"stays-{number}", *HAPPY)
    shelf.add("open", (Kind.PUBLISHED, 0))
    shelf.desk.clock.advance(60)
    shelf.fill(2, prefix="later-")
    horizon = shelf.desk.now
    shelf.desk.clock.advance(60)
    shelf.add("young", *HAPPY)
    shelf.newest_is("last")

    assert shelf.close(horizon=horizon).forgotten == (3 + 2) * 3
    with shelf.desk.book.reading() as connection:
        left = {key for (key,) in connection.execute("SELECT key FROM crossfoot_operations")}
    assert left == {*(f"bill:stays-{number}" for number in range(3)), "bill:young"}
    assert shelf.verify().clean


def test_an_operation_of_an_archived_message_that_somebody_removes_is_missed(shelf: Shelf) -> None:
    shelf.close()
    shelf.desk.execute("DELETE FROM crossfoot_operations WHERE key = 'bill:settled-1'")

    assert shelf.verify().counts == {"operation": 1}


def test_without_its_folder_the_book_answers_for_what_it_has(shelf: Shelf, tmp_path: Path) -> None:
    shelf.close()
    shelf.folder.path.rename(tmp_path / "elsewhere")

    page = shelf.why("dead-1").page
    assert page is not None
    assert page.fate == "dead"
    assert shelf.why("settled-1").count == 0
    past = past_of(shelf.place, str(shelf.folder.path))
    with shelf.desk.book.reading() as connection:
        past.renew(connection)
    assert "15 messages lie in it" in past.unread


def test_several_seals_make_a_chain(shelf: Shelf) -> None:
    done = shelf.close(most=4)

    assert done.seals == (1, 2, 3, 4)
    found = shelf.check()
    assert found.clean
    assert (found.seals, found.messages) == (4, 15)
    assert {path.name.split(".", 1)[1] for path in shelf.folder.path.iterdir() if path.name != ".turn"} == {
        suffix[1:] for suffix in SUFFIXES
    }
    assert shelf.verify().clean


def test_a_file_that_is_not_what_was_written_prunes_nothing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossfoot import boundaries
    from crossfoot.errors import ArchiveBroken

    def spoil(boundary: object) -> None:
        if boundary is boundaries.ArchiveBoundary.AFTER_SEAL:
            (path,) = shelf.folder.path.glob(f"*{FACTS}")
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)

    before = shelf.hot()
    boundaries.install(spoil)
    try:
        with pytest.raises(ArchiveBroken, match="nothing is pruned for it"):
            shelf.close()
    finally:
        boundaries.install(None)
    assert shelf.hot() == before
    assert shelf.verify().clean


def test_the_entry_that_was_posted_last_stays(shelf: Shelf) -> None:
    """It may be of an older message than the newest one; without it `balance` says that entries were removed."""
    shelf.add("newest-but-one", (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1))
    shelf.add("newest", *HAPPY)
    shelf.desk.story("newest-but-one", (Kind.COMMITTED, 1, {"details": {"rows": 1}}), (Kind.ACKED, 1))
    shelf.desk.complete("bill:newest-but-one", "newest-but-one", Kind.COMMITTED)
    shelf.desk.clock.advance(3600)
    post_all(shelf.desk.book)

    shelf.close()

    assert "newest-but-one" in shelf.hot()
    assert shelf.balance().identities["ledger"].holds
