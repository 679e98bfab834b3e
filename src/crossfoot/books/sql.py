"""The statements of the hot path, by name.

They are plain text and not expression objects because they run inside the *user's* transaction, through whatever
driver that is, a few microseconds each; the tables they speak of are declared in `tables`. They are SQLite's, and translated
for PostgreSQL (see `dialect`); what a single writer need not say, the other text beside it says.
"""

from crossfoot.books.entry import PROOFS, Kind
from crossfoot.books.measures import entry_measure
from crossfoot.dialect import differs

GROUP = 25
"""Rows that one statement for a group takes. Where it looks up, fewer are filled up with NULL, which is no name."""

FIND_MESSAGE = """
SELECT key, type, subject, operation, latest, marks FROM crossfoot_messages WHERE id = ? AND source = ? AND queue = ?
"""

LOCK_RECORD = differs(
    "SELECT 1 WHERE ? IS NOT NULL", postgres="SELECT 1 FROM crossfoot_records WHERE key = ? FOR UPDATE"
)
"""In SQLite whoever writes is alone."""

FIND_CONTENT = differs(
    "SELECT sequence, operation, body FROM crossfoot_messages WHERE key = ?",
    postgres="""
SELECT r.sequence, r.operation, p.body FROM crossfoot_records r LEFT JOIN crossfoot_payloads p ON p.key = r.key WHERE r.key = ?
""",
)
"""In PostgreSQL without the view: only a key that is a parameter itself leads to one range of payloads alone."""

REPLACE_CONTENT = differs(
    """
UPDATE crossfoot_messages SET subject = ?, operation = ?, correlation = coalesce(?, correlation), causation = coalesce(?, causation),
  sequence = ?, body = ?
WHERE key = ?
""",
    postgres="""
WITH given (subject, operation, correlation, causation, sequence, body, key) AS (
  VALUES (CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS BYTEA), CAST(? AS BIGINT))
), kept AS (
  INSERT INTO crossfoot_payloads (key, body) SELECT key, body FROM given ON CONFLICT (key) DO UPDATE SET body = excluded.body
)
UPDATE crossfoot_records r SET subject = g.subject, operation = g.operation, correlation = coalesce(g.correlation, r.correlation),
  causation = coalesce(g.causation, r.causation), sequence = g.sequence
FROM given g WHERE r.key = g.key
""",
)

_WANTED = (
    f"WITH wanted (place, id, source, queue) AS (VALUES {', '.join(f'({place}, ?, ?, ?)' for place in range(GROUP))})"
)

FIND_MESSAGES = differs(
    f"""
{_WANTED}
SELECT w.place, m.key, m.type, m.subject, m.operation, m.latest, m.marks FROM wanted w
CROSS JOIN crossfoot_messages m ON m.id = w.id AND m.source = w.source AND m.queue = w.queue
""",
    postgres=f"""
{_WANTED}
SELECT w.place, r.key, r.type, r.subject, r.operation, coalesce(s.latest, 0), coalesce(s.marks, 0) FROM wanted w
JOIN crossfoot_records r ON r.id = w.id AND r.source = w.source AND r.queue = w.queue
LEFT JOIN LATERAL (SELECT latest, marks FROM crossfoot_states WHERE key = r.key LIMIT 1) AS s ON true
""",
)
"""In PostgreSQL each state is looked up: a plan made while the table was empty would read all of it."""

_MESSAGE = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

_INSERT_MESSAGE = f"""
INSERT INTO crossfoot_messages
  (queue, source, id, type, subject, operation, correlation, causation, sequence, at, bucket, d0, d1, body)
VALUES {_MESSAGE}
ON CONFLICT (id, source, queue) DO NOTHING
"""

_GIVEN = (
    "(CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), "
    "CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS BYTEA))"
)


