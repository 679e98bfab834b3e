"""Waiting for what happens in other processes, where only looking again tells."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio


async def until(holds: Callable[[], Awaitable[bool]], *, every: float) -> None:
    """Wait until it holds; look every so many seconds."""
    while not await holds():  # noqa: ASYNC110 - no event of this process tells of another
        await anyio.sleep(every)
