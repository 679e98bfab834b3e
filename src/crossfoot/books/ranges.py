"""Ranges of keys, by which a book in PostgreSQL is cut: entries and payloads of the messages of one range lie in tables of their own.

Keys ascend with time, and a message's entries bear its key whenever they are written. So a range is a stretch of time, one question
about a message leads to one range, and to drop one drops whole stories. Where a range ends has to be known before its first key is
given: what a table is for cannot be changed while it is written. So the next one is made while a whole one is still ahead, as wide as
a period is expected to need; when the period is over, the keys that are left are used up. Keys beyond all ranges lie in the rest (see
`cutting`), so nobody who writes depends on this.

Pure: what there is comes in, and what is to be done goes out. The clock decides when a range ends and how wide the next one is, and
nothing else; one that is wrong makes ranges that are too short or too long.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from crossfoot.clock import SECOND, Micros

LOWEST, HIGHEST = -(2**63), 2**63 - 1
"""Of all keys."""

PERIOD: Micros = 7 * 24 * 3_600 * SECOND
"""How long a range is given keys: long enough that a year is some fifty of them, each of which costs a little (decision 0036)."""

LEAST = 100_000
"""Keys of a range, at least, and keys that must lie between those given and a range that is made: who writes while it is being
made must have no key of it. Nobody publishes as many meanwhile, at most two seconds."""

GROWTH = 10
"""How many times wider than the last one a range may be: the first minute of a book may tell little about its weeks."""

STEP = 1_000_000
"""Keys that are used up at once: a fifth of a second."""


class Range(msgspec.Struct, frozen=True, order=True):
    """The keys from `lower` until before `upper`."""

    lower: int
    upper: int

    def __contains__(self, key: int) -> bool:
        return self.lower <= key < self.upper


class Since(msgspec.Struct, frozen=True):
    """When keys of a range were first seen to be given, and which was the next."""

    lower: int
    key: int
    at: Micros


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """How a book is cut.

    Attributes:
        ranges: of which there are tables, ascending.
        next_key: the key that will be given next.
        since: as it was noted last.
    """

    ranges: tuple[Range, ...]
    next_key: int
    since: Since | None = None

    @property
    def current(self) -> Range | None:
        """The range of which keys are given; `None` while they lie in the rest."""
        return next((one for one in self.ranges if self.next_key in one), None)

    @property
    def following(self) -> Range | None:
        """The range of which keys will be given next."""
        return next((one for one in self.ranges if one.lower > self.next_key), None)


def noted(cut: Cut, now: Micros) -> Since | None:
    """What is to be noted, if it is not: another range's keys are given, or the clock stands before the note."""
    current = cut.current
    if current is None or (cut.since is not None and cut.since.lower == current.lower and cut.since.at <= now):
        return None
    return Since(current.lower, cut.next_key, now)


def wanted(cut: Cut, used_upto: int, now: Micros) -> Range | None:
    """The range that should be made now: none while a whole one is ahead.

    Args:
        used_upto: the last key that was given before the current range, or at all where there is none.
    """
    if cut.following is not None:
        return None
    last = cut.ranges[-1] if cut.ranges else Range(LOWEST, cut.next_key)
    lower = max(last.upper, cut.next_key + LEAST)
    width = LEAST if last.lower == LOWEST else last.upper - last.lower
    return Range(lower, lower + min(max(_of_a_period(cut.since, used_upto, now), LEAST), GROWTH * width))


def _of_a_period(since: Since | None, used_upto: int, now: Micros) -> int:
    """Keys that a period takes, as the last range went."""
    if since is None:
        return 0
    return (used_upto + 1 - since.key) * PERIOD // max(now - since.at, SECOND)


def left_over(cut: Cut, now: Micros) -> int:
    """How many keys are to be used up now: the current range's period is over, and something is in it."""
    current, following, since = cut.current, cut.following, cut.since
    if current is None or following is None or since is None or since.lower != current.lower:
        return 0
    if now - since.at < PERIOD or cut.next_key <= max(current.lower, 1):
        return 0
    return min(following.lower - cut.next_key, STEP)


def quiet_below(cut: Cut) -> int:
    """The bound of the ranges to which hardly anything is added any more: all but the current one and the one before it."""
    begun = [one for one in cut.ranges if one.lower <= cut.next_key]
    return begun[-2].lower if len(begun) > 1 else LOWEST


def finished(
    ranges: Sequence[Range], *, ended: Mapping[int, Micros], before: Micros, closed: int, unsettled: Collection[int]
) -> list[Range]:
    """The ranges that lie wholly before a time and hold only settled messages, so that nothing is missed when they go.

    Args:
        ended: when the last entry of each was written, by its lower bound; a range that is not there is empty.
        closed: up to this key all messages are there and posted (see `closing`).
        unsettled: the keys of messages that are not settled.
    """
    return [
        one
        for one in ranges
        if one.upper <= closed + 1
        and ended.get(one.lower, before - 1) < before
        and not any(key in one for key in unsettled)
    ]
