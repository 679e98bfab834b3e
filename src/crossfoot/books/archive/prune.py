"""The transactions that take out of the book what lies in the archive, a bounded piece at a time.

Each is true by itself: what leaves `messages` and `entries` is added to `archived` in the same transaction, so balance and verify
come out the same before and after it, and a process that is killed in between leaves a piece undone and nothing else. A message
about which something was written since it was archived is left in the book, as a whole; it is archived again another time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from crossfoot.books.archive import stories
from crossfoot.books.archive.seal import COLUMNS, Seal, Story, Sums, add_up
from crossfoot.books.digest import Tally, lanes
from crossfoot.books.horizon import START, TURN
from crossfoot.books.measures import added_to
from crossfoot.books.posting import fact
from crossfoot.books.replays import CHANGED, DONE, FINISHED, MOVED, WAITING
from crossfoot.boundaries import ArchiveBoundary, reach
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.dialect import differs

PIECE = 1_000
"""Messages that are pruned in one transaction: some tens of milliseconds, in which other writers of a SQLite file wait."""

FORGOTTEN = 5_000
"""Operation keys that are looked at in one transaction."""

_SEALS = f"SELECT {', '.join(COLUMNS)} FROM crossfoot_closed ORDER BY number"

_ADD_SEAL = f"INSERT INTO crossfoot_closed ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"

_ADVANCE = "UPDATE crossfoot_closed SET pruned_upto = ?, pruned = ?, pruned_entries = ?, skipped = ? WHERE number = ?"

_ARCHIVED = f"""
INSERT INTO crossfoot_archived (bucket, queue, type, measure, count, d0, d1) VALUES (?, ?, ?, ?, ?, ?, ?) {added_to("archived")}
"""

_BEGIN = "INSERT INTO crossfoot_pruning (lower, upper) VALUES (?, ?)"
_END = "DELETE FROM crossfoot_pruning"

_DROP = tuple(
    stories.both(f"DELETE FROM crossfoot_{table} WHERE {stories.among(column)}")
    for table, column in (("messages", "key"), ("outcomes", "message"))
)
_DROP_POSTGRES = tuple(
    stories.both(f"DELETE FROM crossfoot_{table} WHERE {stories.among('key')}")
    for table in ("records", "states", "payloads")
)

_DROP_ENTRIES = differs(
    f"DELETE FROM crossfoot_entries WHERE {stories.among('message')} AND id IN (SELECT value FROM json_each(:ids))",
    postgres="""
DELETE FROM crossfoot_entries e USING unnest(:keys::bigint[], :ids::bigint[]) AS gone (message, id)
WHERE e.message BETWEEN :lower AND :upper AND e.message = gone.message AND e.id = gone.id
""",
)
"""Those that are archived, and no other one of the same message: in PostgreSQL somebody may be writing one just now."""

_MEMBERS = stories.both(f"""
SELECT replay, message, state FROM crossfoot_replay_members
WHERE replay IN (SELECT number FROM crossfoot_replays WHERE state <> '{FINISHED}') AND {stories.among("message")}
  AND state IN ('{WAITING}', '{MOVED}')
""")

_MEMBER_ENDED = f"""
UPDATE crossfoot_replay_members SET state = '{DONE}', ended = ?, ended_at = ? WHERE replay = ? AND message = ? AND state = '{MOVED}'
"""
"""Its replay was aborted while it was on its way, so nobody has written how it ended, and the book will not know it."""

_MEMBER_CHANGED = f"""
UPDATE crossfoot_replay_members SET state = '{CHANGED}', reason = 'it ended otherwise since the plan, and lies in the archive'
WHERE replay = ? AND message = ? AND state = '{WAITING}'
"""

KEEP = """
INSERT INTO crossfoot_facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""

_COUNTED = "SELECT value FROM crossfoot_facts WHERE name = 'closed'"
"""PostgreSQL's: up to which key all messages are counted, and how many there are (see `closing`)."""

