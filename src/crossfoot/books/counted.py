"""Deliveries, failures and dead letters of each queue, counted as they come: for alerts, which look at shares of what happens.

Tallies count messages, each once; here every delivery counts. The entries are followed (see `lines`), from where the book ended when
somebody counted first, and how far that is stands in the book with the counts.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from crossfoot.books.entry import Kind
from crossfoot.books.expected import AFTER, AFTER_POSTGRES, end_of_book, group_after
from crossfoot.connection import Connection
from crossfoot.dialect import differs

TURN = "counting"
FACT = "counted entries"

GROUP = 20_000
"""Entries that one step reads."""


class Passed(NamedTuple):
    """Of one queue."""

    received: int = 0
    failed: int = 0
    dead: int = 0


class Counts(msgspec.Struct, frozen=True):
    """What is counted up to an entry's place."""

    place: str
    queues: dict[str, Passed] = {}


_KINDS = {Kind.RECEIVED: "received", Kind.FAILED: "failed", Kind.DEAD_LETTERED: "dead"}

_COUNT = """
SELECT m.queue, e.kind, count(*) FROM (
  SELECT message, kind FROM crossfoot_entries WHERE {within} AND kind IN ({kinds})) AS e
CROSS JOIN crossfoot_messages m ON m.key = e.message GROUP BY 1, 2
"""
_NUMBERS = ", ".join(str(kind.value) for kind in _KINDS)
COUNT = differs(
    _COUNT.format(within=AFTER, kinds=_NUMBERS), postgres=_COUNT.format(within=AFTER_POSTGRES, kinds=_NUMBERS)
)

_FACT = "SELECT value FROM crossfoot_facts WHERE name = ?"
_KEEP = (
    "INSERT INTO crossfoot_facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)


def counts(connection: Connection) -> Counts | None:
    """What is counted so far; `None` before anybody did."""
    row = connection.execute(_FACT, (FACT,)).fetchone()
    return msgspec.json.decode(row[0], type=Counts) if row else None


def count(connection: Connection) -> bool:
    """Count a group of what is new, in the caller's transaction. Returns whether there may be more."""
    connection.alone(TURN)
    known, end = counts(connection), end_of_book(connection)
    if known is None:
        known = Counts(end)
    elif known.place == end:
        return False
    group = group_after(connection, known.place, end, GROUP)
    queues = {queue: passed._asdict() for queue, passed in known.queues.items()}
    for queue, kind, number in connection.execute(COUNT, group._asdict()):
        queues.setdefault(queue, Passed()._asdict())[_KINDS[Kind(kind)]] += int(number)
    found = Counts(group.upto, {queue: Passed(**numbers) for queue, numbers in queues.items()})
    connection.execute(_KEEP, (FACT, msgspec.json.encode(found).decode()))
    return group.upto != end