def _registering(rows: int, returning: str) -> str:
    """PostgreSQL's text. The transaction has its number before a key is given: see `closing`."""
    return f"""
WITH given AS MATERIALIZED (
  SELECT pg_current_xact_id() AS xid, nextval('crossfoot_messages_key_seq') AS key, v.*
  FROM (VALUES {", ".join([_GIVEN] + [_MESSAGE] * (rows - 1))})
    AS v (queue, source, id, type, subject, operation, correlation, causation, sequence, at, bucket, d0, d1, body)
), added AS (
  INSERT INTO crossfoot_records
    (key, queue, source, id, type, subject, operation, correlation, causation, sequence, at, bucket, d0, d1)
  SELECT key, queue, source, id, type, subject, operation, correlation, causation, sequence, at, bucket, d0, d1 FROM given
  ON CONFLICT (id, source, queue) DO NOTHING RETURNING key, id, source, queue
), kept AS (
  INSERT INTO crossfoot_payloads (key, body)
  SELECT g.key, g.body FROM given g JOIN added a ON a.key = g.key WHERE g.body IS NOT NULL
)
SELECT {returning} FROM added
"""


INSERT_MESSAGE = differs(f"{_INSERT_MESSAGE}RETURNING key", postgres=_registering(1, "key"))

INSERT_MESSAGES = differs(
    _INSERT_MESSAGE.replace(_MESSAGE, ", ".join([_MESSAGE] * GROUP)) + "RETURNING key, id, source, queue",
    postgres=_registering(GROUP, "key, id, source, queue"),
)
"""A whole group; what somebody else has added, or what is in the group twice, is not returned."""

_NAME_OPERATION = "UPDATE crossfoot_messages SET operation = ? WHERE key = ? AND operation IS NULL"

NAME_OPERATION = differs(_NAME_OPERATION, postgres=_NAME_OPERATION.replace("crossfoot_messages", "crossfoot_records"))

INSERT_ENTRY = """
INSERT INTO crossfoot_entries (message, kind, attempt, delivery, at, due, worker, cause, details)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

INSERT_ENTRIES = INSERT_ENTRY.rstrip() + ", (?, ?, ?, ?, ?, ?, ?, ?, ?)" * (GROUP - 1)
"""A whole group: a third faster than one by one."""

_RECEIVED = f"(?, {Kind.RECEIVED.value}, ?, ?, ?, ?, ?)"

INSERT_RECEIVED = f"""
INSERT INTO crossfoot_entries (message, kind, attempt, delivery, at, due, worker) VALUES {_RECEIVED}
"""
"""Columns that are not named are NULL at no cost; Python's sqlite3 takes longer over a None than over the other values."""

INSERT_RECEIVED_GROUP = INSERT_RECEIVED.rstrip() + f", {_RECEIVED}" * (GROUP - 1)

_INTO_CLOSING = "INSERT INTO crossfoot_entries (message, kind, attempt, delivery, at, worker, details) "

INSERT_CLOSING = _INTO_CLOSING + "VALUES (?, ?, ?, ?, ?, ?, ?)"
"""What a delivery was closed with."""

INSERT_CLOSING_GROUP = INSERT_CLOSING + ", (?, ?, ?, ?, ?, ?, ?)" * (GROUP - 1)

INSERT_CLOSINGS = f"""{_INTO_CLOSING}
SELECT * FROM unnest(?::bigint[], ?::integer[], ?::integer[], ?::bigint[], ?::bigint[], ?::integer[], ?::text[])
"""
"""The same of any number of them, in columns: PostgreSQL's."""

_CLOSING_AND_ACK = f"(?, ?, ?, ?, ?, ?, ?), (?, {Kind.ACKED.value}, ?, ?, ?, ?, NULL)"

INSERT_CLOSING_AND_ACK = f"{_INTO_CLOSING}VALUES {_CLOSING_AND_ACK}"
"""The same, and that it was acked."""

INSERT_CLOSING_AND_ACK_GROUP = INSERT_CLOSING_AND_ACK + f", {_CLOSING_AND_ACK}" * (GROUP - 1)

