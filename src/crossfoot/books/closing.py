"""Closed keys, in PostgreSQL: below them no message is added any more, and each has been posted; how many they are is known.

SQLite gives keys without gaps, and tells the number of messages by the first and the last. PostgreSQL's have gaps, so a balance would
have to count a million rows. Posting counts them instead, once, a stretch at a time, and the balance counts what lies behind.

A stretch may be counted when nobody can add to it: keys are given to transactions that have a number already (`sql.INSERT_MESSAGE`
sees to the order), so who has a key up to the highest that was posted has a number below the next one of that moment. When these have
all ended (see `horizon`), what is there is there. Whoever removes a message leaves a note, here as elsewhere; and what does not add
up is counted again as a whole before anybody is told (`stock`).
"""

from __future__ import annotations

from crossfoot.connection import Connection

STRETCH = 20_000
"""Keys that are closed at most at a time: a few milliseconds, in vain where a message among them has no entry."""

_FACTS = "SELECT name, value FROM crossfoot_facts WHERE name IN ('closed', 'closing')"

_WITHIN = "key > :after AND key <= :upto"

_COUNT = f"""
SELECT past, CASE WHEN past THEN (SELECT count(*) FROM crossfoot_records WHERE {_WITHIN}) END,
  CASE WHEN past THEN (SELECT count(*) FROM crossfoot_states WHERE {_WITHIN}) END
FROM (SELECT pg_snapshot_xmin(pg_current_snapshot()) >= CAST(:xid AS xid8) AS past) AS h
"""
"""Nothing has a state that has no record, so if there are as many, each has one."""

_KEEP = """
INSERT INTO crossfoot_facts (name, value)
VALUES ('closed', ?), ('closing', CAST(? AS TEXT) || ':' || pg_snapshot_xmax(pg_current_snapshot())::text)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""


def step(connection: Connection, highest: int | None) -> None:
    """Close the stretch that was begun, if that can be, and begin the next. Within the transaction of a posting.

    Args:
        highest: the highest key of what was posted, `None` where it was only operations.
    """
    facts = dict(connection.execute(_FACTS).fetchall())
    key, count = _two(facts.get("closed", "0:0"))
    if "closing" in facts:
        upto, xid = _two(facts["closing"])
        past, messages, posted = connection.execute(_COUNT, {"after": key, "upto": upto, "xid": xid}).fetchone()
        if not past:
            return
        if messages == posted and upto > key:
            key, count = upto, count + messages
    if highest is not None and highest > key:
        connection.execute(_KEEP, (f"{key}:{count}", min(highest, key + STRETCH)))


def _two(value: str) -> tuple[int, int]:
    first, _, second = value.partition(":")
    return int(first), int(second)
