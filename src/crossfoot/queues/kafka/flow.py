"""How much may be in hand: when a partition is paused, and when it goes on. Pure."""

from __future__ import annotations

MOST_BYTES = 64 * 1024 * 1024
"""Of messages in hand, of all partitions; more is not read until half of it has its end."""


class Flow:
    """How much is in hand: what the thread has taken, and what the event loop has let go, each written by one of them only."""

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.taken: dict[int, int] = {}
        self.passed: dict[int, int] = {}
        self.bytes_taken = 0
        self.bytes_freed = 0
        self.paused: set[int] = set()

    def changes(self) -> tuple[list[int], list[int]]:
        """Which partitions are to be paused now, and which go on. Of what the thread knows as paused, it keeps the list."""
        full = self.bytes_taken - self.bytes_freed >= MOST_BYTES
        roomy = self.bytes_taken - self.bytes_freed < MOST_BYTES // 2
        pause, resume = [], []
        for partition, taken in self.taken.items():
            held = taken - self.passed.get(partition, 0)
            if partition not in self.paused and (full or held >= self.ahead):
                pause.append(partition)
            elif partition in self.paused and roomy and held <= self.ahead // 2:
                resume.append(partition)
        self.paused.update(pause)
        self.paused.difference_update(resume)
        return pause, resume
