"""What it costs to evaluate expectations: 100,000 outcomes, in a new book and behind a large one, and when nothing is new.

    python benchmarks/outcomes.py                                in a SQLite file
    python benchmarks/outcomes.py postgresql://HOST/DATABASE     in a database, which is made for it and dropped at the end
    also --outcomes, --before, --expectations

The entries are those of the ordinary path (published, received, committed, acked), an outcome with each *committed*; one message in a
thousand has none. Everything goes through the package's own evaluator, in its own steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from crossfoot.books import sql
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.posting import post_all
from crossfoot.books.record import Record
from crossfoot.books.store import Book, find_or_add_all, write_entries
from crossfoot.clock import SECOND
from crossfoot.connection import is_postgres
from crossfoot.outcomes.evaluating import evaluate, register, reports
from crossfoot.outcomes.expectation import expect

CHUNK = 2_000
MISSING_ONE_IN = 1_000
RELEASED, ISSUED = "case.released", "invoice.issued"


def write(book: Book, first: int, count: int) -> None:
    """Messages that were handled, all but a few with their outcome, in transactions of `CHUNK`."""
    for begin in range(first, first + count, CHUNK):
        numbers = range(begin, min(begin + CHUNK, first + count))
        now = book.clock.now()
        with book.writing() as connection:
            keys = [one.key for one in find_or_add_all(connection, [_record(number, now) for number in numbers])]
            for steps in (((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1)), ((Kind.COMMITTED, 1), (Kind.ACKED, 1))):
                write_entries(
                    connection,
                    [Entry(message=key, kind=kind, attempt=attempt, at=now) for key in keys for kind, attempt in steps],
                )
            told = [
                (key, ISSUED, f"case-{number}", now, None)
                for key, number in zip(keys, numbers, strict=True)
                if number % MISSING_ONE_IN
            ]
            connection.executemany(sql.INSERT_OUTCOME, told)
        say(f"written {numbers[-1] + 1 - first:,} of {count:,}")
    post_all(book)


def _record(number: int, now: int) -> Record:
    return Record(
        "billing", "benchmark", f"m-{number}", RELEASED, f"case-{number}", None, None, None, None, now - SECOND, None
    )


def timed(book: Book) -> tuple[float, float]:
    """Seconds of one evaluation, by the clock and of this process's processor: PostgreSQL's own are not among the latter."""
    begun, used = time.perf_counter(), time.process_time()
    evaluate(book)
    return time.perf_counter() - begun, time.process_time() - used


def measure(place: str, outcomes: int, before: int, expectations: int) -> None:
    """Print the table."""
    book = Book(place).open()
    names = [f"expectation {number}" for number in range(expectations)]
    print(f"\n{'PostgreSQL' if is_postgres(place) else 'SQLite'}, {expectations} expectation(s)\n")
    print("| what is evaluated | seconds | of the processor | seconds per 100,000 outcomes |\n|---|---|---|---|")
    written = 0
    try:
        for title, size in (
            (f"{outcomes:,} outcomes, from the beginning of the book", outcomes),
            (f"{before:,} more, so that the book is large", before),
            (f"{outcomes:,} outcomes behind these", outcomes),
            ("100 outcomes behind these", 100),
            ("nothing new", 0),
        ):
            write(book, written, size)
            written += size
            register(book, [expect(ISSUED, after=RELEASED, within="1ms", name=name, by="message") for name in names])
            took, used = timed(book)
            each = f"{took / size * 100_000:.2f}" if size else ""
            print(f"| {title} | {took:.3f} | {used:.3f} | {each} |")
        with book.reading() as connection:
            (first, *_) = reports(connection, book.clock.now())
        assert (first.opened, first.missing) == (written, -(-written // MISSING_ONE_IN)), first
        print(f"\n{first.opened:,} messages, {first.missing:,} missing by id: as many as were left out")
    finally:
        book.close()


def say(text: str) -> None:
    """How far it is."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr)


@contextmanager
def place_of(server: str | None) -> Iterator[str]:
    """A new file, or a new database on that server."""
    if server is None:
        with tempfile.TemporaryDirectory(prefix="crossfoot-outcomes-") as folder:
            yield str(Path(folder) / "book.db")
        return
    import psycopg

    name = f"outcomes_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            head, _, query = server.partition("?")
            yield f"{head.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("server", nargs="?", help="the URL of a PostgreSQL database; a SQLite file unless given")
    parser.add_argument("--outcomes", type=int, default=100_000)
    parser.add_argument("--before", type=int, default=400_000)
    parser.add_argument("--expectations", type=int, default=1)
    options = parser.parse_args()
    with place_of(options.server) as place:
        measure(place, options.outcomes, options.before, options.expectations)


if __name__ == "__main__":
    main()
