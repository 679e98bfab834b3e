"""Posting in PostgreSQL: in the order of transactions, up to the oldest that is still open.

Sequences give numbers when rows are written and not when they are committed, so a cursor over numbers would step over the
entries of a transaction that began early and commits late. Entries and operations therefore bear their transaction's
number, `xid`, and are posted by it: everything below `pg_snapshot_xmin(pg_current_snapshot())` has ended, one way or the
other, and what it committed is visible. Nothing can appear below that horizon any more, so a cursor over (xid, number)
never steps over a row. What follows from another fact bears a higher number, so it is never posted before it.

A transaction that stays open holds the horizon, for all of the server's databases: posting waits, and loses nothing. Only
transactions that write have a number; readers hold nobody up.

The joining and tallying is that of `posting`, in one statement. Posters take turns, whichever connection they use.

Entries lie in ranges of their messages' keys, and those to be posted nearly all in the last ones. So posting looks no further down
than the *floor*: in the ranges below nothing was added since they were posted, or a note says so (see `cutting`).
"""

from __future__ import annotations

from typing import NamedTuple

from crossfoot.books import closing
from crossfoot.books.entry import RANKS, Kind
from crossfoot.books.measures import FATE, FATE_NAMES, KINDS, OPERATION
from crossfoot.books.ranges import HIGHEST, LOWEST
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
  coalesce(max(value) FILTER (WHERE name = 'posted operations'), '{START}'),
  least(coalesce(max(value) FILTER (WHERE name = 'quiet'), '{LOWEST}')::bigint,
    coalesce((SELECT min(lower) FROM crossfoot_late), {HIGHEST})),
  pg_snapshot_xmin(pg_current_snapshot())::text
FROM crossfoot_facts WHERE name IN ('posted entries', 'posted operations', 'quiet')
"""


class Cursors(NamedTuple):
    """How far is posted, what may be posted, and where to look: all of one snapshot.

    A note and its entry are committed together. So the floor holds for all transactions below this very horizon; for a later one it
    would not.
    """

    entries: str
    operations: str
    floor: int
    horizon: str


_MOVED = """
SELECT coalesce((SELECT xid FROM crossfoot_entries WHERE message >= :floor ORDER BY xid DESC, id DESC LIMIT 1)
    >= pg_snapshot_xmax(pg_current_snapshot()), false)
  OR split_part(:entries, ':', 1)::xid8 >= pg_snapshot_xmax(pg_current_snapshot())
"""
"""Whether the book knows of transactions that this server has not seen yet."""


_ABOVE = " AND message >= :floor"
"""Of entries: in the ranges that are not quiet."""


def _first(table: str, number: str, fact: str, where: str = "") -> str:
    """Whose row is the first behind a cursor. In the order of the index: asked whether there is one, a planner that expects many
    reads the table from its beginning, and to its end when there is none."""
    return f"(SELECT xid FROM {table} WHERE {_after('', number, fact)}{where} ORDER BY xid, {number} LIMIT 1)"


_WAITING = f"""
SELECT coalesce(least({_first("crossfoot_entries", "id", ":entries", _ABOVE)},
  {_first("crossfoot_operations", "number", ":operations")}) < CAST(:horizon AS xid8), false)
"""


def _behind(test: str) -> str:
    """Entries behind a cursor, in the order of the index that holds it: a planner that expects many might read ranges by their keys.
    It does not know that the limit is none, and looks for a way to the first of them."""
    return f"""
