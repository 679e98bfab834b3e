"""What the book keeps of replays: statements by name, and the structs of their rows.

A replay is planned in parts, each of which is one short transaction, so that live traffic never waits long. Its membership is frozen
when the last part is written: count and digest are kept, and compared before anything moves. Which class a member has is decided in
`recover.replay`; what can be decided of all at once is a statement here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from crossfoot.books.entry import RANKS, Kind
from crossfoot.books.fate import Fate
from crossfoot.books.grouped import grouped
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.dialect import differs

READY, COMPLETED, STALE, EARLY = "will settle", "suppressed", "superseded", "parked"
PAYLOAD_GONE, SCHEMA, NO_HANDLER, OUT_OF_TIME, HORIZON = (
    "payload gone", "schema invalid", "no handler", "out of time", "beyond the horizon",
)  # fmt: skip
OPEN, ENDED = "still open", "already ended"

MOVES = (READY, COMPLETED, STALE, EARLY)
"""Classes of members that are moved: what is told is what will become of them."""

CLASSES = (*MOVES, PAYLOAD_GONE, SCHEMA, NO_HANDLER, OUT_OF_TIME, HORIZON, OPEN, ENDED)

PLANNING, PLANNED, RUNNING, PAUSED, ABORTED, FINISHED = (
    "planning", "planned", "running", "paused", "aborted", "finished",
)  # fmt: skip
"""States of a replay."""

BY_ANOTHER = "its operation was completed by another message"
"""Why a member is expected to be suppressed, when its plan is made."""

WAITING, MOVED, DONE, LEFT, CHANGED = "waiting", "moved", "ended", "left", "changed"
"""States of a member: `left` was never to be moved; to `changed` something had happened since the plan."""

_PROOFS = (Fate.SETTLED, Fate.NOOP, Fate.SUPERSEDED, Fate.DUPLICATE)


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A replay as the book keeps it.

    Attributes:
        selection, policy: JSON, see `recover.replay`.
        count, d0, d1: its membership, by count and digest.
        stage: the last that was begun; 0 before the first.
        note: why it stands as it does.
        claim, until: who runs it, and until when nobody else does.
    """

    number: int
    queue: str
    state: str
    by: str
    why: str
    at: Micros
    selection: str
    policy: str | None
    count: int
    d0: int
    d1: int
    stage: int
    note: str | None
    claim: str | None
    until: Micros
    started_at: Micros | None
    ended_at: Micros | None


class Member(msgspec.Struct, frozen=True):
    """A member that is about to be moved, with what the book has of its message."""

    message: int
    cause: str | None
    fate: int
    latest: int
    before: bytes | None
    after: bytes | None
    source: str
    id: str
    type: str
    subject: str | None
    operation: str | None
    correlation: str | None
    causation: str | None
    sequence: int | None
    at: Micros
    body: bytes | None

    @property
    def identity(self) -> str:
        return f"{self.source}|{self.id}"


class Candidate(msgspec.Struct, frozen=True):
    """What classifying a member may have to look at, beside what statements decide."""

    message: int
    type: str
    subject: str | None
    sequence: int | None
    operation: str | None
    identity: str
    body: bytes | None


_COLUMNS = ", ".join(Replay.__struct_fields__)

GET = f"SELECT {_COLUMNS} FROM crossfoot_replays WHERE number = ?"
LIST = f"SELECT {_COLUMNS} FROM crossfoot_replays ORDER BY number DESC LIMIT ?"

ADD = """
INSERT INTO crossfoot_replays (queue, state, by, why, at, selection) VALUES (?, ?, ?, ?, ?, ?) RETURNING number
"""

FREEZE = """
UPDATE crossfoot_replays SET state = ?, count = ?, d0 = ?, d1 = ? WHERE number = ? AND state = 'planning'
"""


_LATEST_CAUSE = f"""
(SELECT f.cause FROM crossfoot_entries f WHERE f.message = m.key AND f.cause IS NOT NULL
 ORDER BY f.attempt * {RANKS} + f.kind DESC LIMIT 1)
"""

_SINCE = "(SELECT max(e.at) FROM crossfoot_entries e WHERE e.message = m.key)"


