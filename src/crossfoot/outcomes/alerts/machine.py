"""When an alert fires, and when it is over: a state machine that is handed the time.

Pure. What it remembers is small and is kept in the book, so that it does not matter which process looks next, or how long nobody did.
A clock that is set back makes nothing older than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from crossfoot.clock import SECOND, Micros
from crossfoot.outcomes.alerts.rules import Arrivals, Burn, Level, Rule, Window


class Change(StrEnum):
    """What a look made of an episode."""

    opened = "opened"
    closed = "closed"


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """Two counters that only rise, at one time: bad events, and all events."""

    at: Micros
    bad: float
    all: float


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a look found.

    Attributes:
        value: for a `Level`.
        bad, all: for a `Burn`: counters; `bad` also for `Arrivals`.
    """

    value: float | None = None
    bad: float = 0
    all: float = 0


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is remembered between two looks.

    Attributes:
        firing: whether an episode is open.
        bad_since, calm_since: since when it has been bad, or calm, without a break.
        samples: a minute apart, of the longest window.
        last: the count of the last look.
    """

    firing: bool = False
    bad_since: Micros | None = None
    calm_since: Micros | None = None
    samples: tuple[Sample, ...] = ()
    last: float = 0


IDLE = State()

APART: Micros = 60 * SECOND
"""Between two samples that are kept."""


def step(rule: Rule, state: State, seen: Seen | None, now: Micros) -> tuple[State, Change | None]:
    """One look.

    Args:
        seen: `None` when there is nothing of it any more, which is as calm as can be.
    """
    if isinstance(rule, Level):
        return _turn(state, now, _beyond(rule, seen), _calm(rule, seen), rule.sustain, rule.calm)
    if isinstance(rule, Arrivals):
        count = seen.bad if seen is not None else 0.0
        rises = count > state.last
        moved = msgspec.structs.replace(state, last=count)
        return _turn(moved, now, rises, not rises, 0, rule.calm)
    samples = remembered(state.samples, seen, now, rule.longest)
    burns = any(_burns(rule, window, samples, now) for window in rule.windows)
    return _turn(msgspec.structs.replace(state, samples=samples), now, burns, not burns, 0, rule.calm)


def share(samples: Sequence[Sample], over: Micros, now: Micros) -> tuple[float, float]:
    """Bad events of a window, and their share of all.

    The window begins with the last sample before it; where none is as old, with the first there is.
    """
    if not samples:
        return 0.0, 0.0
    old = [sample for sample in samples if sample.at <= now - over]
    first, last = (old[-1] if old else samples[0]), samples[-1]
    bad, everything = last.bad - first.bad, last.all - first.all
    return bad, (min(1.0, bad / everything) if everything > 0 else float(bad > 0))


def rate(samples: Sequence[Sample], over: Micros, now: Micros) -> float:
    """How many of all events there were a second, lately; 0 where it is not known yet."""
    old = [sample for sample in samples if sample.at <= now - over]
    first = old[-1] if old else samples[0] if samples else None
    if first is None or samples[-1].at <= first.at:
        return 0.0
    return (samples[-1].all - first.all) / (samples[-1].at - first.at) * SECOND


def _turn(
    state: State, now: Micros, bad: bool, calm: bool, sustain: Micros, patience: Micros
) -> tuple[State, Change | None]:
    """What is bad for long enough fires; what is calm for long enough is over; what is neither waits."""
    bad_since = _since(state.bad_since, now) if bad else None
    calm_since = _since(state.calm_since, now) if calm else None
    moved = msgspec.structs.replace(state, bad_since=bad_since, calm_since=calm_since)
    if not state.firing and bad_since is not None and now - bad_since >= sustain:
        return msgspec.structs.replace(moved, firing=True), Change.opened
    if state.firing and calm_since is not None and now - calm_since >= patience:
        return msgspec.structs.replace(moved, firing=False, bad_since=None), Change.closed
    return moved, None


def _since(before: Micros | None, now: Micros) -> Micros:
    """Since when; a clock that was set back begins anew."""
    return before if before is not None and before <= now else now


def _beyond(rule: Level, seen: Seen | None) -> bool:
    if seen is None or seen.value is None:
        return False
    return seen.value < rule.fire if rule.below else seen.value > rule.fire


def _calm(rule: Level, seen: Seen | None) -> bool:
    if seen is None or seen.value is None:
        return True
    return seen.value >= rule.clear if rule.below else seen.value <= rule.clear


def _burns(rule: Burn, window: Window, samples: Sequence[Sample], now: Micros) -> bool:
    bound = min(1.0, window.factor * rule.allowed)
    of_long, of_short = share(samples, window.long, now), share(samples, window.short, now)
    return of_long[0] >= rule.least and of_long[1] >= bound and of_short[0] > 0 and of_short[1] >= bound


def remembered(samples: tuple[Sample, ...], seen: Seen | None, now: Micros, longest: Micros) -> tuple[Sample, ...]:
    """The samples with the new one; the last of those before the longest window is where that begins."""
    kept = [sample for sample in samples if sample.at <= now]
    last = kept[-1] if kept else None
    new = Sample(now, seen.bad, seen.all) if seen is not None else last
    if new is None:
        return ()
    if last is not None and (new.bad < last.bad or new.all < last.all):  # counted anew: what was before says nothing
        kept = []
    if len(kept) > 1 and kept[-1].at - kept[-2].at < APART:
        kept.pop()
    made = [*kept, msgspec.structs.replace(new, at=now)]
    old = [place for place, sample in enumerate(made) if sample.at <= now - longest]
    return tuple(made[old[-1] if old else 0 :])