(SELECT id FROM crossfoot_entries
WHERE (xid, id) {test} (split_part(:entries, ':', 1)::xid8, split_part(:entries, ':', 2)::bigint){_ABOVE}
ORDER BY xid, id LIMIT :all) AS behind
"""


_BACKLOG = f"SELECT count(*) FROM {_behind('>')}"

_LAST_NUMBER = f"SELECT max(id) FROM {_behind('>=')}"


def _taken(table: str, columns: str, number: str, fact: str, where: str = "") -> str:
    """The next group of rows behind a cursor, below the horizon. How many is a parameter: a planner that knew, and believed that fewer
    are left, would rather read the table and sort it, and keep to that while it grows."""
    return f"""
  SELECT xid, {number}, {columns} FROM {table}
  WHERE {_after("", number, fact)} AND xid < CAST(:horizon AS xid8){where} ORDER BY xid, {number} LIMIT :group"""


def _end(taken: str, number: str) -> str:
    """How many rows were taken, and the last one as a cursor."""
    return f"(SELECT count(*) FROM {taken}), (SELECT xid::text || ':' || {number} FROM {taken} ORDER BY xid DESC, {number} DESC LIMIT 1)"


# `top` is the highest rank with the latest of its dues. Rows are looked up one by one (LATERAL, LIMIT 1), whatever the planner believes of
# the tables: a plan that was made while they were empty would read them as a whole. A state is changed where it was found, which
# nobody does but the one whose turn it is to post.
_POST = f"""
WITH taken AS MATERIALIZED ({_taken("crossfoot_entries", "message, kind, attempt, due", "id", ":entries", _ABOVE)}
), operated AS MATERIALIZED ({_taken("crossfoot_operations", "message, kind", "number", ":operations")}
), gathered AS MATERIALIZED (
  SELECT message, bit_or(1::bigint << kind) AS marks, max(ARRAY[attempt::bigint * {RANKS} + kind, coalesce(due, 0)]) AS top
  FROM taken GROUP BY message
), moved AS MATERIALIZED (
  SELECT *, {FATE} AS fate FROM (
    SELECT r.key, r.bucket, r.queue, r.type, r.d0, r.d1, s.place, coalesce(s.marks, 0) AS had, coalesce(s.fate, 0) AS was,
      coalesce(s.marks, 0) | g.marks AS marks, greatest(s.latest, g.top[1]) AS latest,
      CASE WHEN s.latest > g.top[1] OR s.latest = g.top[1] AND s.due > g.top[2] THEN s.due ELSE g.top[2] END AS due
    FROM gathered AS g
    JOIN LATERAL (SELECT key, bucket, queue, type, d0, d1 FROM crossfoot_records WHERE key = g.message LIMIT 1) AS r ON true
    LEFT JOIN LATERAL (SELECT ctid AS place, marks, latest, due, fate FROM crossfoot_states WHERE key = g.message LIMIT 1) AS s ON true
  ) AS joined
), first AS (
  INSERT INTO crossfoot_states (key, marks, latest, due, fate) SELECT key, marks, latest, due, fate FROM moved WHERE place IS NULL
), kept AS (
  UPDATE crossfoot_states AS s SET marks = t.marks, latest = t.latest, due = t.due, fate = t.fate
  FROM moved AS t WHERE s.ctid = t.place
), summed AS MATERIALIZED (
  SELECT bucket, queue, type, had, was, marks, fate, count(*) AS n, sum(d0) AS d0, sum(d1) AS d1
  FROM moved GROUP BY bucket, queue, type, had, was, marks, fate
), changes AS (
  SELECT bucket, queue, type, CASE fate {FATE_NAMES} END AS measure, n, d0, d1 FROM summed WHERE fate <> was AND fate <> 0
  UNION ALL
  SELECT bucket, queue, type, CASE was {FATE_NAMES} END, -n, -d0, -d1 FROM summed WHERE fate <> was AND was <> 0
  UNION ALL
  SELECT bucket, queue, type, k.measure, n, d0, d1
  FROM summed JOIN (VALUES {KINDS}) AS k (kind, measure) ON (marks & ~had & (1::bigint << k.kind)) <> 0
  UNION ALL
  SELECT r.bucket, r.queue, r.type, '{OPERATION}', count(*), sum(r.d0), sum(r.d1) FROM operated AS o
  JOIN LATERAL (SELECT bucket, queue, type, d0, d1 FROM crossfoot_records WHERE key = o.message LIMIT 1) AS r ON true
  WHERE o.kind = {Kind.COMMITTED.value} GROUP BY 1, 2, 3
), tallied AS (
  INSERT INTO crossfoot_tallies AS t (bucket, queue, type, measure, count, d0, d1)
  SELECT bucket, queue, type, measure, sum(n), sum(d0), sum(d1) FROM changes GROUP BY 1, 2, 3, 4
  ON CONFLICT (bucket, queue, type, measure)
  DO UPDATE SET count = t.count + excluded.count, d0 = t.d0 + excluded.d0, d1 = t.d1 + excluded.d1
)
SELECT {_end("taken", "id")}, {_end("operated", "number")}, (SELECT max(key) FROM moved)
"""

_MOVE = """
INSERT INTO crossfoot_facts (name, value) VALUES ('posted entries', ?), ('posted operations', ?)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""


def number_in(cursor: str) -> int:
    """The number in a cursor of either database."""
    return int(cursor.rpartition(":")[2])


def cursors(connection: Connection) -> Cursors:
    """As of now, or of the connection's snapshot."""
    return Cursors(*connection.execute(_CURSORS).fetchone())


def backlog(connection: Connection) -> int:
    """How many entries are committed and not posted."""
    return int(connection.execute(_BACKLOG, {**cursors(connection)._asdict(), "all": HIGHEST}).fetchone()[0])


def last_number(connection: Connection) -> int:
    """The highest number of the entry that was posted last, and of those behind it; 0 when there is none."""
    return int(connection.execute(_LAST_NUMBER, {**cursors(connection)._asdict(), "all": HIGHEST}).fetchone()[0] or 0)


def post(connection: Connection, group: int) -> int:
    """Post one group of what lies below the horizon. Returns how many entries and operations it took in.

    Args:
        connection: on the book, in no transaction.
    """
    at = cursors(connection)
    if not connection.execute(_WAITING, at._asdict()).fetchone()[0]:
        _see_that_it_was_not_moved(connection, at)
        return 0
    try:
        with connection.writing():
            connection.alone(TURN)
            return _post(connection, group)
    except (
        Conflict
    ):  # with a handler's transaction on several of the same messages, or a person's lock: at the next turn
        return 0


def _see_that_it_was_not_moved(connection: Connection, at: Cursors) -> None:
    """Raises: DatabaseUnavailable: the book was written on another server, and would not be posted here."""
    if connection.execute(_MOVED, at._asdict()).fetchone()[0]:
        raise DatabaseUnavailable(
            "the book was copied into this PostgreSQL server from another one, whose transactions had other numbers, so that nothing new "
            "would be posted: stop all workers, execute SELECT crossfoot_moved() in its database, and start again"
        )


def _post(connection: Connection, group: int) -> int:
    at = cursors(connection)
    entry_count, entries_upto, operation_count, operations_upto, highest = connection.execute(
        _POST, {**at._asdict(), "group": group}
    ).fetchone()
    if not entry_count + operation_count:
        return 0
    connection.execute(_MOVE, (entries_upto or at.entries, operations_upto or at.operations))
    closing.step(connection, highest)
    return int(entry_count + operation_count)