INSERT_CLOSINGS_AND_ACKS = f"""{_INTO_CLOSING}
SELECT c.message, e.kind, c.attempt, c.delivery, c.at, c.worker, e.details
  FROM unnest(?::bigint[], ?::integer[], ?::integer[], ?::bigint[], ?::bigint[], ?::integer[], ?::text[])
         AS c (message, kind, attempt, delivery, at, worker, details),
       LATERAL (VALUES (c.kind, c.details), ({Kind.ACKED.value}, NULL)) AS e (kind, details)
"""

INSERT_CAUSE = """
INSERT INTO crossfoot_causes (fingerprint, kind, title, frames, first_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (fingerprint) DO NOTHING
"""

INSERT_OPERATION = """
INSERT INTO crossfoot_operations (key, message, kind, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
"""Nothing, too, where its message has completed another operation, or is completing one: each completes one at most."""

INSERT_OPERATIONS = f"""
INSERT INTO crossfoot_operations (key, message, kind, at) VALUES {", ".join(["(?, ?, ?, ?)"] * GROUP)}
ON CONFLICT DO NOTHING RETURNING key, message
"""

CLAIM_OPERATIONS = """
INSERT INTO crossfoot_operations (key, message, kind, at)
SELECT * FROM unnest(?::text[], ?::bigint[], ?::integer[], ?::bigint[]) ON CONFLICT DO NOTHING RETURNING key, message
"""
"""The same of any number of them, in columns: PostgreSQL's."""

DROP_OPERATION = "DELETE FROM crossfoot_operations WHERE key = ? AND message = ?"

FIND_OPERATION = """
SELECT message, kind, key FROM crossfoot_operations WHERE key = ?
UNION ALL SELECT message, kind, key FROM crossfoot_operations WHERE message = ?
"""
"""Who completed that operation, and which one that message has completed."""

NOTE_FACT = """
INSERT INTO crossfoot_facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""

FIND_FACT = "SELECT value FROM crossfoot_facts WHERE name = ?"

FIND_SUPPRESSED = f"SELECT id, details FROM crossfoot_entries WHERE message = ? AND kind = {Kind.SUPPRESSED.value}"

LAST_DEATH = f"SELECT max(attempt) FROM crossfoot_entries WHERE message = ? AND kind = {Kind.DEAD_LETTERED.value}"

FIND_RESUMED = (
    f"SELECT 1 FROM crossfoot_entries WHERE message = ? AND kind = {Kind.RESUMED.value} AND attempt = ? LIMIT 1"
)

LAST_ATTEMPT = "SELECT max(attempt) FROM crossfoot_entries WHERE message = ?"

COUNT_ENDS = f"""
SELECT coalesce(sum(released), 0), coalesce(sum(failed), 0),
  coalesce(sum(CASE WHEN released = 0 AND failed = 0 THEN alone END), 0)
FROM (
  SELECT max(CASE kind WHEN {Kind.RELEASED.value} THEN 1 ELSE 0 END) AS released,
    max(CASE WHEN kind IN ({Kind.FAILED.value}, {Kind.COMMIT_IN_DOUBT.value}) THEN 1 ELSE 0 END) AS failed,
    max(CASE WHEN kind = {Kind.EXTENDED.value} AND details IS NOT NULL THEN 1 ELSE 0 END) AS alone
  FROM crossfoot_entries WHERE message = ? AND attempt > ? AND delivery <> 0 GROUP BY delivery) AS ends
"""
"""Deliveries of a message that were handed back, that failed, and that were begun alone (see `worker.alone`) and have no end."""

FIRST_RECEIVED = f"""
SELECT min(at) FROM crossfoot_entries WHERE message = ? AND kind = {Kind.RECEIVED.value} AND attempt > ?
"""

FIND_PROOF = (
    f"SELECT 1 FROM crossfoot_entries WHERE message = ? AND kind IN ({', '.join(str(int(k)) for k in PROOFS)}) LIMIT 1"
)

_THESE = ", ".join(["?"] * GROUP)

FIND_OPERATIONS = differs(
    f"""
