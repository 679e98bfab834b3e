"""Where a queue lies, noted in the book by who opens it, for commands that have only settings to go by.

The setting `embedded`, which holds where nothing else is said, names no queue. In a file the queue's own counts tell whether it lies
there. In PostgreSQL nothing does: a queue without rows may be an empty one, or one of a broker that a program names by itself
(`Crossfoot(queue="redis:billing")`, or one of its `queues`). To take it for an empty one would call all that it holds missing.
"""

from __future__ import annotations

from collections.abc import Mapping

from crossfoot.books import sql
from crossfoot.books.store import Book
from crossfoot.connection import Connection, is_postgres

BESIDE = "beside the book"
"""Of a queue that is a table in the book's own database."""

_NAME = "where queue {} lies"


def note(book: Book, places: Mapping[str, str]) -> None:
    """Note where queues lie, unless it is noted so already. Only in PostgreSQL: nobody asks for it elsewhere.

    Args:
        places: by the queue's name, `BESIDE` or the kind of its broker.
    """
    if not is_postgres(book.path):
        return
    with book.reading() as connection:
        new = {name: place for name, place in places.items() if noted(connection, name) != place}
    if new:
        rows = [(_NAME.format(name), place) for name, place in sorted(new.items())]
        book.write(lambda connection: connection.executemany(sql.NOTE_FACT, rows))


def noted(connection: Connection, queue: str) -> str | None:
    """Where a queue lies by the book; `None` where nobody who opened it has said so."""
    row = connection.execute(sql.FIND_FACT, (_NAME.format(queue),)).fetchone()
    return None if row is None else str(row[0])
