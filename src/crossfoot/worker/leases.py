"""Leases: everything this worker holds is extended before it runs out, and given up when the broker says so."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import anyio.to_thread

from crossfoot.books.entry import Entry, Kind
from crossfoot.books.store import Book
from crossfoot.boundaries import Boundary, reach
from crossfoot.clock import Clock, micros
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Done, Queue
from crossfoot.worker.held import Held

logger = logging.getLogger("crossfoot.worker")


class Leases:
    """The deliveries of one queue in this worker's hands.

    Args:
        lease: seconds each lease lasts; it is extended when a third of it has passed.
    """

    def __init__(self, book: Book, queue: Queue, clock: Clock, *, lease: float) -> None:
        self._book = book
        self._queue = queue
        self._clock = clock
        self.lease = lease
        self._held: dict[int, Held] = {}
        self._beaten = clock.monotonic()
        self._turn = anyio.Lock()
        self._void: set[str] = set()
        """Receipts that were lost before they were held."""

    def __len__(self) -> int:
        return len(self._held)

    @property
    def held(self) -> list[Held]:
        """Everything in hand."""
        return list(self._held.values())

    @property
    def running(self) -> list[str]:
        """The deliveries whose asynchronous handlers run now."""
        return [str(held.work) for held in self.held if held.work is not None and held.work.hold.running is not None]

    def hold(self, helds: Sequence[Held]) -> None:
        for held in helds:
            self._held[id(held)] = held
            if held.delivery.receipt in self._void:
                held.lose()
        self._void.clear()

    def forget(self, helds: Sequence[Held]) -> None:
        for held in helds:
            self._held.pop(id(held), None)

    def lose(self, receipts: Sequence[str]) -> None:
        """The queue says that these are void, without having been asked."""
        void = set(receipts)
        for held in self._held.values():
            if held.delivery.receipt in void:
                void.discard(held.delivery.receipt)
                held.lose()
        self._void |= void  # received, and on their way to be held

    async def catch_up(self) -> None:
        """Beat now if that is overdue: a receive might bring what is in hand here, and ran out meanwhile."""
        await (
            anyio.lowlevel.checkpoint()
        )  # asynchronous handlers that are to begin do: if they block, it is before a receive is under way
        if self._clock.monotonic() - self._beaten > self.lease / 4:
            await self.beat()

    async def beat(self) -> int:
        """Extend what needs it. Returns how many were extended.

        A lease that the broker calls void is lost: its handler is cancelled where that is possible, and fenced off
        its commit in any case. A request without an answer changes nothing here: the lease runs on as last known.
        """
        async with self._turn:
            return await self._beat()

    async def _beat(self) -> int:
        self._beaten = now = self._clock.monotonic()
        soon = now + self.lease * 2 / 3
        due = [
            held for held in self._held.values()
            if held.lease_over <= soon and not held.lost and held.hold is not None
            # A handler that goes on after its deadline may not commit any more; somebody else may try.
            and (held.deadline is None or now <= held.deadline)
        ]  # fmt: skip
        if not due:
            return 0
        asked, asked_wall = self._clock.monotonic(), self._clock.now()
        reach(Boundary.DURING_EXTENSION)
        try:
            answers = await self._queue.extend([held.delivery.receipt for held in due], lease=self.lease)
        except QueueUnavailable as error:
            logger.warning("leases of %d deliveries could not be extended: %s", len(due), error)
            return 0
        reach(Boundary.DURING_EXTENSION)
        entries = []
        for held, answer in zip(due, answers, strict=True):
            if isinstance(answer, Done):
                held.lease_over = asked + self.lease
                entries.append(self._extended(held, asked_wall))
            elif answer.lost and id(held) in self._held:
                held.lose()
        if entries:
            await anyio.to_thread.run_sync(self._book.append, entries)
        return len(entries)

    def _extended(self, held: Held, now: int) -> Entry:
        hold = held.hold
        assert hold is not None
        return Entry(
            message=hold.key, kind=Kind.EXTENDED, at=now, attempt=hold.attempt, delivery=hold.delivery, worker=hold.worker,
            due=now + micros(self.lease),
        )  # fmt: skip
