"""From entries to fates and tallies. That it equals the fold, for any history, is a law and stands in tests/laws."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from crossfoot import boundaries
from crossfoot.books import posting
from crossfoot.books.digest import Tally, tally_of
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.fate import Fate
from crossfoot.books.measures import OPERATION, entry_measure, fate_measure
from crossfoot.books.posting import backlog, post, post_all, tallies
from crossfoot.books.record import BUCKET, Record
from crossfoot.books.store import Book
from crossfoot.boundaries import Boundary
from crossfoot.clock import SECOND
from crossfoot.connection import Connection

NOON = 1_700_000_000 * SECOND


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    book = Book(tmp_path / "book.db", synchronous="OFF").open()
    yield book
    book.close()


def record(name: str, *, at: int = NOON, queue: str = "billing", type_: str = "case.released") -> Record:
    return Record(queue, "tests", name, type_, None, None, None, None, None, at, None)


def entry(message: int, kind: Kind, attempt: int = 0, due: int | None = None) -> Entry:
    return Entry(message=message, kind=kind, at=NOON, attempt=attempt, due=due)


def happy(message: int) -> list[Entry]:
    return [
        *(entry(message, Kind.INTENDED), entry(message, Kind.PUBLISHED), entry(message, Kind.RECEIVED, 1)),
        *(entry(message, Kind.COMMITTED, 1), entry(message, Kind.ACKED, 1)),
    ]


def by_measure(book: Book) -> dict[str, Tally]:
    """The tallies of all buckets, queues and types together."""
    result: dict[str, Tally] = {}
    with book.reading() as connection:
        for (_, _, _, measure), tally in tallies(connection).items():
            result[measure] = result.get(measure, Tally()) + tally
    return {measure: tally for measure, tally in result.items() if tally}


def fate_of(book: Book, key: int) -> Fate:
    with book.reading() as connection:
        return Fate(connection.execute("SELECT fate FROM crossfoot_messages WHERE key = ?", (key,)).fetchone()[0])


def test_a_settled_message_counts_once_in_its_fate_and_once_at_each_boundary(book: Book) -> None:
    (key,) = book.keys_of([record("one")])
    book.append(happy(key))
    post_all(book)

    one = tally_of("tests|one")
    kinds = (Kind.PUBLISHED, Kind.RECEIVED, Kind.COMMITTED, Kind.ACKED)
    assert by_measure(book) == {fate_measure(Fate.SETTLED): one} | {entry_measure(kind): one for kind in kinds}


def test_a_message_moves_from_fate_to_fate_and_is_never_in_two(book: Book) -> None:
    (key,) = book.keys_of([record("one")])
    seen = []
    for written in happy(key):
        book.append([written])
        post_all(book)
        seen.append({measure for measure in by_measure(book) if measure.startswith("fate ")})

    assert seen == [{"fate intended"}, {"fate queued"}, {"fate processing"}, {"fate settled"}, {"fate settled"}]


def test_a_redelivery_is_not_counted_again(book: Book) -> None:
    (key,) = book.keys_of([record("one")])
    for attempt in (1, 2, 3):
        book.append([entry(key, Kind.RECEIVED, attempt)])
        post_all(book)

    assert by_measure(book)[entry_measure(Kind.RECEIVED)] == tally_of("tests|one")


def test_a_lease_that_was_extended_twice_ends_at_its_later_end_in_one_group_or_two(book: Book) -> None:
    one, two = book.keys_of([record("one"), record("two")])
    for group in ([entry(one, Kind.EXTENDED, 1, NOON + due) for due in (10, 30, 20)],
                  [entry(two, Kind.EXTENDED, 1, NOON + 30)], [entry(two, Kind.EXTENDED, 1, NOON + 20)]):  # fmt: skip
        book.append(group)
        post_all(book)

    with book.reading() as connection:
        dues = connection.execute("SELECT due FROM crossfoot_messages WHERE key IN (?, ?)", (one, two)).fetchall()
    assert dues == [(NOON + 30,), (NOON + 30,)]


def test_tallies_are_kept_apart_by_minute_queue_and_type(book: Book) -> None:
    records = [record("one"), record("two", at=NOON + BUCKET), record("three", queue="mail"), record("four", type_="x")]
    for key in book.keys_of(records):
        book.append([entry(key, Kind.PUBLISHED)])
    post_all(book)

    minute = NOON // BUCKET * 60
    with book.reading() as connection:
        every, mail = tallies(connection), tallies(connection, queue="mail")
    assert {at for at in every if at[3] == "fate queued"} == {
        (minute, "billing", "case.released", "fate queued"), (minute + 60, "billing", "case.released", "fate queued"),
        (minute, "mail", "case.released", "fate queued"), (minute, "billing", "x", "fate queued"),
    }  # fmt: skip
    assert mail == {at: tally for at, tally in every.items() if at[1] == "mail"}


def test_operations_are_tallied_by_the_message_that_completed_them(book: Book) -> None:
    one, two = book.keys_of([record("one"), record("two")])
    with book.writing() as connection:
        connection.executemany(
            "INSERT INTO crossfoot_operations (key, message, kind, at) VALUES (?, ?, ?, 0)",
            [("bill:1", one, int(Kind.COMMITTED)), ("bill:2", two, int(Kind.NOOP))],
        )
    post_all(book)

    assert by_measure(book) == {OPERATION: tally_of("tests|one")}


def test_a_message_that_was_carried_out_under_two_keys_counts_twice_however_it_was_posted(book: Book) -> None:
    """As books of the eighth version may hold them."""
    one, two = book.keys_of([record("one"), record("two")])
    add = "INSERT INTO crossfoot_operations (key, message, kind, at) VALUES (?, ?, 23, 0)"
    with book.writing() as connection:
        connection.execute("DROP INDEX crossfoot_operations_message")
        connection.executemany(add, [("a", one), ("b", one)])
    post_all(book)
    for row in (("c", two), ("d", two)):
        with book.writing() as connection:
            connection.execute(add, row)
        post_all(book)

    doubled = tally_of("tests|one") + tally_of("tests|two")
    assert by_measure(book) == {OPERATION: doubled + doubled}


def test_posting_goes_on_where_it_stopped(book: Book) -> None:
    keys = book.keys_of([record(str(number)) for number in range(10)])
    book.append([entry(key, Kind.PUBLISHED) for key in keys])

    with book.reading() as connection:
        assert backlog(connection) == 10
    assert [post(book, group=4) for _ in range(4)] == [4, 4, 2, 0]
    with book.reading() as connection:
        assert backlog(connection) == 0
    assert by_measure(book)["fate queued"].count == 10


def test_nothing_is_posted_twice_when_posting_dies_half_way(book: Book) -> None:
    (key,) = book.keys_of([record("one")])
    book.append(happy(key))

    class Killed(BaseException):
        pass

    def die(boundary: Boundary) -> None:
        if boundary is Boundary.DURING_POSTING:
            raise Killed

    boundaries.install(die)
    try:
        with pytest.raises(Killed):
            post(book)
    finally:
        boundaries.install(None)
    assert by_measure(book) == {}

    assert post_all(book) == len(happy(key))
    assert fate_of(book, key) is Fate.SETTLED
    assert by_measure(book)["fate settled"].count == 1


class Interrupted(Book):
    """Somebody else does something between what it gathered and what it writes."""

    meanwhile: Callable[[], object]

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        self.meanwhile()
        with super().writing() as connection:
            yield connection


def interrupted(book: Book, meanwhile: Callable[[], object]) -> Book:
    poster = Interrupted(book.path, synchronous="OFF")
    poster.meanwhile = meanwhile
    return poster


def test_a_writer_need_not_wait_for_a_poster_and_what_it_wrote_meanwhile_is_posted_next(book: Book) -> None:
    (key,) = book.keys_of([record("one")])
    book.append([entry(key, Kind.PUBLISHED)])
    with closing(interrupted(book, lambda: book.append([entry(key, Kind.RECEIVED, 1)]))) as poster:
        assert post(poster) == 1

    assert fate_of(book, key) is Fate.QUEUED
    assert post_all(book) == 1
    assert fate_of(book, key) is Fate.PROCESSING


def test_what_another_process_posted_meanwhile_is_not_posted_again(book: Book) -> None:
    (key,) = book.keys_of([record("one")])
    book.append([entry(key, Kind.PUBLISHED)])

    def overtake() -> None:
        post(book)
        book.append([entry(key, Kind.RECEIVED, 1), entry(key, Kind.COMMITTED, 1), entry(key, Kind.ACKED, 1)])

    with closing(interrupted(book, overtake)) as poster:
        assert post(poster) == 3

    one = tally_of("tests|one")
    kinds = (Kind.PUBLISHED, Kind.RECEIVED, Kind.COMMITTED, Kind.ACKED)
    assert by_measure(book) == {fate_measure(Fate.SETTLED): one} | {entry_measure(kind): one for kind in kinds}


POSTER = """
import sys
from crossfoot.books.posting import post
from crossfoot.books.store import Book

