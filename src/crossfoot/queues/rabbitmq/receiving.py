"""Receiving: a consumer for each receive, with room for as many messages as are wanted, ended when the first have come.

So nothing is taken in ahead of its time: no message waits in this process while another one has nothing to do. What is on its way
when a receive is cancelled is handed back; and what a quorum queue was about to send when its consumer ended, it takes back by
itself, and counts as delivered although nobody was given it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
from anyio import CancelScope, Lock

from crossfoot.clock import Clock, micros
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Delivery
from crossfoot.queues.rabbitmq.answers import NoAnswer, Rejected
from crossfoot.queues.rabbitmq.connection import Connection
from crossfoot.queues.rabbitmq.counting import Counting
from crossfoot.queues.rabbitmq.holding import Hold, Holding
from crossfoot.queues.rabbitmq.link import Link
from crossfoot.queues.rabbitmq.messages import came_of

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage

MAX_RECEIVE = 100

SHORTEST_WAIT = 0.03
"""Seconds. What was published a moment ago may not have reached the consumer yet."""


class Consumer:
    """One receive on its way."""

    def __init__(self, link: Link, holding: Holding, counting: Counting) -> None:
        self.link = link
        self.tag = f"crossfoot-{uuid4().hex}"
        self.came: list[Hold] = []
        self.first = anyio.Event()
        self.ended = ""
        """Why nothing comes any more, if so."""
        self._holding = holding
        self._counting = counting

    def take(self, message: DeliveredMessage) -> None:
        hold = self._holding.take(self.link, message)
        self.came.append(hold)
        self.first.set()
        hold.attempt = self._counting.attempt_of(came_of(message))

    def end(self, why: str) -> None:
        self.ended = self.ended or why
        self.first.set()


class Receiver:
    """Receives from one queue."""

    def __init__(
        self, connection: Connection, holding: Holding, counting: Counting, clock: Clock, *, queue: str
    ) -> None:
        self._connection = connection
        self._holding = holding
        self._counting = counting
        self._clock = clock
        self._queue = queue
        self._consuming = Lock()
        self._waiting: dict[str, Consumer] = {}
        self._watched: Link | None = None
        self._room = 0
        """What the next consumer on the channel has room for."""

    async def receive(self, limit: int, *, lease: float, wait: float) -> list[Delivery]:
        """Up to `limit` deliveries.

        Raises:
            QueueUnavailable: no answer, or a refusal. Should messages have been delivered, they come again.
        """
        until = anyio.current_time() + max(wait, SHORTEST_WAIT)
        while True:
            came = await self._once(limit, until)
            with CancelScope(shield=True):  # what is in hand must be leased, or handed back
                fresh = await self._counting.sorted_out(came)
            deliveries = [self._delivery(hold, lease) for hold in fresh if hold.receipt in self._holding]
            if deliveries or (not came and until <= anyio.current_time()):
                return deliveries

    async def _once(self, limit: int, until: float) -> list[Hold]:
        consumer = Consumer(await self._connection.receiving(), self._holding, self._counting)
        over = False
        try:
            await self._start(consumer, limit)
            with anyio.move_on_at(until):
                await consumer.first.wait()
            over = True
        except (Rejected, NoAnswer) as error:
            raise QueueUnavailable(f"queue {self._queue} does not deliver: {error}") from error
        finally:
            with CancelScope(shield=True):
                await self._stop(consumer)
                if not over and consumer.came:
                    await self._holding.hand_back([hold.receipt for hold in consumer.came])
        if consumer.ended and not consumer.came:
            raise QueueUnavailable(f"queue {self._queue} does not deliver: {consumer.ended}")
        return consumer.came

    async def _start(self, consumer: Consumer, limit: int) -> None:
        link = consumer.link
        self._watch(link)
        self._waiting[consumer.tag] = consumer

        async def consume() -> None:
            channel = link.channel
            if self._room != limit:
                await channel.basic_qos(prefetch_count=limit)
                self._room = limit
            await channel.basic_consume(self._queue, consumer.take, consumer_tag=consumer.tag)  # type: ignore[arg-type] # the client takes plain functions, too

        with CancelScope(shield=True):
            async with self._consuming:  # the room is that of the next consumer on the channel
                await link.ask(consume)

    async def _stop(self, consumer: Consumer) -> None:
        """End the consumer; all that was on its way has come when that is answered."""
        waiting = self._waiting.pop(consumer.tag, None)
        if waiting is None or consumer.ended or not consumer.link.up:
            return
        try:
            await consumer.link.ask(lambda: consumer.link.channel.basic_cancel(consumer.tag))
        except (Rejected, NoAnswer, QueueUnavailable):
            return  # with its channel everything it had is void, and told so

    def _watch(self, link: Link) -> None:
        """Be told of consumers that the broker ends, and of the end of all of them."""
        if self._watched is link:
            return
        self._watched, self._room = link, 0

        def ended(frame: object) -> None:
            consumer = self._waiting.get(str(getattr(frame, "consumer_tag", "")))
            if consumer is not None:
                consumer.end("it was deleted, or moved. Check that it is there")

        def lost(closing: asyncio.Future[object]) -> None:
            why = None if closing.cancelled() else closing.exception()
            for consumer in self._waiting.values():
                if consumer.link is link:
                    consumer.end(f"the connection was lost: {why or 'it was closed'}")

        link.channel.closing.add_done_callback(lost)
        link.channel.on_consumer_cancel_callbacks.add(ended)

    def _delivery(self, hold: Hold, lease: float) -> Delivery:
        came = came_of(hold.message)
        left = lease - (self._clock.monotonic() - hold.received)
        self._holding.lease(hold.receipt, left)
        return Delivery(
            body=came.body,
            receipt=hold.receipt,
            attempt=hold.attempt,
            lease_until=self._clock.now() + micros(left),
            enqueued_at=came.at,
            broker_id=came.broker_id,
            attributes=came.attributes,
        )
