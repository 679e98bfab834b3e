"""How often a message was delivered.

A quorum queue counts, and its count comes with the message. A classic queue only says that it is not the first time. So what comes
again from a classic queue is counted by us: it is sent to the queue anew, with its count, and only then is the first one acked; a
process that dies in between leaves two of them, and the operation key does the rest. A message that waited is counted the same
way, by the copy that waited.

What was delivered too often, counting what came before a wait, is rejected here; of that the broker's own limit knows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Accepted
from crossfoot.queues.rabbitmq.holding import Holding
from crossfoot.queues.rabbitmq.messages import DELIVERIES, Came, Entry, came_of, copy_of
from crossfoot.queues.rabbitmq.publishing import Sender

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage

Came_ = tuple[str, "DeliveredMessage"]


class Rule(msgspec.Struct, frozen=True):
    """What one queue counts."""

    counts: bool
    """Whether the queue counts by itself."""
    max_attempts: int | None


class Counting:
    """Counts the deliveries of one queue."""

    def __init__(self, sender: Sender, holding: Holding, *, queue: str, rule: Rule) -> None:
        self._sender = sender
        self._holding = holding
        self._queue = queue
        self._rule = rule

    def attempt_of(self, came: Came) -> int:
        """Which delivery this is, counted from 1; from a classic queue at least so many."""
        return came.before + 1 + int(came.again and not self._rule.counts)

    async def sorted_out(self, came: Sequence[Came_]) -> list[Came_]:
        """Those to be handed over; the others are sent anew, or rejected."""
        limit = self._rule.max_attempts
        fresh, again, over = [], [], []
        for receipt, message in came:
            read = came_of(message)
            if limit is not None and self.attempt_of(read) > limit:
                over.append(receipt)
            elif read.again and not self._rule.counts:
                again.append((receipt, message))
            else:
                fresh.append((receipt, message))
        if over:
            await self._holding.hand_back(over, requeue=False)
        return fresh + (await self._sent_anew(again) if again else [])

    async def _sent_anew(self, again: Sequence[Came_]) -> list[Came_]:
        """Those that could not be."""
        entries = [self._anew(receipt, message) for receipt, message in again]
        try:
            answers = await self._sender.send(entries)
        except QueueUnavailable:
            return list(again)
        sent = [answer.key for answer in answers if isinstance(answer, Accepted)]
        await self._holding.ack(sent)
        return [one for one in again if one[0] not in set(sent)]

    def _anew(self, receipt: str, message: DeliveredMessage) -> Entry:
        count = self.attempt_of(came_of(message)) - 1
        return copy_of(message, key=receipt, queue=self._queue, told={DELIVERIES: count})
