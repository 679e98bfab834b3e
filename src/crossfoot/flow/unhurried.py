"""Awaiting what must not be cut off, whoever cancels."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import anyio

from crossfoot.flow.runtime import running


class Ended(NamedTuple):
    """How it ended.

    Attributes:
        answered: within its time; otherwise it was cancelled, or has raised nothing yet.
        cancelled: a cancellation that came meanwhile, for the caller to raise when it has noted what it has to.
    """

    answered: bool
    cancelled: asyncio.CancelledError | None


async def unhurried(function: Callable[[], Awaitable[object]], seconds: float) -> Ended:
    """Await it for that long, whoever cancels this task, in a task of its own.

    anyio's shield keeps off anyio's cancellations only; servers and `asyncio.wait_for` cancel tasks directly.
    """
    loop = running()
    if loop is None or loop.native is None:  # trio has no cancellation but its own
        with anyio.move_on_after(seconds, shield=True) as shielded:
            await function()
        return Ended(not shielded.cancelled_caught, None)
    ended = asyncio.Event()
    scope = anyio.CancelScope()
    errors: list[Exception] = []

    async def run() -> None:
        with scope:
            try:
                await function()
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                errors.append(error)
        ended.set()

    task = asyncio.create_task(run())  # kept until it has ended, as `ended` says
    timer = loop.native.call_later(seconds, scope.cancel) if seconds < math.inf else None
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not ended.is_set():
            try:
                await ended.wait()
            except asyncio.CancelledError as caught:
                cancelled = caught
    if timer is not None:
        timer.cancel()
    del task
    if errors and not scope.cancelled_caught:
        if cancelled is not None:
            errors[0].add_note("a cancellation came meanwhile")
        raise errors[0]
    return Ended(not scope.cancelled_caught, cancelled)
