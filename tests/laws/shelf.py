"""Real books for laws to be tried on: in SQLite files and PostgreSQL databases, written and posted by the code that workers use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from crossfoot.books import fate, posting
from crossfoot.books.digest import EMPTY, Tally, tally_of
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.fate import Fate
from crossfoot.books.horizon import UPTO_ENTRY
from crossfoot.books.measures import MEASURED_KINDS, OPERATION, entry_measure, fate_measure
from crossfoot.books.record import BUCKET, Record
from crossfoot.books.store import Book, find_or_add, write_entries
from crossfoot.dialect import differs
from tests.laws.histories import NOON, shuffled

_TAKEN = differs(
    "SELECT count(*) FROM crossfoot_entries WHERE id <= CAST(:posted AS INTEGER)",
    postgres=f"SELECT count(*) FROM crossfoot_entries WHERE {UPTO_ENTRY}",
)

Tallies = dict[tuple[int, str, str, str], Tally]
"""By bucket, queue, type and measure; those of the empty set are left out."""


class Posted(NamedTuple):
    """What posting writes on a message."""

    marks: int
    latest: int
    due: int
    fate: int


def record(number: int) -> Record:
    """Message `number`: they spread over two buckets, two queues and two types."""
    return Record(
        f"queue-{number // 4 % 2}", "tests", f"message-{number}", f"type-{number // 2 % 2}", f"subject-{number}", None, None,
        None, None, NOON + number % 2 * BUCKET, None,
    )  # fmt: skip


class Shelf:
    """One book, that can be emptied for the next example: opening a new one for each would take most of the time."""

    def __init__(self, path: Path | str) -> None:
        self.book = Book(path, synchronous="OFF").open()
        self._colleague = Book(path, synchronous="OFF").open()
        self.posters = (self.book, self._colleague)
        """Two connections to the same book, as two worker processes would have."""
        self.keys: dict[int, int] = {}
        with self.book.writing() as connection:  # messages had several operations in books of the eighth version
            connection.execute("DROP INDEX crossfoot_operations_message")
            connection.execute("CREATE INDEX crossfoot_operations_message ON crossfoot_operations (message)")

    def close(self) -> None:
        self.book.close()
        self._colleague.close()

    def clear(self, messages: int, *, seed: int = 0) -> None:
        """Empty the book, and add so many messages to it, under keys that depend on the seed."""
        with self.book.writing() as connection:
            for table in ("messages", "entries", "operations", "tallies", "facts", "removed"):
                connection.execute(f"DELETE FROM crossfoot_{table}")
            self.keys = {
                number: find_or_add(connection, record(number)).key for number in shuffled(range(messages), seed)
            }

    def write(self, entries: Iterable[Entry]) -> None:
        """Append entries; their messages are the numbers that `record` knows."""
        with self.book.writing() as connection:
            write_entries(connection, [replace(entry, message=self.keys[entry.message]) for entry in entries])

    def read(self) -> list[Entry]:
        """All entries, their messages as numbers again."""
        numbers = {key: number for number, key in self.keys.items()}
        with self.book.reading() as connection:
            rows = connection.execute(
                "SELECT message, kind, at, attempt, delivery, due FROM crossfoot_entries ORDER BY id"
            ).fetchall()
        return [
            Entry(message=numbers[message], kind=Kind(kind), at=at, attempt=attempt, delivery=delivery, due=due)
            for message, kind, at, attempt, delivery, due in rows
        ]

    def complete(self, operations: Iterable[tuple[int, Kind]]) -> None:
        """Append operations, as (message, kind)."""
        with self.book.writing() as connection:
            had = connection.execute("SELECT count(*) FROM crossfoot_operations").fetchone()[0]
            connection.executemany(
                "INSERT INTO crossfoot_operations (key, message, kind, at) VALUES (?, ?, ?, 0)",
                [(f"key-{had + n}", self.keys[message], int(kind)) for n, (message, kind) in enumerate(operations)],
            )

    def post(self, *, poster: int = 0, group: int = posting.GROUP) -> int:
        return posting.post(self.posters[poster], group=group)

    def post_all(self, *, group: int = posting.GROUP) -> None:
        while self.post(group=group):
            pass

    def taken(self) -> int:
        """How many entries are posted."""
        with self.book.reading() as connection:
            upto = {"posted": posting.fact(connection, "posted entries")}
            return int(connection.execute(_TAKEN, upto).fetchone()[0])

    def posted(self) -> dict[int, Posted]:
        """What was posted, by message."""
        with self.book.reading() as connection:
            rows = connection.execute("SELECT key, marks, latest, due, fate FROM crossfoot_messages").fetchall()
        found = {row[0]: Posted(*row[1:]) for row in rows}
        return {number: found[key] for number, key in self.keys.items()}

    def tallies(self) -> Tallies:
        with self.book.reading() as connection:
            return {at: tally for at, tally in posting.tallies(connection).items() if tally}


def posted_in_python(entries: Sequence[Entry], messages: int) -> dict[int, Posted]:
    """What posting must write: the fold."""
    result = {}
    for number in range(messages):
        summary = fate.fold(entry for entry in entries if entry.message == number)
        result[number] = Posted(*_fields(summary), int(fate.posted_fate(summary) or 0))
    return result


def tallies_in_python(entries: Sequence[Entry], messages: int, operations: Iterable[tuple[int, Kind]] = ()) -> Tallies:
    """What the tallies must be: every message counted once in its fate, and once at each boundary it passed."""
    measures = []
    for number, posted in posted_in_python(entries, messages).items():
        if posted.fate:
            measures.append((number, fate_measure(Fate(posted.fate))))
        measures += [(number, entry_measure(kind)) for kind in MEASURED_KINDS if posted.marks >> kind & 1]
    measures += [(number, OPERATION) for number, kind in operations if kind is Kind.COMMITTED]
    tallies: Tallies = {}
    for number, measure in measures:
        message = record(number)
        at = (message.at // BUCKET * 60, message.queue, message.type, measure)
        tallies[at] = tallies.get(at, EMPTY) + tally_of(message.identity)
    return tallies


def _fields(summary: fate.Summary) -> tuple[int, int, int]:
    return summary.marks, summary.latest, summary.due
