"""Entries one after the other, each once, as whoever follows the book wants them.

In PostgreSQL an entry may be committed after others with higher numbers. So those who follow it are told in the order of
transactions, up to the oldest that is still open (see `horizon`): what comes later has its place behind.
"""

from __future__ import annotations

from typing import Any

import msgspec

from crossfoot.books.horizon import START
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.dialect import differs

Place = int | str
"""Of an entry among the others: its number, and in PostgreSQL its transaction's before it. 0 is before all of them."""


class Line(msgspec.Struct, frozen=True):
    """One entry beside what it speaks of, as `tail` shows it."""

    number: int
    kind: int
    attempt: int
    at: Micros
    due: Micros | None
    worker: str | None
    cause: str | None
    title: str | None
    details: str | None
    queue: str | None
    id: str | None
    type: str | None
    subject: str | None
    place: Place
    """For `lines_after`."""


_LINES = """
SELECT e.id, e.kind, e.attempt, e.at, e.due, w.name, e.cause, c.title, e.details, m.queue, m.id, m.type, m.subject, {place}
FROM crossfoot_entries e LEFT JOIN crossfoot_messages m ON m.key = e.message
LEFT JOIN crossfoot_workers w ON w.number = e.worker LEFT JOIN crossfoot_causes c ON c.fingerprint = e.cause
WHERE {where} AND (CAST(:type AS TEXT) IS NULL OR m.type = :type) AND (CAST(:subject AS TEXT) IS NULL OR m.subject = :subject)
  AND (CAST(:queue AS TEXT) IS NULL OR m.queue = :queue) AND (CAST(:kind AS BIGINT) IS NULL OR e.kind = CAST(:kind AS BIGINT))
ORDER BY {order} LIMIT :limit
"""


_HERE = "e.xid::text || ':' || e.id"


def _place(name: str) -> str:
    return f"(split_part(:{name}, ':', 1)::xid8, split_part(:{name}, ':', 2)::bigint)"


_AFTER = differs(
    _LINES.format(where="e.id > :after AND e.id <= :upto", order="e.id", place="e.id"),
    postgres=_LINES.format(
        where=f"(e.xid, e.id) > {_place('after')} AND (e.xid, e.id) <= {_place('upto')}",
        order="e.xid, e.id",
        place=_HERE,
    ),
)

_LAST = differs(
    _LINES.format(where="e.id <= :upto", order="e.id DESC", place="e.id"),
    postgres=_LINES.format(where=f"(e.xid, e.id) <= {_place('upto')}", order="e.xid DESC, e.id DESC", place=_HERE),
)

_NEWEST = differs(
    "SELECT max(id) FROM crossfoot_entries /* told */",
    postgres=f"""
SELECT {_HERE} FROM crossfoot_entries e WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid DESC, id DESC LIMIT 1
""",
)


def lines_after(
    connection: Connection, place: Place, limit: int = 1_000, *, upto: Place | None = None, **filters: Any
) -> list[Line]:
    """Entries after the one at `place`, the first first, up to `newest` unless said otherwise.

    Args:
        filters: type, subject, queue, kind.
    """
    end = newest(connection) if upto is None else upto
    parameters = {"after": _told(connection, place), "upto": _told(connection, end), **_line_parameters(limit, filters)}
    return [Line(*row) for row in connection.execute(_AFTER, parameters)]


def last_lines(connection: Connection, limit: int, *, upto: Place | None = None, **filters: Any) -> list[Line]:
    """The last entries up to `upto`, the first first."""
    end = newest(connection) if upto is None else upto
    parameters = {"upto": _told(connection, end), **_line_parameters(limit, filters)}
    return [Line(*row) for row in reversed(connection.execute(_LAST, parameters).fetchall())]


def newest(connection: Connection) -> Place:
    """The place of the last entry that can be told: none that comes later will have its place before it (see `horizon`)."""
    row = connection.execute(_NEWEST).fetchone()
    return (row[0] or 0) if row else 0


def _told(connection: Connection, place: Place) -> Place:
    return START if place == 0 and connection.dialect == "postgres" else place


def _line_parameters(limit: int, filters: dict[str, Any]) -> dict[str, Any]:
    return {"type": None, "subject": None, "queue": None, "kind": None, "limit": limit, **filters}
