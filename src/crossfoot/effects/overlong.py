"""Waits in the outbox that no pause and no claim can have set: a clock was ahead when they were, and has been set back since.

Pauses and claims are wall time, because processes come and go. After a step back by an hour they would last an hour longer, and what
a transaction decided on would lie there as if all were well. So a relay looks for rows that are due later than any of them could be:
when its own clock reads less than it did, and once a minute for the steps of others. They begin anew: what was put off is due at once,
and a claim is given its whole time again, for its sender may still be about to answer.
"""

from __future__ import annotations

from crossfoot.books import sql
from crossfoot.books.store import Book
from crossfoot.clock import Micros, micros
from crossfoot.connection import Connection

CHECK_SECONDS = 60.0

FURTHEST: Micros = micros(600.0)
"""No pause is longer, and hardly any claim of another sender's. Should one be cut short, its rows are sent twice under one id."""


class Overlong:
    """One relay's eye on them.

    Args:
        claim_for: how long its own claims last.
    """

    def __init__(self, book: Book, *, claim_for: Micros) -> None:
        self._book = book
        self._claim_for = claim_for
        self._seen: dict[str, tuple[Micros, float]] = {}
        """Of each queue: what the clock read last, and when to look again, by the monotonic one."""

    def end(self, queue: str, now: Micros) -> None:
        """Have them begin anew, if there may be any."""
        monotonic = self._book.clock.monotonic()
        read, look_at = self._seen.get(queue, (now, monotonic))
        if now >= read and monotonic < look_at:
            self._seen[queue] = now, look_at
            return
        self._seen[queue] = now, monotonic + CHECK_SECONDS
        ahead = now + max(FURTHEST, self._claim_for)
        with self._book.reading() as connection:
            if connection.execute(sql.OUTBOX_AHEAD, (queue, ahead)).fetchone() is None:
                return

        def begin_anew(connection: Connection) -> None:
            connection.execute(sql.BEGIN_OUTBOX_ANEW, (now + self._claim_for, now, queue, ahead))

        self._book.write(begin_anew)
