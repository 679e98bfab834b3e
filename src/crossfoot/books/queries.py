"""What is asked of the book, by name. Every statement only reads, and finds its rows through an index.

A partial index serves only a query that repeats its condition, which is why `fate <> 20` stands beside tests of the
fate that imply it. Results are plain structs; what they mean is decided elsewhere (`balance`, `recover`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec

from crossfoot.books import horizon
from crossfoot.books.entry import RANKS, Entry, Kind
from crossfoot.books.fate import Fate
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.dialect import differs
from crossfoot.errors import UsageError

# ---- one message ---------------------------------------------------------------------------------------------------


class Row(msgspec.Struct, frozen=True):
    """A message as the book keeps it, without its body."""

    key: int
    queue: str
    source: str
    id: str
    type: str
    subject: str | None
    operation: str | None
    correlation: str | None
    causation: str | None
    sequence: int | None
    at: Micros


class Fact(Entry, frozen=True, kw_only=True):
    """An entry with its number in the book."""

    number: int


class WorkerRow(msgspec.Struct, frozen=True):
    """A worker's registration; `stopped_at` is `None` for one that did not stop in order, or that still works."""

    number: int
    name: str
    service: str
    host: str
    pid: int
    version: str
    started_at: Micros
    seen_at: Micros
    stopped_at: Micros | None


class CauseRow(msgspec.Struct, frozen=True):
    """What failures of one kind have in common."""

    fingerprint: str
    kind: str
    title: str
    frames: str
    first_at: Micros


class OperationRow(msgspec.Struct, frozen=True):
    """An operation key and the message that completed it."""

    key: str
    message: int
    kind: int
    at: Micros


class OutcomeRow(msgspec.Struct, frozen=True):
    """A business fact that was recorded with the effect; `facts` is a JSON object or nothing."""

    name: str
    subject: str | None
    at: Micros
    facts: str | None


_ROW = "key, queue, source, id, type, subject, operation, correlation, causation, sequence, at"
_NAMED = {
    "message id": "id = :name",
    "subject": "subject = :name",
    "correlation id": "correlation = :name",
    "operation key": """key IN (SELECT key FROM crossfoot_messages WHERE operation = :name
        UNION SELECT message FROM crossfoot_operations WHERE key = :name)""",
    "message key": "id = :id AND source = :source",
}
KINDS_OF_NAME = tuple(_NAMED)
"""What a name may be, in the order in which it is tried."""

_BODY = differs(
    "SELECT body FROM crossfoot_messages WHERE key = ?", postgres="SELECT body FROM crossfoot_payloads WHERE key = ?"
)

_ENTRY = "id, message, kind, attempt, delivery, at, due, worker, cause, details"


def named(connection: Connection, kind: str, name: str, limit: int, queue: str | None = None) -> list[Row]:
    """Messages of that name, newest first, at most `limit`. `kind` is one of `KINDS_OF_NAME`."""
    where = f"{_NAMED[kind]} AND (CAST(:queue AS TEXT) IS NULL OR queue = :queue)"
    sql = f"SELECT {_ROW} FROM crossfoot_messages WHERE {where} ORDER BY key DESC LIMIT :limit"
    return [Row(*row) for row in connection.execute(sql, {**_parts(name), "queue": queue, "limit": limit})]


def count_named(connection: Connection, kind: str, name: str, queue: str | None = None) -> int:
    """How many messages there are of that name."""
    where = f"{_NAMED[kind]} AND (CAST(:queue AS TEXT) IS NULL OR queue = :queue)"
    sql = f"SELECT count(*) FROM crossfoot_messages WHERE {where}"
    return int(connection.execute(sql, {**_parts(name), "queue": queue}).fetchone()[0])


def _parts(name: str) -> dict[str, str]:
    """A name as it is, and as `source|id`: a source holds no bar."""
    source, _, id_ = name.partition("|")
    return {"name": name, "source": source, "id": id_}


