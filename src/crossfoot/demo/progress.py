"""How far the work is, by the books: for whoever watches, and to know when a phase is over."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from crossfoot.books.fate import Fate
from crossfoot.books.measures import fate_measure
from crossfoot.books.posting import post_all, tallies
from crossfoot.books.store import Book
from crossfoot.queues.queue import Queue

IN_WORK = (Fate.INTENDED, Fate.IN_DOUBT, Fate.QUEUED, Fate.PROCESSING, Fate.RETRYING)
"""Open fates that workers or relays still change by themselves; a parked message waits for somebody else."""

CLOSED = {fate.label for fate in Fate if fate.closed}
"""Names of closed fates."""


class Standing(msgspec.Struct, frozen=True):
    """Messages by fate, as of the last posting."""

    fates: dict[str, int]
    to_send: int
    """Messages in the outbox."""

    @property
    def in_work(self) -> int:
        return sum(self.fates[fate.label] for fate in IN_WORK) + self.to_send

    @property
    def known(self) -> int:
        """Messages in the book."""
        return sum(self.fates.values())

    @property
    def done(self) -> int:
        """Messages whose effect happened."""
        return self.fates[Fate.SETTLED.label]

    @property
    def lost(self) -> int:
        return sum(self.fates[fate.label] for fate in (Fate.DEAD, Fate.EXPIRED, Fate.REFUSED, Fate.VANISHED))


NOTHING_YET = Standing(dict.fromkeys((fate.label for fate in Fate), 0), 0)


def standing(book: Book) -> Standing:
    """Post what is left, and count."""
    post_all(book)
    with book.reading() as connection:
        by_measure: dict[str, int] = {}
        for (_, _, _, measure), tally in tallies(connection).items():
            by_measure[measure] = by_measure.get(measure, 0) + tally.count
        to_send = connection.execute("SELECT count(*) FROM crossfoot_outbox").fetchone()[0]
    return Standing({fate.label: by_measure.get(fate_measure(fate), 0) for fate in Fate}, to_send)


def in_work(book: Book, limit: int = 10) -> list[str]:
    """The first messages in work, with their fates: for an error."""
    fates = ", ".join(str(fate.value) for fate in IN_WORK)
    with book.reading() as connection:
        rows = connection.execute(
            f"SELECT id, fate FROM crossfoot_messages WHERE fate <> {Fate.SETTLED.value} AND fate IN ({fates}) LIMIT ?",
            (limit,),
        ).fetchall()
    return [f"{id_} ({Fate(fate).label})" for id_, fate in rows]


async def held(queues: Sequence[Queue]) -> int:
    """Messages that the queues hold, dead letters not counted."""
    return sum([(await queue.depth()).held for queue in queues])
