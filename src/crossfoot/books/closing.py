"""Closed keys, in PostgreSQL: up to them no message is added any more, and each has been posted; how many they are is known.

SQLite gives keys without gaps, and tells the number of messages by the first and the last. PostgreSQL's have gaps, so a balance would
have to count a million rows. Posting counts them instead, a stretch at a time, and the balance counts what lies behind.

A stretch may be closed when nobody can add to it: keys are given to transactions that have a number already (`sql.INSERT_MESSAGE`
sees to the order), so who has a key up to the highest that was posted has a number below the next one of that moment. When these have
all ended (see `horizon`), what is there is there.

What is closed is not believed for ever. Whoever removes a message leaves a note, as elsewhere; what does not add up is counted as a
whole before anybody is told (`stock`); and each posting counts a few of the closed again. When these do not come to what was noted,
nothing is closed any more: the balance counts everything, and finds what is wrong.
"""

from __future__ import annotations

from typing import Any

from crossfoot.connection import Connection

STRETCH = 20_000
"""Keys that are closed at most at a time: a few milliseconds, in vain where a message among them has no entry."""

AGAIN = 2_000
"""Keys that are counted again in each posting, half a millisecond: a million in minutes."""

_FACTS = "SELECT name, value FROM crossfoot_facts WHERE name IN ('closed', 'closing', 'counted again')"

_WITHIN = "key > :after AND key <= :upto"

_MESSAGES, _POSTED = (f"(SELECT count(*) FROM crossfoot_{table} WHERE {_WITHIN})" for table in ("records", "states"))

_COUNT = f"""
SELECT past, CASE WHEN past THEN {_MESSAGES} END, CASE WHEN past THEN {_POSTED} END
FROM (SELECT pg_snapshot_xmin(s.now) >= CAST(:xid AS xid8) OR pg_snapshot_xmax(s.now) < CAST(:xid AS xid8) AS past
      FROM (SELECT pg_current_snapshot() AS now) AS s) AS h
"""
"""A number that this server has not given yet is of the one that the book was copied from, with all that was there. Nothing has a
state that has no record, so if there are as many, each has one."""

_COUNT_AGAIN = f"SELECT {_MESSAGES}, {_POSTED}"

_KEEP = """
INSERT INTO crossfoot_facts (name, value) VALUES ('closed', ?), ('counted again', ?)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""

_NEXT = "SELECT key FROM crossfoot_records WHERE key > :after AND key <= :upto ORDER BY key LIMIT 1"
"""The next key there is: where a range of keys was cut short, many are missing (see `ranges`)."""

_BEGIN = f"""
INSERT INTO crossfoot_facts (name, value)
VALUES ('closing', least(CAST(:upto AS BIGINT), coalesce(({_NEXT}) - 1, :upto) + {STRETCH})::text || ':'
  || pg_snapshot_xmax(pg_current_snapshot())::text)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""


def step(connection: Connection, highest: int | None) -> None:
    """Close the stretch that was begun, if that can be, and begin the next. Within the transaction of a posting.

    Args:
        highest: the highest key of what was posted, `None` where it was only operations.
    """
    facts = dict(connection.execute(_FACTS).fetchall())
    closed, again = _numbers(facts.get("closed", "0:0")), _numbers(facts.get("counted again", "0:0:0"))
    closed, again = _counted_again(connection, closed, again)
    key, count = closed
    past = True
    if "closing" in facts:
        upto, xid = _numbers(facts["closing"])
        past, messages, posted = connection.execute(_COUNT, {"after": key, "upto": upto, "xid": xid}).fetchone()
        if past and messages == posted and upto > key:
            key, count = upto, count + messages
    connection.execute(_KEEP, (f"{key}:{count}", ":".join(map(str, again))))
    if past and highest is not None and highest > key:
        connection.execute(_BEGIN, {"after": key, "upto": highest})


def _counted_again(connection: Connection, closed: Any, again: Any) -> tuple[Any, Any]:
    """What is closed, and how far it was counted again: key, messages, and those that are posted."""
    (key, count), (at, messages, posted) = closed, again
    upto = min(at + AGAIN, key)
    more, more_posted = connection.execute(_COUNT_AGAIN, {"after": at, "upto": upto}).fetchone()
    messages, posted = messages + more, posted + more_posted
    if not more and upto < key:
        found = connection.execute(_NEXT, {"after": upto, "upto": key}).fetchone()
        upto = found[0] - 1 if found else key
    if upto < key:
        return closed, (upto, messages, posted)
    return closed if messages == posted == count else (0, 0), (0, 0, 0)


def _numbers(value: str) -> tuple[int, ...]:
    return tuple(map(int, value.split(":")))
