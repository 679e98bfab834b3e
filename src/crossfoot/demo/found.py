"""Which faults the books tell of, each by a pattern of its own in the entries. Nothing else is looked at.

publish refused            an entry `refused` or `put off`, and not for one of its partition that must go first
publish answer lost        an entry `publish in doubt`
duplicate publication      intended twice under one id; or suppressed because another message did it
redelivery while running   received again while the lease of an earlier delivery ran, and before that one's end
reorder within a case      intended before the event that precedes it in its case
exception swallowed        failed for want of proof
handler raises once        failed with an exception of the handler's, and proven later
handler raises always      failed with one, and dead
malformed payload          dead, because the payload does not fit its type
unknown enum value         dead, because a value is none of those the type lists
unknown type               dead, because no handler takes it
worker killed              a worker that never said that it stopped
lease overrun              a delivery that ended after its lease
ack lost                   an ack without an answer; or delivered again after it was proven and acked
retention expiry           an entry `expired`; or found in the dead letters, where the queue says that it expired
deleted from the queue     an entry `vanished`
partition taken away       failed because the queue took it back; or the ack came too late for that reason

Consumer groups deliver again, without anybody's fault, what was acked behind a message that has no end: there a lost ack is one
without an answer. And what their rebalances hold up may outlast its lease without having been ended by that: there an overrun is a
delivery that failed of it.
"""

from __future__ import annotations

import re

from crossfoot.books.entry import PROOFS, Kind
from crossfoot.books.store import Book
from crossfoot.connection import Connection
from crossfoot.demo.plan import GROUPS, Fault, faults_on
from crossfoot.dialect import differs
from crossfoot.effects.outbox import BEHIND

ENDS = (*PROOFS, Kind.PARKED, Kind.FAILED, Kind.RELEASED, Kind.EXPIRED, Kind.COMMIT_IN_DOUBT)
"""Entries that end a delivery."""


def _numbers(*kinds: Kind) -> str:
    return ", ".join(str(kind.value) for kind in kinds)


_WITH = f"""
WITH
  deliveries AS MATERIALIZED (
    SELECT message, delivery, max(attempt) AS attempt,
      min(CASE WHEN kind = {Kind.RECEIVED} THEN id END) AS began,
      min(CASE WHEN kind = {Kind.RECEIVED} THEN at END) AS began_at,
      max(CASE WHEN kind IN ({_numbers(Kind.RECEIVED, Kind.EXTENDED)}) THEN due END) AS lease_until,
      min(CASE WHEN kind IN ({_numbers(*ENDS)}) THEN id END) AS ended,
      min(CASE WHEN kind IN ({_numbers(*ENDS)}) THEN at END) AS ended_at,
      max(CASE WHEN kind IN ({_numbers(*PROOFS)}) THEN 1 ELSE 0 END) + max(CASE WHEN kind = {Kind.ACKED} THEN 1 ELSE 0 END) = 2
        AS closed,
      max(CASE WHEN kind = {Kind.PARKED} THEN 1 ELSE 0 END) - max(CASE WHEN kind = {Kind.ACKED} THEN 1 ELSE 0 END) = 1
        AS left_behind
    FROM crossfoot_entries WHERE delivery <> 0 GROUP BY message, delivery),
  several AS MATERIALIZED (
    SELECT message FROM crossfoot_entries WHERE kind IN ({_numbers(Kind.INTENDED, Kind.PUBLISH_IN_DOUBT)})
    GROUP BY message HAVING count(*) > 1),
  overtaken AS MATERIALIZED (
    SELECT DISTINCT a.message FROM deliveries a JOIN deliveries b ON b.message = a.message
    WHERE b.began > a.began AND b.began < a.ended AND b.attempt > a.attempt AND b.began_at < a.lease_until
      AND a.message NOT IN (SELECT message FROM several)),
  failures AS MATERIALIZED (
    SELECT message, json_extract(details, '$.error') AS error, json_extract(details, '$.text') AS text
    FROM crossfoot_entries WHERE kind = {Kind.FAILED}),
  intentions AS MATERIALIZED (
    SELECT m.subject, m.sequence, min(m.id) AS id, min(e.id) AS first
    FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message
    WHERE e.kind IN ({_numbers(Kind.INTENDED, Kind.REFUSED, Kind.PUBLISHED)}) AND m.subject IS NOT NULL GROUP BY m.subject, m.sequence)
"""
"""Of several copies of one message in the queue, each is delivered on its own account: they overtake nothing. What was parked by a
worker that was killed before its ack is left behind, and comes again beside the copy that was sent on."""

_MESSAGES = "SELECT DISTINCT m.id FROM crossfoot_messages m JOIN crossfoot_entries e ON e.message = m.key"
_FAILED = "SELECT DISTINCT m.id FROM crossfoot_messages m JOIN failures f ON f.message = m.key"
_OWN = "f.error LIKE 'crossfoot.errors.%'"
_BAD = "f.error = 'crossfoot.errors.PayloadInvalid' AND f.text"
_DEAD = f"EXISTS (SELECT 1 FROM crossfoot_entries d WHERE d.message = m.key AND d.kind = {Kind.DEAD_LETTERED})"
_PROVEN = f"EXISTS (SELECT 1 FROM crossfoot_entries d WHERE d.message = m.key AND d.kind IN ({_numbers(*PROOFS)}))"