def select_statement(*, fates: int, causes: int, types: int, subjects: int, times: bool) -> str:
    """Keys of the messages of a queue that a selection means; so many parameters of each kind, in this order after the queue."""
    where = [f"m.fate <> {Fate.SETTLED.value}", "m.queue = ?", f"m.fate IN ({_marks(fates)})"]
    if types:
        where.append(f"m.type IN ({_marks(types)})")
    if subjects:
        where.append(f"m.subject IN ({_marks(subjects)})")
    keys = "SELECT m.key FROM crossfoot_messages m INDEXED BY crossfoot_messages_unsettled WHERE " + " AND ".join(where)
    asked = [f"{_LATEST_CAUSE} IN ({_marks(causes)})"] if causes else []
    if times:
        asked.append(f"{_SINCE} BETWEEN ? AND ?")
    if not asked:
        return f"{keys} ORDER BY m.key"
    # Entries are looked up for what is left only: PostgreSQL would look them up for every pair that it joins.
    return f"WITH found AS MATERIALIZED ({keys}) SELECT m.key FROM found m WHERE {' AND '.join(asked)} ORDER BY m.key"


def _marks(count: int) -> str:
    return ", ".join("?" * count)


BY_IDS = differs(
    "SELECT m.key, m.id FROM json_each(:ids) w JOIN crossfoot_messages m ON m.id = w.value WHERE m.queue = :queue",
    postgres="""
SELECT m.key, m.id FROM jsonb_array_elements_text(CAST(:ids AS jsonb)) AS w JOIN crossfoot_records m ON m.id = w WHERE m.queue = :queue
""",
)

ADD_MEMBERS = grouped(f"""
INSERT INTO crossfoot_replay_members (replay, message, class, fate, latest, cause, state)
SELECT :replay, m.key, '{READY}', m.fate, m.latest, {_LATEST_CAUSE}, '{WAITING}' FROM crossfoot_messages m WHERE m.key IN {{keys}}
""")

CANDIDATES = grouped("""
SELECT m.key, m.type, m.subject, m.sequence, m.operation, m.source || '|' || m.id, m.body FROM crossfoot_messages m
WHERE m.key IN {keys} ORDER BY m.key
""")


def _classify(class_: str, reason: str, where: str) -> str:
    return grouped(
        f"UPDATE crossfoot_replay_members SET class = '{class_}', reason = {reason} "
        f"WHERE replay = :replay AND class = '{READY}' AND message IN {{keys}} AND {where}"
    )


_OPEN_FATES = ", ".join(str(fate.value) for fate in Fate if not fate.closed)
_PROVEN = ", ".join(str(fate.value) for fate in _PROOFS)

CLASSIFY = (
    _classify(OPEN, "'its fate is open: what is under way is left alone'", f"fate IN (0, {_OPEN_FATES})"),
    _classify(ENDED, "'nothing is to be done for it'", f"fate IN ({_PROVEN})"),
    _classify(
        HORIZON,
        "'published before the horizon of deduplication: whether its operation was completed cannot be known any more'",
        "EXISTS (SELECT 1 FROM {messages} m WHERE m.key = crossfoot_replay_members.message AND m.at < :horizon)",
    ),
    _classify(
        SCHEMA, "'its envelope cannot be read'",
        "EXISTS (SELECT 1 FROM {messages} m WHERE m.key = crossfoot_replay_members.message AND m.type = 'unreadable')",
    ),
    _classify(
        COMPLETED, f"'{BY_ANOTHER}'",
        "(EXISTS (SELECT 1 FROM {messages} m CROSS JOIN crossfoot_operations o ON o.key = m.operation "
        "WHERE m.key = crossfoot_replay_members.message) "
        "OR EXISTS (SELECT 1 FROM crossfoot_operations o WHERE o.message = crossfoot_replay_members.message))",
    ),
    _classify(
        COMPLETED, "'another member asks for the same operation, and goes before it'",
        "EXISTS (SELECT 1 FROM {messages} m CROSS JOIN {messages} f ON f.operation = m.operation AND f.key < m.key "
        "CROSS JOIN crossfoot_replay_members r ON r.replay = :replay AND r.message = f.key AND r.class = '" + READY + "' "
        "WHERE m.key = crossfoot_replay_members.message AND m.operation IS NOT NULL)",
    ),
)  # fmt: skip
"""In this order: the first that fits is a member's class. Parameters: replay, keys, horizon (each takes what it names)."""

