"""Parked messages whose patience is over are sent on, with the gap accepted."""

from __future__ import annotations

from crossfoot.books import sql
from crossfoot.books.store import Book
from crossfoot.connection import Connection
from crossfoot.effects.databases.session import Run
from crossfoot.effects.letters import Waiting, resume

LIMIT = 100


def resume_overdue(book: Book) -> int:
    """Send parked messages on whose predecessor did not come in time. Returns how many.

    The row stays, marked, until the message is applied: that is how its next delivery knows not to wait again.
    """
    now = book.clock.now()
    with book.reading() as connection:
        rows = connection.execute(sql.OVERDUE_PARKED, (now, LIMIT)).fetchall()
    if not rows:
        return 0

    def resume_all(connection: Connection) -> int:
        entries: list[tuple[object, ...]] = []
        for handler, subject, sequence, message, attempt, body, partition, queue, source, id_ in rows:
            taken = connection.execute(sql.ACCEPT_GAP, (handler, subject, sequence, message)).rowcount
            if not taken:
                continue
            parked = Waiting(message, attempt, body, partition, queue, f"{source}|{id_}")
            for ask in resume(entries, parked, 0, now):
                assert isinstance(ask, Run)
                connection.execute(ask.sql, ask.parameters)
        connection.executemany(sql.INSERT_ENTRY, entries)
        return len(entries)

    return book.write(resume_all)
