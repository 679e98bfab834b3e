"""Publishing a list of entries: each confirmed by itself, many under way at once, nothing sent twice.

A message that no queue takes is confirmed as well as one that a queue has taken. So every publish is `mandatory`: what cannot be
routed is returned, before its confirmation, and is refused here.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

import anyio

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Accepted, Doubtful, PublishAnswer, Refused
from crossfoot.queues.rabbitmq.answers import NoAnswer, Rejected, answer_of, import_aiormq
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
        requests = [asyncio.ensure_future(_publish(link, entry)) for entry in entries]
        with anyio.CancelScope(shield=True):  # whoever is cancelled now would not know what became of it
            await asyncio.wait(requests, timeout=self._connection.timeout)
        return [self._answer(entry, request) for entry, request in zip(entries, requests, strict=True)]

    def _answer(self, entry: Entry, request: asyncio.Future[object]) -> PublishAnswer | QueueUnavailable:
        if not request.done():
            request.cancel()
            return Doubtful(entry.key, f"no confirmation within {self._connection.timeout:g} s")
        aiormq = import_aiormq()
        try:
            answer = answer_of(request, self._connection.label)
        except QueueUnavailable as error:
            return error
        except (ValueError, TypeError, struct.error) as error:  # while writing it down: nothing was sent
            return Refused(
                entry.key, f"its properties cannot be written as AMQP: {type(error).__name__}: {error}", True
            )
        except (NoAnswer, Rejected) as error:
            if isinstance(error.__cause__, aiormq.exceptions.DeliveryError):
                return self._nacked(entry)
            return Doubtful(entry.key, str(error))
        if isinstance(answer, aiormq.abc.DeliveredMessage):
            said = getattr(answer.delivery, "reply_text", "") or "NO_ROUTE"
            where = f"exchange {entry.exchange!r}" if entry.exchange else "the default exchange"
            reason = f"no queue takes what is published to {where} with the key {entry.routing_key!r} ({said}): create or bind one"
            return Refused(entry.key, reason, permanent=False)
        return Accepted(entry.key, entry.broker_id)

    def _nacked(self, entry: Entry) -> PublishAnswer:
        if self.full_is_refused and not entry.exchange:  # of several queues one may be full, and another have it
            return Refused(
                entry.key, f"queue {entry.routing_key} is full, and refuses more (x-overflow: reject-publish)", False
            )
        return Doubtful(entry.key, "the broker failed to take it, and does not say how far it came (basic.nack)")


async def _publish(link: Link, entry: Entry) -> object:
    """Its confirmation, or the message itself if it was returned."""
    return await link.channel.basic_publish(
        entry.body, exchange=entry.exchange, routing_key=entry.routing_key, properties=entry.properties,
        mandatory=True, wait=False,
    )  # fmt: skip
