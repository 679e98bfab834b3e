"""Opening the book for commands that read it, and posting what was written since."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from crossfoot import settings
from crossfoot.books import schema
from crossfoot.books.place import place_of
from crossfoot.books.posting import backlog, post
from crossfoot.books.queries import last_number
from crossfoot.books.store import Book
from crossfoot.connection import Connection
from crossfoot.errors import DatabaseUnavailable, UsageError
from crossfoot.sqlite import explain

PATIENCE_SECONDS = 2.0
"""Whatever takes longer than this shows how far it is."""

BAR = 24


@contextmanager
def reading(database: str | None) -> Iterator[tuple[Connection, str]]:
    """The book, for reading only: its connection, and its path or URL.

    Raises:
        UsageError: it is named, by nothing.
        DatabaseUnavailable: there is no such file or database, or it cannot be read.
        SchemaMismatch: it holds no book, or one of another version.
    """
    if database == "":
        raise UsageError(
            "--db is empty: name the SQLite file or the PostgreSQL URL with the book, or leave the option out"
        )
    path = settings.load(database=database).database
    place = place_of(path)
    connection = place.look_in()
    try:
        schema.check(connection, place.name)
        yield connection, path
    except sqlite3.Error as error:
        raise explain(error, path) from error
    finally:
        connection.close()


def catch_up(path: str, connection: Connection) -> str:
    """Post the entries that are not posted yet, so that tallies speak of all of them.

    Returns:
        Why it was not possible; empty when it was.
    """
    begin = _posted(connection)
    target = last_number(connection)
    if begin >= target:
        return ""
    book = Book(path)
    progress = Progress("posting", "entries")
    try:
        # Not until nothing is left: in a book that is written all the time, that may never be.
        while post(book) and (posted := _posted(connection)) < target:
            progress(posted - begin, target - begin)
    except DatabaseUnavailable as error:
        return str(error)
    finally:
        progress.close()
        book.close()
    return ""


def _posted(connection: Connection) -> int:
    """The number of the entry that was posted last."""
    return last_number(connection) - backlog(connection)


class Progress:
    """How far something is, on standard error, once it has taken two seconds."""

    def __init__(self, what: str, units: str) -> None:
        self._what = what
        self._units = units
        self._begun = self._told = time.monotonic()
        self._shown = False
        self._terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._begun < PATIENCE_SECONDS or now - self._told < (0.1 if self._terminal else 10.0):
            return
        self._told, self._shown = now, True
        share = min(1.0, done / total) if total else 1.0
        left = f", about {(now - self._begun) * (1 - share) / share:.0f} s left" if share else ""
        text = f"{self._what}: {done:,} of {total:,} {self._units}{left}"
        if self._terminal:
            bar = "#" * round(BAR * share) + "." * (BAR - round(BAR * share))
            sys.stderr.write(f"\r[{bar}] {text}\x1b[K")
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Take the bar away."""
        if self._shown and self._terminal:
            sys.stderr.write("\r\x1b[K")
