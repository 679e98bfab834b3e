"""Waking receives that wait in this process when a message is published in it; other processes are found by polling."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import anyio

Place = tuple[str, str]
"""The queue's file and name."""

_listeners: dict[Place, set[Listener]] = {}
_lock = threading.Lock()


def ring(place: Place) -> None:
    """Wake everyone who waits at `place`. Callable from any thread; costs next to nothing when nobody does."""
    if place in _listeners:
        with _lock:
            waiting = list(_listeners.get(place, ()))
        for listener in waiting:
            listener.ring()


class Listener:
    """One waiting receive. A ring between two waits is kept for the next, so none falls between looking and waiting."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._event = anyio.Event()
        self._thread = threading.get_ident()
        self._soon = _soon()

    def __enter__(self) -> Self:
        with _lock:
            _listeners.setdefault(self._place, set()).add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with _lock:
            there = _listeners[self._place]
            there.discard(self)
            if not there:
                del _listeners[self._place]

    async def wait(self, seconds: float) -> bool:
        """Until the bell rings (True) or `seconds` are over (False)."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
        rung = self._event.is_set()
        if rung:
            self._event = anyio.Event()
        return rung

    def ring(self) -> None:
        if threading.get_ident() == self._thread:
            self._set()
        elif self._soon is not None:
            with suppress(RuntimeError):  # its loop has just been closed: nobody waits there any more
                self._soon(self._set)

    def _set(self) -> None:
        self._event.set()  # whichever is current by then


def _soon() -> Callable[[Callable[[], object]], object] | None:
    """How another thread runs something in this event loop; `None` where it is not asyncio's, and polling must do."""
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        return None
