"""How a replay goes on: how fast, how much at once, and when it stops by itself. Pure."""

from __future__ import annotations

import msgspec

from crossfoot.clock import SECOND, Micros
from crossfoot.errors import UsageError

MOST = 1_000_000_000
"""Of anything that is counted."""

LONGEST = 10_000_000_000.0
"""Seconds, some three hundred years: more does not fit into a time in microseconds."""


def see_seconds(name: str, value: float) -> None:
    """Have a duration be one.

    Raises:
        UsageError: it is negative, endless, or no number.
    """
    if not 0 <= value <= LONGEST:
        raise UsageError(f"{name} = {value:g}: it is a number of seconds, from 0 to {LONGEST:,.0f}")


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of a run.

    Attributes:
        canary: members of the first stage; each later one has twice as many as the one before it.
        stage: members of a stage at most.
        rate: members moved per second at most.
        window: members that are moved and have not ended, at most: so many places in the queue live traffic may have to wait behind.
        live_slower: times longer than before it live messages may wait; beyond that it takes less, see `yielding`.
        max_errors: share of a stage that may end badly (dead again, refused, expired, vanished).
        max_again: share of a stage that may fail again of the cause that it died of, even if it is tried once more.
        max_breaches: share of a stage of which something that is expected may not come in time, by expectation.
        max_latency: seconds from the move to the end that a member may take; `None` for any.
        patience: seconds without any progress, after which it is paused.
    """

    canary: int = 10
    stage: int = 500
    rate: float = 50.0
    window: int = 25
    live_slower: float = 1.2
    max_errors: float = 0.05
    max_again: float = 0.05
    max_breaches: float = 0.05
    max_latency: float | None = None
    patience: float = 600.0

    def __post_init__(self) -> None:
        for name in ("canary", "stage", "window"):
            if not 1 <= getattr(self, name) <= MOST:
                raise UsageError(f"{name} = {getattr(self, name)}: it is at least 1, and at most {MOST:,}")
        for name in ("rate", "patience"):
            if not 0 < getattr(self, name) <= LONGEST:
                raise UsageError(f"{name} = {getattr(self, name):g}: it is more than 0, and at most {LONGEST:,.0f}")
        for name in ("max_errors", "max_again", "max_breaches"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} = {getattr(self, name)}: it is a share, from 0 to 1")
        if not 1 <= self.live_slower <= LONGEST:
            raise UsageError(
                f"live_slower = {self.live_slower:g}: it is at least 1, and at most {LONGEST:,.0f}, which never slows it down"
            )
        if self.max_latency is not None and not 0 < self.max_latency <= LONGEST:
            raise UsageError(f"max_latency = {self.max_latency:g}: it is more than 0 and finite, or left out")

    def size_of(self, stage: int) -> int:
        """Members of a stage, which are counted from 1."""
        return min(self.stage, self.canary << min(stage - 1, 40))


class Tally(msgspec.Struct):
    """How a stage stands.

    Attributes:
        moved: members that were moved in it.
        bad: those that ended badly.
        again: by cause, those that failed of what they had died of before.
        breached: by expectation, those that took effect, and of which what is expected did not come in time.
        slowest: the longest from move to end, or until now.
    """

    moved: int = 0
    bad: int = 0
    again: dict[str, int] = {}
    breached: dict[str, int] = {}
    slowest: Micros = 0


def reason_to_abort(policy: Policy, stage: int, tally: Tally) -> str | None:
    """Why a replay is not to go on, `None` when it may. Shares are of the whole stage, so that the first failure of a long one is
    no reason yet."""
    size = policy.size_of(stage)
    if tally.bad > policy.max_errors * size:
        return f"stage {stage}: {tally.bad:,} of {tally.moved:,} ended badly, more than {policy.max_errors:.0%}"
    for cause, count in sorted(tally.again.items(), key=lambda item: -item[1]):
        if count > policy.max_again * size:
            return f"stage {stage}: {count:,} of {tally.moved:,} failed again of cause {cause}, of which they had died: it is not mended"
    for name, count in sorted(tally.breached.items(), key=lambda item: -item[1]):
        if count > policy.max_breaches * size:
            return (
                f"stage {stage}: {count:,} of {tally.moved:,} took effect without what {name!r} expects of them in time"
            )
    if policy.max_latency is not None and tally.slowest > policy.max_latency * SECOND:
        return f"stage {stage}: one took {tally.slowest / SECOND:.1f} s, more than {policy.max_latency:g} s"
    return None
