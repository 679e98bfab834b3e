"""The queue's statements by name: each of the hot ones is one round trip for a whole group.

All times are the server's. Those that may ride in a caller's own transaction are in `local`.
"""

from __future__ import annotations

_FATE = """
CASE WHEN q.enqueued_at <= now() - %(retention)s::interval THEN 4 WHEN q.attempts >= %(most)s THEN 3 ELSE 1 END"""
"""The state of what a claim takes: past the retention, worn out, or else leased."""

PUBLISH = """
INSERT INTO crossfoot_queue (place, enqueued_at, due_at, attempts, state, rank, priority, queue, message, line, attributes, body)
SELECT pg_current_xact_id()::text::bigint, now.at, now.at + m.delay, 0, CASE WHEN m.delay > '0' THEN 1 ELSE 0 END,
       10 - m.priority, m.priority, %(queue)s, m.message, m.line, m.attributes, m.body
  FROM (SELECT clock_timestamp() AS at OFFSET 0) AS now,
       unnest(%(messages)s::text[], %(lines)s::text[], %(delays)s::interval[], %(priorities)s::smallint[],
              %(attributes)s::text[], %(bodies)s::bytea[])
         WITH ORDINALITY AS m (message, line, delay, priority, attributes, body, turn)
 ORDER BY m.turn
RETURNING key
"""

CLAIM = f"""
WITH due AS (
  SELECT q.key, q.due_at, octet_length(q.body) AS size, {_FATE} AS fate
    FROM crossfoot_queue q
   WHERE q.queue = %(queue)s AND q.state = 1 AND q.due_at >= %(since)s AND q.due_at <= now()
   ORDER BY q.due_at, q.key LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), ready AS (
  SELECT f.key, f.place, r.turn, f.size, f.fate
    FROM unnest(%(ranks)s::smallint[], %(lows)s::bigint[], %(highs)s::bigint[]) WITH ORDINALITY AS r (rank, low, high, turn)
    CROSS JOIN LATERAL (
      SELECT q.key, q.place, octet_length(q.body) AS size, {_FATE} AS fate
        FROM crossfoot_queue q
       WHERE q.queue = %(queue)s AND q.state = 0 AND q.rank = r.rank AND q.place BETWEEN r.low AND r.high
       ORDER BY q.place, q.key LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ) AS f
   LIMIT (SELECT %(limit)s - count(*) FROM due)
), picked AS (
  SELECT t.key, t.turn, t.fate FROM (
    SELECT u.key, u.fate, row_number() OVER w AS turn, sum(u.size) OVER w - u.size AS before
      FROM (SELECT key, 0 AS turn, extract(epoch FROM due_at) AS place, size, fate FROM due
            UNION ALL SELECT key, turn, place, size, fate FROM ready) AS u
    WINDOW w AS (ORDER BY u.turn, u.place, u.key ROWS UNBOUNDED PRECEDING)
  ) AS t WHERE t.before < %(bytes)s
)
UPDATE crossfoot_queue q
   SET state = p.fate, token = CASE WHEN p.fate = 1 THEN %(token)s::bigint END,
       attempts = q.attempts + CASE WHEN p.fate = 1 THEN 1 ELSE 0 END,
       due_at = CASE WHEN p.fate = 1 THEN clock_timestamp() + %(lease)s ELSE q.due_at END,
       dead_reason = CASE WHEN p.fate = 3 THEN %(reason)s END
  FROM picked p
 WHERE q.queue = %(queue)s AND q.key = p.key
RETURNING p.turn, p.fate, q.key, q.attempts, (extract(epoch FROM q.enqueued_at) * 1000000)::bigint, q.attributes, q.body
"""

