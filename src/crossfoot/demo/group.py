"""A consumer group whose partitions are taken away: strangers join it, and leave again. For the workers.

What a worker had in hand of such a partition is void: its handlers are refused their commits, and whoever has the partition next
takes the messages once more. That befalls every delivery in hand, whether planned or not, and it does so by itself as well, when a
worker joins in the place of one that was killed; and while the group shares anew, leases may run out. So all that was lost by the
group's doing is noted here, each when its entries are in the book.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio.to_thread

from crossfoot.clock import Micros
from crossfoot.demo.incoming import FaultyReceive, Hold, id_in
from crossfoot.demo.plan import Fault
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.kafka import KafkaQueue
from crossfoot.queues.kafka.address import address_of
from crossfoot.queues.kafka.answers import import_client
from crossfoot.queues.kafka.opening import client_settings, consumer_settings
from crossfoot.queues.queue import Delivery, NotDone, ReceiptAnswer

PARTITIONS = 8
STRANGERS = 2
"""So many that of the partitions of two workers half move."""

GOING_SECONDS = 30.0
"""In which a deleted topic must be gone."""

HERE = "strangers are in the group"
"""The signal for it, while it lasts."""

TAKEN_AWAY = "a partition was taken away from a handler"
"""The signal that this has happened. Once is enough."""

STAY_SECONDS = 15.0
"""How long strangers stay at most: whoever has his partition then keeps it."""

LOOK_AGAIN = 0.02
"""Seconds between two looks whether a partition was taken away."""


class FaultyGroupReceive(FaultyReceive):
    """Notes whose partition was taken away while they were in hand."""

    inner: KafkaQueue

    def __init__(self, inner: KafkaQueue, strangers: Strangers, *others: Any) -> None:
        super().__init__(inner, *others)
        self._strangers = strangers
        self._ids: dict[str, str] = {}
        """Of what is in hand, by receipt."""
        self._void: set[str] = set()
        self._ended: set[str] = set()
        """For which the worker has asked the queue for an end. It asks for none where it sees that its lease is lost."""

    async def receive(self, limit: int, *, lease: float, wait: float = 0.0) -> list[Delivery]:
        deliveries = await super().receive(limit, lease=lease, wait=wait)
        self._ids |= {one.receipt: id_in(one) for one in deliveries}
        await anyio.to_thread.run_sync(self._cover, [one.receipt for one in deliveries if one.receipt in self._void])
        return deliveries

    def on_lost(self, tell: Callable[[Sequence[str]], None]) -> None:
        def told(receipts: Sequence[str]) -> None:
            self._take_away(receipts)
            tell(receipts)

        self.inner.on_lost(told)

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        self._ended.update(receipts)
        answers = await super().ack(receipts)
        void = _void(answers)
        self._ended.difference_update(void)  # that it came too late stands in the book
        await anyio.to_thread.run_sync(self._take_away, void)
        return answers

    async def extend(self, receipts: Sequence[str], *, lease: float) -> list[ReceiptAnswer]:
        answers = await super().extend(receipts, lease=lease)
        await anyio.to_thread.run_sync(self._take_away, _void(answers))
        # A group that is sharing anew takes no word: the lease may run out.
        await anyio.to_thread.run_sync(self._cover, [one.receipt for one in answers if isinstance(one, NotDone)])
        return answers

    async def release(self, receipts: Sequence[str], *, delay: float = 0.0) -> list[ReceiptAnswer]:
        self._ended.update(receipts)
        return await super().release(receipts, delay=delay)

    async def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[ReceiptAnswer]:
        self._ended.update(one.receipt for one in deliveries)
        return await super().dead_letter(deliveries, reason=reason)

    def forget(self, receipt: str) -> None:
        id_ = self._ids.pop(receipt, "")
        if id_ and receipt not in self._ended:
            overran = receipt in self.held and self.held[receipt].overran
            taken_away = (
                receipt in self._void and not overran
            )  # what is taken away after it has failed of its lease is no loss
            self.record.note(Fault.REBALANCED if taken_away else Fault.OVERRUN, id_)
        self._void.discard(receipt)
        self._ended.discard(receipt)
        self.shield.down(_name(receipt))
        super().forget(receipt)

    def until_taken_away(self, hold: Hold, seconds: float) -> bool:
        """Strangers come, unless some are there already."""
        receipt, until = hold.delivery.receipt, time.monotonic() + seconds
        while receipt not in self._void and time.monotonic() < until and not self.record.signalled(TAKEN_AWAY):
            if self.record.signal(HERE):
                self._strangers.come()
                try:
                    self._wait(receipt, min(until, time.monotonic() + STAY_SECONDS))
                finally:
                    self._strangers.go()
                    self.record.withdraw(HERE)
            time.sleep(LOOK_AGAIN)
        if receipt in self._void:
            self.record.signal(TAKEN_AWAY)
        return receipt in self._void

    def _wait(self, receipt: str, until: float) -> None:
        while receipt not in self._void and time.monotonic() < until:
            time.sleep(LOOK_AGAIN)

    def is_void(self, receipt: str) -> bool:
        return receipt in self._void

    @property
    def forgot_at(self) -> Micros | None:
        return self.inner.forgot_at

    async def oldest(self) -> Micros | None:
        return await self.inner.oldest()

    def _take_away(self, receipts: Sequence[str]) -> None:
        self._void.update(receipts)
        self._cover(receipts)

    def _cover(self, receipts: Sequence[str]) -> None:
        """No kill until those that are in hand have their end, and it is noted."""
        for receipt in receipts:
            self.shield.up(_name(receipt))
            if receipt not in self._ids:  # it has had its end
                self.shield.down(_name(receipt))


def _void(answers: Sequence[ReceiptAnswer]) -> list[str]:
    return [one.receipt for one in answers if isinstance(one, NotDone) and one.lost]


def _name(receipt: str) -> str:
    """The shield over a delivery that may be lost, until its end is noted."""
    return f"may be lost: {receipt}"


class Strangers:
    """Consumers that join the group, handle nothing, and leave again.

    Args:
        queue, servers: as settings have them.
    """

    def __init__(self, queue: str, servers: str | None) -> None:
        self._place = address_of(queue, servers=servers)
        self._over = threading.Event()

    def come(self) -> None:
        """Begin to join."""
        self._over = threading.Event()
        for number in range(STRANGERS):
            threading.Thread(target=self._stay, args=(self._over,), name=f"stranger-{number}", daemon=True).start()

    def go(self) -> None:
        """Begin to leave. Nobody waits for it: it takes the group a while."""
        self._over.set()

    def _stay(self, over: threading.Event) -> None:
        client = import_client().Consumer(consumer_settings(self._place, client_settings(self._place, {})))
        client.subscribe([self._place.topic])
        while not over.is_set():
            client.poll(0.1)
        client.close()


def delete_topic(queue: str, servers: str) -> None:
    """Delete a topic, and see that it is gone.

    Raises:
        QueueUnavailable: the servers refuse it, or it is there for longer than half a minute.
    """
    kafka, place = import_client(), address_of(queue, servers=servers)
    client = kafka.admin.AdminClient(client_settings(place, {}))
    until = time.monotonic() + GOING_SECONDS
    for answer in client.delete_topics([place.topic], request_timeout=GOING_SECONDS).values():
        try:
            answer.result()
        except kafka.KafkaException as error:
            raise QueueUnavailable(f"topic {place.topic} could not be deleted at {place.servers}: {error}") from error
    while place.topic in client.list_topics(timeout=GOING_SECONDS).topics:
        if time.monotonic() > until:
            raise QueueUnavailable(f"topic {place.topic} was deleted, and is still there after {GOING_SECONDS:g} s")
        time.sleep(0.1)
