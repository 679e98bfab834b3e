"""What was done last, by bounded samples: the newest operations with their messages, the newest outcomes.

Whoever asks about a book of any size reads no more than `limit` rows of each, from the end of its primary key.
"""

from __future__ import annotations

from functools import cache

import msgspec

from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.dialect import differs

SAMPLE = 20_000
"""Entries, operations and outcomes that are looked at."""


class Done(msgspec.Struct, frozen=True):
    """An operation, and the message that completed it. They are told in the order in which they were claimed; in PostgreSQL, of
    transactions."""

    number: int
    operation: str
    kind: int
    at: Micros
    key: int
    queue: str
    source: str
    id: str
    type: str
    subject: str | None
    sequence: int | None

    @property
    def of_itself(self) -> bool:
        """Whether nobody named an operation: the message's own identity on its queue stands for it."""
        return self.operation == f"{self.queue}|{self.source}|{self.id}"


class Recorded(msgspec.Struct, frozen=True):
    """An outcome; `facts` is a JSON object or nothing."""

    message: int
    name: str
    subject: str | None
    at: Micros
    facts: str | None


_COLUMNS = "o.number, o.key, o.kind, o.at, m.key, m.queue, m.source, m.id, m.type, m.subject, m.sequence"


@cache
def _done(limit: int) -> str:
    """With the limit in its text: of one that it does not know, PostgreSQL expects a tenth of the table, and reads all of it. There
    operations have their place in the order of transactions, as entries have."""
    return differs(
        f"""
SELECT {_COLUMNS} FROM (SELECT number, key, message, kind, at FROM crossfoot_operations ORDER BY number DESC LIMIT {limit:d}) o
CROSS JOIN crossfoot_messages m ON m.key = o.message ORDER BY o.number
""",
        postgres=f"""
SELECT {_COLUMNS} FROM (
  SELECT xid, number, key, message, kind, at FROM crossfoot_operations ORDER BY xid DESC, number DESC LIMIT {limit:d}) o
JOIN LATERAL (SELECT * FROM crossfoot_records WHERE key = o.message LIMIT 1) AS m ON true ORDER BY o.xid, o.number
""",
    )


_OUTCOMES = "SELECT message, name, subject, at, facts FROM crossfoot_outcomes ORDER BY number DESC LIMIT :limit"

_QUEUES = "SELECT DISTINCT queue FROM crossfoot_tallies UNION SELECT queue FROM crossfoot_queue_counts"

_OPENED = "SELECT queue, accepted FROM crossfoot_queue_counts"


def done(connection: Connection, limit: int = SAMPLE) -> list[Done]:
    """The newest operations, in the order in which they were claimed."""
    return [Done(*row) for row in connection.execute(_done(limit))]


def recorded(connection: Connection, limit: int = SAMPLE) -> list[Recorded]:
    """The newest outcomes, the newest first."""
    return [Recorded(*row) for row in connection.execute(_OUTCOMES, {"limit": limit})]


def queues(connection: Connection) -> list[str]:
    """The queues of which the book knows a message, or that lie in its file."""
    return sorted(str(row[0]) for row in connection.execute(_QUEUES))


def opened(connection: Connection) -> dict[str, int]:
    """Queues that are tables in the book's own file, and how many messages each ever took."""
    return dict(connection.execute(_OPENED).fetchall())
