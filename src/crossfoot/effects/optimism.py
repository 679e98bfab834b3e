"""Whether batches are begun without savepoints."""

from __future__ import annotations

MOST = 64


class Optimism:
    """Yes, until one is spoilt. Failures come in company: the next batches then have savepoints, one after the first spoilt one,
    and twice as many after each that follows before as many went well."""

    def __init__(self) -> None:
        self._pause = 1
        self._left = 0

    @property
    def holds(self) -> bool:
        """Whether the next batch is to be begun without savepoints."""
        return self._left == 0

    def learn(self, *, failed: bool) -> None:
        """How a batch went, with savepoints or without."""
        if failed:
            self._left = self._pause
            self._pause = min(self._pause * 2, MOST)
        elif self._left:
            self._left -= 1
        else:
            self._pause = max(self._pause // 2, 1)
