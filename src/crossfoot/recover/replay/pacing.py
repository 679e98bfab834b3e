"""So many members a second, and no more."""

from __future__ import annotations

import anyio


class Budget:
    """How many may be moved now, at so many per second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._at = anyio.current_time()
        self._tokens = 1.0

    def take(self, most: int) -> int:
        now = anyio.current_time()
        self._tokens = min(self._tokens + (now - self._at) * self._rate, max(1.0, self._rate / 4))
        self._at = now
        count = min(most, int(self._tokens))
        self._tokens -= count
        return count