SELECT key, message FROM crossfoot_operations WHERE key IN ({_THESE})
UNION ALL SELECT key, message FROM crossfoot_operations WHERE message IN ({_THESE})
""",
    postgres="""
SELECT key, message FROM crossfoot_operations WHERE key = ANY(?::text[])
UNION ALL SELECT key, message FROM crossfoot_operations WHERE message = ANY(?::bigint[])
""",
)
"""Those of a group that are completed, and those that a group of messages has completed. In PostgreSQL of any number of them."""

CLOSE_OPERATION = "UPDATE crossfoot_operations SET kind = ? WHERE key = ?"

INSERT_OUTCOME = "INSERT INTO crossfoot_outcomes (message, name, subject, at, facts) VALUES (?, ?, ?, ?, ?)"

INSERT_OUTBOX = """
INSERT INTO crossfoot_outbox (message, queue, identity, body, partition, base, due, claim)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""

INSERT_NUMBERED_OUTBOX = INSERT_OUTBOX.rstrip() + " RETURNING number"

INSERT_NUMBERED_OUTBOX_GROUP = (
    INSERT_OUTBOX.rstrip() + ", (?, ?, ?, ?, ?, ?, ?, ?)" * (GROUP - 1) + " RETURNING number, message"
)
"""A whole group: numbered in its order, and not necessarily returned in it."""

OUTBOX_DUE = "SELECT 1 FROM crossfoot_outbox WHERE due <= :now AND queue = :queue LIMIT 1"

OUTBOX_HOLDS = "SELECT 1 FROM crossfoot_outbox WHERE queue = ? ORDER BY due LIMIT 1"


def _of_these(statement: str) -> str:
    """The statement; in PostgreSQL with the numbers in an array, which its planner takes for few whatever the limit."""
    return differs(
        statement,
        postgres=statement.replace("number IN (SELECT", "number = ANY(ARRAY(SELECT").replace(":limit)", ":limit))"),
    )


_CLAIM_OUTBOX = """
UPDATE crossfoot_outbox SET claim = :claim, due = :until, tries = tries + 1
WHERE number IN (SELECT number FROM crossfoot_outbox WHERE due <= :now AND queue = :queue ORDER BY number LIMIT :limit)
RETURNING number, message, identity, body, partition, base, tries
"""

CLAIM_OUTBOX = _of_these(_CLAIM_OUTBOX)

HELD_UP = """
  AND (partition IS NULL OR NOT EXISTS (
    SELECT 1 FROM crossfoot_outbox before
    WHERE before.queue = :queue AND before.due > :now AND before.partition = crossfoot_outbox.partition
      AND before.number < crossfoot_outbox.number))
"""
"""Where a queue keeps the order of a partition: nothing is sent before what comes first, and was claimed or put off."""

OUTBOX_BEFORE = """
SELECT 1 FROM crossfoot_outbox b
WHERE b.partition = ? AND b.number < ? AND b.queue = (SELECT queue FROM crossfoot_messages WHERE key = ?) LIMIT 1
"""

OUTBOX_DUE_IN_ORDER = OUTBOX_DUE.replace(" LIMIT 1", HELD_UP + " LIMIT 1")

CLAIM_OUTBOX_IN_ORDER = _of_these(_CLAIM_OUTBOX.replace(" ORDER BY number", HELD_UP + " ORDER BY number"))

LAPSED_CLAIMS = _of_these("""
SELECT message, base FROM crossfoot_outbox
WHERE claim IS NOT NULL
  AND number IN (SELECT number FROM crossfoot_outbox WHERE due <= :now AND queue = :queue ORDER BY number LIMIT :limit)
""")

OUTBOX_OF = "SELECT 1 FROM crossfoot_outbox WHERE queue = ? AND message = ? LIMIT 1"
"""Whether anything of that message is still to be sent."""

FREE_OUTBOX = """
DELETE FROM crossfoot_outbox WHERE queue = ? AND message = ? AND (claim IS NULL OR due <= ?)
"""
"""What nobody is sending just now."""

