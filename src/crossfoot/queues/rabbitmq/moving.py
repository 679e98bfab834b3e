"""Moving what is in hand to another queue: to where it waits, or to the dead letters.

It is published there, and only when the broker has confirmed that, acked here. A process that is killed in between leaves it in
both places: a second delivery finds its operation complete, and a second dead letter bears the same identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from crossfoot.queues.queue import Accepted, NotDone, PublishAnswer, ReceiptAnswer
from crossfoot.queues.rabbitmq.delays import expiration_of, rung_for
from crossfoot.queues.rabbitmq.holding import Hold, Holding
from crossfoot.queues.rabbitmq.messages import DELIVERIES, QUEUE, REASON, Entry, copy_of
from crossfoot.queues.rabbitmq.publishing import Sender

_REASON_CHARACTERS = 500


class Mover:
    """Moves deliveries of one queue."""

    def __init__(self, sender: Sender, holding: Holding, *, queue: str, dead: str) -> None:
        self._sender = sender
        self._holding = holding
        self._queue = queue
        self._dead = dead

    async def delay(self, receipts: Sequence[str], seconds: float) -> list[ReceiptAnswer]:
        """To come back in so many seconds, counted as it is.

        Raises:
            QueueUnavailable: nothing was sent.
        """

        def waiting(receipt: str, hold: Hold) -> Entry:
            rung, told = rung_for(self._queue, seconds), {DELIVERIES: hold.attempt}
            frame, expiration = self._holding.frame, expiration_of(seconds)
            return copy_of(hold.message, key=receipt, queue=rung, told=told, frame=frame, expiration=expiration)

        return await self._move(receipts, waiting, "among those that wait")

    async def bury(self, receipts: Sequence[str], reason: str) -> list[ReceiptAnswer]:
        """To the dead letters. Raises what `delay` raises."""

        def buried(receipt: str, hold: Hold) -> Entry:
            told: dict[str, str | int] = {DELIVERIES: hold.attempt, QUEUE: self._queue}
            told[REASON] = reason[:_REASON_CHARACTERS] or "unknown"
            return copy_of(hold.message, key=receipt, queue=self._dead, told=told, frame=self._holding.frame)

        return await self._move(receipts, buried, "among the dead letters")

    async def _move(
        self, receipts: Sequence[str], entry: Callable[[str, Hold], Entry], where: str
    ) -> list[ReceiptAnswer]:
        holds = {receipt: hold for receipt in receipts if (hold := self._holding.get(receipt)) is not None}
        sent = await self._sender.send([entry(receipt, hold) for receipt, hold in holds.items()]) if holds else []
        answers: dict[str, PublishAnswer] = {answer.key: answer for answer in sent}
        moved = [receipt for receipt in receipts if isinstance(answers.get(receipt), Accepted)]
        ended = iter(await self._holding.ack(moved))
        return [_told(receipt, answers.get(receipt), ended, where) for receipt in receipts]


def _told(receipt: str, answer: PublishAnswer | None, ended: Iterator[ReceiptAnswer], where: str) -> ReceiptAnswer:
    """What became of one."""
    if answer is None:
        return NotDone(receipt, "it is void: used, over, or lost with the connection it came by", lost=True)
    if not isinstance(answer, Accepted):
        return NotDone(receipt, answer.reason, lost=False)
    end = next(ended)
    if isinstance(end, NotDone):
        return NotDone(receipt, f"{where}, but still in the queue, too: {end.reason}", end.lost)
    return end
