"""Posting: from the journal (entries) to the ledger (fates and tallies), in groups.

The happy path only appends. A group of new entries is then joined into the summaries of the messages they speak of,
and what changed is added to the tallies, so that a balance costs the number of buckets and not of messages. Nothing
new is decided here: the statements below are `fate.join` and `fate.posted_fate` in SQL, generated from the same
tables, and `verify` rebuilds everything from the entries with the Python ones and must find no difference.

Entries are numbered by the database in the order in which they are committed (SQLite has one writer), so a cursor
never steps over one. Several processes may post: each group is one transaction that moves the cursor. PostgreSQL has
many writers, and is posted by `horizon`.

Half of the work, gathering a group and joining it with its messages, is done before that transaction, in a snapshot
that holds up no writer. What it found is still true if nobody has moved the cursor since: entries are only added, and
only posting changes what was joined.
"""

from __future__ import annotations

from typing import NamedTuple

from crossfoot.books import horizon
from crossfoot.books.digest import Tally
from crossfoot.books.entry import RANKS, Kind
from crossfoot.books.measures import FATE, FATE_NAMES, KINDS, OPERATION, added_to
from crossfoot.books.store import Book
from crossfoot.boundaries import Boundary, reach
from crossfoot.connection import Connection

GROUP = 5_000
"""Entries posted in one transaction: a few milliseconds, so that no worker waits long."""

# CROSS JOIN and the plus in `+t.message` tell SQLite to begin with the group and look up its messages. Left to itself it
# may go through all messages of the book and look up each in the group.
#
# Inside, one row per fact with the latest of its dues; outside, `due` is taken from the row of the highest fact. In one
# step SQLite would take it from any entry of that fact: a lease extended twice would be over at its first end.
_GATHER = f"""
INSERT INTO temp.gathered (message, marks, latest, due)
SELECT message, sum(DISTINCT mark), max(rank), due FROM (
  SELECT message, 1 << kind AS mark, attempt * {RANKS} + kind AS rank, max(coalesce(due, 0)) AS due
  FROM crossfoot_entries WHERE id > ? AND id <= ? GROUP BY message, attempt * {RANKS} + kind)
GROUP BY message
"""

_JOIN = f"""
INSERT INTO temp.moved (message, bucket, queue, type, d0, d1, had, was, marks, latest, due, fate)
SELECT *, {FATE} FROM (
  SELECT m.key, m.bucket, m.queue, m.type, m.d0, m.d1, m.marks AS had, m.fate AS was, m.marks | g.marks AS marks,
    max(m.latest, g.latest) AS latest,
    CASE WHEN g.latest > m.latest OR g.latest = m.latest AND g.due > m.due THEN g.due ELSE m.due END AS due
  FROM temp.gathered g CROSS JOIN crossfoot_messages m ON m.key = g.message)
"""

_KEEP = """
UPDATE crossfoot_messages SET marks = t.marks, latest = t.latest, due = t.due, fate = t.fate
FROM temp.moved t WHERE key = +t.message
"""

_ADD = added_to("tallies")

# What moved, summed over the messages that moved alike: a handful of rows, so that naming the measures costs nothing.
_SUM = """
INSERT INTO temp.summed (bucket, queue, type, was, fate, had, marks, n, d0, d1)
SELECT bucket, queue, type, was, fate, had, marks, count(*), sum(d0), sum(d1)
FROM temp.moved GROUP BY bucket, marks, fate, had, was, type, queue
"""

_TALLY_FATES = f"""
INSERT INTO crossfoot_tallies (bucket, queue, type, measure, count, d0, d1)
SELECT bucket, queue, type, CASE fate {FATE_NAMES} END, sum(n), sum(d0), sum(d1) FROM (
  SELECT bucket, queue, type, fate, n, d0, d1 FROM temp.summed WHERE fate <> was AND fate <> 0
  UNION ALL SELECT bucket, queue, type, was, -n, -d0, -d1 FROM temp.summed WHERE fate <> was AND was <> 0)
GROUP BY 1, 2, 3, 4 {_ADD}
"""

_TALLY_KINDS = f"""
INSERT INTO crossfoot_tallies (bucket, queue, type, measure, count, d0, d1)
SELECT bucket, queue, type, k.measure, sum(n), sum(d0), sum(d1)
FROM temp.summed JOIN (SELECT column1 AS kind, column2 AS measure FROM (VALUES {KINDS})) k
  ON marks & ~had & (1 << k.kind)
GROUP BY 1, 2, 3, 4 {_ADD}
"""

_TALLY_OPERATIONS = f"""
INSERT INTO crossfoot_tallies (bucket, queue, type, measure, count, d0, d1)
SELECT m.bucket, m.queue, m.type, '{OPERATION}', count(*), sum(m.d0), sum(m.d1)
FROM crossfoot_operations o CROSS JOIN crossfoot_messages m ON m.key = o.message
WHERE o.number > :after AND o.number <= :upto AND o.kind = {Kind.COMMITTED.value}
GROUP BY 1, 2, 3, 4 {_ADD}
"""

