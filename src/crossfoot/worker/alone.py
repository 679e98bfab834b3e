"""Messages that may take the process down: they are handled one at a time, and say first that they begin.

A worker that dies leaves all deliveries it held without an end, and not one of them tells which was to blame. When that has
happened often enough to a message it is suspected, and handled alone: the entry that its handler begins is durable before,
so after the next death it is known whose handler ran. Its neighbours are not buried with it.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import anyio.to_thread

from crossfoot.books.entry import Kind
from crossfoot.books.store import Book
from crossfoot.worker.failing import entry_of
from crossfoot.worker.held import Held

BEGINS = {"reason": "its handler begins, with no other of which deliveries have no end"}


class Alone:
    """One turn at a time, whichever kinds of lane a worker has."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._thread = threading.Lock()
        self._task = anyio.Lock()

    @contextmanager
    def turn(self, held: Held) -> Iterator[None]:
        """For a lane in a thread."""
        with self._thread:
            self._begin(held)
            yield

    @asynccontextmanager
    async def aturn(self, held: Held) -> AsyncIterator[None]:
        """For a lane in the event loop."""
        async with self._task:  # so that one of them at most waits in a thread
            await anyio.to_thread.run_sync(self._thread.acquire)
            try:
                await anyio.to_thread.run_sync(self._begin, held)
                yield
            finally:
                self._thread.release()

    def _begin(self, held: Held) -> None:
        now, until = self._book.clock.now(), held.delivery.lease_until
        self._book.append([entry_of(held, Kind.EXTENDED, now, due=until, details=BEGINS)])
