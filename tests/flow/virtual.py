"""Virtual time on both event loops: while every task waits, the clock jumps to the next timer. Nothing is timed by speed."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

import trio.testing


class _Selector(selectors.DefaultSelector):
    """Instead of waiting for a timer it moves the clock to it; for files and other threads it waits as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with a clock of its own."""

    def __init__(self) -> None:
        self.virtual = _Selector()
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.now

    def advance(self, seconds: float) -> None:
        """What code that blocks the loop does."""
        self.virtual.now += seconds


Backend = tuple[str, dict[str, Any]]


def backend(name: str) -> Backend:
    """What anyio's plugin, or `anyio.run`, needs to run on a loop of that name in virtual time."""
    if name == "asyncio":
        return name, {"loop_factory": VirtualLoop}
    return name, {"clock": trio.testing.MockClock(autojump_threshold=0)}


def block(seconds: float) -> None:
    """Hold up the event loop that runs here: its clock moves on, and nobody was asked."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(seconds)
    else:
        assert isinstance(loop, VirtualLoop)
        loop.advance(seconds)
