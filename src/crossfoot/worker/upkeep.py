"""What goes on in a worker beside receiving and handling: leases, posting, the outbox, reconciliation, a sign of life."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from crossfoot.books.posting import post
from crossfoot.books.store import Book
from crossfoot.effects.outbox import Outbox
from crossfoot.errors import DatabaseUnavailable, QueueUnavailable, UsageError
from crossfoot.queues.queue import Queue
from crossfoot.worker.leases import Leases
from crossfoot.worker.parking import resume_overdue
from crossfoot.worker.pattern import Pattern
from crossfoot.worker.reconcile import Reconciliation

logger = logging.getLogger("crossfoot.worker")


class Chore(Protocol):
    """Something else that a worker does for the book every few seconds, in a thread, over a connection of its own."""

    @property
    def every(self) -> float:
        """Seconds between two turns."""
        ...

    def begin(self) -> None:
        """Before the first turn.

        Raises:
            DatabaseUnavailable: the book cannot be used.
        """
        ...

    def turn(self, *, last: bool = False) -> None:
        """Do what there is to do; the last time, only what is quick.

        Raises:
            DatabaseUnavailable: the book cannot be used.
        """
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class Upkeep:
    """The tasks of one worker that nobody waits for.

    A queue that cannot be used is told, and asked again at the next turn; a database that cannot ends the worker.

    Args:
        ledger: the same book over a connection of its own, for posting.
        queues: where the outbox may have to send to, by name.
        number: the worker's, in the book.
    """

    def __init__(
        self, book: Book, ledger: Book, queue: Queue, queues: Mapping[str, Queue], outbox: Outbox, number: int
    ) -> None:
        self._book = book
        self._ledger = ledger
        self._queue = queue
        self._queues = queues
        self._outbox = outbox
        self._number = number
        self._to_send = anyio.Event()
        self.failure = ""
        """Why it has ended the worker, if it has."""

    def start(
        self, tasks: TaskGroup, leases: Leases, reconciliation: Reconciliation, pattern: Pattern, chores: Sequence[Chore]
    ) -> None:  # fmt: skip
        """Start all of it, until the group is cancelled."""
        self._start(tasks, leases.beat, pattern.lease / 6)
        self._start(tasks, self._posting, 0.5)
        self._start(tasks, self._tidy, 5.0)
        self._start(tasks, reconciliation.run, pattern.reconcile)
        tasks.start_soon(self._relay)
        for chore in chores:
            self._start(tasks, partial(anyio.to_thread.run_sync, chore.turn), chore.every)

    def wake_outbox(self) -> None:
        """Something was put into it."""
        self._to_send.set()

    def _start(self, tasks: TaskGroup, job: Callable[[], Awaitable[Any]], every: float) -> None:
        async def repeat() -> None:
            while True:
                await anyio.sleep(every)
                try:
                    await job()
                except (QueueUnavailable, DatabaseUnavailable) as error:
                    if isinstance(error, DatabaseUnavailable):
                        self.failure = str(error)
                        raise
                    logger.warning("queue %s: %s", self._queue.name, error)

        tasks.start_soon(repeat)

    async def _posting(self) -> None:
        while await anyio.to_thread.run_sync(post, self._ledger):
            pass
        if await anyio.to_thread.run_sync(resume_overdue, self._book):
            self.wake_outbox()

    async def _tidy(self) -> None:
        await anyio.to_thread.run_sync(self._book.see_worker, self._number)
        await anyio.to_thread.run_sync(self._book.tidy)

    async def _relay(self) -> None:
        """Send what transactions put into the outbox: when told, and once a second in case nobody told."""
        resting: dict[str, float] = {}
        while True:
            self._to_send = anyio.Event()
            more = False
            for (
                queue
            ) in self._queues.values():  # by turns: one that is sent to all the time does not hold up the others
                if anyio.current_time() < resting.get(queue.name, 0.0):
                    continue
                try:
                    more = bool(await self._outbox.drain(queue)) or more
                except (QueueUnavailable, UsageError) as error:
                    if isinstance(error, DatabaseUnavailable):
                        raise
                    logger.warning("queue %s cannot be sent to: %s", queue.name, error)
                    resting[queue.name] = anyio.current_time() + 1.0
            if not more:
                with anyio.move_on_after(1.0):
                    await self._to_send.wait()
