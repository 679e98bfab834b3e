"""Posting in PostgreSQL: in the order of transactions, up to the oldest that is still open.

Sequences give numbers when rows are written and not when they are committed, so a cursor over numbers would step over the
entries of a transaction that began early and commits late. Entries and operations therefore bear their transaction's
number, `xid`, and are posted by it: everything below `pg_snapshot_xmin(pg_current_snapshot())` has ended, one way or the
other, and what it committed is visible. Nothing can appear below that horizon any more, so a cursor over (xid, number)
never steps over a row. What follows from another fact bears a higher number, so it is never posted before it.

A transaction that stays open holds the horizon, for all of the server's databases: posting waits, and loses nothing. Only
transactions that write have a number; readers hold nobody up.

The joining and tallying is that of `posting`, in one statement. Posters take turns, whichever connection they use.
"""

from __future__ import annotations

from typing import Any

from crossfoot.books.entry import RANKS, Kind
from crossfoot.books.measures import FATE, FATE_NAMES, KINDS, OPERATION
from crossfoot.connection import Connection
from crossfoot.errors import Conflict, DatabaseUnavailable

TURN = "posting"
"""What posters do alone; the triggers of operations, too."""

START = "0:0"


def _after(table: str, number: str, fact: str) -> str:
    """Rows behind a cursor, which is a fact's text: transaction and number."""
    return f"({table}xid, {table}{number}) > (split_part({fact}, ':', 1)::xid8, split_part({fact}, ':', 2)::bigint)"


def _upto(table: str, number: str, fact: str) -> str:
    return f"({table}xid, {table}{number}) <= (split_part({fact}, ':', 1)::xid8, split_part({fact}, ':', 2)::bigint)"


UPTO_ENTRY, UPTO_OPERATION = _upto("", "id", ":posted"), _upto("", "number", ":posted")
"""Whether a row is posted."""

_CURSORS = f"""
SELECT coalesce(max(value) FILTER (WHERE name = 'posted entries'), '{START}'),
  coalesce(max(value) FILTER (WHERE name = 'posted operations'), '{START}')
FROM crossfoot_facts WHERE name IN ('posted entries', 'posted operations')
"""


def _group(table: str, number: str) -> str:
    """The last row of the next group, as a cursor, and how many rows there are up to it."""
    return f"""
SELECT max(xid::text || ':' || {number}) FILTER (WHERE last), count(*) FROM (
  SELECT xid, {number}, row_number() OVER (ORDER BY xid DESC, {number} DESC) = 1 AS last FROM (
    SELECT xid, {number} FROM {table}
    WHERE {_after("", number, ":after")} AND xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY xid, {number} LIMIT :group) AS g) AS h
"""


_NEXT_ENTRIES = _group("crossfoot_entries", "id")
_NEXT_OPERATIONS = _group("crossfoot_operations", "number")

_MOVED = """
SELECT coalesce((SELECT xid FROM crossfoot_entries ORDER BY xid DESC, id DESC LIMIT 1) >= pg_snapshot_xmax(pg_current_snapshot()), false)
  OR split_part(:entries, ':', 1)::xid8 >= pg_snapshot_xmax(pg_current_snapshot())
"""
"""Whether the book knows of transactions that this server has not seen yet."""


def _first(table: str, number: str, fact: str) -> str:
    """Whose row is the first behind a cursor. In the order of the index: asked whether there is one, a planner that expects many
    reads the table from its beginning, and to its end when there is none."""
    return f"(SELECT xid FROM {table} WHERE {_after('', number, fact)} ORDER BY xid, {number} LIMIT 1)"


_WAITING = f"""
SELECT coalesce(least({_first("crossfoot_entries", "id", ":entries")}, {_first("crossfoot_operations", "number", ":operations")})
  < pg_snapshot_xmin(pg_current_snapshot()), false)
"""

_BACKLOG = f"SELECT count(*) FROM crossfoot_entries WHERE {_after('', 'id', ':after')}"

