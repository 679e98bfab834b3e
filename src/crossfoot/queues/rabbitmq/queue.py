"""The queue port over RabbitMQ: a quorum queue or a classic one, with what it needs beside it.

It delivers at least once, in no order that redeliveries would keep. What is in hand is held by the connection it came by, and void
with it (`holding.py`). It cannot be browsed, and its count is exact for what is ready only (`watching.py`).
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Self

import msgspec
from anyio import Lock

from crossfoot.clock import Clock, SystemClock
from crossfoot.errors import UsageError
from crossfoot.queues.queue import (
    Capabilities,
    Delivery,
    Depth,
    Held,
    Outgoing,
    PublishAnswer,
    ReceiptAnswer,
    Refused,
)
from crossfoot.queues.rabbitmq import dead
from crossfoot.queues.rabbitmq.address import address_of
from crossfoot.queues.rabbitmq.checks import told
from crossfoot.queues.rabbitmq.connection import Connection
from crossfoot.queues.rabbitmq.delays import LONGEST, expiration_of, rung_for
from crossfoot.queues.rabbitmq.holding import Holding
from crossfoot.queues.rabbitmq.messages import Entry, entry_of
from crossfoot.queues.rabbitmq.opening import Parts, capabilities_of, open_parts
from crossfoot.queues.telling import Told

MEBIBYTE = 1024 * 1024


class RabbitQueue:
    """One queue of one virtual host.

    Args:
        queue: its address: `amqp://HOST:5672/VHOST/QUEUE`, or `QUEUE` with `url`; see `address.py`.
        url: the server and its virtual host, if the address does not say. Credentials may be in it.
        max_bytes: the largest message, attributes included.
        clock: reads the time for leases.
        timeout: seconds until a request without an answer is given up, and what it asked for is in doubt.
        context: for TLS, instead of the machine's own certificates.

    Raises:
        UsageError: the address is none, or `timeout` or `max_bytes` are out of range.
    """

    system = "rabbitmq"

    def __init__(
        self,
        queue: str,
        *,
        url: str | None = None,
        max_bytes: int = MEBIBYTE,
        clock: Clock | None = None,
        timeout: float = 10.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._place = place = address_of(queue, url=url)
        if timeout <= 0 or max_bytes < 1:
            raise UsageError(f"queue {place.name}: `timeout` and `max_bytes` must be more than 0")
        self._opening = Lock()
        self._clock = clock or SystemClock()
        self._max_bytes = max_bytes
        self._holding = Holding(place.name, self._clock, held=float(place.held))
        self._connection = Connection(place, timeout=timeout, context=context)
        self._connection.lost = self._holding.void
        self._parts: Parts | None = None
        self._capabilities = capabilities_of(place, None, max_bytes)

    @property
    def name(self) -> str:
        return self._place.name

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def retention(self) -> float | None:
        return self._parts.retention if self._parts is not None else None

    @property
    def max_attempts(self) -> int | None:
        """After how many deliveries the queue gives a message up by itself; `None`: never."""
        return self._parts.max_attempts if self._parts is not None else None

    def on_lost(self, tell: Callable[[Sequence[str]], None]) -> None:
        """See `LosesAtOnce`."""
        self._holding.tell = tell

    async def open(self) -> None:
        """Connect, find the queue, and learn its settings. What they may lose is said as a warning.

        Raises:
            QueueUnavailable: it does not exist or cannot be used as a queue; the server cannot be reached or refuses us.
            UsageError: the client is not installed.
        """
        async with self._opening:
            if self._parts is None:
                try:
                    self._parts = await open_parts(self._connection, self._place, self._holding, self._clock)
                except BaseException:
                    await self._connection.close()
                    raise
                self._capabilities = capabilities_of(self._place, self._parts.settings, self._max_bytes)

    async def close(self) -> None:
        """Close the connections. What is still in hand is the broker's again."""
        async with self._opening:
            self._parts = None
            await self._holding.close()
            await self._connection.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        """See `Queue.publish`. A second publish is a second message; its delivery finds the operation complete.

        Raises:
            QueueUnavailable: not one left.
        """
        parts = self._open_parts()
        if not messages:
            return []
        longest = (await self._connection.publishing()).longest_headers
        checked = [self._entry(message, longest) for message in messages]
        entries = [one for one in checked if isinstance(one, Entry)]
        answers = iter(await parts.sender.send(entries))
        return [one if isinstance(one, Refused) else next(answers) for one in checked]

    async def receive(self, limit: int, *, lease: float, wait: float = 0.0) -> list[Delivery]:
        """See `Queue.receive`.

        Raises:
            QueueUnavailable: no answer, or a refusal. Should messages have been delivered, they come again.
            UsageError: the lease is none, or longer than the heartbeat.
        """
        parts = self._open_parts()
        self._must_be_lease(lease)
        if limit < 1:
            return []
        await parts.must_be_complete()
        return await parts.marked(
            parts.receiver.receive(min(limit, self._capabilities.max_receive), lease=lease, wait=wait)
        )

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        """See `Queue.ack`. Done means that the broker has taken it, and found nothing wrong with it."""
        parts = self._open_parts()
        return await parts.marked(self._holding.ack(receipts))

    async def release(self, receipts: Sequence[str], *, delay: float = 0.0) -> list[ReceiptAnswer]:
        """See `Queue.release`. With a delay it is moved to where it waits, see `moving.py`.

        Raises:
            QueueUnavailable: nothing was sent.
            UsageError: the delay is longer than any waiting queue is for.
        """
        parts = self._open_parts()
        if not 0 <= delay <= LONGEST:
            raise UsageError(f"a delay of {delay:g} s on queue {self.name}: give 0 to {LONGEST:g} s")
        if delay == 0:
            return await parts.marked(self._holding.hand_back(receipts))
        return await parts.marked(parts.mover.delay(receipts, delay))

    async def extend(self, receipts: Sequence[str], *, lease: float) -> list[ReceiptAnswer]:
        self._open_parts()
        self._must_be_lease(lease)
        return await self._holding.extend(receipts, lease)

    async def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[ReceiptAnswer]:
        """See `Queue.dead_letter` and `moving.py`."""
        parts = self._open_parts()
        return await parts.marked(parts.mover.bury([delivery.receipt for delivery in deliveries], reason))

    async def told(self) -> Told:
        """See `TellsSettings`: its own as they were when it was opened, and those of its dead letters."""
        parts = self._open_parts()
        return told(parts.settings, await parts.dead_settings())

    async def depth(self) -> Depth:
        """See `Queue.depth` and `watching.py`."""
        return await self._open_parts().watcher.depth()

    def browse(self) -> AsyncIterator[Held]:
        """Not possible: a message of RabbitMQ can only be seen by taking it.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"queue {self.name} is on RabbitMQ, where a queue cannot be browsed: ask for its depth, or its dead letters"
        )

    async def dead_letters(self) -> AsyncIterator[Held]:
        """See `Queue.dead_letters` and `dead.py`."""
        parts = self._open_parts()
        (count,) = await parts.watcher.counts([self._place.dead])
        await parts.dead_must_stay()
        for held in await dead.read(self._connection, self._place.dead, count.ready):
            yield held

    async def forget_dead(self, broker_ids: Sequence[str]) -> int:
        """See `ForgetsDead.forget_dead` and `dead.py`."""
        parts = self._open_parts()
        if not broker_ids:
            return 0
        (count,) = await parts.watcher.counts([self._place.dead])
        await parts.dead_must_stay()
        return await dead.forget(self._connection, self._place.dead, count.ready, frozenset(broker_ids))

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _entry(self, message: Outgoing, longest_headers: int) -> Entry | Refused:
        place = self._place
        entry = entry_of(
            message, exchange=place.exchange, key=place.key, max_bytes=self._max_bytes, longest_headers=longest_headers,
            now=self._clock.now(),
        )  # fmt: skip
        if isinstance(entry, Refused) or message.delay <= 0:
            return entry
        if message.delay > LONGEST:
            reason = f"a delay of {message.delay:g} s; queue {self.name} can delay by {LONGEST:g} s at most"
            return Refused(message.key, reason, permanent=True)
        entry.properties.expiration = expiration_of(message.delay)
        return msgspec.structs.replace(entry, exchange="", routing_key=rung_for(place.queue, message.delay))

    def _open_parts(self) -> Parts:
        if self._parts is None:
            raise UsageError(f"queue {self.name} is not open: await its open() first, or use it in `async with`")
        return self._parts

    def _must_be_lease(self, lease: float) -> None:
        longest = self._place.longest_lease
        if not 0 < lease <= longest:
            raise UsageError(
                f"a lease of {lease:g} s on queue {self.name}: give more than 0 s and at most {longest} s, after which the "
                "broker takes a silent process for dead, or a busy one for stuck; ?heartbeat= and ?held= in the queue's address set that"
            )
