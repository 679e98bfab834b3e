"""The embedded queue as a `Queue`: the synchronous store in a worker thread, waiting, waking and cancellation.

Threads and processes share the file, each through its own connection, and any of them may be killed at any line: what
is committed stays, what is not never was, and the leases of the dead lapse by themselves.

Because messages are in the same file as the effects, one can be acked or published in the transaction of the effect
itself (`ack_statement`, `publish_statements`): then there is no moment at which one is done and the other is not.
Such a transaction holds SQLite's write lock, so nothing else of the queue may be awaited inside it.

Lines: with `ordered`, messages of one partition are delivered one after the other, in publish order. An earlier one
that is leased or delayed holds up its partition and nobody else; acked, dead-lettered or past retention it makes way.
A message takes its place in the line when it is published, so producers and consumers should agree on `ordered`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

import anyio
import anyio.to_thread

from crossfoot.clock import Clock, Micros
from crossfoot.errors import UsageError
from crossfoot.queues.embedded.doorbell import Listener, ring
from crossfoot.queues.embedded.sql import Statement, Statements
from crossfoot.queues.embedded.store import MAX_PUBLISH, Counts, EmbeddedStore, Page
from crossfoot.queues.queue import (
    Capabilities,
    Delivery,
    Depth,
    DepthIs,
    Held,
    Order,
    Outgoing,
    PublishAnswer,
    ReceiptAnswer,
)

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.1
"""Seconds between two looks of a waiting receive, doubling from the first to the longest."""

MAX_RECEIVE = 1_000

FORTNIGHT = 14 * 86_400.0


class EmbeddedQueue:
    """A queue in a SQLite file.

    Args:
        path: the database file. Opening the book creates it and the queue's tables.
        name: the subscription's name; a file holds any number of queues.
        retention: seconds after which an unacked message is forgotten, `None` for never.
        max_bytes: the largest message, body and attributes.
        max_attempts: deliveries after which the queue itself dead-letters a message; `None` leaves it to the worker.
        ordered: keep messages of one partition in line.
        clock: wall time for leases and delays. `wait` is always the event loop's time.
        synchronous: SQLite's setting; anything but FULL may lose the last commits with the machine's power.
    """

    system = "sqlite"

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str,
        *,
        retention: float | None = FORTNIGHT,
        max_bytes: int = 1024 * 1024,
        max_attempts: int | None = None,
        ordered: bool = True,
        clock: Clock | None = None,
        synchronous: str = "FULL",
    ) -> None:
        if retention is not None and not retention > 0:
            raise UsageError(f"retention of queue {name} must be over 0 seconds, or None for never, not {retention}")
        self._statements = Statements(queue=name, retention=retention, max_bytes=max_bytes, ordered=ordered)
        self._store = EmbeddedStore(
            path, self._statements, max_attempts=max_attempts, clock=clock, synchronous=synchronous
        )
        self._turn: anyio.CapacityLimiter | None = None

    @property
    def name(self) -> str:
        return self._statements.queue

    @property
    def path(self) -> str:
        """The database file; once opened, absolute and without symbolic links."""
        return self._store.path

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            order=Order.KEY if self._statements.ordered else Order.NONE,
            depth=DepthIs.EXACT,
            browsing=True,
            transactional_ack=True,
            receipts_fenced=True,
            max_delay=self.retention,
            max_receive=MAX_RECEIVE,
            max_publish=MAX_PUBLISH,
            max_bytes=self._statements.max_bytes,
        )

    @property
    def retention(self) -> float | None:
        return self._statements.retention

    @property
    def max_attempts(self) -> int | None:
        """Deliveries after which the queue itself dead-letters a message."""
        return self._store.max_attempts

    def is_in(self, path: str | os.PathLike[str]) -> bool:
        """Whether `path` is the queue's own file, so that acks can ride in a transaction there. Looks at the disk."""
        return os.path.realpath(path) == os.path.realpath(self.path)

    async def open(self) -> None:
        self._turn = self._turn or anyio.CapacityLimiter(1)
        await self._run(self._store.open)

    async def close(self) -> None:
        if self._turn is not None:
            with anyio.CancelScope(shield=True):
                await self._run(self._store.close)

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        answers = await self._run(self._store.publish, messages)
        self.wake()
        return answers

    async def receive(self, limit: int, *, lease: float, wait: float = 0.0) -> list[Delivery]:
        if limit < 1:
            raise UsageError(f"queue {self.name}: a receive must ask for at least one message, not {limit}")
        limit = min(limit, MAX_RECEIVE)
        give_up_at = anyio.current_time() + wait
        pause = FIRST_PAUSE
        with Listener((self.path, self.name)) as bell:
            while not (taken := await self._claim(limit, lease)):
                left = give_up_at - anyio.current_time()
                if left <= 0:
                    break
                rung = await bell.wait(min(pause, left))
                pause = FIRST_PAUSE if rung else min(pause * 2, LONGEST_PAUSE)
        return taken

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        return await self._settle(lambda: self._store.ack(receipts))

    async def release(self, receipts: Sequence[str], *, delay: float = 0.0) -> list[ReceiptAnswer]:
        """Without a delay, a message goes back to its old place."""
        return await self._settle(lambda: self._store.release(receipts, delay))

    async def extend(self, receipts: Sequence[str], *, lease: float) -> list[ReceiptAnswer]:
        return await self._run(self._store.extend, receipts, lease)

    async def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[ReceiptAnswer]:
        receipts = [delivery.receipt for delivery in deliveries]
        return await self._settle(lambda: self._store.dead_letter(receipts, reason))

    async def depth(self) -> Depth:
        return await self._run(self._store.depth)

    async def oldest(self) -> Micros | None:
        return await self._run(self._store.oldest)

    async def browse(self) -> AsyncIterator[Held]:
        async for held in self._pages(self._store.held):
            yield held

    async def dead_letters(self) -> AsyncIterator[Held]:
        async for held in self._pages(self._store.dead):
            yield held

    async def expired(self, limit: int = 100) -> list[Held]:
        """Messages past retention. They are kept until `purge`, so that the books can have them first."""
        return await self._run(self._store.expired, limit)

    async def purge(self, messages: Sequence[Held]) -> int:
        """Delete what `expired` gave. The number of messages that were still there."""
        return await self._run(self._store.purge, messages)

    async def forget_dead(self, broker_ids: Sequence[str]) -> int:
        """Delete dead letters. The number that were still there."""
        return await self._run(self._store.forget_dead, broker_ids)

    async def counts(self) -> Counts:
        """What the queue has counted by itself, apart from any book."""
        return await self._run(self._store.counts)

    def publish_statements(self, messages: Sequence[Outgoing], now: Micros) -> list[Statement]:
        """To execute in a transaction of the caller's on this file, all of them; afterwards call `wake`.

        Raises:
            MessageTooLarge, UsageError: one of the messages can never be stored.
        """
        return self._statements.publish(messages, now)

    def ack_statement(self, receipt: str) -> Statement:
        """To execute in the effect's transaction: row count 1 is acked, 0 means that the receipt is void."""
        return self._statements.ack(receipt)

    def release_statement(self, receipt: str, now: Micros, delay: float = 0.0) -> Statement:
        return self._statements.release(receipt, now, delay)

    def dead_letter_statement(self, receipt: str, now: Micros, reason: str) -> Statement:
        return self._statements.dead_letter(receipt, now, reason)

    def wake(self) -> None:
        """Have the receives that wait in this process look now: after a commit with the queue's statements in it.

        Callable from any thread.
        """
        ring((self.path, self.name))

    async def _settle(self, how: Callable[[], list[ReceiptAnswer]]) -> list[ReceiptAnswer]:
        """A settled message may make way for its successor, hence the wake-up."""
        answers = await self._run(how)
        self.wake()
        return answers

    async def _pages(self, page: Callable[[int], Page]) -> AsyncIterator[Held]:
        after = 0
        while found := await self._run(page, after):
            for _, held in found:
                yield held
            after = found[-1][0]

    async def _claim(self, limit: int, lease: float) -> list[Delivery]:
        claim = _Claim(self._store, limit, lease)
        try:
            return await self._run(claim.take)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._run(claim.give_back)
            raise

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        if self._turn is None:
            raise UsageError(f"queue {self.name} is not open: call open() first")
        return await anyio.to_thread.run_sync(function, *args, limiter=self._turn)


class _Claim:
    """A claim on its way from the thread to the task that asked for it.

    A task cancelled by asyncio itself leaves at once, while the thread goes on and may take messages that nobody would
    hear of until their lease is over. So either the task tells the thread that it has left (and the thread gives the
    messages back), or it finds that the thread was done before, and they are given back for it.
    """

    def __init__(self, store: EmbeddedStore, limit: int, lease: float) -> None:
        self._store = store
        self._limit = limit
        self._lease = lease
        self._lock = threading.Lock()
        self._given_up = False
        self._taken: list[Delivery] = []

    def take(self) -> list[Delivery]:
        with self._lock:
            if not self._given_up and self._store.look():
                self._taken = self._store.claim(self._limit, self._lease)
            return self._taken

    def give_back(self) -> None:
        with self._lock:
            self._given_up = True
            if self._taken:
                self._store.release([delivery.receipt for delivery in self._taken])