RECLASS = """
UPDATE crossfoot_replay_members SET class = ?, reason = ?, before = ?, after = ? WHERE replay = ? AND message = ? AND class = ?
"""

LEAVE = f"""
UPDATE crossfoot_replay_members SET state = '{LEFT}'
WHERE replay = ? AND state = '{WAITING}' AND class NOT IN ({", ".join(f"'{one}'" for one in MOVES)})
"""

ADD_ARCHIVED = f"""
INSERT INTO crossfoot_replay_members (replay, message, class, reason, fate, latest, state) VALUES (?, ?, ?, ?, ?, ?, '{LEFT}')
"""

SEQUENCES = grouped("""
SELECT s.subject, s.last FROM crossfoot_sequences s
WHERE s.handler = :handler AND s.subject IN (SELECT m.subject FROM {messages} m WHERE m.key IN {keys})
""")

LACKING = differs(
    "SELECT source || '|' || id FROM crossfoot_messages WHERE body IS NULL AND key IN (SELECT value FROM json_each(:keys))",
    postgres="""
SELECT r.source || '|' || r.id FROM crossfoot_records r
WHERE r.key IN (SELECT v::bigint FROM jsonb_array_elements_text(CAST(:keys AS jsonb)) AS v)
  AND NOT EXISTS (SELECT 1 FROM crossfoot_payloads p WHERE p.key = r.key AND p.body IS NOT NULL)
""",
)

# ---- running ---------------------------------------------------------------------------------------------------------

CLAIM = f"""
UPDATE crossfoot_replays SET state = '{RUNNING}', claim = ?, until = ?, note = NULL, policy = ?,
  started_at = coalesce(started_at, ?)
WHERE number = ? AND (state IN ('{PLANNED}', '{PAUSED}') OR state = '{RUNNING}' AND until < ?)
"""

HOLD = f"""
UPDATE crossfoot_replays SET until = ?, stage = ? WHERE number = ? AND claim = ? AND state = '{RUNNING}'
"""
"""The runner's fence: changes one row, or none when the replay was paused or aborted, or another runner has it."""

STOP = f"""
UPDATE crossfoot_replays SET state = ?, note = ?, claim = NULL, until = 0,
  ended_at = CASE WHEN ? IN ('{ABORTED}', '{FINISHED}') THEN CAST(? AS BIGINT) ELSE ended_at END
WHERE number = ? AND state IN ({{states}})
"""


def _next(which: str) -> str:
    columns = """
SELECT r.message, r.cause, r.fate, r.latest, r.before, r.after, m.source, m.id, m.type, m.subject, m.operation, m.correlation,
  m.causation, m.sequence, m.at, """
    where = f"""
WHERE r.replay = ? AND r.state = '{WAITING}' AND r.stage IS NULL AND {which} r.message > ? ORDER BY r.message LIMIT ?
"""
    return differs(
        f"{columns} m.body FROM crossfoot_replay_members r CROSS JOIN crossfoot_messages m ON m.key = r.message {where}",
        postgres=f"{columns} (SELECT p.body FROM crossfoot_payloads p WHERE p.key = r.message) "
        f"FROM crossfoot_replay_members r JOIN crossfoot_records m ON m.key = r.message {where}",
    )


NEXT = _next("")
"""Members that are to be moved now, so many after one."""

NEXT_READY = _next(f"r.class = '{READY}' AND")

COUNT_READY = f"""
SELECT count(*) FROM crossfoot_replay_members WHERE replay = ? AND state = '{WAITING}' AND stage IS NULL AND class = '{READY}'
"""

MOVE_MEMBER = f"""
UPDATE crossfoot_replay_members SET state = '{MOVED}', stage = ?, base = ?, moved_at = ?, letters = ?, before = ?
WHERE replay = ? AND message = ?
"""

CHANGE_MEMBER = f"""
UPDATE crossfoot_replay_members SET state = '{CHANGED}', stage = ?, reason = ? WHERE replay = ? AND message = ?
"""

CHANGE_FORGOTTEN = f"""
UPDATE crossfoot_replay_members SET state = '{CHANGED}', reason = ?
WHERE replay = ? AND state = '{WAITING}' AND class = '{COMPLETED}' AND reason = '{BY_ANOTHER}'
"""