def rows_of(connection: Connection, keys: Iterable[int]) -> dict[int, Row]:
    """Messages by key."""
    found = (
        connection.execute(f"SELECT {_ROW} FROM crossfoot_messages WHERE key = ?", (key,)).fetchone() for key in keys
    )
    return {row[0]: Row(*row) for row in found if row}


ENTRIES_OF = f"SELECT {_ENTRY} FROM crossfoot_entries WHERE message = ? ORDER BY id"
"""All entries of one message, in the order in which they were committed."""


def facts(rows: Iterable[Sequence[Any]]) -> list[Fact]:
    """The rows of `ENTRIES_OF`."""
    return [_fact(row) for row in rows]


def entries_of(connection: Connection, message: int) -> list[Fact]:
    """All entries of one message, in the order in which they were committed."""
    return facts(connection.execute(ENTRIES_OF, (message,)))


def body_of(connection: Connection, message: int) -> bytes | None:
    """What the message carried, `None` where the book does not keep it."""
    row = connection.execute(_BODY, (message,)).fetchone()
    return row[0] if row else None


def at_work(connection: Connection) -> list[WorkerRow]:
    """Workers that did not say that they stopped; some may have been killed."""
    columns = ", ".join(WorkerRow.__struct_fields__)
    return [
        WorkerRow(*row)
        for row in connection.execute(
            f"SELECT {columns} FROM crossfoot_workers WHERE stopped_at IS NULL ORDER BY number"
        )
    ]


def workers(connection: Connection, numbers: Iterable[int]) -> dict[int, WorkerRow]:
    columns = "number, name, service, host, pid, version, started_at, seen_at, stopped_at"
    sql = f"SELECT {columns} FROM crossfoot_workers WHERE number = ?"
    found = (connection.execute(sql, (number,)).fetchone() for number in set(numbers))
    return {row[0]: WorkerRow(*row) for row in found if row}


def causes(connection: Connection, fingerprints: Iterable[str]) -> dict[str, CauseRow]:
    sql = "SELECT fingerprint, kind, title, frames, first_at FROM crossfoot_causes WHERE fingerprint = ?"
    found = (connection.execute(sql, (fingerprint,)).fetchone() for fingerprint in set(fingerprints))
    return {row[0]: CauseRow(*row) for row in found if row}


def operation(connection: Connection, key: str) -> OperationRow | None:
    row = connection.execute("SELECT key, message, kind, at FROM crossfoot_operations WHERE key = ?", (key,)).fetchone()
    return OperationRow(*row) if row else None


def operation_of(connection: Connection, message: int) -> OperationRow | None:
    """The operation that a message completed."""
    sql = "SELECT key, message, kind, at FROM crossfoot_operations WHERE message = ?"
    row = connection.execute(sql, (message,)).fetchone()
    return OperationRow(*row) if row else None


def outcomes_of(connection: Connection, message: int, limit: int = 100) -> list[OutcomeRow]:
    sql = "SELECT name, subject, at, facts FROM crossfoot_outcomes WHERE message = ? ORDER BY number LIMIT ?"
    return [OutcomeRow(*row) for row in connection.execute(sql, (message, limit))]


def parents_of(connection: Connection, row: Row, limit: int = 5) -> list[Row]:
    """The message that caused this one, on whichever queues it travelled."""
    return named(connection, "message id", row.causation, limit) if row.causation else []


def children_of(connection: Connection, row: Row, limit: int = 50) -> list[Row]:
    """Messages that this one caused, oldest first: they are of the same flow, which is how they are found."""
    sql = f"SELECT {_ROW} FROM crossfoot_messages WHERE correlation = ? AND causation = ? ORDER BY key LIMIT ?"
    return [Row(*found) for found in connection.execute(sql, (row.correlation or row.id, row.id, limit))]


def _fact(row: Sequence[Any]) -> Fact:
    number, message, kind, attempt, delivery, at, due, worker, cause, details = row
    return Fact(
        number=number, message=message, kind=Kind(kind), attempt=attempt, delivery=delivery, at=at, due=due,
        worker=worker, cause=cause, details=details,
    )  # fmt: skip


