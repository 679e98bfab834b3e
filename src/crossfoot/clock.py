"""Time as an argument: wall time is an int of microseconds since the epoch (UTC), waits are float seconds."""

from __future__ import annotations

import time
from typing import Protocol

Micros = int
"""Microseconds since 1970-01-01T00:00:00Z."""

SECOND: Micros = 1_000_000


class Clock(Protocol):
    """Where the edges read the time; pure code is handed `now` instead."""

    def now(self) -> Micros:
        """Wall time, for entries and for what other machines compare."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step, for deadlines within this process."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> Micros:
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: Micros = 1_700_000_000 * SECOND) -> None:
        self._now = now

    def now(self) -> Micros:
        return self._now

    def monotonic(self) -> float:
        return self._now / SECOND

    def advance(self, seconds: float) -> None:
        """Move both clocks by `seconds` (negative steps the wall back, as NTP does)."""
        self._now += round(seconds * SECOND)


def micros(seconds: float) -> Micros:
    """A duration in seconds as microseconds."""
    return round(seconds * SECOND)
