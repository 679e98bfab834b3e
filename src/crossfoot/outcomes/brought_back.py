"""What is expected of messages that a replay has brought back.

A replay is a publication: what an expectation gives a message runs anew from when it was moved. An outcome that was there before is as
good as one that comes of the replay.
"""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.books import expected
from crossfoot.books.expected import Outlook, Proven
from crossfoot.books.promised import Standing
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.outcomes.expectation import expectation_of


def look(connection: Connection, proven: Sequence[Proven], now: Micros) -> Outlook:
    """How messages that took effect stand to all expectations of the book. Within the caller's transaction."""
    waiting: set[int] = set()
    breached: dict[str, list[int]] = {}
    for one in expected.kept(connection) if proven else ():
        stated = expectation_of(one.definition)
        asked = {member.message: member for member in proven if member.fate.label not in stated.excused}
        if not asked:
            continue
        parameters = {"outcome": stated.outcome, "after": stated.after, "skew": stated.skew, "since": stated.since}
        for key, answered in expected.answered(connection, stated.by.value, asked, parameters):
            standing = stated.standing(asked[key].moved_at + stated.within, answered, now)
            if standing is Standing.waiting:
                waiting.add(key)
            elif standing is not Standing.met:
                breached.setdefault(one.name, []).append(key)
    return Outlook(frozenset(waiting), breached)
