"""What alerts look at, read from the book: counts, ages, and the first ids of each; every statement finds its rows by an index."""

from __future__ import annotations

from typing import NamedTuple

from crossfoot.books import horizon
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import fact
from crossfoot.books.ranges import HIGHEST
from crossfoot.clock import Micros
from crossfoot.connection import Connection

SHOWN = 20
"""Ids that are named."""

_UNSETTLED = f"""
FROM crossfoot_messages m INDEXED BY crossfoot_messages_unsettled WHERE m.fate <> {Fate.SETTLED.value} AND m.fate = :fate
"""

_OLDEST = f"SELECT m.queue, count(*), min(m.due), min(m.at) {_UNSETTLED} AND m.due <= :now GROUP BY 1"

_IDS = {
    order: f"SELECT m.id {_UNSETTLED} AND m.queue = :queue ORDER BY {by} LIMIT {SHOWN}"
    for order, by in (("oldest", "m.due, m.key"), ("newest", "m.key DESC"), ("most tries", "m.latest DESC, m.key"))
}

_DEAD = f"""
SELECT m.queue, count(*), min((SELECT max(e.at) FROM crossfoot_entries e WHERE e.message = m.key AND e.kind = {Kind.DEAD_LETTERED.value}))
{_UNSETTLED} GROUP BY 1
"""

_UNPOSTED = "SELECT count(*), min(at) FROM crossfoot_entries WHERE id > CAST(:entries AS INTEGER)"

# In the order of the index that holds the cursor, see `horizon`.
_UNPOSTED_POSTGRES = """
SELECT count(*), min(at) FROM (
  SELECT at FROM crossfoot_entries
  WHERE (xid, id) > (split_part(:entries, ':', 1)::xid8, split_part(:entries, ':', 2)::bigint) AND message >= :floor
  ORDER BY xid, id LIMIT :all) AS behind
"""


class Waiting(NamedTuple):
    """Messages of one fate in one queue: how many, since when the first of them may be delivered, and when it was published."""

    queue: str
    number: int
    due: Micros
    at: Micros


class Lying(NamedTuple):
    """Dead letters of one queue: how many, and since when the oldest."""

    queue: str
    number: int
    since: Micros | None


def waiting(connection: Connection, fate: Fate, now: Micros) -> list[Waiting]:
    """What could be delivered, and is not."""
    return [Waiting(*row) for row in connection.execute(_OLDEST, {"fate": fate.value, "now": now})]


def lying(connection: Connection) -> list[Lying]:
    """Dead letters by queue."""
    return [Lying(*row) for row in connection.execute(_DEAD, {"fate": Fate.DEAD.value})]


def ids_of(connection: Connection, fate: Fate, queue: str, order: str = "oldest") -> tuple[str, ...]:
    """The first ids of a fate: the `oldest`, the `newest`, or those with the `most tries`."""
    return tuple(row[0] for row in connection.execute(_IDS[order], {"fate": fate.value, "queue": queue}))


def unposted(connection: Connection) -> tuple[int, Micros | None]:
    """Entries that are not posted: how many, and when the first of them was written."""
    if connection.dialect == "postgres":
        parameters = {**horizon.cursors(connection)._asdict(), "all": HIGHEST}
        count, since = connection.execute(_UNPOSTED_POSTGRES, parameters).fetchone()
    else:
        count, since = connection.execute(_UNPOSTED, {"entries": fact(connection, "posted entries")}).fetchone()
    return int(count), since
