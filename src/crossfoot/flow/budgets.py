"""How many retries the calls of the last seconds allow. Pure."""

from __future__ import annotations

import math
import threading

from crossfoot.errors import UsageError

SLICES = 10


class Budget:
    """Retries in proportion to calls, and a few beside, so that an outage is not answered by a multiple of the traffic (Finagle,
    *Retry Budgets*, 2016, from which the defaults are: a fifth of the calls of the last ten seconds, and ten a second).

    Args:
        ratio: retries a call allows.
        floor: retries a second that are allowed without any.
        seconds: for how long a call counts.
    """

    def __init__(self, ratio: float = 0.2, floor: float = 10.0, seconds: float = 10.0) -> None:
        if not (0 <= ratio <= 1000 and floor >= 0 and 0 < seconds < math.inf):
            raise UsageError(
                f"Budget(ratio={ratio}, floor={floor}, seconds={seconds}): need 0 or more, and some seconds that end"
            )
        self._ratio, self._floor, self._seconds = ratio, floor, seconds
        self._slice = seconds / SLICES
        self._calls = [0] * SLICES
        self._retries = [0] * SLICES
        self._at = 0
        self._lock = threading.Lock()

    def call(self, now: float) -> None:
        """A call is made for the first time."""
        with self._lock:
            self._calls[self._turn(now)] += 1

    def retry(self, now: float) -> bool:
        """Whether it may be made again; if so, that is counted."""
        with self._lock:
            turn = self._turn(now)
            allowed = self._ratio * sum(self._calls) + self._floor * self._seconds
            if sum(self._retries) + 1 > allowed + 1e-9:
                return False
            self._retries[turn] += 1
            return True

    def _turn(self, now: float) -> int:
        """The slice of `now`, after those that are too old have been emptied."""
        at = max(self._at, int(now / self._slice))
        for old in range(self._at + 1, min(at, self._at + SLICES) + 1):
            self._calls[old % SLICES] = self._retries[old % SLICES] = 0
        self._at = at
        return at % SLICES
