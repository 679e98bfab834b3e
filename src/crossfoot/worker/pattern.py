"""How a worker works: what is chosen for it, within bounds."""

from __future__ import annotations

import msgspec

from crossfoot.errors import UsageError
from crossfoot.worker.retry import LONGEST, Retry

MOST = 10_000
"""Of anything that is counted: more is a slip of the pen."""


class Pattern(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker works. Times in seconds.

    Attributes:
        concurrency: handlers that run at once; on SQLite one writes at a time, so more help only handlers that wait.
        batch: deliveries per transaction; 1 is the plain mode.
        optimistic: batches begin without savepoints; if one delivery fails, the handlers of all the batch run again.
        lease: how long a received message is ours before it must be extended.
        wait: how long one receive waits for messages; a quarter of the lease at most.
        grace: how long a stopping worker waits for handlers that run.
        reconcile: how often the queue is compared with the book.
        prefetch: deliveries taken in ahead of the handlers.
    """

    concurrency: int = 4
    batch: int = 1
    optimistic: bool = False
    lease: float = 30.0
    wait: float = 1.0
    grace: float = 25.0
    reconcile: float = 30.0
    prefetch: int = 64
    retry: Retry = Retry()

    def __post_init__(self) -> None:
        for name in ("concurrency", "batch", "prefetch"):
            if not 1 <= getattr(self, name) <= MOST:
                raise UsageError(f"{name} must be from 1 to {MOST:,}, not {getattr(self, name)}")
        if self.optimistic and self.batch == 1:
            raise UsageError("optimistic is about batches: state a batch as well, as in batch=100")
        for name in ("lease", "grace", "reconcile"):
            if not 0 < getattr(self, name) <= LONGEST:
                raise UsageError(f"{name} must be more than 0 seconds, and a year at most, not {getattr(self, name)}")
        if not 0 <= self.wait <= LONGEST:
            raise UsageError(f"wait must be 0 seconds or more, and a year at most, not {self.wait}")
