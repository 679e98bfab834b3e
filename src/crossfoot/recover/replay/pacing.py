"""So many members a second, and no more."""

from __future__ import annotations

import anyio


class Budget:
    """How many may be moved now, at so many per second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._at = anyio.current_time()
        self._tokens = 1.0

    def take(self, most: int, share: float = 1.0) -> int:
        """So many of them, at that share of the rate."""
        now = anyio.current_time()
        rate = self._rate * share
        self._tokens = min(self._tokens + (now - self._at) * rate, max(1.0, rate / 4))
        self._at = now
        count = min(most, int(self._tokens))
        self._tokens -= count
        return count

    async def wait(self) -> None:
        """Until one more may be moved."""
        if not self.take(1):
            await anyio.sleep((1.0 - self._tokens) / self._rate + 0.001)
            self.take(1)
