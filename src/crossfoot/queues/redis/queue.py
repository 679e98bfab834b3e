"""The queue port over a stream of Redis or Valkey.

Delivers at least once, in no order. A lease is a deadline by the server's clock, kept beside the stream; a receipt is void
from the moment the message is delivered again or handed back. What is acked is deleted: the stream holds what is open.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Self

from anyio import Lock

from crossfoot.clock import Clock, Micros, SystemClock
from crossfoot.errors import UsageError
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
from crossfoot.queues.redis.address import address_of
from crossfoot.queues.redis.client import BATCH, Client
from crossfoot.queues.redis.opening import check
from crossfoot.queues.redis.publishing import Publisher
from crossfoot.queues.redis.receiving import MAX_RECEIVE, Receiver
from crossfoot.queues.redis.settling import Settler
from crossfoot.queues.redis.watching import Watcher
from crossfoot.queues.telling import Told

MEBIBYTE = 1024 * 1024


class RedisQueue:
    """One stream with its group.

    Args:
        queue: `STREAM`, `STREAM/GROUP`, or a URL that ends in either, as `redis://host:6379/0/billing`.
        url: where the server is, if `queue` does not say: `redis://`, `rediss://` or `unix://`; this machine by default.
        retention: seconds after which a message that nobody handled is set aside for the book; `None` for never.
        max_attempts: deliveries after which the queue itself buries a message; `None` for never, the worker decides.
        max_bytes: the largest message, attributes included.
        clock: reads the time for leases.
        timeout: seconds until a request without an answer is given up, and what it asked for is in doubt.

    Raises:
        UsageError: an argument is out of range, the address is none, or the extra `redis` is missing.
    """

    system = "redis"

    def __init__(
        self,
        queue: str,
        *,
        url: str | None = None,
        retention: float | None = None,
        max_attempts: int | None = None,
        max_bytes: int = MEBIBYTE,
        clock: Clock | None = None,
        timeout: float = 5.0,
    ) -> None:
        address = address_of(queue, url)
        self._name = address.name
        if timeout <= 0 or max_bytes < 1 or (retention is not None and retention <= 0):
            raise UsageError(f"queue {self._name}: `timeout`, `max_bytes` and `retention` must be more than 0")
        if max_attempts is not None and max_attempts < 1:
            raise UsageError(f"max_attempts of queue {self._name} must be 1 or more, not {max_attempts}")
        self._retention, self._max_attempts = retention, max_attempts
        self._capabilities = _capabilities(max_bytes)
        self._opening = Lock()
        self._open = False
        self._told = Told()
        clock = clock or SystemClock()
        self._client = Client(address, timeout=timeout)
        self._publisher = Publisher(self._client, max_bytes=max_bytes)
        self._receiver = Receiver(self._client, clock, retention=retention, max_attempts=max_attempts)
        self._settler = Settler(self._client)
        self._watcher = Watcher(self._client, clock, retention=retention)

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def retention(self) -> float | None:
        return self._retention

    @property
    def max_attempts(self) -> int | None:
        return self._max_attempts

    async def open(self) -> None:
        """See that stream and group are there, and warn of what the server may lose by itself.

        Raises:
            QueueUnavailable: they are not, or the server cannot be reached, refuses us, or is too old.
        """
        async with self._opening:
            if not self._open:
                self._told = await check(self._client)
                self._open = True

    async def close(self) -> None:
        """Close the connections of this event loop; those of another one are closed when it ends."""
        self._open = False
        await self._client.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        """See `Queue.publish`. A second publish is a second entry; its delivery finds the operation complete."""
        self._must_be_open()
        return await self._publisher.publish(messages)

    async def receive(self, limit: int, *, lease: float, wait: float = 0.0) -> list[Delivery]:
        """See `Queue.receive`. Leases are of whole milliseconds, rounded up."""
        self._must_be_open()
        self._must_be_positive(lease, "a lease")
        return await self._receiver.receive(limit, lease=lease, wait=wait)

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        self._must_be_open()
        return await self._settler.ack(receipts)

    async def release(self, receipts: Sequence[str], *, delay: float = 0.0) -> list[ReceiptAnswer]:
        self._must_be_open()
        self._must_be_positive(delay, "a delay", least=0.0)
        return await self._settler.release(receipts, delay)

    async def extend(self, receipts: Sequence[str], *, lease: float) -> list[ReceiptAnswer]:
        self._must_be_open()
        self._must_be_positive(lease, "a lease")
        return await self._settler.extend(receipts, lease)

    async def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[ReceiptAnswer]:
        """See `Queue.dead_letter`: one step, after which the message is among the dead letters and nowhere else."""
        self._must_be_open()
        return await self._settler.bury(deliveries, reason)

    async def told(self) -> Told:
        """How its server is set, as it was when the queue was opened. See `TellsSettings`."""
        self._must_be_open()
        return self._told

    async def depth(self) -> Depth:
        self._must_be_open()
        return await self._watcher.depth()

    async def oldest(self) -> Micros | None:
        """Since when what is delivered next has been ready."""
        self._must_be_open()
        return await self._watcher.oldest()

    async def browse(self) -> AsyncIterator[Held]:
        self._must_be_open()
        async for held in self._watcher.browse():
            yield held

    async def dead_letters(self) -> AsyncIterator[Held]:
        self._must_be_open()
        async for held in self._watcher.dead_letters():
            yield held

    async def expired(self, limit: int = 100) -> list[Held]:
        """Messages past the retention, set aside until `purge`."""
        self._must_be_open()
        return await self._watcher.expired(limit)

    async def purge(self, messages: Sequence[Held]) -> int:
        """Forget expired messages, once the book has them."""
        self._must_be_open()
        return await self._watcher.purge(messages)

    async def forget_dead(self, broker_ids: Sequence[str]) -> int:
        """See `ForgetsDead.forget_dead`."""
        self._must_be_open()
        return await self._watcher.forget_dead(broker_ids)

    def _must_be_open(self) -> None:
        if not self._open:
            raise UsageError(f"queue {self._name} is not open: await its open() first, or use it in `async with`")

    def _must_be_positive(self, seconds: float, what: str, *, least: float = 0.001) -> None:
        if not least <= seconds <= LONGEST:
            raise UsageError(f"{what} of {seconds:g} s on queue {self._name}: give {least:g} s to a century")


LONGEST = 100 * 366 * 86_400.0
"""Seconds; what is longer, or endless, is no time that can be waited."""


def _capabilities(max_bytes: int) -> Capabilities:
    return Capabilities(
        order=Order.NONE,
        depth=DepthIs.EXACT,
        browsing=True,
        receipts_fenced=True,
        publish_dedup=0.0,
        max_delay=None,
        max_release_delay=None,
        max_lease=None,
        max_receive=MAX_RECEIVE,
        max_publish=BATCH,
        max_bytes=max_bytes,
    )