_TEMPORARY = """
CREATE TEMP TABLE IF NOT EXISTS gathered (message INTEGER PRIMARY KEY, marks INT, latest INT, due INT);
CREATE TEMP TABLE IF NOT EXISTS moved (message INTEGER PRIMARY KEY, bucket INT, queue TEXT, type TEXT, d0 INT, d1 INT,
  had INT, was INT, marks INT, latest INT, due INT, fate INT);
CREATE TEMP TABLE IF NOT EXISTS summed (bucket INT, queue TEXT, type TEXT, was INT, fate INT, had INT, marks INT,
  n INT, d0 INT, d1 INT);
"""

_CURSOR = "SELECT value FROM crossfoot_facts WHERE name = ?"
_MOVE_CURSOR = (
    "INSERT INTO crossfoot_facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)


def backlog(connection: Connection) -> int:
    """About how many entries are not posted yet."""
    if connection.dialect == "postgres":
        return horizon.backlog(connection)
    last = connection.execute("SELECT max(id) FROM crossfoot_entries").fetchone()[0] or 0
    return max(0, int(last) - _cursor(connection, "posted entries"))


def posted(connection: Connection) -> int:
    """The number of the entry that was posted last."""
    return horizon.number_in(fact(connection, "posted entries"))


def post(book: Book, *, group: int = GROUP) -> int:
    """Post one group. Returns the number of entries and operations that it took in; 0 when all is posted that may be."""
    with book.reading() as connection:
        if connection.dialect == "postgres":
            return horizon.post(connection, group)
        if not _waiting(connection):
            return 0
        with connection.snapshot():
            gathered = _gather(connection, group)
        with book.writing():
            if _cursor(connection, "posted entries") != gathered.after:  # another process has posted them meanwhile
                gathered = _gather(connection, group)
            taken = _post_entries(connection, gathered) + _post_operations(connection, group)
            reach(Boundary.DURING_POSTING)
            return taken


def post_all(book: Book) -> int:
    """Post until nothing is left."""
    total = 0
    while taken := post(book):
        total += taken
    return total


def _waiting(connection: Connection) -> bool:
    """Whether there is anything to post: two look-ups at the right edge of two indexes."""
    last_entry = connection.execute("SELECT max(id) FROM crossfoot_entries").fetchone()[0] or 0
    last_operation = connection.execute("SELECT max(number) FROM crossfoot_operations").fetchone()[0] or 0
    return bool(
        last_entry > _cursor(connection, "posted entries") or last_operation > _cursor(connection, "posted operations")
    )


def _cursor(connection: Connection, name: str) -> int:
    return int(fact(connection, name))


def fact(connection: Connection, name: str) -> str:
    """A cursor as the book keeps it: a number, and in PostgreSQL its transaction's before it."""
    row = connection.execute(_CURSOR, (name,)).fetchone()
    return str(row[0]) if row else horizon.START if connection.dialect == "postgres" else "0"


class _Gathered(NamedTuple):
    """A group of entries that lies in the temporary tables, joined with the messages it speaks of."""

    after: int
    upto: int


def _gather(connection: Connection, group: int) -> _Gathered:
    after = _cursor(connection, "posted entries")
    last = connection.execute(
        "SELECT max(id) FROM (SELECT id FROM crossfoot_entries WHERE id > ? ORDER BY id LIMIT ?)", (after, group)
    ).fetchone()[0]
    gathered = _Gathered(after, after if last is None else int(last))
    for statement in _TEMPORARY.strip().split(";\n"):
        connection.execute(statement)
    connection.execute("DELETE FROM temp.gathered")
    connection.execute("DELETE FROM temp.moved")
    connection.execute("DELETE FROM temp.summed")
    connection.execute(_GATHER, gathered)
    connection.execute(_JOIN)
    connection.execute(_SUM)
    return gathered


def _post_entries(connection: Connection, gathered: _Gathered) -> int:
    if gathered.upto == gathered.after:
        return 0
    connection.execute(_KEEP)
    connection.execute(_TALLY_FATES)
    connection.execute(_TALLY_KINDS)
    connection.execute(_MOVE_CURSOR, ("posted entries", str(gathered.upto)))
    return gathered.upto - gathered.after


def _post_operations(connection: Connection, group: int) -> int:
    after = _cursor(connection, "posted operations")
    upto = connection.execute(
        "SELECT max(number) FROM (SELECT number FROM crossfoot_operations WHERE number > ? ORDER BY number LIMIT ?)",
        (after, group),
    ).fetchone()[0]
    if upto is None:
        return 0
    connection.execute(_TALLY_OPERATIONS, {"after": after, "upto": upto})
    connection.execute(_MOVE_CURSOR, ("posted operations", str(upto)))
    return int(upto) - after


def tallies(connection: Connection, *, queue: str | None = None) -> dict[tuple[int, str, str, str], Tally]:
    """All tallies by bucket, queue, type and measure."""
    where, parameters = ("WHERE queue = ?", (queue,)) if queue else ("", ())
    rows = connection.execute(
        f"SELECT bucket, queue, type, measure, count, d0, d1 FROM crossfoot_tallies {where}",
        parameters,
    )
    return {(b, q, t, m): Tally(c, d0, d1) for b, q, t, m, c, d0, d1 in rows}
