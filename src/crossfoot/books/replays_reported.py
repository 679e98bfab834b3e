"""What the book tells of a replay when it is counted anew: statements by name."""

from __future__ import annotations

from crossfoot.books.entry import Kind
from crossfoot.books.grouped import grouped
from crossfoot.books.replays import READY

BY_CLASS = """
SELECT class, reason, count(*), min(message) FROM crossfoot_replay_members WHERE replay = ? GROUP BY class, reason
"""

FAILING = f"""
SELECT e.cause, max(c.title), count(DISTINCT e.message) FROM crossfoot_replay_members r
JOIN crossfoot_entries e ON e.message = r.message AND e.attempt >= r.base AND e.kind = {Kind.FAILED.value}
LEFT JOIN crossfoot_causes c ON c.fingerprint = e.cause
WHERE r.replay = ? AND r.base IS NOT NULL GROUP BY e.cause ORDER BY 3 DESC
"""

TYPES = f"""
SELECT m.type, count(*) FROM crossfoot_replay_members r JOIN crossfoot_messages m ON m.key = r.message
WHERE r.replay = ? AND r.class = '{READY}' GROUP BY m.type
"""

ANY_FATE = (
    "SELECT r.class, r.state, coalesce(m.fate, r.ended, r.fate), count(*) FROM crossfoot_replay_members r "
    "LEFT JOIN crossfoot_messages m ON m.key = r.message WHERE r.replay = ? GROUP BY 1, 2, 3"
)
"""What has gone into the archive ended as it was seen to end, or as it stood in the plan."""

IDS = grouped("SELECT m.id FROM {messages} m WHERE m.key IN {keys} ORDER BY m.key")

IDS_OF_CLASS = (
    "SELECT r.message, m.id FROM crossfoot_replay_members r LEFT JOIN crossfoot_messages m ON m.key = r.message "
    "WHERE r.replay = ? AND r.class = ? ORDER BY r.message LIMIT ?"
)

IDS_OF_FATE = (
    "SELECT m.id FROM crossfoot_replay_members r JOIN crossfoot_messages m ON m.key = r.message "
    "WHERE r.replay = ? AND r.base IS NOT NULL AND m.fate = ? ORDER BY r.message LIMIT ?"
)

HANDLING_TIMES = f"""
SELECT count(*), sum(took) FROM (
  SELECT max(CASE WHEN e.kind <> {Kind.RECEIVED.value} THEN e.at END) - min(CASE WHEN e.kind = {Kind.RECEIVED.value} THEN e.at END)
    AS took
  FROM crossfoot_entries e JOIN (
    SELECT o.message FROM crossfoot_operations o JOIN crossfoot_messages m ON m.key = o.message
    WHERE m.type = ? AND m.queue = ? ORDER BY o.number DESC LIMIT 200) AS recent ON recent.message = e.message
  WHERE e.kind IN ({Kind.RECEIVED.value}, {Kind.COMMITTED.value}) GROUP BY e.message, e.delivery) AS ended WHERE took IS NOT NULL
"""