END_MEMBER = f"""
UPDATE crossfoot_replay_members SET state = '{DONE}', ended = ?, ended_at = ? WHERE replay = ? AND message = ? AND state = '{MOVED}'
"""

OUTSTANDING = f"""
SELECT message, base, stage, cause, moved_at FROM crossfoot_replay_members WHERE replay = ? AND state = '{MOVED}'
"""

WAITING_IDS = f"""
SELECT m.source, m.id FROM crossfoot_replay_members r JOIN crossfoot_messages m ON m.key = r.message
WHERE r.replay = ? AND r.state = '{WAITING}'
"""

COUNT_MOVED = "SELECT count(*) FROM crossfoot_replay_members WHERE replay = ? AND base IS NOT NULL"

WHO = "SELECT claim FROM crossfoot_replays WHERE number = ?"

OF_STAGE = """
SELECT state, ended, count(*), max(ended_at - moved_at) FROM crossfoot_replay_members WHERE replay = ? AND stage = ? GROUP BY state, ended
"""

PROVEN_OF_STAGE = f"""
SELECT message, moved_at, ended FROM crossfoot_replay_members
WHERE replay = ? AND stage = ? AND state = '{DONE}' AND ended IN ({_PROVEN})
"""

PROVEN_NOW = f"""
SELECT r.message, r.moved_at, m.fate FROM crossfoot_replay_members r JOIN crossfoot_messages m ON m.key = r.message
WHERE r.replay = ? AND r.base IS NOT NULL AND m.fate IN ({_PROVEN})
"""

_LIVE = f"""
FROM crossfoot_operations o CROSS JOIN crossfoot_messages m ON m.key = o.message
WHERE m.queue = ? AND (m.marks & {1 << Kind.REPLAYED.value}) = 0
"""

LIVE_BEFORE = f"""
SELECT o.at - m.at {_LIVE} AND o.at < ? AND o.at >= ?
  AND o.number > (SELECT coalesce(max(number), 0) - 1000000 FROM crossfoot_operations)
ORDER BY o.number DESC LIMIT 200
"""

LIVE_SINCE = f"""
SELECT o.number, o.at, o.at - m.at {_LIVE} AND o.number > ?
  AND NOT EXISTS (SELECT 1 FROM crossfoot_replay_members r WHERE r.replay = ? AND r.message = o.message)
ORDER BY o.number DESC LIMIT 500
"""
"""How long messages have waited for their operation, that no replay has brought back."""

LAST_OPERATION = "SELECT coalesce(max(number), 0) FROM crossfoot_operations"

LETTERS = """
SELECT r.message, r.letters FROM crossfoot_replay_members r WHERE r.replay = ? AND r.letters IS NOT NULL
  AND (r.ended IS NOT NULL OR r.message NOT IN (SELECT message FROM crossfoot_outbox))
"""
"""Dead letters of members that were sent: what waits in the outbox was not, and they may be all that the broker has of it. One that has
ended was sent, though its sender may have died before it could note that."""

FORGOT = "UPDATE crossfoot_replay_members SET letters = NULL WHERE replay = ? AND message = ?"

SEEN_SINCE = grouped("""
SELECT e.message, e.kind, e.attempt, e.at, e.cause FROM crossfoot_entries e WHERE e.message IN {keys}
""")


def get(connection: Connection, number: int) -> Replay | None:
    """The replay of that number."""
    row = connection.execute(GET, (number,)).fetchone()
    return _replay(row) if row is not None else None


def newest(connection: Connection, limit: int) -> list[Replay]:
    """Replays, the newest first."""
    return [_replay(row) for row in connection.execute(LIST, (limit,))]


def _replay(row: Sequence[Any]) -> Replay:
    return Replay(**dict(zip(Replay.__struct_fields__, row, strict=True)))


def stop(connection: Connection, number: int, state: str, note: str, now: Micros, *, of: Sequence[str]) -> bool:
    """Bring a replay to a stand, if it is in one of these states. Within the caller's transaction."""
    statement = STOP.replace("{states}", ", ".join(f"'{one}'" for one in of))
    return connection.execute(statement, (state, note, state, now, number)).rowcount == 1
