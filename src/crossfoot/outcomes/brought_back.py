"""What is expected of messages that a replay has brought back.

A replay is a publication: what an expectation gives a message runs anew from when it was moved. An outcome that was there before is as
good as one that comes of the replay. A member that took effect only when that time was over had to wait for its worker: what is expected
of it is late then, but it is not said not to come before it had the same time again.

Of a member that lies in the archive the book has kept whether it was answered in the time that ran from its publication, and if not, when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from crossfoot.books import expected
from crossfoot.books.expected import Outlook, Proven
from crossfoot.books.promised import Standing
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.outcomes.expectation import Expectation, expectation_of


def look(connection: Connection, proven: Sequence[Proven], now: Micros) -> Outlook:
    """How messages that took effect stand to all expectations of the book. Within the caller's transaction."""
    waiting: set[int] = set()
    breached: dict[str, list[int]] = {}
    late: dict[str, list[int]] = {}
    for one in expected.kept(connection) if proven else ():
        stated = expectation_of(one.definition)
        asked = {member.message: member for member in proven if member.fate.label not in stated.excused}
        if not asked:
            continue
        parameters = {"outcome": stated.outcome, "after": stated.after, "skew": stated.skew, "since": stated.since}
        inside = [key for key, member in asked.items() if member.archived is None]
        answers = expected.answered(connection, stated.by.value, inside, parameters) if inside else []
        for key, answered in [*answers, *_archived(connection, stated, asked.values())]:
            standing = _standing(stated, asked[key], answered, now)
            if standing is Standing.waiting:
                waiting.add(key)
            elif standing is not Standing.met:
                breached.setdefault(one.name, []).append(key)
            if standing is Standing.late:
                late.setdefault(one.name, []).append(key)
    return Outlook(frozenset(waiting), breached, late)


def _standing(stated: Expectation, member: Proven, answered: Micros | None, now: Micros) -> Standing:
    due = member.moved_at + stated.within
    standing = stated.standing(due, answered, now)
    if standing is Standing.missing and member.ended_at > due and now <= member.ended_at + stated.within:
        return Standing.waiting
    return standing


def _archived(
    connection: Connection, stated: Expectation, members: Iterable[Proven]
) -> Iterator[tuple[int, Micros | None]]:
    """Of those in the archive, the ones that were not answered in the time that ran from their publication, and when they were."""
    theirs = [
        member.message for member in members
        if member.archived is not None and member.archived[0] == stated.after and member.archived[1] >= stated.since
    ]  # fmt: skip
    open_ = expected.not_in_time(connection, stated.name) if theirs else {}
    return ((key, open_[key]) for key in theirs if key in open_)