HELD_OUTBOX = "SELECT max(due) FROM crossfoot_outbox WHERE queue = ? AND message = ?"

EVER_THERE = f"""
SELECT 1 FROM crossfoot_tallies
WHERE queue = ? AND measure IN ('{entry_measure(Kind.PUBLISHED)}', '{entry_measure(Kind.RECEIVED)}') LIMIT 1
"""
"""Whether a queue has ever taken or delivered a message, as far as is posted."""

OUTBOX_AHEAD = "SELECT 1 FROM crossfoot_outbox WHERE queue = ? AND due > ? ORDER BY due LIMIT 1"

BEGIN_OUTBOX_ANEW = """
UPDATE crossfoot_outbox SET due = CASE WHEN claim IS NOT NULL THEN CAST(? AS BIGINT) ELSE ? END WHERE queue = ? AND due > ?
"""

DROP_OUTBOX = "DELETE FROM crossfoot_outbox WHERE number = ? AND claim = ?"

RETRY_OUTBOX = "UPDATE crossfoot_outbox SET due = ?, claim = NULL WHERE number = ? AND claim = ?"

FIND_SEQUENCE = "SELECT last FROM crossfoot_sequences WHERE handler = ? AND subject = ?"

TAKE_SEQUENCE = differs(
    "SELECT last FROM crossfoot_sequences WHERE handler = ? AND subject = ? LIMIT 1",
    postgres="SELECT last FROM crossfoot_sequences WHERE handler = ? AND subject = ? FOR UPDATE",
)
"""The last sequence, which nobody moves before this transaction ends; on an old snapshot it is asked for again."""

ADVANCE_SEQUENCE = """
INSERT INTO crossfoot_sequences (handler, subject, last, at) VALUES (?, ?, ?, ?)
ON CONFLICT (handler, subject) DO UPDATE SET last = excluded.last, at = excluded.at
WHERE excluded.last > crossfoot_sequences.last
"""

PARK = """
INSERT INTO crossfoot_parked (handler, subject, sequence, message, predecessor, attempt, until, body, partition)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (handler, subject, sequence, message) DO UPDATE SET attempt = excluded.attempt
"""

GAP_ACCEPTED = """
SELECT 1 FROM crossfoot_parked WHERE handler = ? AND subject = ? AND sequence = ? AND message = ? AND until = 0
"""

ACCEPT_GAP = """
UPDATE crossfoot_parked SET until = 0 WHERE handler = ? AND subject = ? AND sequence = ? AND message = ? AND until > 0
"""

_FOLLOWERS = """
SELECT p.message, p.sequence, p.attempt, p.body, p.partition, p.until, m.queue, m.source, m.id
FROM crossfoot_parked p JOIN crossfoot_messages m ON m.key = p.message
WHERE p.handler = ? AND p.subject = ? AND p.predecessor <= ? ORDER BY p.sequence
"""

FOLLOWERS = differs(_FOLLOWERS, postgres=_FOLLOWERS + "FOR UPDATE OF p")

OVERDUE_PARKED = """
SELECT p.handler, p.subject, p.sequence, p.message, p.attempt, p.body, p.partition, m.queue, m.source, m.id
FROM crossfoot_parked p JOIN crossfoot_messages m ON m.key = p.message
WHERE p.until > 0 AND p.until <= ? ORDER BY p.until LIMIT ?
"""

UNPARK = "DELETE FROM crossfoot_parked WHERE handler = ? AND subject = ? AND sequence = ? AND message = ?"

INSERT_WORKER = """
INSERT INTO crossfoot_workers (name, service, host, pid, version, started_at, seen_at)
VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING number
"""

SEE_WORKER = "UPDATE crossfoot_workers SET seen_at = ? WHERE number = ?"

STOP_WORKER = "UPDATE crossfoot_workers SET stopped_at = ?, seen_at = ? WHERE number = ?"
