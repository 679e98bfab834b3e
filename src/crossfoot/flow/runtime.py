"""Which event loop runs in this thread, what its clock says, and how another thread reaches it.

A deadline is kept by the clock of whoever set it, because loops differ: asyncio's is `time.monotonic`, trio's begins anywhere,
and a test's stands still until everybody waits.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import anyio

Clock = Callable[[], float]
"""Seconds that never step back."""

SYSTEM: Clock = time.monotonic


class Loop(NamedTuple):
    """The event loop of a thread.

    Attributes:
        time: its clock; may be read in any thread.
        soon: has it call a function; may be called in any thread, and raises RuntimeError once the loop has ended.
        native: asyncio's own loop; nothing on trio.
    """

    time: Clock
    soon: Callable[..., object]
    native: asyncio.AbstractEventLoop | None


_latest: Loop | None = None


def running() -> Loop | None:
    """The loop whose task this is; nothing in a plain thread."""
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_task():
            token = trio.lowlevel.current_trio_token()
            return Loop(trio.lowlevel.current_clock().current_time, token.run_sync_soon, None)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    global _latest  # noqa: PLW0603 - asked for at every call, and mostly the same one
    latest = _latest
    if latest is None or latest.native is not loop:
        _latest = latest = Loop(loop.time, loop.call_soon_threadsafe, loop)
    return latest


def clock() -> Clock:
    """The clock of the loop that runs here, or the machine's."""
    loop = running()
    return SYSTEM if loop is None else loop.time


_scope: Callable[[], anyio.CancelScope] | None = None


def scope() -> anyio.CancelScope:
    """A cancel scope of asyncio's kind, without anyio's question which loop runs here: whoever calls this has asked it."""
    global _scope  # noqa: PLW0603 - it is the same class for ever
    if _scope is None:
        made = anyio.CancelScope()
        _scope = type(made)
        return made
    return _scope()