path, wanted = sys.argv[1], int(sys.argv[2])
book = Book(path, synchronous="OFF").open()
print("ready", flush=True)
sys.stdin.readline()
taken = 0
while True:
    taken += post(book, group=37)
    with book.reading() as connection:
        row = connection.execute("SELECT value FROM crossfoot_facts WHERE name = 'posted entries'").fetchone()
    if row and int(row[0]) >= wanted:
        break
print(taken, flush=True)
"""


def test_two_processes_post_while_a_third_writes_and_each_entry_is_taken_once(book: Book) -> None:
    keys = book.keys_of([record(str(number)) for number in range(400)])
    groups = [happy(key) for key in keys]
    wanted = sum(map(len, groups))
    command = [sys.executable, "-c", POSTER, book.path, str(wanted)]
    posters = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for poster in posters:
        assert poster.stdout is not None
        assert poster.stdout.readline() == "ready\n"
    for poster in posters:
        assert poster.stdin is not None
        poster.stdin.write("go\n")
        poster.stdin.flush()
    for group in groups:
        book.append(group)
    taken = [int(poster.communicate(timeout=60)[0]) for poster in posters]

    assert sum(taken) == wanted
    assert [poster.returncode for poster in posters] == [0, 0]
    everything = sum((tally_of(f"tests|{number}") for number in range(400)), Tally())
    kinds = (Kind.PUBLISHED, Kind.RECEIVED, Kind.COMMITTED, Kind.ACKED)
    assert by_measure(book) == {"fate settled": everything} | {entry_measure(kind): everything for kind in kinds}


def test_what_posting_costs_grows_with_the_group_and_not_with_the_book(book: Book) -> None:
    book.keys_of([record("one")])
    post_all(book)
    with book.reading() as connection:
        for statement in posting._TEMPORARY.strip().split(";\n"):
            connection.execute(statement)
        gather = _plan(book, posting._GATHER, (0, 10))
        join = _plan(book, posting._JOIN, ())
        keep = _plan(book, posting._KEEP, ())
        operations = _plan(book, posting._TALLY_OPERATIONS, {"after": 0, "upto": 10})

    assert "SEARCH crossfoot_entries USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in gather
    assert "SEARCH m USING INTEGER PRIMARY KEY (rowid=?)" in join
    assert "SEARCH crossfoot_messages USING INTEGER PRIMARY KEY (rowid=?)" in keep
    assert "SEARCH o USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in operations
    assert "SEARCH m USING INTEGER PRIMARY KEY (rowid=?)" in operations


@pytest.mark.parametrize("table", ["crossfoot_entries", "crossfoot_operations"])
def test_whether_there_is_anything_to_post_is_seen_without_reading_the_book(book: Book, table: str) -> None:
    column = "id" if table == "crossfoot_entries" else "number"

    assert _plan(book, f"SELECT max({column}) FROM {table}", ()) == [f"SEARCH {table}"]


def _plan(book: Book, statement: str, parameters: Sequence[int] | Mapping[str, int]) -> list[str]:
    with book.reading() as connection:
        return [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, parameters)]
