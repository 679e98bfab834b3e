"""Ack, release, extension and burial: one script for a batch of receipts, each answered.

Nothing is repeated here: whoever holds the receipt decides that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from crossfoot.queues.batching import batches, one_after_another
from crossfoot.queues.queue import Delivery, Done, NotDone, ReceiptAnswer
from crossfoot.queues.redis.answers import NoAnswer, Rejected
from crossfoot.queues.redis.client import BATCH, BATCH_BYTES, Argument, Client
from crossfoot.queues.redis.entries import fields_of, packed, text_of
from crossfoot.queues.redis.receipts import parts_of
from crossfoot.queues.redis.scripts import ACK, BURY, EXTEND, RELEASE, Script

_WHY = {
    "void": "the receipt is void: its message was delivered again or settled, or the queue was emptied",
    "gone": "the entry is gone from the stream: somebody trimmed or deleted it",
}

REASON_CHARACTERS = 500

NOBODY_S = ("0-0", "")
"""An entry that cannot be, for receipts nobody gave: the script finds that nobody holds it."""


class Item(msgspec.Struct, frozen=True):
    """One receipt, and what the script is told beside it."""

    receipt: str
    more: tuple[Argument, ...] = ()

    @property
    def size(self) -> int:
        return sum(len(one) for one in self.more if isinstance(one, str | bytes))


class Settler:
    """Settles deliveries of one queue.

    Raises:
        QueueUnavailable: nothing was done. When only a later batch could not be sent, its receipts are not done, and not lost.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        """Take the entries out of the queue."""
        return await self._settle(ACK, (), [Item(receipt) for receipt in receipts])

    async def release(self, receipts: Sequence[str], delay: float) -> list[ReceiptAnswer]:
        """Deliver the entries again in `delay` seconds from now."""
        return await self._settle(RELEASE, (milliseconds(delay),), [Item(receipt) for receipt in receipts])

    async def extend(self, receipts: Sequence[str], lease: float) -> list[ReceiptAnswer]:
        """Lease the entries for `lease` seconds from now."""
        return await self._settle(EXTEND, (milliseconds(lease),), [Item(receipt) for receipt in receipts])

    async def bury(self, deliveries: Sequence[Delivery], reason: str) -> list[ReceiptAnswer]:
        """Move the entries to the dead letters."""
        items = [Item(one.receipt, (str(one.attempt), packed(fields_of(one)))) for one in deliveries]
        return await self._settle(BURY, (reason[:REASON_CHARACTERS].encode(errors="replace"),), items)

    async def _settle(self, script: Script, told: Sequence[Argument], items: Sequence[Item]) -> list[ReceiptAnswer]:
        async def send(batch: Sequence[Item]) -> list[ReceiptAnswer]:
            arguments: list[Argument] = list(told)
            for item in batch:
                arguments += [*(parts_of(item.receipt) or NOBODY_S), *item.more]
            try:
                said = await self._client.run(script, *arguments)
            except (NoAnswer, Rejected) as error:
                return _unanswered(batch, str(error))
            return [_answer(item.receipt, text_of(one)) for item, one in zip(batch, said, strict=True)]

        return await one_after_another(
            batches(items, lambda item: item.size, most=BATCH, most_bytes=BATCH_BYTES), send, _unanswered
        )


def milliseconds(seconds: float) -> int:
    """As the scripts count, rounded up."""
    return math.ceil(seconds * 1_000)


def _answer(receipt: str, said: str) -> ReceiptAnswer:
    return Done(receipt) if said == "done" else NotDone(receipt, _WHY[said], lost=True)


def _unanswered(batch: Sequence[Item], reason: str) -> list[ReceiptAnswer]:
    """Nobody knows, or it was not tried: another attempt may succeed."""
    return [NotDone(item.receipt, reason, lost=False) for item in batch]
