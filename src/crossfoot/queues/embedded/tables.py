"""The embedded queue's tables, indexes and triggers, for SQLite.

One row per held message, changed in place from publish to ack. A row is in one of four states:

    0 OPEN     may be delivered once `visible_at` has come: fresh, delayed, leased, or its lease has lapsed
    1 BEHIND   waits for an earlier message of its partition; becomes OPEN when that one has gone
    2 DEAD     a dead letter, kept until somebody decides
    3 EXPIRED  forgotten by the queue: kept until the books have it, then purged

SQL says the numbers: a partial index serves only a statement that repeats its condition to the letter.

Only OPEN rows are in the index that claims read. So a claim never steps over what it may not take, however long a
partition's line is, and each partition has exactly one OPEN row: its head. Two triggers keep that true whoever removes
a row and by whatever statement (an ack inside a user's transaction, a retention sweep, a hand in the SQL prompt), and
count what left the queue, independently of any book.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy import Column, Index, Integer, LargeBinary, MetaData, Table, Text, make_url, text
from sqlalchemy.schema import CreateIndex, CreateTable

metadata = MetaData()

# The body stands last, so that the other columns are read without its overflow pages. `token` and the times keep their
# width from publish to ack: SQLite then rewrites only the page they are on, and a lease on a megabyte costs a few KiB.
queue = Table(
    "crossfoot_queue",
    metadata,
    Column("key", Integer, primary_key=True, autoincrement=True),
    Column("state", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("enqueued_at", Integer, nullable=False),
    Column("visible_at", Integer, nullable=False),
    Column("changed_at", Integer, nullable=False),
    Column("expires_at", Integer),
    Column("token", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("partition", Text),
    Column("dead_reason", Text),
    Column("attributes", Text),
    Column("body", LargeBinary, nullable=False),
    sqlite_autoincrement=True,  # a key is never given twice, so it can name a message whose envelope is unreadable
)
# `state` is in the partial indexes although it hardly varies there, because SQLite would fetch the row to compare it.
Index("crossfoot_queue_claim", queue.c.queue, queue.c.state, queue.c.visible_at, sqlite_where=text("state = 0"))
Index(
    "crossfoot_queue_line",
    queue.c.queue,
    queue.c.partition,
    queue.c.state,
    sqlite_where=text("partition IS NOT NULL AND state < 2"),
)
Index(
    "crossfoot_queue_expiry",
    queue.c.queue,
    queue.c.expires_at,
    sqlite_where=text("expires_at IS NOT NULL AND state < 2"),
)
Index("crossfoot_queue_dead", queue.c.queue, queue.c.state, sqlite_where=text("state = 2"))
Index("crossfoot_queue_expired", queue.c.queue, queue.c.state, sqlite_where=text("state = 3"))

counts = Table(
    "crossfoot_queue_counts",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("accepted", Integer, nullable=False, server_default=text("0")),
    Column("acked", Integer, nullable=False, server_default=text("0")),
    Column("removed", Integer, nullable=False, server_default=text("0")),
    Column("dead", Integer, nullable=False, server_default=text("0")),
    Column("expired", Integer, nullable=False, server_default=text("0")),
    sqlite_with_rowid=False,
)
"""What the queue counts by itself. `acked`: deleted while a consumer had its receipt; `removed`: deleted by anybody
else. At every moment accepted = held + acked + removed + dead + expired."""

TRIGGERS = (
    """
CREATE TRIGGER crossfoot_queue_gone AFTER DELETE ON crossfoot_queue WHEN old.state < 2 BEGIN
  UPDATE crossfoot_queue_counts
     SET acked = acked + (old.token <> '--------------------'),
         removed = removed + (old.token = '--------------------')
   WHERE queue = old.queue;
  UPDATE crossfoot_queue SET state = 0
   WHERE old.partition IS NOT NULL AND state = 1 AND key = (
     SELECT key FROM crossfoot_queue
      WHERE queue = old.queue AND partition = old.partition AND state < 2
      ORDER BY state, key LIMIT 1);
END""",
    """
CREATE TRIGGER crossfoot_queue_put_aside AFTER UPDATE OF state ON crossfoot_queue
WHEN old.state < 2 AND new.state >= 2 BEGIN
  UPDATE crossfoot_queue_counts
     SET dead = dead + (new.state = 2), expired = expired + (new.state = 3)
   WHERE queue = old.queue;
  UPDATE crossfoot_queue SET state = 0
   WHERE old.partition IS NOT NULL AND state = 1 AND key = (
     SELECT key FROM crossfoot_queue
      WHERE queue = old.queue AND partition = old.partition AND state < 2
      ORDER BY state, key LIMIT 1);
END""",
)
"""The successor is the smallest key of its line, unless the line has its head still. Keys are given in the order of the
publishing transactions."""


def creation() -> list[str]:
    """Every statement that creates the queue's tables, indexes and triggers, in order: what a migration executes."""
    dialect = make_url("sqlite://").get_dialect()()
    statements = []
    for table in metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [str(CreateIndex(index).compile(dialect=dialect)).strip() for index in indexes]
    return [*statements, *(trigger.strip() for trigger in TRIGGERS)]


def create_tables(connection: sqlite3.Connection) -> None:
    """Create everything where there is nothing. One transaction, unless the caller is in one already."""
    own = not connection.in_transaction
    if own:
        connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in creation():
            connection.execute(statement)
    except BaseException:
        if own:
            connection.execute("ROLLBACK")
        raise
    if own:
        connection.execute("COMMIT")
