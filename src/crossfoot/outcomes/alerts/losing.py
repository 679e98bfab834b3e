"""Dead letters that their queue is about to forget: how near it is, which they are, and of what they died."""

from __future__ import annotations

from collections import Counter

import msgspec

from crossfoot.books import queries
from crossfoot.books.failures import unkept
from crossfoot.books.losing import Memory, lying_ahead
from crossfoot.books.signs import SHOWN
from crossfoot.clock import SECOND, Micros, micros
from crossfoot.connection import Connection
from crossfoot.outcomes.alerts.rules import ENOUGH, LITTLE

REMEMBERED: Micros = 86_400 * SECOND
"""So long a dead letter that its queue has forgotten is told of: after that nobody is woken for it any more."""

CAUSES = 3
"""Causes that are named."""

LOOKED_UP = 1_000
"""Dead letters of which it is looked up whether the book keeps what they carried."""


class Losing(msgspec.Struct, frozen=True):
    """What one queue is about to forget.

    Attributes:
        share: what the first has left of its retention; 1 where none is near.
        left: until the first is forgotten; less than 0 where it is.
        count: those that have little left; `ids` are the first of them, and `causes` says of what most of them died.
        unkept: of how many of the first `LOOKED_UP` the book does not keep what they carried.
    """

    share: float
    left: Micros = 0
    count: int = 0
    ids: tuple[str, ...] = ()
    causes: str = ""
    unkept: int = 0


SAFE = Losing(1.0)


def losing(connection: Connection, queue: str, memory: Memory, now: Micros) -> Losing | None:
    """How near it is; `None` where nobody knows when the queue forgets its dead letters."""
    if not isinstance(memory.dead, float):
        return SAFE if memory.dead is None else None
    retention = micros(memory.dead)
    near = lying_ahead(
        connection, queue, memory.dead, since_origin=memory.since_origin, now=now, within=round(ENOUGH * retention)
    )
    near = [each for each in near if each.left > -REMEMBERED]
    if not near:
        return SAFE
    first = near[0].left
    few = [each.one for each in near if each.left < LITTLE * retention]
    died = Counter(one.failed.cause if one.failed is not None else "" for one in few)
    titles = queries.causes(connection, died.keys())
    named = [
        f"{titles[one].title if one in titles else 'a cause not told'} ({n:,})" for one, n in died.most_common(CAUSES)
    ]
    more = f" and {len(died) - CAUSES:,} more causes" if len(died) > CAUSES else ""
    return Losing(
        share=max(0, first) / retention, left=first, count=len(few), ids=tuple(one.id for one in few[:SHOWN]),
        causes=", ".join(named) + more, unkept=len(unkept(connection, [one.key for one in few[:LOOKED_UP]])),
    )  # fmt: skip


def words(near: Losing | None) -> dict[str, str]:
    """What is said of it."""
    if near is None or not near.count:
        return {"left": "at no time that is near", "causes": "none", "kept": "nothing is lost"}
    kept = (
        f"the book does not keep what {near.unkept:,} of them carried"
        if near.unkept
        else "the book keeps what they carried"
    )
    return {"left": f"in {_told(near.left)}" if near.left > 0 else "by now", "causes": near.causes, "kept": kept}


def _told(left: Micros) -> str:
    """The time left, in the two largest units: rounded down, so that nobody comes too late."""
    minutes = left // (60 * SECOND)
    days, hours, minutes = minutes // 1_440, minutes // 60 % 24, minutes % 60
    parts = [f"{count} {unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "min")) if count]
    return " ".join(parts[:2]) or f"{left // SECOND} s"
