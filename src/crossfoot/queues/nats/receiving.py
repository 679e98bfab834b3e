"""Receiving: one pull, one inbox; what comes when nobody waits any more is handed back.

A pull says "what there is, else wait so long for the first". Each has a subscription of its own, which ends with it: the
server drops a pull whose subscriber is gone, so that a cancelled receive takes no message with it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from anyio import CancelScope

from crossfoot.clock import Clock, Micros, micros
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.nats.answers import NoAnswer
from crossfoot.queues.nats.connection import Connection
from crossfoot.queues.nats.link import Link
from crossfoot.queues.nats.messages import NatsDelivery, delivery_of
from crossfoot.queues.nats.settling import RELEASE, Settler
from crossfoot.queues.queue import Delivery, Done

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

SHORTEST_PULL = 0.02
"""Seconds. What was published a moment ago may not have reached the consumer yet."""

GIVING_BACK_SECONDS = 1.0

_EMPTY = ("404", "408")
_CONTROL = "100"

_nanos = 1_000_000_000


class Pull:
    """One request for messages, and what came of it."""

    def __init__(self, limit: int) -> None:
        self.messages: list[Msg] = []
        self.status = ""
        self.said = ""
        self.over = anyio.Event()
        self._limit = limit

    async def take(self, msg: Msg) -> None:
        status = (msg.headers or {}).get("Status", "") if not msg.reply else ""
        if not status:
            self.messages.append(msg)
            if len(self.messages) >= self._limit:
                self.over.set()
        elif status != _CONTROL:
            self.status, self.said = status, (msg.headers or {}).get("Description", "")
            self.over.set()


class Receiver:
    """Receives from one consumer.

    Args:
        ack_wait: seconds for which the server leases what it delivers.
        poll: seconds one pull may wait.
    """

    def __init__(
        self, connection: Connection, settler: Settler, where: str, *, ack_wait: float, clock: Clock, poll: float
    ) -> None:
        self._connection = connection
        self._settler = settler
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{where}"
        self._ack_wait = ack_wait
        self._clock = clock
        self._poll = poll

    async def receive(self, limit: int, *, lease: float, wait: float) -> list[Delivery]:
        """Up to `limit` deliveries.

        The server leases when it delivers, not when it is asked: leases count from the asking. So a pull waits for a
        quarter of the lease at most, and is repeated.

        Raises:
            QueueUnavailable: no answer, or a refusal. Should messages have been leased, they come again.
        """
        until = anyio.current_time() + wait
        shortest = min(lease, self._ack_wait)
        while True:
            left = until - anyio.current_time()
            got = await self._once(limit, lease, max(SHORTEST_PULL, min(self._poll, left, shortest / 4)))
            if got or until <= anyio.current_time():
                return got

    async def _once(self, limit: int, lease: float, hold: float) -> list[Delivery]:
        asked, asked_wall = self._clock.monotonic(), self._clock.now()
        messages = await self._pull(limit, hold)
        granted = min(self._ack_wait, lease)
        found = [delivery_of(msg, asked_wall + micros(granted)) for msg in messages]
        deliveries = [one for one in found if one is not None]
        self._settler.hold([one.receipt for one in deliveries], asked + self._ack_wait)
        if lease == self._ack_wait or not deliveries:
            return list(deliveries)
        return list(await self._leased(deliveries, lease, asked, asked_wall))

    async def _leased(
        self, deliveries: list[NatsDelivery], lease: float, asked: float, asked_wall: Micros
    ) -> list[NatsDelivery]:
        """With leases of another length than the server's; what it did not confirm keeps the shorter of the two."""
        receipts = [one.receipt for one in deliveries]
        try:
            with CancelScope(shield=True):
                answers = await self._settler.extend(receipts, lease)
        except QueueUnavailable:
            answers = []
        done = {answer.receipt for answer in answers if isinstance(answer, Done)}
        for one in deliveries:
            if one.receipt in done:
                one.lease_until = asked_wall + micros(lease)
        self._settler.hold(list(done), asked + lease)
        void = {answer.receipt for answer in answers if not isinstance(answer, Done) and answer.lost}
        return [one for one in deliveries if one.receipt not in void]

    async def _pull(self, limit: int, hold: float) -> list[Msg]:
        link = await self._connection.link()
        pull = Pull(limit)
        request = msgspec.json.encode({"batch": limit, "no_wait": True, "expires": round(hold * _nanos)})
        inbox = link.client.new_inbox()
        subscription = await link.subscribe(inbox, pull.take)
        try:
            with link.waiting(self._next, hold + self._connection.timeout):
                await link.send(self._next, request, inbox)
                await pull.over.wait()
        except (NoAnswer, QueueUnavailable) as error:
            await self._end(link, subscription)
            if not pull.messages:
                raise QueueUnavailable(f"queue {self._connection.label} did not deliver: {error}. Try again") from error
        except BaseException:
            await self._give_back(link, subscription, pull)
            raise
        else:
            await self._end(link, subscription)
        if not pull.messages and pull.status not in _EMPTY:
            raise QueueUnavailable(
                f"queue {self._connection.label} does not deliver: {pull.said or 'its consumer is not there'} "
                f"({pull.status}). Check stream and consumer"
            )
        return pull.messages

    async def _end(self, link: Link, subscription: Subscription) -> None:
        if link.up:
            with CancelScope(shield=True), suppress(Exception):  # lost meanwhile: then there is nothing to end
                await subscription.unsubscribe()

    async def _give_back(self, link: Link, subscription: Subscription, pull: Pull) -> None:
        """End the subscription, wait for what the server had sent by then, and hand it back."""
        if not link.up:
            return
        with CancelScope(shield=True), anyio.move_on_after(GIVING_BACK_SECONDS), suppress(Exception):
            drained: Any = subscription.drain()  # type: ignore[no-untyped-call] # the client's own annotations stop here
            await drained  # if that fails, the leases run out by themselves
            for msg in pull.messages:
                await link.send(msg.reply, RELEASE)
