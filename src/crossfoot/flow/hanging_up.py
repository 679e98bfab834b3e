"""The line to whoever asked, while the application works for them: what comes over it is the application's, but hanging up ends the work.

A server says that the caller has left only to those who ask it. Most requests are over before it is worth asking, and so a task that asks
is begun for those only that take longer than a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

import anyio

from crossfoot.flow.deadlines import Deadline

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
        within: the deadline of the work, in whose block `receive` is called; called off when the caller leaves.

    Attributes:
        hung_up: when the caller left, by the deadline's clock, if it did.
        listener: the task that listens, on asyncio, if one was begun.
    """

    # What few of them ever have is the class's, because a line is made for every request.
    hung_up: float | None = None
    listener: asyncio.Task[None] | None = None
    _asked = False
    _through = False
    _whole = False
    """Whether the last part of the body has come."""
    _silent = False
    """Whether there is nothing to listen for any more."""
    _changed: anyio.Event | None = None

    def __init__(self, receive: Receive, answer: _Told, within: Deadline) -> None:
        self._receive, self._answer, self._within = receive, answer, within
        self._heard: list[Message] = []
        within.soon = (MOMENT, self._begin_to_listen)

    def _begin_to_listen(self) -> None:
        self.listener = asyncio.get_running_loop().create_task(self.listen())

    def end(self) -> None:
        """The application is through."""
        self._through = True
        self._within.soon = None  # which refers back to this

    async def hush(self, listener: asyncio.Task[None]) -> None:
        """Have the listener end; raises what the server has raised in it."""
        listener.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait((listener,))
        if not listener.cancelled() and (error := listener.exception()) is not None:
            raise error

    async def receive(self) -> Message:
        """For the application."""
        while not self._heard:
            if not self._asked:
                return await self._ask()
            await self._change()
        message = self._heard.pop(0)
        self._tell()
        return message

    async def listen(self) -> None:
        """Listen until the caller leaves, or the application is through and this is cancelled."""
        try:
            while not self._silent:
                if self._asked or (self._heard and self._heard[-1].get("more_body")):
                    await self._change()
                else:  # of a body, one part is kept for the application at most; behind the last one comes that the caller left
                    message = await self._ask()
                    self._heard.append(message)
                    self._tell()
        except Exception:
            if not self._through:
                self._within.call_off()
            raise

    async def _ask(self) -> Message:
        """Ask the server; one at a time."""
        self._asked = True
        try:
            message = await self._receive()
        finally:
            self._asked = False
            self._tell()
        left = message["type"] == "http.disconnect"
        self._silent = left or self._whole  # a server that sends more than the whole body would do so for ever
        self._whole = not message.get("more_body")
        if left and not self._answer.over and not self._through:
            self.hung_up = self._within.clock()
            self._within.call_off()
        return message

    async def _change(self) -> None:
        self._changed = self._changed or anyio.Event()
        await self._changed.wait()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
