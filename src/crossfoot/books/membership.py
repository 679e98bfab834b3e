"""Which members a replay has, as a count with a digest: frozen with the plan, and compared before anything moves.

It is over their keys, and not over rows of messages: a member that has settled may go into the archive, and is a member still.
"""

from __future__ import annotations

from crossfoot.books.digest import lanes
from crossfoot.books.grouped import grouped
from crossfoot.books.replays import WAITING
from crossfoot.connection import Connection

MEMBERSHIP = grouped(f"""
SELECT r.message FROM crossfoot_replay_members r
WHERE r.replay = ? AND (r.state <> '{WAITING}' OR EXISTS (SELECT 1 FROM {{messages}} m WHERE m.key = r.message))
""")
"""One that waits, and whose message somebody has removed, is not there any more."""


def membership(connection: Connection, number: int) -> tuple[int, int, int]:
    """Count and digest of the members as they are now."""
    found = [lanes(f"{number}|{key}") for (key,) in connection.execute(MEMBERSHIP, (number,))]
    return len(found), sum(d0 for d0, _ in found), sum(d1 for _, d1 in found)
