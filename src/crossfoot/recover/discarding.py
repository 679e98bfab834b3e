"""Taking back, by hand, what was never sent: a person decides that it need not happen, and the book keeps who and why.

Only an intent can be taken back: decided on, put off, or in doubt after it was sent without an answer. What a queue is known to
have is for workers to end, and what has ended has ended.

The decision recalls nothing. A message in doubt may be on its queue after all; a worker that receives it handles it like any
other, and a delivery outranks the decision in the fold: its fate is then what became of it.
"""

from __future__ import annotations

import shlex

import msgspec

from crossfoot.books import sql
from crossfoot.books.entry import PROOF_MARKS, Entry, Kind
from crossfoot.books.fate import Fate, Summary, fold, posted_fate
from crossfoot.books.queries import Row, entries_of
from crossfoot.books.store import Book, write_entries
from crossfoot.clock import SECOND
from crossfoot.connection import Connection
from crossfoot.errors import NotDiscarded

OPEN_INTENTS = (Kind.INTENDED, Kind.PUT_OFF, Kind.PUBLISH_IN_DOUBT)
"""Latest facts of a message that no queue is known to have."""

WHY_NOT = {
    Fate.DEAD: "it lies in the dead letters, from where nothing sends it, so there is nothing to take back: `crossfoot dead show {name}` "
    "says why it died, and how it is sent again; one that need not happen is left there, and counted as dead",
    Fate.PARKED: "it was received early, and waits for its predecessor: `crossfoot why {name}` names that",
    Fate.IN_DOUBT: "a worker had it, and its commit gave no answer: the next delivery finds out",
    Fate.PROCESSING: "a worker has it",
}
"""Beside those where it is the same for several. `{name}` is the message's id, as a shell takes it."""


def discard(book: Book, row: Row, *, reason: str, by: str) -> bool:
    """Write that a message need not happen, and take it out of the outbox; one transaction.

    Returns:
        Whether it was not discarded before.

    Raises:
        NotDiscarded: it has ended, the queue has it, or somebody is sending it just now. Nothing was changed.
    """
    now = book.clock.now()

    def take_back(connection: Connection) -> bool:
        # Before anything is read: it waits for a sender that is writing what the queue answered.
        removed = connection.execute(sql.FREE_OUTBOX, (row.queue, row.key, now)).rowcount
        (until,) = connection.execute(sql.HELD_OUTBOX, (row.queue, row.key)).fetchone()
        if until is not None:
            left = max(1, -(-(until - now) // SECOND))
            raise NotDiscarded(
                f"{row.id} is being sent just now: ask again in {left} s, when that has ended or been given up"
            )
        summary = fold(entries_of(connection, row.key))
        if posted_fate(summary) is Fate.DISCARDED:
            if not removed:
                return False
        elif summary.kind not in OPEN_INTENTS or summary.marks & PROOF_MARKS:
            raise NotDiscarded(f"{row.id} {_stands(summary, row.id)}")
        details = msgspec.json.encode({"reason": reason, "by": by}).decode()
        entry = Entry(message=row.key, kind=Kind.DISCARDED, at=now, attempt=summary.attempts, details=details)
        write_entries(connection, [entry])
        return True

    return book.write(take_back)


def _stands(summary: Summary, id_: str) -> str:
    """Why it cannot be taken back."""
    fate = posted_fate(summary)
    if fate is None:
        return "is unaccounted: no entry says what became of it, see crossfoot verify"
    told = WHY_NOT.get(fate)
    if told is None:
        told = "that is its end" if fate.closed else "its queue has it, and a worker will handle it"
    return f"is {fate.label}: {told.replace('{name}', shlex.quote(id_))}"
