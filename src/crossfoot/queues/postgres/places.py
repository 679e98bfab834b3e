"""Where a receive begins to look, so that it does not step over all that was delivered before. Pure.

What is delivered and acked is deleted, but while any old transaction of the database goes on, VACUUM leaves it where it
was, and whoever reads an index from its beginning steps over it, each time. So a receive reads on from where the last look
ended. What could become visible behind its back is known: a look is a snapshot, and rows that appear later were made ready
by a transaction that had not ended in it. Those in progress are listed by the snapshot, and the others have higher numbers.
Those that have been in progress for long are asked for by themselves, a few of them; reading on begins at the next one.

Waits are ordered by time instead, and a transaction may end after the time to which it has delayed something. A margin
covers what is common; the rest is found by a look from the beginning, once in a while.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from crossfoot.clock import Micros, micros
from crossfoot.queues.postgres.tables import FRONT, PRIORITIES

RANKS = range(FRONT, PRIORITIES + 1)
"""In the order of delivery."""

HIGHEST = 2**63 - 1

LONG = 500
"""A transaction is in progress for long when so many have begun since: what they left is much to step over."""

POINTS = 8
"""Transactions in progress that are asked for by themselves."""

MOST_POINTS = 16
"""Of those that have ended and whose messages are not all delivered, more are not remembered one by one."""

MARGIN = micros(0.25)
"""Microseconds that a wait may end before the transaction that has set it."""

Range = tuple[int, int, int]
"""A rank, with its lowest and its highest place."""


class Places(msgspec.Struct, frozen=True):
    """What to read.

    Attributes:
        lows: for each rank where to begin.
        points: places below that can be filled later, or hold messages still.
        since: from when on waits may have ended.
    """

    lows: tuple[int, ...] = (0,) * len(RANKS)
    points: tuple[int, ...] = ()
    since: Micros = 0

    def ranges(self) -> list[Range]:
        """In the order of delivery: by rank, then by place."""
        return list(self._ranges())

    def _ranges(self) -> Iterator[Range]:
        for rank, low in zip(RANKS, self.lows, strict=True):
            for point in self.points:
                if point < low:
                    yield rank, point, point
            yield rank, low, HIGHEST


class Look(msgspec.Struct, frozen=True, array_like=True):
    """What a look saw, all of one snapshot.

    Attributes:
        xmax: transactions from this number on had not begun, or not ended.
        running: numbers of those below that had not ended.
        due: since when the first wait is over that is not seen to yet, `None` when there is none.
        now: the server's time.
        first: for each range asked for the first place that holds a message, or `None`.
    """

    xmax: int
    running: list[int]
    due: Micros | None
    now: Micros
    first: list[int | None]


def after(asked: Places, look: Look) -> Places:
    """Where to begin from now on.

    Args:
        asked: what the look was asked for.
    """
    running = sorted(look.running)
    points = set([one for one in running if one < look.xmax - LONG][:POINTS])
    end = min((one for one in running if one not in points), default=look.xmax)
    lows: list[int] = []
    for (_, low, high), first in zip(asked.ranges(), look.first, strict=True):
        if high == HIGHEST:
            lows.append(max(low, end if first is None else min(first, end)))
        elif first is not None:
            points.add(low)
    known = [point for point in sorted(points) if point < max(lows)]
    if len(known) > MOST_POINTS:  # one by one they would cost more than what lies between them
        least = known[0]
        known, lows = [], [min(low, least) for low in lows]
    since = min(look.now, look.now if look.due is None else look.due) - MARGIN
    return Places(tuple(lows), tuple(known), max(since, 0))


def columns(ranges: Sequence[Range]) -> dict[str, list[int]]:
    """The ranges as parameters of the statements."""
    return {
        "ranks": [rank for rank, _, _ in ranges],
        "lows": [low for _, low, _ in ranges],
        "highs": [high for _, _, high in ranges],
    }
