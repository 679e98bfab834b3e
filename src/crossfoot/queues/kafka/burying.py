"""Moving what is in hand to the dead letters: published there, and only when that is confirmed, settled here.

A process that is killed in between leaves it in both places: a second dead letter bears the same identity.
"""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.queues.kafka.address import Address
from crossfoot.queues.kafka.consumer import Consumer, void
from crossfoot.queues.kafka.messages import Entry, buried
from crossfoot.queues.kafka.producer import Producer
from crossfoot.queues.queue import Accepted, Delivery, Done, NotDone, PublishAnswer, ReceiptAnswer


async def bury(
    consumer: Consumer, producer: Producer, place: Address, deliveries: Sequence[Delivery], reason: str
) -> list[ReceiptAnswer]:
    """Bury them. One answer each, in order.

    Raises:
        QueueUnavailable: nothing was sent.
    """
    entries = [entry for one in deliveries if (entry := _entry(consumer, place, one, reason)) is not None]
    sent = {answer.key: answer for answer in await producer.send(entries)} if entries else {}
    moved = [key for key, answer in sent.items() if isinstance(answer, Accepted)]
    ended = {answer.receipt: answer for answer in await consumer.settle(moved)}
    return [_told(one.receipt, sent.get(one.receipt), ended.get(one.receipt)) for one in deliveries]


def _entry(consumer: Consumer, place: Address, delivery: Delivery, reason: str) -> Entry | None:
    item = consumer.shelf.out(delivery.receipt)
    if item is None or item.came is None:
        return None
    return buried(
        item.came, key=delivery.receipt, topic=place.topic, dead=place.dead, partition=item.partition, attempt=delivery.attempt,
        reason=reason,
    )  # fmt: skip


def _told(receipt: str, sent: PublishAnswer | None, end: ReceiptAnswer | None) -> ReceiptAnswer:
    if sent is None:
        return void(receipt)
    if not isinstance(sent, Accepted):
        return NotDone(receipt, sent.reason, lost=False)
    if isinstance(end, NotDone):
        return NotDone(receipt, f"among the dead letters, but not committed: {end.reason}", end.lost)
    return Done(receipt)
