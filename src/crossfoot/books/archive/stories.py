"""From the book: which messages may go into the archive, and everything the book knows of them.

A bucket may be closed when no message of it is open. Of such a bucket go the messages whose fate is final, and that nothing was
written about since `before`. The newest message and the newest entry stay: SQLite would give their numbers again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec

from crossfoot.books.archive.seal import FINAL, Story
from crossfoot.books.fate import Fate
from crossfoot.books.horizon import UPTO_OPERATION
from crossfoot.books.posting import fact
from crossfoot.books.record import bucket_of
from crossfoot.books.replays import MOVED, PAUSED, RUNNING
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.dialect import differs

SLICE = 5_000
"""Messages that are read at once: a row group of the file."""

_FINAL = ", ".join(str(fate.value) for fate in FINAL)

_OPEN = f"m.fate <> {Fate.SETTLED.value} AND m.fate < {Fate.SETTLED.value}"

_OPEN_BUCKETS = differs(
    f"SELECT DISTINCT m.bucket FROM crossfoot_messages m INDEXED BY crossfoot_messages_unsettled WHERE {_OPEN} AND m.bucket < :before",
    postgres=f"""
SELECT DISTINCT m.bucket FROM crossfoot_unsettled m WHERE {_OPEN} AND m.bucket < :before
UNION SELECT DISTINCT r.bucket FROM crossfoot_records r
  WHERE r.bucket < :before AND NOT EXISTS (SELECT 1 FROM crossfoot_states s WHERE s.key = r.key)
""",
)

_CANDIDATES = differs(
    f"""
SELECT key, bucket FROM crossfoot_messages INDEXED BY crossfoot_messages_bucket
WHERE bucket < :before AND fate IN ({_FINAL}) ORDER BY bucket, key
""",
    postgres=f"""
SELECT r.key, r.bucket FROM crossfoot_records r JOIN crossfoot_states s ON s.key = r.key
WHERE r.bucket < :before AND s.fate IN ({_FINAL}) ORDER BY r.bucket, r.key
""",
)

_GONE_BY = f"""
SELECT message FROM crossfoot_outbox UNION SELECT message FROM crossfoot_parked
UNION SELECT m.message FROM crossfoot_replays r JOIN crossfoot_replay_members m ON m.replay = r.number AND m.state = '{MOVED}'
  WHERE r.state IN ('{RUNNING}', '{PAUSED}')
"""
"""Messages that somebody still goes by: a replay sees by its members' entries that they have ended."""

_NEEDED = differs(
    f"""
{_GONE_BY} UNION SELECT max(key) FROM crossfoot_messages
UNION SELECT message FROM crossfoot_entries WHERE id = (SELECT max(id) FROM crossfoot_entries)
""",
    postgres=f"""
{_GONE_BY} UNION SELECT max(key) FROM crossfoot_records
UNION (SELECT message FROM crossfoot_entries ORDER BY xid DESC, id DESC LIMIT 1)
""",
)
"""The same, and the newest; in PostgreSQL the newest entry by its place in the posting, up to which `balance` says that it is posted."""

_ROW = "queue, source, id, type, subject, operation, correlation, causation, sequence, at, bucket"
_STATE = "marks, latest, due, fate"


def among(column: str) -> str:
    """The condition that a column is among `:keys`, which lie between `:lower` and `:upper`: so only ranges that hold them are read."""
    here = f"{column} BETWEEN :lower AND :upper AND {column} "
    return here + "IN (SELECT value FROM json_each(:keys))"


def both(statement: str, *, postgres: str = "") -> str:
    """The statement, which in PostgreSQL has the keys in an array."""
    return differs(
        statement,
        postgres=(postgres or statement).replace("IN (SELECT value FROM json_each(:keys))", "= ANY(:keys::bigint[])"),
    )


