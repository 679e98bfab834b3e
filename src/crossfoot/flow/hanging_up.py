"""The line to whoever asked, while the application works for them: what comes over it is the application's, but hanging up ends the work.

A server says that the caller has left only to those who ask it. Most requests are over before it is worth asking, and so a task that asks
is begun for those only that take longer than a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

import anyio

from crossfoot.flow.groups import LoopGroup
from crossfoot.flow.runtime import clock, running

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MOMENT = 0.01
"""Seconds after which it is listened for."""


class _Told(Protocol):
    over: bool


class Line:
    """One request's.

    Args:
        receive: the server's.
        answer: says whether the answer is over; who leaves then has had it.

    Attributes:
        hung_up: seconds the work had taken when the caller left, if it did.
    """

    def __init__(self, receive: Receive, answer: _Told) -> None:
        self._receive, self._answer = receive, answer
        self.hung_up: float | None = None
        self._clock = clock()
        self._began = self._clock()
        self._listening = self._asked = False
        self._heard: Message | None = None
        self._changed: anyio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: Any = None

    def begin(self, tasks: Any) -> None:
        """The application begins, in the block of this group."""
        self._tasks = tasks
        loop = running()
        if isinstance(tasks, LoopGroup) and loop is not None and loop.native is not None:
            self._timer = loop.native.call_later(MOMENT, self._listens)
        else:
            self._listens()

    def end(self) -> None:
        """The application is through."""
        tasks, self._tasks = self._tasks, None
        if self._timer is not None:
            self._timer.cancel()
        if self._listening:
            tasks.cancel_scope.cancel()

    async def receive(self) -> Message:
        """For the application."""
        while self._heard is None:
            if not self._asked:
                return await self._ask()
            await self._change()
        message, self._heard = self._heard, None
        self._tell()
        return message

    def _listens(self) -> None:
        if self._tasks is not None:
            self._listening = True
            self._tasks.start_soon(self._listen)

    async def _listen(self) -> None:
        while self.hung_up is None:
            if self._asked or self._heard is not None:
                await self._change()
            else:
                message = await self._ask()
                self._heard = message
                self._tell()

    async def _ask(self) -> Message:
        """Ask the server; one at a time."""
        self._asked = True
        try:
            message = await self._receive()
        finally:
            self._asked = False
            self._tell()
        if message["type"] == "http.disconnect" and not self._answer.over and self._tasks is not None:
            self.hung_up = self._clock() - self._began
            self._tasks.cancel_scope.cancel()
        return message

    async def _change(self) -> None:
        self._changed = self._changed or anyio.Event()
        await self._changed.wait()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
