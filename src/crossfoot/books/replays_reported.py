"""What the book tells of a replay when it is counted anew: statements by name."""

from __future__ import annotations

from crossfoot.books.entry import Kind
from crossfoot.books.grouped import grouped
from crossfoot.books.replays import CHANGED, MOVED, MOVES, PAUSED, PLANNED, READY, RUNNING, WAITING

LEFT_ALONE = "left alone"
"""What is told of members that were to be moved, and to which something had happened since the plan, instead of their class."""

BY_CLASS = f"""
SELECT CASE WHEN state = '{CHANGED}' THEN '{LEFT_ALONE}' ELSE class END, reason, count(*) FROM crossfoot_replay_members
WHERE replay = ? GROUP BY 1, 2
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
    "SELECT r.state, coalesce(m.fate, r.ended, r.fate), CASE WHEN m.key IS NULL THEN r.message END, count(*) "
    "FROM crossfoot_replay_members r LEFT JOIN crossfoot_messages m ON m.key = r.message WHERE r.replay = ? GROUP BY 1, 2, 3"
)
"""What is not in the book is told one by one: as it was seen to end, or as it stood in the plan."""

NOT_IN_BOOK = grouped("""
SELECT r.message, r.base, r.moved_at, coalesce(r.ended_at, 0) FROM crossfoot_replay_members r
WHERE r.replay = ? AND NOT EXISTS (SELECT 1 FROM {messages} m WHERE m.key = r.message)
""")

TITLES = "SELECT fingerprint, title FROM crossfoot_causes"

MENDED = f"""
SELECT count(*) FROM crossfoot_replay_members
WHERE replay = ? AND before IS NOT NULL AND class IN ({", ".join(f"'{one}'" for one in MOVES)})
"""

SHARED = f"""
SELECT p.number, p.state, count(*) FROM crossfoot_replays p
JOIN crossfoot_replay_members r ON r.replay = :number AND r.state = '{WAITING}'
JOIN crossfoot_replay_members o ON o.replay = p.number AND o.message = r.message AND o.state IN ('{WAITING}', '{MOVED}')
WHERE p.state IN ('{PLANNED}', '{RUNNING}', '{PAUSED}') AND p.number <> :number
GROUP BY p.number, p.state ORDER BY p.number
"""
"""Members that are still to be moved, and that another replay is to move, too, or has on their way."""

IDS_SHARED = f"""
SELECT m.id FROM crossfoot_replay_members r
JOIN crossfoot_replay_members o ON o.replay = :other AND o.message = r.message AND o.state IN ('{WAITING}', '{MOVED}')
JOIN crossfoot_messages m ON m.key = r.message
WHERE r.replay = :number AND r.state = '{WAITING}' ORDER BY r.message LIMIT :limit
"""

IDS = grouped("SELECT m.key, m.id FROM {messages} m WHERE m.key IN {keys} ORDER BY m.key")

IDS_OF_CLASS = (
    "SELECT r.message, m.id FROM crossfoot_replay_members r LEFT JOIN crossfoot_messages m ON m.key = r.message "
    "WHERE r.replay = ? AND r.class = ? ORDER BY r.message LIMIT ?"
)

IDS_OF_CHANGED = (
    "SELECT r.message, m.id FROM crossfoot_replay_members r LEFT JOIN crossfoot_messages m ON m.key = r.message "
    f"WHERE r.replay = ? AND r.state = '{CHANGED}' ORDER BY r.message LIMIT ?"
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