# ---- many messages -------------------------------------------------------------------------------------------------


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that lies in the dead letters, as lists show it."""

    key: int
    queue: str
    source: str
    id: str
    type: str
    subject: str | None
    published_at: Micros
    attempts: int
    dead_at: Micros | None
    cause: str | None
    title: str | None
    details: str | None


_LATEST_CAUSE = f"""
(SELECT f.cause FROM crossfoot_entries f WHERE f.message = m.key AND f.cause IS NOT NULL
 ORDER BY f.attempt * {RANKS} + f.kind DESC LIMIT 1)
"""

_DEAD = f"""
SELECT m.key, m.queue, m.source, m.id, m.type, m.subject, m.at, m.latest / {RANKS},
  (SELECT max(e.at) FROM crossfoot_entries e WHERE e.message = m.key AND e.kind = {Kind.DEAD_LETTERED.value}),
  c.fingerprint, c.title,
  (SELECT e.details FROM crossfoot_entries e WHERE e.message = m.key AND e.details IS NOT NULL
   ORDER BY e.attempt * {RANKS} + e.kind DESC LIMIT 1)
FROM crossfoot_messages m INDEXED BY crossfoot_messages_unsettled
LEFT JOIN crossfoot_causes c ON c.fingerprint = {_LATEST_CAUSE}
WHERE m.fate <> {Fate.SETTLED.value} AND m.fate = {Fate.DEAD.value}
  AND (CAST(:queue AS TEXT) IS NULL OR m.queue = :queue) AND (CAST(:type AS TEXT) IS NULL OR m.type = :type)
ORDER BY m.key DESC LIMIT :limit
"""

_DEAD_CAUSES = f"""
SELECT c.fingerprint, c.title, count(*), min(m.id) FROM crossfoot_messages m INDEXED BY crossfoot_messages_unsettled
LEFT JOIN crossfoot_causes c ON c.fingerprint = {_LATEST_CAUSE}
WHERE m.fate <> {Fate.SETTLED.value} AND m.fate = {Fate.DEAD.value}
  AND (CAST(:queue AS TEXT) IS NULL OR m.queue = :queue) AND (CAST(:type AS TEXT) IS NULL OR m.type = :type)
GROUP BY c.fingerprint ORDER BY count(*) DESC
"""


def last_number(connection: Connection) -> int:
    """The number of the newest entry, 0 when there is none. In PostgreSQL the highest of the last that was posted and those behind."""
    if connection.dialect == "postgres":
        return horizon.last_number(connection)
    return int(connection.execute("SELECT max(id) FROM crossfoot_entries").fetchone()[0] or 0)


def dead_letters(connection: Connection, *, queue: str | None, type: str | None, limit: int) -> list[DeadLetter]:
    """Dead letters as of the posting, newest message first."""
    rows = connection.execute(_DEAD, {"queue": queue, "type": type, "limit": limit})
    return [DeadLetter(*row) for row in rows]


def dead_causes(
    connection: Connection, *, queue: str | None, type: str | None
) -> list[tuple[str | None, str | None, int, str]]:
    """Fingerprint, title, number of dead letters and one message's id, the most frequent first."""
    return connection.execute(_DEAD_CAUSES, {"queue": queue, "type": type}).fetchall()


def check_names(connection: Connection, *, queue: str | None, type_: str | None) -> None:
    """See that a filter names what the book knows: an empty answer to a misspelt name would look like good news.

    Raises:
        UsageError: it does not; with the nearest name.
    """
    for what, asked, query in (
        ("queue", queue, "SELECT DISTINCT queue FROM crossfoot_tallies UNION SELECT queue FROM crossfoot_queue_counts"),
        ("type", type_, "SELECT DISTINCT type FROM crossfoot_tallies"),
    ):
        if asked is None:
            continue
        known = [str(row[0]) for row in connection.execute(query)]
        if asked not in known:
            near = get_close_matches(asked, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(sorted(known)[:10]) or 'none yet'}"
            raise UsageError(f"the book knows no {what} {asked!r}: {hint}")
