"""What a consumer gives up, found.

After `max_deliver` deliveries a consumer delivers a message no more. It says so once, in an advisory to whoever listens at
that moment, and keeps no list. Nothing counts the message any more: it is not pending, not in flight, and in a stream that
keeps messages until they are acked it lies for ever.

It is found in two ways. While a worker receives, it listens to the advisory. And afterwards, where the stream keeps exactly
what is not acked (see `Kept`): when nothing is in flight, whatever the stream holds up to the last message delivered was
given up. It is looked for twice, because an ack takes a moment to remove what it acks. What is found is moved to the dead
letters.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING

import anyio
import msgspec

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.nats.dead import DeadLetters, Dying
from crossfoot.queues.nats.link import Link
from crossfoot.queues.nats.receipts import dead_id, given_up_receipt
from crossfoot.queues.nats.settling import Settler
from crossfoot.queues.nats.stream import Reader, Standing, Stored
from crossfoot.queues.queue import Accepted, Done, PublishAnswer

if TYPE_CHECKING:
    from nats.aio.msg import Msg

LOOKS_APART = 0.5
"""Seconds."""

REASON = "given up by its consumer after its last delivery (max_deliver), with no word from a worker"

_log = logging.getLogger("crossfoot.queues.nats")


class Kept(Enum):
    """What a stream holds, as far as one consumer is concerned."""

    UNACKED = "what is not acked"
    """Retention by work queue."""
    MORE = "more"
    """Also what this consumer has acked."""


class Advisory(msgspec.Struct):
    """The one word the server says."""

    stream_seq: int
    deliveries: int = 0


class GivenUp:
    """Watches one consumer."""

    def __init__(self, reader: Reader, settler: Settler, stream: str, durable: str, kept: Kept) -> None:
        self._reader = reader
        self._settler = settler
        self._stream = stream
        self._durable = durable
        self._kept = kept
        self.dead: DeadLetters | None = None

    async def watch(self, link: Link) -> None:
        """Listen on this connection. Of all workers one is told."""
        link.watched = True
        where = f"{self._stream}.{self._durable}"
        await link.subscribe(
            f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{where}", self._heed, group=f"crossfoot.{where}"
        )

    async def sequences(self, standing: Standing) -> list[Stored]:
        """Messages that were given up, for certain; none where that cannot be told."""
        if self._kept is Kept.MORE or standing.in_flight or await self._reader.count() <= standing.ready:
            return []
        first = await self._up_to(standing.delivered)
        if not first:
            return []
        await anyio.sleep(LOOKS_APART)
        if await self._reader.standing() != standing:
            return []
        again = {stored.sequence for stored in await self._up_to(standing.delivered)}
        return [stored for stored in first if stored.sequence in again]

    async def bury(self, stored: Stored, deliveries: int = 0) -> bool:
        """Move one to the dead letters; whether it lies there now."""
        if self.dead is None:
            return False
        dying = Dying(
            key=str(stored.sequence), body=stored.body, headers=stored.headers, attempt=deliveries,
            dead_id=dead_id(self._stream, stored.sequence, stored.at_nanos),
        )  # fmt: skip
        answer: PublishAnswer = (await self.dead.put([dying], REASON))[0]
        if not isinstance(answer, Accepted):
            _log.warning(
                "%s:%d was given up, and is not among the dead letters: %s", *self._name(stored), answer.reason
            )
            return False
        (removed,) = await self._settler.ack([given_up_receipt(self._stream, self._durable, stored.sequence)])
        _log.warning("%s:%d was given up by its consumer; it is among the dead letters now", *self._name(stored))
        return isinstance(removed, Done)

    async def _up_to(self, last: int) -> list[Stored]:
        found = []
        async for stored in self._reader.walk():
            if stored.sequence > last:
                break
            found.append(stored)
        return found

    async def _heed(self, msg: Msg) -> None:
        try:
            told = msgspec.json.decode(msg.data, type=Advisory)
            stored = await self._reader.get(told.stream_seq)
            if stored is not None:
                await self.bury(stored, told.deliveries)
        except (QueueUnavailable, msgspec.MsgspecError) as error:
            _log.warning("%s/%s gave a message up: %s", self._stream, self._durable, error)

    def _name(self, stored: Stored) -> tuple[str, int]:
        return self._stream, stored.sequence
