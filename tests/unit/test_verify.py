"""Verify: whatever was derived from the entries is rebuilt from them, and no change to it goes unseen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossfoot.books.digest import tally_of
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import post, post_all
from crossfoot.books.verify import MOST_SHOWN, TWICE, Verification, verify
from tests.unit.book_rig import Desk, ids


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A book with settled, dead and queued messages, posted."""
    with closing(Desk(tmp_path / "book.db")) as desk:
        desk.settle(*ids("settled", 5))
        desk.bury("dead")
        desk.publish("queued")
        post_all(desk.book)
        yield desk


def test_the_operation_of_a_message_with_nothing_to_do_is_missed_too(desk: Desk) -> None:
    """It is what keeps a second message from doing what the first one found needless."""
    desk.story("noop", (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.NOOP, 1), (Kind.ACKED, 1))
    desk.complete("bill:noop", "noop", Kind.NOOP)
    post_all(desk.book)
    assert verified(desk).clean
    desk.execute("DELETE FROM crossfoot_operations WHERE key = 'bill:noop'")

    (difference,) = verified(desk).differences
    assert (difference.what, difference.id) == ("operation", "noop")


def verified(desk: Desk, **options: Any) -> Verification:
    with desk.book.reading() as connection:
        return verify(connection, desk.now, **options)


def test_a_book_that_nobody_touched_is_clean(desk: Desk) -> None:
    result = verified(desk)

    assert result.clean
    assert (result.messages, result.operations, result.waiting) == (7, 5, 0)
    assert result.entries == result.posted


def test_an_empty_book_is_clean(tmp_path: Path) -> None:
    with closing(Desk(tmp_path / "empty.db")) as desk:
        assert verified(desk).clean