LOOK = """
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
       ARRAY(SELECT x::text::bigint FROM pg_snapshot_xip(pg_current_snapshot()) AS x),
       (SELECT (extract(epoch FROM q.due_at) * 1000000)::bigint FROM crossfoot_queue q
         WHERE q.queue = %(queue)s AND q.state = 1 AND q.due_at >= %(since)s AND q.due_at <= now()
         ORDER BY q.due_at, q.key LIMIT 1),
       (extract(epoch FROM now()) * 1000000)::bigint,
       ARRAY(SELECT (SELECT q.place FROM crossfoot_queue q
                      WHERE q.queue = %(queue)s AND q.state = 0 AND q.rank = r.rank AND q.place BETWEEN r.low AND r.high
                      ORDER BY q.place, q.key LIMIT 1)
               FROM unnest(%(ranks)s::smallint[], %(lows)s::bigint[], %(highs)s::bigint[])
                    WITH ORDINALITY AS r (rank, low, high, turn)
              ORDER BY r.turn)
"""

_HELD = """
q.queue = %(queue)s AND q.key = ANY(%(keys)s::bigint[]) AND q.key = r.key AND q.token = r.token"""
"""Whose receipt is good. By key first: an index whose statistics are of an idle moment must not look better."""

_RECEIPTS = "unnest(%(keys)s::bigint[], %(tokens)s::bigint[]) AS r (key, token)"

IN_LINES = """
WITH locked AS MATERIALIZED (
  SELECT crossfoot_queue_lock(%(queue)s, l.line) FROM (
    SELECT DISTINCT q.line COLLATE "C" AS line FROM crossfoot_queue q
     WHERE q.queue = %(queue)s AND q.key = ANY(%(keys)s::bigint[]) AND q.line IS NOT NULL ORDER BY 1) AS l
)
"""
"""Before a statement that makes way for others in its lines, which ends with `LOCKED`. Everybody locks lines in one order, that of
their bytes: two who met in the opposite order would wait for each other."""

LOCKED = " AND (SELECT count(*) FROM locked) >= 0"
"""Asked once, before any row is looked for."""

ACK = f"DELETE FROM crossfoot_queue q USING {_RECEIPTS} WHERE {_HELD} RETURNING r.key, r.token"

ACK_IN_LINES = (
    f"{IN_LINES}DELETE FROM crossfoot_queue q USING {_RECEIPTS} WHERE {_HELD}{LOCKED} RETURNING r.key, r.token"
)

EXTEND = f"""
UPDATE crossfoot_queue q SET due_at = clock_timestamp() + %(lease)s FROM {_RECEIPTS} WHERE {_HELD} RETURNING r.key, r.token
"""

RELEASE = f"""
UPDATE crossfoot_queue q SET state = 0, rank = 0, place = pg_current_xact_id()::text::bigint, due_at = clock_timestamp(), token = NULL
FROM {_RECEIPTS} WHERE {_HELD} RETURNING r.key, r.token
"""

RELEASE_LATER = f"""
UPDATE crossfoot_queue q SET due_at = clock_timestamp() + %(delay)s, token = NULL
FROM {_RECEIPTS} WHERE {_HELD} RETURNING r.key, r.token
"""

BURY = f"""
UPDATE crossfoot_queue q SET state = 3, token = NULL, dead_reason = %(reason)s
FROM {_RECEIPTS} WHERE {_HELD} RETURNING r.key, r.token
"""

BURY_IN_LINES = f"""
{IN_LINES}UPDATE crossfoot_queue q SET state = 3, token = NULL, dead_reason = %(reason)s
FROM {_RECEIPTS} WHERE {_HELD}{LOCKED} RETURNING r.key, r.token
"""

_OVERDUE = """
(coalesce(q.enqueued_at <= now() - %(retention)s::interval, false) AND (q.token IS NULL OR q.due_at <= now()))"""
"""Past the retention, and in nobody's hands."""