OPERATIONS = "archived operations"
"""The fact that holds count and digest of operations whose message is archived."""

FORGOTTEN_BEFORE = "forgotten before"
"""The fact that holds up to which time operation keys are not there any more."""

_OLDEST_OPERATIONS = differs(
    """
SELECT o.number, o.key, o.message, o.at, (SELECT 1 FROM crossfoot_messages m WHERE m.key = o.message LIMIT 1) FROM (
  SELECT number, key, message, at FROM crossfoot_operations WHERE number > CAST(:after AS INTEGER) ORDER BY number LIMIT :limit) AS o
ORDER BY o.number
""",
    postgres="""
SELECT o.xid::text || ':' || o.number, o.key, o.message, o.at, (SELECT 1 FROM crossfoot_records m WHERE m.key = o.message LIMIT 1) FROM (
  SELECT xid, number, key, message, at FROM crossfoot_operations
  WHERE (xid, number) > (split_part(:after, ':', 1)::xid8, split_part(:after, ':', 2)::bigint) ORDER BY xid, number LIMIT :limit) AS o
ORDER BY o.xid, o.number
""",
)
"""In the order in which they are posted, which is that of their times but for what was written at the same time: so the young are not read.

The message is looked up for each: asked whether there is one, PostgreSQL would rather read all messages first."""

_FORGET = "DELETE FROM crossfoot_operations WHERE key = ? AND message = ?"


def seals(connection: Connection) -> list[Seal]:
    """All seals, the first first."""
    return [msgspec.convert(dict(zip(COLUMNS, row, strict=True)), Seal) for row in connection.execute(_SEALS)]


def add(connection: Connection, seal: Seal) -> None:
    """Within the caller's transaction."""
    connection.execute(_ADD_SEAL, [getattr(seal, name) for name in COLUMNS])


def piece(connection: Connection, seal: Seal, archived: Sequence[Story]) -> Seal:
    """Take some of a seal's messages out of the book. Within the caller's transaction.

    Args:
        archived: as they are in the files: the next ones above `seal.pruned_upto`.

    Returns:
        The seal as it is then.
    """
    connection.alone(TURN)  # nothing is posted meanwhile
    upto = archived[-1].key
    found_now = stories.read(connection, [story.key for story in archived], unposted=True)
    now = {story.key: story for story in found_now}
    gone = [story for story in archived if (found := now.get(story.key)) is not None and _same(found, story)]
    left = seal.left | {story.key for story in archived if story.key in now} - {story.key for story in gone}
    if gone:
        _drop(connection, gone)
        _account(connection, gone)
        _tell_replays(connection, gone)
    entries = sum(len(story.entries) for story in gone)
    pruned, pruned_entries = seal.pruned + len(gone), seal.pruned_entries + entries
    skipped = msgspec.json.encode(sorted(left)).decode()
    connection.execute(_ADVANCE, (upto, pruned, pruned_entries, skipped, seal.number))
    reach(ArchiveBoundary.DURING_PRUNE)
    return msgspec.structs.replace(
        seal, pruned_upto=upto, pruned=pruned, pruned_entries=pruned_entries, skipped=skipped
    )  # fmt: skip


def _same(found: Story, archived: Story) -> bool:
    """Whether the book knows no more of it than the archive does."""
    return (found.row, found.entries, found.operations, found.outcomes) == (
        archived.row, archived.entries, archived.operations, archived.outcomes,
    )  # fmt: skip


def _drop(connection: Connection, gone: Sequence[Story]) -> None:
    keys = [story.key for story in gone]
    asked = stories.parameters(connection, keys)
    connection.execute(_BEGIN, (keys[0], keys[-1]))
    connection.execute(_DROP_ENTRIES, _entries(connection, gone))
    for statement in (_DROP_POSTGRES + _DROP[1:]) if connection.dialect == "postgres" else _DROP:
        connection.execute(statement, asked)
    connection.execute(_END)


