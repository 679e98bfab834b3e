"""Publishing a list of entries: each confirmed by itself, many under way at once, nothing sent twice.

A message that no queue takes is confirmed as well as one that a queue has taken. So every publish is `mandatory`: what cannot be
routed is returned, before its confirmation, and is refused here.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Accepted, Doubtful, PublishAnswer, Refused
from crossfoot.queues.rabbitmq.answers import NoAnswer, Rejected, import_aiormq, read_as_answers
from crossfoot.queues.rabbitmq.connection import Connection
from crossfoot.queues.rabbitmq.link import Link
from crossfoot.queues.rabbitmq.messages import Entry

AT_ONCE = 100
"""Messages of one call that wait for their confirmation at the same time."""


class Sender:
    """Sends, confirmed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.full_is_refused = False
        """Whether the queue says no when it is full. Where it does not, a negative confirmation comes of a failure inside the
        broker, after which nobody knows what it has."""

    async def send(self, entries: Sequence[Entry]) -> list[PublishAnswer]:
        """One answer per entry, in order.

        Raises:
            QueueUnavailable: not one entry left. If some did, the others are refused, not permanently.
        """
        got: list[PublishAnswer | QueueUnavailable] = []
        for begin in range(0, len(entries), AT_ONCE):
            got += await self._together(entries[begin : begin + AT_ONCE])
        unsent = [one for one in got if isinstance(one, QueueUnavailable)]
        if unsent and len(unsent) == len(got):
            raise unsent[0]
        return [
            Refused(entry.key, str(one), permanent=False) if isinstance(one, QueueUnavailable) else one
            for entry, one in zip(entries, got, strict=True)
        ]

    async def _together(self, entries: Sequence[Entry]) -> list[PublishAnswer | QueueUnavailable]:
        try:
            link = await self._connection.publishing()
            await link.must_flow()
        except QueueUnavailable as error:
            return [error for _ in entries]
        got: list[PublishAnswer | QueueUnavailable] = [Doubtful(entry.key, "no answer") for entry in entries]

        async def one(number: int) -> None:
            got[number] = await self._one(link, entries[number])

        # Whoever is cancelled now would not know what became of it.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                for number in range(len(entries)):
                    group.start_soon(one, number)
        return got

    async def _one(self, link: Link, entry: Entry) -> PublishAnswer | QueueUnavailable:
        aiormq = import_aiormq()
        answer: object = None
        try:
            with anyio.move_on_after(self._connection.timeout) as scope, read_as_answers(self._connection.label):
                answer = await link.channel.basic_publish(
                    entry.body, exchange=entry.exchange, routing_key=entry.routing_key, properties=entry.properties,
                    mandatory=True, wait=False,
                )  # fmt: skip
        except QueueUnavailable as error:
            return error
        except (NoAnswer, Rejected) as error:
            if isinstance(error.__cause__, aiormq.exceptions.DeliveryError):
                return self._nacked(entry)
            return Doubtful(entry.key, str(error))
        if scope.cancelled_caught:
            return Doubtful(entry.key, f"no confirmation within {self._connection.timeout:g} s")
        if isinstance(answer, aiormq.abc.DeliveredMessage):
            said = getattr(answer.delivery, "reply_text", "") or "NO_ROUTE"
            where = f"exchange {entry.exchange!r}" if entry.exchange else "the default exchange"
            reason = f"no queue takes what is published to {where} with the key {entry.routing_key!r} ({said}): create or bind one"
            return Refused(entry.key, reason, permanent=False)
        return Accepted(entry.key, entry.broker_id)

    def _nacked(self, entry: Entry) -> PublishAnswer:
        if self.full_is_refused:
            return Refused(
                entry.key, f"queue {entry.routing_key} is full, and refuses more (x-overflow: reject-publish)", False
            )
        return Doubtful(entry.key, "the broker failed to take it, and does not say how far it came (basic.nack)")