# Inside, one row per fact with the latest of its dues; outside, `due` is that of the highest fact. The limits
# take nothing away, for a group has no more rows: a plan that does not know the cursors takes it for a large part of the journal, and
# would join it with all messages.
_POST = f"""
WITH gathered AS MATERIALIZED (
  SELECT message, bit_or(mark) AS marks, max(rank) AS latest, (array_agg(due ORDER BY rank DESC))[1] AS due FROM (
    SELECT message, 1::bigint << kind AS mark, attempt * {RANKS} + kind AS rank, max(coalesce(due, 0)) AS due
    FROM crossfoot_entries WHERE {_after("", "id", ":entries")} AND {_upto("", "id", ":entries_upto")}
    GROUP BY message, kind, attempt) AS facts
  GROUP BY message LIMIT {{group}}
), moved AS MATERIALIZED (
  SELECT *, {FATE} AS fate FROM (
    SELECT m.key, m.bucket, m.queue, m.type, m.d0, m.d1, m.marks AS had, m.fate AS was, m.marks | g.marks AS marks,
      greatest(m.latest, g.latest) AS latest,
      CASE WHEN g.latest > m.latest OR g.latest = m.latest AND g.due > m.due THEN g.due ELSE m.due END AS due
    FROM gathered AS g JOIN crossfoot_messages AS m ON m.key = g.message) AS joined
), kept AS (
  UPDATE crossfoot_messages AS m SET marks = t.marks, latest = t.latest, due = t.due, fate = t.fate
  FROM moved AS t WHERE m.key = t.key
), operated AS MATERIALIZED (
  SELECT message FROM crossfoot_operations WHERE {_after("", "number", ":operations")} AND {_upto("", "number", ":operations_upto")}
    AND kind = {Kind.COMMITTED.value}
  LIMIT {{group}}
), changes AS (
  SELECT bucket, queue, type, CASE fate {FATE_NAMES} END AS measure, 1 AS n, d0, d1
  FROM moved WHERE fate <> was AND fate <> 0
  UNION ALL
  SELECT bucket, queue, type, CASE was {FATE_NAMES} END, -1, -d0, -d1 FROM moved WHERE fate <> was AND was <> 0
  UNION ALL
  SELECT bucket, queue, type, k.measure, 1, d0, d1
  FROM moved JOIN (VALUES {KINDS}) AS k (kind, measure) ON (marks & ~had & (1::bigint << k.kind)) <> 0
  UNION ALL
  SELECT m.bucket, m.queue, m.type, '{OPERATION}', 1, m.d0, m.d1
  FROM operated AS o JOIN crossfoot_messages AS m ON m.key = o.message
)
INSERT INTO crossfoot_tallies AS t (bucket, queue, type, measure, count, d0, d1)
SELECT bucket, queue, type, measure, sum(n), sum(d0), sum(d1) FROM changes GROUP BY 1, 2, 3, 4
ON CONFLICT (bucket, queue, type, measure)
DO UPDATE SET count = t.count + excluded.count, d0 = t.d0 + excluded.d0, d1 = t.d1 + excluded.d1
"""

_MOVE = """
INSERT INTO crossfoot_facts (name, value) VALUES ('posted entries', ?), ('posted operations', ?)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""


def number_in(cursor: str) -> int:
    """The number in a cursor of either database."""
    return int(cursor.rpartition(":")[2])


def backlog(connection: Connection) -> int:
    """How many entries are committed and not posted."""
    entries, _ = connection.execute(_CURSORS).fetchone()
    return int(connection.execute(_BACKLOG, {"after": entries}).fetchone()[0])


def post(connection: Connection, group: int) -> int:
    """Post one group of what lies below the horizon. Returns how many entries and operations it took in.

    Args:
        connection: on the book, in no transaction.
    """
    entries, operations = connection.execute(_CURSORS).fetchone()
    if not connection.execute(_WAITING, {"entries": entries, "operations": operations}).fetchone()[0]:
        _see_that_it_was_not_moved(connection, entries)
        return 0
    try:
        with connection.writing():
            connection.alone(TURN)
            return _post(connection, group)
    except (
        Conflict
    ):  # with a handler's transaction on several of the same messages, or a person's lock: at the next turn
        return 0


def _see_that_it_was_not_moved(connection: Connection, entries: str) -> None:
    """Raises: DatabaseUnavailable: the book was written on another server, and would not be posted here."""
    if connection.execute(_MOVED, {"entries": entries}).fetchone()[0]:
        raise DatabaseUnavailable(
            "the book was copied into this PostgreSQL server from another one, whose transactions had other numbers, so that nothing new "
            "would be posted: stop all workers, execute SELECT crossfoot_moved() in its database, and start again"
        )


def _post(connection: Connection, group: int) -> int:
    entries, operations = connection.execute(_CURSORS).fetchone()
    entries_upto, entry_count = _next(connection, _NEXT_ENTRIES, entries, group)
    operations_upto, operation_count = _next(connection, _NEXT_OPERATIONS, operations, group)
    if not entry_count + operation_count:
        return 0
    connection.execute(
        _POST.format(group=group),
        {
            "entries": entries,
            "entries_upto": entries_upto,
            "operations": operations,
            "operations_upto": operations_upto,
        },
    )
    connection.execute(_MOVE, (entries_upto, operations_upto))
    return entry_count + operation_count


def _next(connection: Connection, statement: str, after: str, group: int) -> tuple[str, int]:
    upto: Any
    upto, count = connection.execute(statement, {"after": after, "group": group}).fetchone()
    return upto or after, count
