"""The statements that ride in a transaction of the caller's, on the database the queue is in.

They have `?` for their parameters, as every statement of the port, and each is for one message. Times are the server's: the
`now` of the caller is that of one machine among many, and not asked. A transaction that sees an older state than what is
committed (REPEATABLE READ) may ack and publish, but not where the queue is ordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from crossfoot.dialect import also_for_all
from crossfoot.queues.postgres.messages import Row
from crossfoot.queues.postgres.receipts import parts_of
from crossfoot.queues.queue import SqlStatement

_MINE = "queue = ? AND key = ?::bigint AND token = ?::bigint"

PUBLISH = """
INSERT INTO crossfoot_queue (place, enqueued_at, due_at, attempts, state, rank, priority, queue, message, line, attributes, body)
SELECT pg_current_xact_id()::text::bigint, n.at, n.at + m.delay, 0, CASE WHEN m.delay > '0' THEN 1 ELSE 0 END,
       10 - m.priority, m.priority, m.queue, m.message, m.line, m.attributes, m.body
  FROM (VALUES (clock_timestamp())) AS n (at),
       (VALUES (?::text, ?::text, ?::text, ?::interval, ?::smallint, ?::text, ?::bytea))
         AS m (queue, message, line, delay, priority, attributes, body)
"""

ACK_ALL = """
DELETE FROM crossfoot_queue q USING unnest(?::bigint[], ?::bigint[]) AS r (key, token)
 WHERE q.queue = ? AND q.key = ANY(?::bigint[]) AND q.key = r.key AND q.token = r.token
"""
"""By key first, as in `sql`."""


def _of_one_queue(rows: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    keys, tokens = [row[1] for row in rows], [row[2] for row in rows]
    return keys, tokens, rows[0][0], keys


ACK = also_for_all(f"DELETE FROM crossfoot_queue WHERE {_MINE}", ACK_ALL, _of_one_queue)

RELEASE = f"""
UPDATE crossfoot_queue
   SET state = 0, rank = 0, place = pg_current_xact_id()::text::bigint, due_at = clock_timestamp(), token = NULL
 WHERE {_MINE}
"""

RELEASE_LATER = f"UPDATE crossfoot_queue SET due_at = clock_timestamp() + ?::interval, token = NULL WHERE {_MINE}"

BURY = f"UPDATE crossfoot_queue SET state = 3, token = NULL, dead_reason = ?::text WHERE {_MINE}"


def publish(queue: str, row: Row) -> SqlStatement:
    return PUBLISH, (queue, row.message, row.line, row.delay, row.priority, row.attributes, row.body)


def ack(queue: str, receipt: str) -> SqlStatement:
    """Changes one row, or none when the receipt is void."""
    return ACK, (queue, *parts_of(receipt))


def release(queue: str, receipt: str, delay: timedelta) -> SqlStatement:
    if not delay:
        return RELEASE, (queue, *parts_of(receipt))
    return RELEASE_LATER, (delay, queue, *parts_of(receipt))


def bury(queue: str, receipt: str, reason: str) -> SqlStatement:
    return BURY, (reason, queue, *parts_of(receipt))
