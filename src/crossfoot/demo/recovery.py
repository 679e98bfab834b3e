"""Publishing again what the books name: the sender looks the event up in its own log and sends it as it should have been.

A corrected event has an id of its own and asks for the same operation, so it is completed once, whatever becomes of the
message it stands in for; and it has the same place in its case, so whoever waits for that place goes on.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from crossfoot.app import Crossfoot
from crossfoot.books.fate import Fate
from crossfoot.books.store import Book
from crossfoot.demo.log import Event
from crossfoot.demo.messages import corrected

LOST = (Fate.DEAD, Fate.EXPIRED, Fate.REFUSED, Fate.VANISHED)
"""Fates that say that the effect did not happen, and will not."""

_LOST = f"""
SELECT m.id, m.fate, m.sequence FROM crossfoot_messages m
WHERE m.fate IN ({", ".join(str(fate.value) for fate in LOST)})
  AND NOT EXISTS (SELECT 1 FROM crossfoot_operations o WHERE o.key = 'case:' || m.subject || ':' || m.sequence)
ORDER BY m.key
"""


class Lost(msgspec.Struct, frozen=True):
    """A message whose effect did not happen, by the books."""

    id: str
    fate: str
    sequence: int


def lost(book: Book) -> list[Lost]:
    """What the books name, as of the last posting."""
    with book.reading() as connection:
        rows = connection.execute(_LOST).fetchall()
    return [Lost(id_, Fate(fate).label, sequence) for id_, fate, sequence in rows]


async def republish(app: Crossfoot, found: list[Lost], log: Mapping[int, Event]) -> None:
    """Send each of these events once more, as the log has it."""
    for start in range(0, len(found), 100):
        group = found[start : start + 100]
        await app.publish(*(corrected(log[one.sequence], instead_of=one.id) for one in group))
