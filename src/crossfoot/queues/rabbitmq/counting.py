"""How often a message was delivered.

A quorum queue counts, and its count comes with the message. A classic queue only says that it is not the first time. So what comes
again from a classic queue is counted by us: it is sent to the queue anew, with its count, and only then is the first one acked; a
process that dies in between leaves two of them, and the operation key does the rest. A message that waited is counted the same
way, by the copy that waited.

What was delivered too often, counting what came before a wait, is buried here; of that the broker's own limit knows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Accepted, Done
from crossfoot.queues.rabbitmq.holding import Hold, Holding
from crossfoot.queues.rabbitmq.messages import DELIVERIES, Came, Entry, came_of, copy_of
from crossfoot.queues.rabbitmq.moving import Mover
from crossfoot.queues.rabbitmq.publishing import Sender


class Rule(msgspec.Struct, frozen=True):
    """What one queue counts."""

    counts: bool
    """Whether the queue counts by itself."""
    max_attempts: int | None


class Counting:
    """Counts the deliveries of one queue."""

    def __init__(self, sender: Sender, holding: Holding, mover: Mover, *, queue: str, rule: Rule) -> None:
        self._sender = sender
        self._holding = holding
        self._mover = mover
        self._queue = queue
        self._rule = rule

    def attempt_of(self, came: Came) -> int:
        """Which delivery this is, counted from 1; from a classic queue at least so many."""
        return came.before + 1 + int(came.again and not self._rule.counts)

    async def sorted_out(self, came: Sequence[Hold]) -> list[Hold]:
        """Those to be handed over; the others are sent anew, buried, or, where that fails, handed back."""
        limit = self._rule.max_attempts
        fresh, again, over = [], [], []
        for hold in came:
            if limit is not None and hold.attempt > limit:
                hold.attempt -= 1  # nobody is given this one
                over.append(hold)
            elif not self._rule.counts and came_of(hold.message).again:
                again.append(hold)
            else:
                fresh.append(hold)
        if over and limit is not None:
            await self._bury([hold.receipt for hold in over], limit)
        return fresh + (await self._sent_anew(again) if again else [])

    async def _bury(self, receipts: Sequence[str], limit: int) -> None:
        reason = (
            f"delivered {limit} times, which is the queue's limit (x-delivery-limit), counting those before it waited"
        )
        try:
            answers = await self._mover.bury(receipts, reason)
        except QueueUnavailable:
            answers = []
        buried = {answer.receipt for answer in answers if isinstance(answer, Done)}
        await self._holding.hand_back([receipt for receipt in receipts if receipt not in buried])

    async def _sent_anew(self, again: Sequence[Hold]) -> list[Hold]:
        """Those that could not be."""
        try:
            answers = await self._sender.send([self._anew(hold) for hold in again])
        except QueueUnavailable:
            return list(again)
        sent = {answer.key for answer in answers if isinstance(answer, Accepted)}
        await self._holding.ack(list(sent))
        return [hold for hold in again if hold.receipt not in sent]

    def _anew(self, hold: Hold) -> Entry:
        told, frame = {DELIVERIES: hold.attempt - 1}, self._holding.frame
        return copy_of(hold.message, key=hold.receipt, queue=self._queue, told=told, frame=frame)
