"""Tasks that end with their block, on asyncio, for about half of what anyio's own task group costs, and with the same cancellations.

Each task is within a scope of anyio's, so that shields hold and a cancellation comes again until the task ends; what this spares are the
names, handles and calls in between. On trio, anyio's task group is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from crossfoot.flow.runtime import running, scope


class LoopGroup:
    """As much of anyio's TaskGroup as a fan-out asks for. It is its own `cancel_scope`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.cancel_called = False
        self._loop = loop
        self._body = scope()
        self._kind = type(self._body)
        self._scopes: list[anyio.CancelScope] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._waiter: asyncio.Future[None] | None = None

    @property
    def cancel_scope(self) -> Self:
        """What cancels the block and the tasks."""
        return self

    async def __aenter__(self) -> Self:
        self._body.__enter__()
        return self

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> asyncio.Task[None]:
        """Have a task call it; unless the group is cancelled before it begins."""
        task = self._loop.create_task(self._within(function, args))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def cancel(self) -> None:
        """Cancel the block and the tasks."""
        self.cancel_called = True
        self._body.cancel()
        for one in self._scopes:
            one.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        swallowed = bool(self._body.__exit__(kind, error, trace))
        if error is not None:
            self.cancel()
        cancelled = await self._all_ended() if self._tasks else None
        if error is not None and not swallowed:
            if not self._errors and not isinstance(error, Exception):
                return False
            self._errors.insert(0, error)
        self._scopes.clear()
        if self._errors:
            raise BaseExceptionGroup("errors in a fan-out", self._errors)
        if cancelled is not None:
            raise cancelled
        return swallowed

    async def _within(self, function: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        if self.cancel_called:
            return
        with self._kind() as own:
            self._scopes.append(own)  # and there it stays: to cancel one that is left does nothing
            await function(*args)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)
            self.cancel()
        if not self._tasks and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _all_ended(self) -> asyncio.CancelledError | None:
        """Wait for them. A cancellation that comes meanwhile cancels them, and is returned when they have ended."""
        try:
            await self._wait()
        except asyncio.CancelledError as caught:
            self.cancel()
            cancelled = caught
        else:
            return None
        with anyio.CancelScope(shield=True):  # anyio's would come again and again
            while self._tasks:
                try:
                    await self._wait()
                except asyncio.CancelledError as again:
                    cancelled = again
        return cancelled

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter


def group() -> LoopGroup | TaskGroup:
    """A task group for the loop that runs here."""
    loop = running()
    if loop is not None and loop.native is not None:
        return LoopGroup(loop.native)
    return anyio.create_task_group()