_ROWS = both(
    f"SELECT key, {_ROW}, {_STATE}, body FROM crossfoot_messages WHERE {among('key')} ORDER BY key",
    postgres=f"""
SELECT r.key, {", ".join(f"r.{name}" for name in _ROW.split(", "))}, {", ".join(f"s.{name}" for name in _STATE.split(", "))}, p.body
FROM crossfoot_records r JOIN crossfoot_states s ON s.key = r.key
LEFT JOIN crossfoot_payloads p ON p.key = r.key AND p.key BETWEEN :lower AND :upper
WHERE {among("r.key")} ORDER BY r.key
""",
)

_ENTRIES = both(f"""
SELECT message, id, kind, attempt, delivery, at, due, worker, cause, details FROM crossfoot_entries
WHERE {among("message")} ORDER BY message, id
""")

_OPERATIONS_OF = "SELECT message, number, key, kind, at, {} FROM crossfoot_operations WHERE {} ORDER BY message, number"
_OPERATIONS = both(
    _OPERATIONS_OF.format("number <= CAST(:posted AS INTEGER)", among("message")),
    postgres=_OPERATIONS_OF.format(UPTO_OPERATION, among("message")),
)

_OUTCOMES = both(f"""
SELECT message, number, name, subject, at, facts FROM crossfoot_outcomes WHERE {among("message")} ORDER BY message, number
""")


class Candidates(msgspec.Struct, frozen=True):
    """What may be closed.

    Attributes:
        keys: in the order of their buckets.
        buckets: how many buckets they are of; `open` is the number of older ones that still have open messages.
    """

    keys: tuple[int, ...]
    buckets: int
    open: int


def candidates(connection: Connection, before: Micros) -> Candidates:
    """Messages of buckets that may be closed, and that end before a time. Within a snapshot; everything is posted."""
    limit = bucket_of(before)
    unfinished = {row[0] for row in connection.execute(_OPEN_BUCKETS, {"before": limit}) if row[0] < limit}
    needed = {row[0] for row in connection.execute(_NEEDED)}
    keys, buckets = [], set()
    for key, bucket in connection.stream(_CANDIDATES, {"before": limit}):
        if bucket not in unfinished and key not in needed:
            keys.append(key)
            buckets.add(bucket)
    return Candidates(tuple(keys), len(buckets), len(unfinished))


def parameters(connection: Connection, keys: Sequence[int]) -> dict[str, Any]:
    """Of the statements with `among`; the keys ascend."""
    return {"keys": listed(connection, keys), "lower": keys[0], "upper": keys[-1]}


def listed(connection: Connection, numbers: Sequence[int]) -> Any:
    """Numbers as one parameter: an array, or in SQLite JSON."""
    return list(numbers) if connection.dialect == "postgres" else msgspec.json.encode(numbers).decode()


def stories(connection: Connection, keys: Sequence[int], before: Micros) -> Iterator[list[Story]]:
    """Those of the messages that may go, by key, a slice at a time. Within a snapshot."""
    wanted = iter(sorted(keys))
    while part := list(islice(wanted, SLICE)):
        found = read(connection, part)
        yield [story for story in found if story.ended and story.last_at < before]


def read(connection: Connection, keys: Sequence[int], *, unposted: bool = False) -> list[Story]:
    """All that the book knows of these messages.

    Args:
        keys: ascending, at most some thousands.
        unposted: also those that completed an operation which is not posted yet.
    """
    asked = parameters(connection, keys)
    entries, outcomes = _by_message(connection, _ENTRIES, asked), _by_message(connection, _OUTCOMES, asked)
    posted = {**asked, "posted": fact(connection, "posted operations")}
    operations = _by_message(connection, _OPERATIONS, posted)
    found = []
    for *row, body in connection.execute(_ROWS, asked):
        completed = operations[row[0]]
        if unposted or all(one[-1] for one in completed):
            without = tuple(one[:-1] for one in completed)
            found.append(Story(tuple(row), tuple(entries[row[0]]), without, tuple(outcomes[row[0]]), body))
    return found


def _by_message(connection: Connection, statement: str, asked: dict[str, Any]) -> dict[int, list[tuple[Any, ...]]]:
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for message, *rest in connection.execute(statement, asked):
        found[message].append(tuple(rest))
    return found
