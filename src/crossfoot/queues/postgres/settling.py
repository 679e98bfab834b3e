"""Ack, release, extension and burial: one statement for a group of receipts, each answered.

Nothing is repeated here: whoever holds the receipt decides that.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from crossfoot.queues.batching import batches, one_after_another
from crossfoot.queues.postgres import sql
from crossfoot.queues.postgres.answers import NoAnswer, Rejected
from crossfoot.queues.postgres.bell import Bell
from crossfoot.queues.postgres.client import GROUP, GROUP_BYTES, Client
from crossfoot.queues.postgres.messages import told
from crossfoot.queues.postgres.receipts import parts_of
from crossfoot.queues.queue import Done, NotDone, ReceiptAnswer


class Settler:
    """Settles deliveries of one queue.

    Args:
        ordered: whether a message that goes makes way for the next of its line.

    Raises:
        QueueUnavailable: nothing was done. When only a later group could not be sent, its receipts are not done, and not lost.
    """

    def __init__(self, client: Client, bell: Bell, *, ordered: bool) -> None:
        self._client = client
        self._bell = bell
        self._ordered = ordered
        self._name = client.address.name

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        """Take the messages out of the queue."""
        return await self._settle(sql.ACK_IN_LINES if self._ordered else sql.ACK, {}, receipts, wakes=self._ordered)

    async def release(self, receipts: Sequence[str], delay: timedelta) -> list[ReceiptAnswer]:
        """Deliver the messages again after `delay`; without one before all others."""
        if delay:
            return await self._settle(sql.RELEASE_LATER, {"delay": delay}, receipts)
        return await self._settle(sql.RELEASE, {}, receipts, wakes=True)

    async def extend(self, receipts: Sequence[str], lease: timedelta) -> list[ReceiptAnswer]:
        """Lease the messages for `lease` from now."""
        return await self._settle(sql.EXTEND, {"lease": lease}, receipts)

    async def bury(self, receipts: Sequence[str], reason: str) -> list[ReceiptAnswer]:
        """Make the messages dead letters."""
        statement = sql.BURY_IN_LINES if self._ordered else sql.BURY
        return await self._settle(statement, {"reason": told(reason)}, receipts, wakes=self._ordered)

    async def _settle(
        self, statement: str, more: dict[str, Any], receipts: Sequence[str], *, wakes: bool = False
    ) -> list[ReceiptAnswer]:
        async def send(group: list[str]) -> list[ReceiptAnswer]:
            parts = [parts_of(receipt) for receipt in group]
            keys, tokens = [key for key, _ in parts], [token for _, token in parts]
            try:
                done = set(
                    await self._client.ask(statement, {**more, "queue": self._name, "keys": keys, "tokens": tokens})
                )
            except (NoAnswer, Rejected) as error:
                return _unanswered(group, str(error))
            return [
                Done(receipt) if one in done else NotDone(receipt, self._void(receipt), lost=True)
                for receipt, one in zip(group, parts, strict=True)
            ]

        cut = batches(receipts, lambda _: 0, most=GROUP, most_bytes=GROUP_BYTES)
        answers = await one_after_another(cut, send, _unanswered)
        if wakes and any(isinstance(answer, Done) for answer in answers):
            await self._bell.ring()
        return answers

    def _void(self, receipt: str) -> str:
        return (
            f"receipt {receipt} of queue {self._name} is void: its message was delivered again, settled, set aside for its age, "
            "or removed by somebody else"
        )


def _unanswered(group: Sequence[str], reason: str) -> list[ReceiptAnswer]:
    """Nobody knows, or it was not tried: another attempt may succeed."""
    return [NotDone(receipt, reason, lost=False) for receipt in group]