QUERIES: dict[Fault, str] = {
    Fault.REFUSED: f"""
        {_MESSAGES} WHERE e.kind IN ({_numbers(Kind.REFUSED, Kind.PUT_OFF)})
          AND coalesce(json_extract(e.details, '$.reason'), '') <> '{BEHIND}'""",
    Fault.ANSWER_LOST: f"""
        {_MESSAGES} WHERE e.kind = {Kind.PUBLISH_IN_DOUBT} AND json_extract(e.details, '$.lapsed') IS NULL""",
    Fault.DUPLICATE: f"""
        {_MESSAGES} WHERE e.kind = {Kind.INTENDED} GROUP BY m.key, m.id HAVING count(*) > 1
        UNION SELECT json_extract(details, '$.operation') FROM crossfoot_entries
        WHERE kind = {Kind.SUPPRESSED} AND CAST(json_extract(details, '$.by') AS BIGINT) <> message""",
    Fault.REDELIVERED: "SELECT m.id FROM crossfoot_messages m JOIN overtaken o ON o.message = m.key",
    Fault.REORDERED: """
        SELECT id FROM (SELECT id, first, lag(first) OVER (PARTITION BY subject ORDER BY sequence) AS before
                        FROM intentions) WHERE before > first""",
    Fault.SWALLOWED: f"{_FAILED} WHERE f.error = 'crossfoot.errors.NoProof'",
    Fault.RAISES_ONCE: f"{_FAILED} WHERE NOT {_OWN} AND {_PROVEN}",
    Fault.RAISES_ALWAYS: f"{_FAILED} WHERE NOT {_OWN} AND {_DEAD}",
    Fault.MALFORMED: f"{_FAILED} WHERE {_DEAD} AND {_BAD} NOT LIKE '%is not one of%'",
    Fault.UNKNOWN_ENUM: f"{_FAILED} WHERE {_DEAD} AND {_BAD} LIKE '%is not one of%'",
    Fault.UNKNOWN_TYPE: f"{_FAILED} WHERE {_DEAD} AND f.error = 'crossfoot.errors.UnknownType'",
    Fault.KILLED: "SELECT name FROM crossfoot_workers WHERE stopped_at IS NULL",
    Fault.OVERRUN: """
        SELECT DISTINCT m.id FROM crossfoot_messages m JOIN deliveries d ON d.message = m.key
        WHERE d.ended_at > d.lease_until""",
    Fault.ACK_LOST: f"""
        {_MESSAGES} WHERE e.kind = {Kind.ACK_FAILED} AND json_extract(e.details, '$.lost') = 0
        UNION SELECT m.id FROM deliveries a JOIN deliveries b ON b.message = a.message
        JOIN crossfoot_messages m ON m.key = a.message
        WHERE a.closed AND b.began > a.ended AND b.attempt > a.attempt
          AND a.message NOT IN (
            SELECT message FROM several UNION SELECT message FROM overtaken
            UNION SELECT message FROM deliveries WHERE left_behind)""",
    Fault.EXPIRED: f"""
        {_MESSAGES} WHERE e.kind = {Kind.EXPIRED}
          OR e.kind = {Kind.DEAD_LETTERED} AND json_extract(e.details, '$.reason') LIKE '%: expired'""",
    Fault.DELETED: f"{_MESSAGES} WHERE e.kind = {Kind.VANISHED}",
}


_LEASE_LOST = f"""
    e.kind = {Kind.FAILED} AND json_extract(e.details, '$.error') = 'crossfoot.errors.LeaseLost'
    AND json_extract(e.details, '$.text')"""
_TAKEN_BACK = "LIKE '%: the queue took it back %'"

OF_GROUPS: dict[Fault, str] = {
    Fault.OVERRUN: f"{_MESSAGES} WHERE {_LEASE_LOST} NOT {_TAKEN_BACK}",
    Fault.ACK_LOST: f"{_MESSAGES} WHERE e.kind = {Kind.ACK_FAILED} AND json_extract(e.details, '$.lost') = 0",
    Fault.REBALANCED: f"""
        {_MESSAGES} WHERE e.kind = {Kind.ACK_FAILED} AND json_extract(e.details, '$.lost') = 1 OR {_LEASE_LOST} {_TAKEN_BACK}""",
}
"""Where consumers are a group that shares partitions."""


def _spelt(sql: str) -> str:
    """The query, which PostgreSQL spells otherwise where it reads JSON."""
    other = sql
    for number, text in ("0", "false"), ("1", "true"):
        other = other.replace(
            f"json_extract(e.details, '$.lost') = {number}", f"e.details::jsonb ->> 'lost' = '{text}'"
        )
    return differs(sql, postgres=re.sub(r"json_extract\(([\w.]+), '\$\.(\w+)'\)", r"(\1::jsonb ->> '\2')", other))


def found(book: Book, queue: str = "embedded") -> dict[Fault, set[str]]:
    """Every fault there can be on that kind of queue, with the ids it happened to, by the books. After the workers have stopped."""
    queries = {**QUERIES, **OF_GROUPS} if queue in GROUPS else QUERIES
    with book.reading() as connection:
        return {fault: _ids(connection, queries[fault]) for fault in faults_on(queue)}


def _ids(connection: Connection, query: str) -> set[str]:
    return {str(row[0]) for row in connection.execute(_spelt(_WITH + query))}
