"""Virtual time on both event loops: while every task waits, the clock jumps to the next timer. Nothing is timed by speed."""

from __future__ import annotations

import asyncio
from typing import Any

import trio.testing

from crossfoot.flow.virtual import VirtualLoop

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
