"""Closed keys: what posting has counted need not be counted by each balance, and nothing goes unseen for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from crossfoot.books import closing as closed_keys
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.posting import post_all
from crossfoot.books.record import Record
from crossfoot.books.store import find_or_add, write_entries
from crossfoot.postgres.connection import Connection, connect
from tests.unit.book_rig import Lectern

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

HAPPY = ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.COMMITTED, 1), (Kind.ACKED, 1))


@pytest.fixture
def desk(postgres_url: str) -> Iterator[Lectern]:
    with closing(Lectern(postgres_url)) as desk:
        yield desk


@pytest.fixture
def elsewhere(desk: Lectern, postgres_url: str) -> Iterator[Connection]:
    with closing(connect(postgres_url)) as connection:
        yield connection


def settle(desk: Lectern, *ids: str) -> None:
    """Each posted by itself."""
    for id_ in ids:
        desk.story(id_, *HAPPY)
        desk.complete(f"bill:{id_}", id_)
        post_all(desk.book)


def closed(desk: Lectern) -> tuple[int, int]:
    """Up to which key, and how many."""
    with desk.book.reading() as connection:
        row = connection.execute("SELECT value FROM crossfoot_facts WHERE name = 'closed'").fetchone()
    key, count = map(int, row[0].split(":")) if row else (0, 0)
    return key, count


def there(desk: Lectern, upto: int) -> int:
    with desk.book.reading() as connection:
        return int(connection.execute("SELECT count(*) FROM crossfoot_records WHERE key <= ?", (upto,)).fetchone()[0])


def test_postings_close_what_was_posted_before(desk: Lectern) -> None:
    settle(desk, "a", "b", "c", "d")
    key, count = closed(desk)
    assert desk.keys["b"] <= key <= desk.keys["d"]
    assert count == there(desk, key)
    balance = desk.balance(depth_of=None)
    assert (balance.balanced, balance.published) == (True, 4)


def test_a_key_that_somebody_holds_in_an_open_transaction_is_not_closed_over(
    desk: Lectern, elsewhere: Connection
) -> None:
    settle(desk, "a")
    late = Record("billing", "tests", "late", "case.released", None, None, None, None, None, desk.now, None)
    elsewhere.begin()
    held = find_or_add(elsewhere, late).key
    settle(desk, "b", "c", "d")
    assert closed(desk)[0] < held
    write_entries(elsewhere, [Entry(message=held, kind=Kind.PUBLISHED, attempt=0, at=desk.now)])
    elsewhere.finish()
    settle(desk, "e", "f", "g", "h")

    key, count = closed(desk)
    assert key > held
    assert count == there(desk, key)
    assert desk.balance(depth_of=None).published == 9


def test_a_message_without_entries_is_not_closed_over_and_is_told(desk: Lectern) -> None:
    settle(desk, "a")
    desk.register("bare")
    settle(desk, "b", "c", "d", "e")
    assert closed(desk)[0] < desk.keys["bare"]
    assert desk.balance(depth_of=None).unaccounted == 1


def test_numbers_that_were_never_given_are_passed(desk: Lectern) -> None:
    settle(desk, "a")
    desk.execute("SELECT setval('crossfoot_messages_key_seq', ?)", 2 * closed_keys.STRETCH)
    settle(desk, *"bcdefgh")
    key, count = closed(desk)
    assert key > 2 * closed_keys.STRETCH
    assert count == there(desk, key)


BEHIND_THE_BACK = {
    "a message that was put among the closed": """
        INSERT INTO crossfoot_records (key, queue, source, id, type, at, bucket, d0, d1)
        SELECT {free}, queue, source, 'made up', type, at, bucket, d0, d1 FROM crossfoot_records WHERE id = 'a'""",
    "a message that was taken out past the triggers": "DELETE FROM crossfoot_records WHERE id = 'b'",
    "a state that was taken out past the triggers": """
        DELETE FROM crossfoot_states WHERE key = (SELECT key FROM crossfoot_records WHERE id = 'b')""",
}


@pytest.mark.parametrize("what", BEHIND_THE_BACK)
def test_what_is_done_to_closed_keys_is_found_by_counting_them_again(
    desk: Lectern, elsewhere: Connection, what: str
) -> None:
    settle(desk, "a", "b")
    never = Record("billing", "tests", "never", "case.released", None, None, None, None, None, desk.now, None)
    elsewhere.begin()
    free = find_or_add(elsewhere, never).key
    elsewhere.abandon()
    settle(desk, "c", "d", "e", "f")
    assert closed(desk)[0] > free
    with elsewhere.writing():
        elsewhere.execute("SET LOCAL session_replication_role = replica")
        elsewhere.execute(BEHIND_THE_BACK[what].format(free=free))

    settle(desk, *"ghijklm")

    assert not desk.balance(depth_of=None).balanced
