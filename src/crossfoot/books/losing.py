"""When a queue forgets its dead letters: a standard queue of SQS counts from when they were first sent, others from when they died.

The rule is pure, and one for all who tell of it: `check` by cause, alerts by queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from crossfoot.books.failures import SENT, Standing, standing
from crossfoot.books.fate import Fate
from crossfoot.clock import Micros, micros
from crossfoot.connection import Connection

_FIRST_SENT = f"""
SELECT min(coalesce((SELECT max(e.at) FROM crossfoot_entries e WHERE e.message = m.key AND e.kind IN ({SENT})), m.at))
FROM crossfoot_messages m INDEXED BY crossfoot_messages_unsettled
WHERE m.fate <> {Fate.SETTLED.value} AND m.fate = {Fate.DEAD.value} AND m.queue = :queue
"""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue keeps, by its own word or somebody else's. `UNSET`: nobody has said.

    Attributes:
        messages: for how many seconds it keeps what waits; `None` where it does not tell, or forgets nothing.
        dead: for how many its dead letters; `None` where they are kept until somebody deletes them.
        since_origin: whether `dead` counts from when a message was first sent, and not from when it died.
        held: how many messages it held when it was asked; `None` where it did not say.
    """

    messages: float | UnsetType | None = UNSET
    dead: float | UnsetType | None = UNSET
    since_origin: bool = False
    held: int | None = None


class Ahead(NamedTuple):
    """A dead letter, and how long its queue still remembers it; less than 0 where it has forgotten it."""

    left: Micros
    one: Standing


def ahead(
    dead: Iterable[Standing], retention: float, *, since_origin: bool, now: Micros, within: Micros
) -> list[Ahead]:
    """Dead letters that are forgotten within a time, or are so already, the first one first.

    Args:
        retention: seconds after which their queue forgets them.
        since_origin: whether that counts from when a message was first sent. Of what died of no failure that is booked it does anyway.
    """
    found = []
    for one in dead:
        begun = one.since if since_origin or one.failed is None else one.failed.at
        left = begun + micros(retention) - now
        if left < within:
            found.append(Ahead(left, one))
    return sorted(found, key=lambda each: (each.left, each.one.key))


def lying_ahead(
    connection: Connection, queue: str, retention: float, *, since_origin: bool, now: Micros, within: Micros
) -> list[Ahead]:
    """The dead letters of one queue, as `ahead`, of the oldest that are read one by one.

    None dies before it is sent: so where the first that was sent has time, all have, and none need be read.
    """
    (sent,) = connection.execute(_FIRST_SENT, {"queue": queue}).fetchone()
    if sent is None or sent + micros(retention) - now >= within:
        return []
    dead = standing(connection, [Fate.DEAD], queue=queue, oldest=True)
    return ahead(dead, retention, since_origin=since_origin, now=now, within=within)