CHANGES = {
    "a flipped fate": (f"UPDATE crossfoot_messages SET fate = {Fate.NOOP.value} WHERE id = 'settled-2'", "fate", "settled-2"),
    "a fate made up": (f"UPDATE crossfoot_messages SET fate = {Fate.SETTLED.value} WHERE id = 'queued'", "fate", "queued"),
    "a changed due time": ("UPDATE crossfoot_messages SET due = due + 1 WHERE id = 'queued'", "fate", "queued"),
    "forgotten marks": ("UPDATE crossfoot_messages SET marks = 0 WHERE id = 'dead'", "fate", "dead"),
    "a deleted entry of a settled message": (
        f"""DELETE FROM crossfoot_entries WHERE kind = {Kind.RECEIVED.value}
        AND message = (SELECT key FROM crossfoot_messages WHERE id = 'settled-3')""",
        "fate",
        "settled-3",
    ),
    "a changed entry": (
        f"""UPDATE crossfoot_entries SET kind = {Kind.NOOP.value} WHERE kind = {Kind.COMMITTED.value}
        AND message = (SELECT key FROM crossfoot_messages WHERE id = 'settled-1')""",
        "fate",
        "settled-1",
    ),
    "a missing message": ("DELETE FROM crossfoot_messages WHERE id = 'settled-4'", "message removed", "settled-4"),
    "the last message missing": ("DELETE FROM crossfoot_messages WHERE id = 'queued'", "message removed", "queued"),
    "a changed count": ("UPDATE crossfoot_tallies SET count = count + 1 WHERE measure = 'fate settled'", "tally", None),
    "a changed digest": ("UPDATE crossfoot_tallies SET d1 = d1 - 1 WHERE measure = 'entry acked'", "tally", None),
    "a missing tally": ("DELETE FROM crossfoot_tallies WHERE measure = 'fate dead'", "tally", None),
    "a tally made up": ("INSERT INTO crossfoot_tallies VALUES (60, 'q', 't', 'fate settled', 1, 2, 3)", "tally", None),
    "a missing operation": (
        "DELETE FROM crossfoot_operations WHERE message = (SELECT key FROM crossfoot_messages WHERE id = 'settled-5')",
        "operation",
        "settled-5",
    ),
    "an operation made up": (
        f"""INSERT INTO crossfoot_operations (key, message, kind, at)
        SELECT 'made up', key, {Kind.COMMITTED.value}, 0 FROM crossfoot_messages WHERE id = 'queued'""",
        "operation",
        "queued",
    ),
    "an operation of nobody": (
        f"INSERT INTO crossfoot_operations (key, message, kind, at) VALUES ('x', 999, {Kind.COMMITTED.value}, 0)",
        "message removed",
        None,
    ),
    "a message renamed": ("UPDATE crossfoot_messages SET id = 'other' WHERE id = 'settled-1'", "digest", "other"),
    "a message moved to another day": ("UPDATE crossfoot_messages SET at = 5 WHERE id = 'dead'", "digest", "dead"),
    "a kind from the future": ("UPDATE crossfoot_entries SET kind = 31 WHERE id = 1", "unknown kind", "settled-1"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_found_and_named(desk: Desk, change: str) -> None:
    statement, what, id_ = CHANGES[change]
    desk.execute(statement)

    result = verified(desk)

    assert not result.clean
    assert what in result.counts
    named = [difference.id for difference in result.differences if difference.what == what]
    assert id_ in named
    assert len({difference.id for difference in result.differences} - {None, id_}) == 0, "nobody else is accused"


def test_a_message_with_two_operations_is_named(desk: Desk) -> None:
    desk.execute("DROP INDEX crossfoot_operations_message")
    desk.execute("CREATE INDEX crossfoot_operations_message ON crossfoot_operations (message)")
    assert verified(desk).clean
    desk.execute(
        f"""INSERT INTO crossfoot_operations (key, message, kind, at)
        SELECT 'charge:1', key, {Kind.COMMITTED.value}, 0 FROM crossfoot_messages WHERE id = 'settled-1'"""
    )

    post_all(desk.book)
    (found,) = verified(desk).differences
    assert (found.what, found.id) == (TWICE, "settled-1")
    assert "it has 2 operations" in found.text


UNNOTED = "DROP TRIGGER crossfoot_entry_removed"
"""Somebody who knew what he did."""


def test_an_entry_that_changes_no_fate_cannot_be_removed_unseen(desk: Desk) -> None:
    desk.publish("extended")
    desk.receive()
    desk.receive()
    desk.write("queued", *[(Kind.EXTENDED, 1, {"due": 5})] * 3)
    desk.publish("last")
    post_all(desk.book)
    first = f"DELETE FROM crossfoot_entries WHERE id = (SELECT min(id) FROM crossfoot_entries WHERE kind = {Kind.EXTENDED.value})"
    desk.execute(first)
    (noted,) = verified(desk).differences
    assert (noted.what, noted.id, noted.text) == ("entries removed", "queued", "1 entry of message 7: extended")

    desk.execute(UNNOTED)
    desk.execute(first)

    assert [difference.text for difference in verified(desk).differences][1].startswith("there is no entry")


def test_entries_removed_from_the_end_are_missed(desk: Desk) -> None:
    desk.execute("DELETE FROM crossfoot_entries WHERE id > (SELECT max(id) FROM crossfoot_entries) - 2")

    result = verified(desk)

    assert result.counts["entries removed"] == 1
    assert result.differences[0].id == "queued"


def test_entries_removed_from_the_end_without_a_note_are_missed(desk: Desk) -> None:
    desk.execute(UNNOTED)
    desk.execute("DELETE FROM crossfoot_entries WHERE id > (SELECT max(id) FROM crossfoot_entries) - 2")

    result = verified(desk)

    assert result.counts["entries removed"] == 1
    assert "posted up to entry" in result.differences[0].text


def remove(desk: Desk, id_: str) -> None:
    """A message with everything that speaks of it."""
    for table in ("entries", "operations", "messages"):
        column = "key" if table == "messages" else "message"
        desk.execute(f"DELETE FROM crossfoot_{table} WHERE {column} = ?", desk.keys[id_])


@pytest.mark.parametrize("id_", ["newest", "settled-1"])
@pytest.mark.parametrize("posted", [True, False])
@pytest.mark.parametrize("afterwards", ["nothing", "another one", "another one, posted"])
def test_a_message_removed_with_everything_that_speaks_of_it_is_missed_and_named(
    desk: Desk, id_: str, posted: bool, afterwards: str
) -> None:
    desk.settle("newest")
    if posted:
        post_all(desk.book)
    remove(desk, id_)
    if afterwards != "nothing":
        desk.settle("another")
    if afterwards.endswith("posted"):
        post_all(desk.book)

    result = verified(desk)

    assert result.counts["message removed"] == 1
    assert {difference.id for difference in result.differences} - {None} == {id_}, "nobody else is accused"
    assert desk.balance().identities["ledger"].ids == (id_,)


def test_a_tally_of_more_messages_than_there_are_tells_how_many_and_which_digest(desk: Desk) -> None:
    remove(desk, "settled-2")

    told = [difference.text for difference in verified(desk).differences if difference.what == "tally"]

    assert any("'fate settled'" in text and "stored 5, by the entries 4" in text for text in told)
    assert all(text.endswith(f"the digests differ by {tally_of('tests|settled-2').digest}") for text in told)


def test_a_difference_says_what_is_stored_and_what_it_should_be(desk: Desk) -> None:
    desk.execute(CHANGES["a flipped fate"][0])

    (difference,) = verified(desk).differences

    assert difference.text == "stored as noop, and settled by its entries"


def test_one_loss_and_one_duplicate_in_a_tally_are_told_although_the_count_is_right(desk: Desk) -> None:
    desk.execute("UPDATE crossfoot_tallies SET d0 = d0 + 1 WHERE measure = 'fate settled'")

    (difference,) = verified(desk).differences

    assert "the same number of other messages" in difference.text


def test_many_differences_are_all_counted_and_the_first_are_told(desk: Desk) -> None:
    desk.execute("DELETE FROM crossfoot_tallies")
    for number in range(MOST_SHOWN + 50):
        desk.execute("INSERT INTO crossfoot_tallies VALUES (?, 'q', 't', 'fate dead', 1, 1, 1)", 60 * number)

    result = verified(desk)

    assert result.counts["tally"] > MOST_SHOWN
    assert len(result.differences) == MOST_SHOWN


def test_a_book_that_is_posted_half_is_verified_as_far_as_it_is_posted(tmp_path: Path) -> None:
    with closing(Desk(tmp_path / "book.db")) as desk:
        desk.settle(*ids("settled", 8))
        while post(desk.book, group=3):
            result = verified(desk)

            assert result.clean, result.differences
        assert verified(desk).waiting == 0


def test_progress_is_told_to_the_end(desk: Desk) -> None:
    told: list[tuple[int, int]] = []

    verified(desk, progress=lambda done, of: told.append((done, of)))

    assert told[-1] == (7, 7)


steps = st.lists(st.tuples(st.sampled_from(sorted(Kind)), st.integers(0, 3), st.none() | st.integers(1, 9)), max_size=8)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with closing(Desk(tmp_path_factory.mktemp("archive") / "book.db")) as desk:
        yield desk


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories=st.lists(steps, max_size=6), group=st.integers(1, 7))
def test_what_was_posted_from_any_history_is_what_the_fold_says(
    archive: Desk, histories: list[list[tuple[Kind, int, int | None]]], group: int
) -> None:
    """The book grows with every example, and is verified as a whole."""
    for history in histories:
        id_ = f"message-{len(archive.keys)}"
        completed = Kind.COMMITTED if any(kind is Kind.COMMITTED for kind, *_ in history) else Kind.NOOP
        facts = [fact for fact in history if fact[0] is completed or fact[0] not in {Kind.COMMITTED, Kind.NOOP}]
        archive.story(id_, *((kind, attempt, {"due": due}) for kind, attempt, due in facts))
        if any(kind is completed for kind, *_ in facts):
            archive.complete(f"{completed.label}:{id_}", id_, completed)
    while post(archive.book, group=group):
        pass

    assert verified(archive).differences == ()