DEPTH = f"""
SELECT count(*) FILTER (WHERE NOT v.overdue AND (q.state <> 1 OR q.due_at <= now())),
       count(*) FILTER (WHERE q.state = 1 AND q.due_at > now() AND q.token IS NOT NULL),
       count(*) FILTER (WHERE NOT v.overdue AND q.state = 1 AND q.due_at > now() AND q.token IS NULL),
       (SELECT count(*) FROM crossfoot_queue d WHERE d.queue = %(queue)s AND d.state = 3)
  FROM crossfoot_queue q CROSS JOIN LATERAL (SELECT {_OVERDUE} AS overdue) AS v
 WHERE q.queue = %(queue)s AND q.state < 3
"""

_SEEN = "q.key, q.attempts, (extract(epoch FROM q.enqueued_at) * 1000000)::bigint, q.attributes, q.body"

PAGE_OF_HELD = f"""
SELECT {_SEEN} FROM crossfoot_queue q
 WHERE q.queue = %(queue)s AND q.key > %(after)s AND q.state < 3 AND NOT {_OVERDUE}
 ORDER BY q.key LIMIT %(limit)s
"""

PAGE_OF_DEAD = f"""
SELECT {_SEEN} FROM crossfoot_queue q
 WHERE q.queue = %(queue)s AND q.key > %(after)s AND q.state = 3 ORDER BY q.key LIMIT %(limit)s
"""

PAGE_OF_EXPIRED = f"""
SELECT {_SEEN} FROM crossfoot_queue q WHERE q.queue = %(queue)s AND q.state = 4 ORDER BY q.key LIMIT %(limit)s
"""

EXPIRE = f"""
WITH oldest AS (
  SELECT q.key, {_OVERDUE} AS overdue
    FROM crossfoot_queue q
   WHERE q.queue = %(queue)s AND q.key >= %(first)s AND q.state < 3 ORDER BY q.key LIMIT %(limit)s
), aside AS (
  UPDATE crossfoot_queue q SET state = 4, token = NULL
   WHERE q.queue = %(queue)s AND q.key = ANY(ARRAY(SELECT o.key FROM oldest o WHERE o.overdue)) AND q.state < 3 AND {_OVERDUE}
  RETURNING q.key
)
SELECT (SELECT count(*) FROM aside), (SELECT min(key) FROM oldest)
"""
"""Among the oldest held; younger ones are not past the retention if these are not. By an array: a plan that does not know the limit
takes the oldest for a tenth of the table, and would join it as a whole."""

PURGE = """
DELETE FROM crossfoot_queue WHERE queue = %(queue)s AND key = ANY(%(keys)s::bigint[]) AND state = 4 RETURNING key
"""

FORGET_DEAD = """
DELETE FROM crossfoot_queue WHERE queue = %(queue)s AND key = ANY(%(keys)s::bigint[]) AND state = 3 RETURNING key
"""

OLDEST = """
SELECT (extract(epoch FROM now() - since) * 1000000)::bigint FROM (
  SELECT (SELECT q.due_at FROM crossfoot_queue q
           WHERE q.queue = %(queue)s AND q.state = 1 AND q.due_at >= %(since)s AND q.due_at <= now()
           ORDER BY q.due_at, q.key LIMIT 1) AS due,
         (SELECT f.due_at
            FROM unnest(%(ranks)s::smallint[], %(lows)s::bigint[], %(highs)s::bigint[])
                 WITH ORDINALITY AS r (rank, low, high, turn)
            CROSS JOIN LATERAL (
              SELECT q.due_at FROM crossfoot_queue q
               WHERE q.queue = %(queue)s AND q.state = 0 AND q.rank = r.rank AND q.place BETWEEN r.low AND r.high
               ORDER BY q.place, q.key LIMIT 1) AS f
           ORDER BY f.due_at LIMIT 1) AS ready
) AS heads CROSS JOIN LATERAL (SELECT least(heads.due, heads.ready)) AS first (since)
 WHERE since IS NOT NULL
"""

OPENED = """
SELECT to_regclass('crossfoot_queue') IS NOT NULL, obj_description(to_regclass('crossfoot_queue'), 'pg_class')
"""
