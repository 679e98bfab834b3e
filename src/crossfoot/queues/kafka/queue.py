"""The queue port over Kafka: a topic, and a consumer group on it.

It delivers at least once, the messages of one key one after the other. A partition is one consumer's at a time, and what that has in
hand is void when the partition is taken away (`consumer.py`). What is released waits in this process, before its successors
(`shelf.py`). The topic is a log: it can be read without taking anything, and it forgets by age, whether a message was handled or not.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Self

from anyio import CancelScope, Lock, to_thread

from crossfoot.clock import Clock, Micros, SystemClock
from crossfoot.errors import UsageError
from crossfoot.queues.kafka import dead
from crossfoot.queues.kafka.address import address_of
from crossfoot.queues.kafka.burying import bury
from crossfoot.queues.kafka.checks import with_dead
from crossfoot.queues.kafka.consumer import Consumer, void
from crossfoot.queues.kafka.messages import Came, Entry, entry_of
from crossfoot.queues.kafka.opening import Parts, capabilities_of, client_settings, consumer_settings, open_parts
from crossfoot.queues.queue import (
    Capabilities,
    Delivery,
    Depth,
    Held,
    NotDone,
    Outgoing,
    PublishAnswer,
    ReceiptAnswer,
    Refused,
)
from crossfoot.queues.telling import Told

MEBIBYTE = 1024 * 1024

PAGE = 500
"""Messages that are browsed at once."""

_log = logging.getLogger("crossfoot.queues.kafka")


class KafkaQueue:
    """One consumer group on one topic.

    Args:
        queue: its address: `kafka://HOST:9092/TOPIC?group=GROUP`, or `TOPIC` with `servers`; see `address.py`.
        servers: the cluster, if the address does not say. Credentials may be in it.
        group: the consumer group, if the address does not say.
        max_bytes: the largest message, attributes included, where the topic takes as much.
        clock: reads the time for leases.
        timeout: seconds until a request without an answer is given up, and what it asked for is in doubt.
        config: more for the client (librdkafka), such as `ssl.ca.location`.

    Raises:
        UsageError: the address is none, `timeout` or `max_bytes` are out of range, or `config` has what is decided here.
    """

    system = "kafka"

    def __init__(
        self, queue: str, *, servers: str | None = None, group: str | None = None, max_bytes: int = MEBIBYTE,
        clock: Clock | None = None, timeout: float = 10.0, config: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self._place = place = address_of(queue, servers=servers, group=group)
        if timeout <= 0 or max_bytes < 1:
            raise UsageError(f"queue {place.name}: `timeout` and `max_bytes` must be more than 0")
        self._common = client_settings(place, config or {})
        self._opening = Lock()
        self._joining = Lock()
        self._clock = clock or SystemClock()
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._parts: Parts | None = None
        self._consumer: Consumer | None = None
        self._tell: Callable[[Sequence[str]], None] = lambda receipts: None
        self._forgot_at: Micros | None = None
        self._capabilities = capabilities_of(place, max_bytes)

    @property
    def name(self) -> str:
        return self._place.name

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def retention(self) -> float | None:
        return self._parts.retention if self._parts is not None else self._place.retention

    @property
    def max_attempts(self) -> int | None:
        """Kafka counts no deliveries, and gives nothing up for them."""
        return None

    def on_lost(self, tell: Callable[[Sequence[str]], None]) -> None:
        """See `LosesAtOnce`."""
        self._tell = tell
        if self._consumer is not None:
            self._consumer.tell = tell

    async def open(self) -> None:
        """Find the topic, and learn its settings. What they may lose is said as a warning. The group is joined by the first receive.

        Raises:
            QueueUnavailable: it does not exist or cannot be used; the servers cannot be reached or refuse us.
            UsageError: the client is not installed.
        """
        async with self._opening:
            if self._parts is None:
                self._parts = await to_thread.run_sync(self._open)
                self._capabilities = capabilities_of(self._place, self._parts.max_bytes)

    async def close(self) -> None:
        """Leave the group; what is settled is committed, what is in hand is the next one's."""
        async with self._opening, self._joining:
            parts, self._parts = self._parts, None
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                self._forgot_at = consumer.forgot_at
                await consumer.close()
            if parts is not None:
                await parts.producer.close()
                await to_thread.run_sync(parts.looker.close)

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
        parts, place, now = self._open_parts(), self._place, self._clock.now()
        checked = [
            entry_of(message, topic=place.topic, binary=place.binary, max_bytes=parts.max_bytes, now=now) for message in messages
        ]  # fmt: skip
        entries = [one for one in checked if isinstance(one, Entry)]
        answers = iter(await parts.producer.send(entries))
        return [one if isinstance(one, Refused) else next(answers) for one in checked]

    async def receive(self, limit: int, *, lease: float, wait: float = 0.0) -> list[Delivery]:
        """See `Queue.receive`. The first one joins the group.

        Raises:
            QueueUnavailable: the group does not have us, or not any more; what was in hand comes again.
            UsageError: the lease is none, or longer than the session.
        """
        self._open_parts()
        self._must_be_lease(lease)
        if limit < 1:
            return []
        consumer = await self._joined()
        return await consumer.receive(min(limit, self._capabilities.max_receive), lease=lease, wait=wait)

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        """See `Queue.ack` and `committing.py`."""
        self._open_parts()
        return [void(one) for one in receipts] if self._consumer is None else await self._consumer.settle(receipts)

    async def release(self, receipts: Sequence[str], *, delay: float = 0.0) -> list[ReceiptAnswer]:
        """See `Queue.release`. It waits in this process; should that die, it comes again at once.

        Raises:
            UsageError: the delay is less than 0.
        """
        self._open_parts()
        if delay < 0:
            raise UsageError(f"a delay of {delay:g} s on queue {self.name}: give 0 or more")
        return [void(one) for one in receipts] if self._consumer is None else self._consumer.release(receipts, delay)

    async def extend(self, receipts: Sequence[str], *, lease: float) -> list[ReceiptAnswer]:
        self._open_parts()
        self._must_be_lease(lease)
        return (
            [void(one) for one in receipts] if self._consumer is None else await self._consumer.extend(receipts, lease)
        )

    async def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[ReceiptAnswer]:
        """See `Queue.dead_letter`: published to the dead letters, and only if that is confirmed, settled here.

        Raises:
            QueueUnavailable: nothing was sent.
        """
        parts, consumer = self._open_parts(), self._consumer
        if consumer is None or not deliveries:
            return [void(one.receipt) for one in deliveries]
        if not await self._has_dead():
            text = f"queue {self.name} has no dead letters: create the topic {self._place.dead}"
            return [NotDone(one.receipt, text, lost=False) for one in deliveries]
        return await bury(consumer, parts.producer, self._place, deliveries, reason)

    async def told(self) -> Told:
        """See `TellsSettings`: its own as they were when it was opened, and those of its dead letters."""
        parts = self._open_parts()
        found = await to_thread.run_sync(parts.looker.settings_of, self._place.dead) if await self._has_dead() else None
        return with_dead(parts.told, self._place.dead, found)

    async def depth(self) -> Depth:
        """See `Queue.depth`: what lies behind the group's offsets. What others settled beyond theirs is counted as if it were open."""
        parts, as_of = self._open_parts(), self._clock.now()
        stands = await to_thread.run_sync(parts.looker.stands, self._place.topic)
        buried = await to_thread.run_sync(dead.count, parts.looker, self._place.dead) if await self._has_dead() else 0
        out = later = settled = 0
        if self._consumer is not None:
            out, later, settled = self._consumer.shelf.counts(self._clock.monotonic())
        held = sum(max(0, stand.high - stand.committed) for stand in stands)  # less than 0 where the log was cut off
        return Depth(
            ready=max(0, held - out - later - settled), in_flight=out, delayed=later, dead=buried, as_of=as_of,
        )  # fmt: skip

    async def browse(self) -> AsyncIterator[Held]:
        """See `Queue.browse`: what lies behind the group's offsets, but what is known here to be settled."""
        parts = self._open_parts()
        stands = await to_thread.run_sync(parts.looker.stands, self._place.topic)
        settled = self._consumer.shelf.settled() if self._consumer is not None else set()
        starts = {stand.partition: stand.committed for stand in stands}
        async for partition, came in _paged(parts.looker.read(self._place.topic, starts)):
            if (partition, came.offset) not in settled:
                yield dead.held_of(self._place.topic, partition, came)

    async def dead_letters(self) -> AsyncIterator[Held]:
        """See `Queue.dead_letters` and `dead.py`."""
        parts = self._open_parts()
        if not await self._has_dead():
            return
        async for partition, came in _paged(await to_thread.run_sync(dead.reading, parts.looker, self._place.dead)):
            yield dead.held_of(self._place.dead, partition, came, dead=True)

    async def oldest(self) -> Micros | None:
        """See `TellsOldest`: the time of the earliest of what the partitions would deliver next."""
        parts = self._open_parts()
        stands = await to_thread.run_sync(parts.looker.stands, self._place.topic)
        starts = {stand.partition: stand.committed for stand in stands if stand.committed < stand.high}
        times = [came.at async for _, came in _paged(parts.looker.read(self._place.topic, starts, heads=True))]
        return min((time for time in times if time is not None), default=None)

    @property
    def forgot_at(self) -> Micros | None:
        """See `TellsForgotten`."""
        return self._consumer.forgot_at if self._consumer is not None else self._forgot_at

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _open(self) -> Parts:
        return open_parts(self._place, self._common, max_bytes=self._max_bytes, timeout=self._timeout)

    async def _joined(self) -> Consumer:
        """The member of the group, made when first needed, and anew when the group has let it go."""
        async with self._joining:
            consumer = self._consumer
            if consumer is not None and consumer.up:
                return consumer
            if consumer is not None:
                self._consumer, self._forgot_at = None, consumer.forgot_at
                await consumer.close()
            elif not await self._has_dead():
                _log.warning("queue %s has no dead letters: there is no topic %s", self.name, self._place.dead)
            self._consumer = consumer = Consumer(
                self._place.topic, consumer_settings(self._place, self._common), self._clock, label=self.name,
                session=float(self._place.session), ahead=self._place.ahead, timeout=self._timeout,
            )  # fmt: skip
            consumer.tell, consumer.forgot_at = self._tell, self._forgot_at
            consumer.start()
            return consumer

    async def _has_dead(self) -> bool:
        """Whether there is a place for dead letters. Where one was seen, it is not believed to be gone."""
        parts = self._open_parts()
        if not parts.has_dead:
            parts.has_dead = await to_thread.run_sync(parts.looker.partitions, self._place.dead) is not None
        return parts.has_dead

    def _open_parts(self) -> Parts:
        if self._parts is None:
            raise UsageError(f"queue {self.name} is not open: await its open() first, or use it in `async with`")
        return self._parts

    def _must_be_lease(self, lease: float) -> None:
        longest = self._place.session
        if not 0 < lease <= longest:
            raise UsageError(
                f"a lease of {lease:g} s on queue {self.name}: give more than 0 s and at most {longest} s, after which the group takes "
                "a silent process for dead; ?session= in the queue's address sets that"
            )


async def _paged(reading: Iterator[tuple[int, Came]]) -> AsyncIterator[tuple[int, Came]]:
    """Read in a thread, page by page."""
    try:
        while page := await to_thread.run_sync(lambda: list(islice(reading, PAGE))):
            for one in page:
                yield one
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(getattr(reading, "close", bool))