def _entries(connection: Connection, gone: Sequence[Story]) -> dict[str, Any]:
    pairs = [(story.key, entry[0]) for story in gone for entry in story.entries]
    asked = stories.parameters(connection, [key for key, _ in pairs])
    return asked | {"ids": stories.listed(connection, [number for _, number in pairs])}


def _account(connection: Connection, gone: Sequence[Story]) -> None:
    """What is told of the book's messages has to be told of the archive's now."""
    connection.executemany(_ARCHIVED, [(*cell, *sums) for cell, sums in sorted(add_up(gone).items())])
    change_operations(connection, [(row[1], story.key) for story in gone for row in story.operations], 1)
    row = connection.execute(_COUNTED).fetchone() if connection.dialect == "postgres" else None
    if row is not None:
        key, count = map(int, row[0].split(":"))
        count -= sum(1 for story in gone if story.key <= key)
        connection.execute(KEEP, ("closed", f"{key}:{count}"))
        connection.execute(KEEP, ("counted again", "0:0:0"))


def _tell_replays(connection: Connection, gone: Sequence[Story]) -> None:
    """What replays that are not finished will not find in the book any more: how their members ended."""
    told = {story.key: (story.row[15], story.last_at) for story in gone}
    rows = connection.execute(_MEMBERS, stories.parameters(connection, list(told))).fetchall()
    ended = [(*told[key], replay, key) for replay, key, state in rows if state == MOVED]
    connection.executemany(_MEMBER_ENDED, ended)
    connection.executemany(_MEMBER_CHANGED, [(replay, key) for replay, key, state in rows if state == WAITING])


def operations_kept(connection: Connection) -> Tally:
    """Count and digest of the operations whose messages are archived, as far as they are not forgotten."""
    value = fact(connection, OPERATIONS)
    return Tally(*map(int, value.split(":"))) if value.count(":") == 2 else Tally()


def tally_of_operation(key: str, message: int) -> Tally:
    return Tally(1, *lanes(f"{message}|{key}"))


def change_operations(connection: Connection, operations: Sequence[tuple[str, int]], sign: int) -> None:
    total = operations_kept(connection)
    for key, message in operations:
        one = tally_of_operation(key, message)
        total = total + one if sign > 0 else total - one
    connection.execute(KEEP, (OPERATIONS, f"{total.count}:{total.d0}:{total.d1}"))


def forgotten_before(connection: Connection) -> Micros:
    """Operation keys that were completed before this time may not be there any more; 0 while all are."""
    return int(fact(connection, FORGOTTEN_BEFORE).rpartition(":")[2])


class Forgotten(NamedTuple):
    """How many keys were forgotten, and up to which place the old ones are looked at; `None` where none are left."""

    keys: int
    upto: str | None


def forget(connection: Connection, before: Micros, after: str = "") -> Forgotten:
    """Forget operation keys of archived messages that were completed before a time, among the next ones behind a place.

    Within the caller's transaction.
    """
    looked = connection.execute(
        _OLDEST_OPERATIONS, {"after": after or ("0" if connection.dialect == "sqlite" else START), "limit": FORGOTTEN}
    ).fetchall()
    old = [row for row in looked if row[3] < before]
    rows = [(key, message) for _, key, message, _, in_book in old if not in_book]
    if rows:
        until = max(before, forgotten_before(connection))
        connection.execute(KEEP, (FORGOTTEN_BEFORE, str(until)))
        connection.executemany(_FORGET, rows)
        change_operations(connection, rows, -1)
    reach(ArchiveBoundary.DURING_FORGET)
    return Forgotten(len(rows), str(looked[-1][0]) if old and len(looked) == FORGOTTEN else None)


def archived_sums(connection: Connection, where: str = "TRUE", parameters: Any = ()) -> Sums:
    """What the archive's messages come to in the tallies."""
    rows = connection.execute(
        f"SELECT bucket, queue, type, measure, count, d0, d1 FROM crossfoot_archived WHERE {where}", parameters
    )
    return {(bucket, queue, type_, measure): sums for bucket, queue, type_, measure, *sums in rows}
