"""What the archive's messages come to in the tallies: by the minute while that is of use, and by the day past the horizon.

A minute of a queue and a type has some ten rows in the tallies, and as many in `archived`. They would be the only things that grow with
time in a book whose messages are all archived. Past the deduplication horizon the part of them that is archived is moved to the first
minute of its day, in both tables at once: every sum stays what it was, so `balance` and `verify` come out the same, and what is still in
the book keeps its own minute. Only a part of a day that is asked for by `--since` and `--until` is not told apart any more.
"""

from __future__ import annotations

from crossfoot.books.archive.prune import KEEP
from crossfoot.books.archive.seal import Cell, Sums, merge
from crossfoot.books.horizon import TURN
from crossfoot.books.measures import added_to
from crossfoot.boundaries import ArchiveBoundary, reach
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection

DAY = 86_400
"""Seconds, as buckets are."""

CELLS = 5_000
"""Rows that are moved in one transaction, and what else is of their last minute: some tens of milliseconds."""

GATHERED = "tallied by the day before"
"""The fact that holds up to which bucket the archive's part may be tallied by the day."""

_ARCHIVED = f"bucket BETWEEN :first AND :last AND bucket % {DAY} <> 0"

_NEXT = f"""
SELECT min(bucket), max(bucket) FROM (
  SELECT bucket FROM crossfoot_archived WHERE bucket < :before AND bucket % {DAY} <> 0 ORDER BY bucket LIMIT {CELLS}) AS next
"""

_BY_DAY = f"""
SELECT bucket - bucket % {DAY}, queue, type, measure, sum(count), sum(d0), sum(d1) FROM crossfoot_archived
WHERE {_ARCHIVED} GROUP BY 1, 2, 3, 4
"""

_MOVE = (
    f"INSERT INTO crossfoot_tallies (bucket, queue, type, measure, count, d0, d1) {_BY_DAY} {added_to('tallies')}",
    f"""
UPDATE crossfoot_tallies SET count = crossfoot_tallies.count - a.count, d0 = crossfoot_tallies.d0 - a.d0,
  d1 = crossfoot_tallies.d1 - a.d1
FROM (SELECT bucket, queue, type, measure, count, d0, d1 FROM crossfoot_archived WHERE {_ARCHIVED}) AS a
WHERE crossfoot_tallies.bucket = a.bucket AND crossfoot_tallies.queue = a.queue AND crossfoot_tallies.type = a.type
  AND crossfoot_tallies.measure = a.measure
""",
    f"DELETE FROM crossfoot_tallies WHERE {_ARCHIVED} AND count = 0 AND d0 = 0 AND d1 = 0",
    f"INSERT INTO crossfoot_archived (bucket, queue, type, measure, count, d0, d1) {_BY_DAY} {added_to('archived')}",
    f"DELETE FROM crossfoot_archived WHERE {_ARCHIVED}",
)
"""In this order. A minute in which messages are left in the book keeps what these come to; of others nothing is left."""


def whole_days(before: Micros) -> int:
    """The bucket up to which whole days have passed."""
    seconds = before // SECOND
    return seconds - seconds % DAY


def gathered_upto(connection: Connection) -> int:
    """The bucket before which nothing but the sums of a day are told apart."""
    row = connection.execute("SELECT value FROM crossfoot_facts WHERE name = ?", (GATHERED,)).fetchone()
    return int(row[0]) if row is not None else 0


def by_day(sums: Sums, upto: int) -> dict[Cell, list[int]]:
    """The same sums, those before a bucket added up by the day."""
    added: dict[Cell, list[int]] = {}
    for (bucket, queue, type_, measure), three in sums.items():
        kept = bucket - bucket % DAY if bucket < upto else bucket
        merge(added, {(kept, queue, type_, measure): three})
    return added


def gather(connection: Connection, before: Micros) -> int:
    """Move some minutes of whole days that ended before a time. Within the caller's transaction.

    Returns:
        How many rows of the archived part of the tallies were moved; 0 when there is nothing to move any more.
    """
    connection.alone(TURN)  # nothing is posted meanwhile
    first, last = connection.execute(_NEXT, {"before": whole_days(before)}).fetchone()
    if first is None:
        return 0
    connection.execute(KEEP, (GATHERED, str(max(whole_days(before), gathered_upto(connection)))))
    moved = 0
    for statement in _MOVE:
        moved = connection.execute(statement, {"first": first, "last": last}).rowcount
    reach(ArchiveBoundary.DURING_GATHER)
    return moved
