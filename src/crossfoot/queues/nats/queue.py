"""The queue port over NATS JetStream: a stream, and a durable pull consumer on it.

It delivers at least once, in no order that redeliveries would keep, and takes an ack under an earlier receipt without saying
whether that was in order (`settling.py`). A second publish of the same deduplication id within the stream's
`duplicate_window` is dropped. Where the stream keeps exactly what is not acked, it can be browsed.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self

from anyio import Lock
from msgspec import structs

from crossfoot.clock import Clock, Micros, SystemClock
from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.nats.address import address_of
from crossfoot.queues.nats.connection import Connection
from crossfoot.queues.nats.dead import DeadLetters, Dying, find, held_of
from crossfoot.queues.nats.given_up import Kept
from crossfoot.queues.nats.messages import Entry, NatsDelivery, Rules, encoded, entry_of
from crossfoot.queues.nats.opening import Parts, capabilities_of, open_parts
from crossfoot.queues.nats.publishing import Sender
from crossfoot.queues.nats.receipts import receipt_of
from crossfoot.queues.nats.settling import TERM, lost
from crossfoot.queues.nats.stream import Stored
from crossfoot.queues.queue import (
    Accepted,
    Capabilities,
    Delivery,
    Depth,
    Done,
    Held,
    NotDone,
    Outgoing,
    PublishAnswer,
    ReceiptAnswer,
    Refused,
)
from crossfoot.queues.telling import Told

LONGEST_POLL = 30

_log = logging.getLogger("crossfoot.queues.nats")


class NatsQueue:
    """One durable of one stream.

    Args:
        queue: its address: `nats://HOST:4222/STREAM/DURABLE`, or `STREAM/DURABLE` with `servers`; see `address.py`.
        servers: where the servers are, if the address does not say. Credentials may be in these URLs.
        durable: the consumer's name, if the address names only a stream.
        clock: reads the time for leases.
        timeout: seconds until a request without an answer is given up, and what it asked for is in doubt.
        poll: seconds one pull waits. A receive that waits longer pulls again.
        connect: more for the client's `connect`, such as `tls` or `nkeys_seed`.

    Raises:
        UsageError: the address is none, or `poll` or `timeout` are out of range.
    """

    system = "nats"

    def __init__(
        self,
        queue: str,
        *,
        servers: str | None = None,
        durable: str | None = None,
        clock: Clock | None = None,
        timeout: float = 10.0,
        poll: float = 5.0,
        connect: Mapping[str, Any] | None = None,
    ) -> None:
        self._place = place = address_of(queue, servers=servers, durable=durable)
        if not 0 < poll <= LONGEST_POLL or timeout <= 0:
            raise UsageError(
                f"queue {place.name}: `poll` is {poll:g} s, of up to {LONGEST_POLL}; `timeout` is {timeout:g} s"
            )
        self._opening = Lock()
        self._clock = clock or SystemClock()
        self._poll = poll
        options = {**(connect or {}), **({"user_credentials": place.creds} if place.creds else {})}
        self._connection = Connection(
            place.servers, shown=place.shown, label=place.name, timeout=timeout, options=options
        )
        self._parts: Parts | None = None
        self._capabilities = capabilities_of(None)

    @property
    def name(self) -> str:
        return self._place.name

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def retention(self) -> float | None:
        return self._parts.found.retention if self._parts is not None else None

    @property
    def max_attempts(self) -> int | None:
        """After how many deliveries the consumer gives a message up; `None`: never."""
        return self._parts.found.max_attempts if self._parts is not None else None

    async def open(self) -> None:
        """Connect, find stream and consumer, and read their settings. What they may lose is said as a warning.

        Raises:
            QueueUnavailable: they do not exist or cannot be used as a queue; the servers cannot be reached or refuse us.
            UsageError: the client is not installed.
        """
        async with self._opening:
            if self._parts is None:
                try:
                    self._parts = await open_parts(self._connection, self._place, clock=self._clock, poll=self._poll)
                except BaseException:
                    await self._connection.close()
                    raise
                self._capabilities = capabilities_of(self._parts.found)

    async def close(self) -> None:
        async with self._opening:
            self._parts = None
            await self._connection.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        """See `Queue.publish`. What JetStream would never take is refused here, without a request.

        Raises:
            QueueUnavailable: not one left.
            UsageError: there are several subjects to publish to, or patterns of them.
        """
        parts = self._open_parts()
        if not (subject := parts.found.subject):
            raise UsageError(
                f"queue {self.name} does not say what to publish to: its stream takes several subjects; add ?subject=... to its "
                "address"
            )
        rules = Rules(queue=self.name, stream=self._place.stream, max_bytes=parts.found.max_bytes)
        checked = [entry_of(message, rules) for message in messages]
        entries = [one for one in checked if isinstance(one, Entry)]
        answers = iter(await Sender(self._connection, subject).send(entries))
        return [one if isinstance(one, Refused) else next(answers) for one in checked]

    async def receive(self, limit: int, *, lease: float, wait: float = 0.0) -> list[Delivery]:
        """See `Queue.receive` and `Receiver.receive`. A lease of the consumer's own `ack_wait` costs no further request.

        Raises:
            QueueUnavailable: no answer, or a refusal. Should messages have been leased, they come again.
            UsageError: the lease is none.
        """
        parts = self._open_parts()
        if lease <= 0:
            raise UsageError(f"a lease of {lease:g} s on queue {self.name}: it must be longer than 0 s")
        await parts.settler.lifetime.see()
        link = await self._connection.link()
        if parts.found.max_attempts is not None and not link.watched:
            await self._dead_letters()
            await parts.given_up.watch(link)
        return await parts.receiver.receive(min(limit, parts.found.max_receive), lease=lease, wait=wait)

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        """See `Queue.ack`. Done means that the server confirmed it; of a message long gone it confirms it, too."""
        return await self._open_parts().settler.ack(receipts)

    async def release(self, receipts: Sequence[str], *, delay: float = 0.0) -> list[ReceiptAnswer]:
        return await self._open_parts().settler.release(receipts, delay)

    async def extend(self, receipts: Sequence[str], *, lease: float) -> list[ReceiptAnswer]:
        return await self._open_parts().settler.extend(receipts, lease)

    async def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[ReceiptAnswer]:
        """See `Queue.dead_letter`: published to the dead letters, and only if that is certain, terminated."""
        settler = self._open_parts().settler
        dead = await self._dead_letters() if deliveries else None
        if dead is None:
            text = f"queue {self.name} has no dead letters: create the stream {self._dead_stream}"
            return [NotDone(delivery.receipt, text, lost=False) for delivery in deliveries]
        dying = [_dying(delivery) for delivery in deliveries]
        sent = iter(await dead.put([one for one in dying if one is not None], reason))
        answers = [None if one is None else next(sent) for one in dying]
        moved = [answer.key for answer in answers if isinstance(answer, Accepted)]
        try:
            ended = iter(await settler.ack(moved, TERM) if moved else [])
        except QueueUnavailable as error:
            ended = iter([NotDone(receipt, str(error), lost=False) for receipt in moved])
        return [
            lost(delivery.receipt, "it is no receipt of this queue") if answer is None
            else _moved(next(ended)) if isinstance(answer, Accepted)
            else NotDone(answer.key, answer.reason, lost=False)
            for delivery, answer in zip(deliveries, answers, strict=True)
        ]  # fmt: skip

    async def told(self) -> Told:
        """See `TellsSettings`; as they were when the queue was opened. Dead letters are as old as they are dead."""
        parts, dead = self._open_parts(), await self._dead_letters()
        return structs.replace(
            parts.told, buries=dead is not None, dead_retention=dead.retention if dead is not None else None
        )

    async def depth(self) -> Depth:
        """See `Queue.depth`. What is handed back with a delay counts as in flight; dead is also what was given up."""
        parts = self._open_parts()
        as_of = self._clock.now()
        dead = await self._dead_letters()
        buried = await dead.count() if dead is not None else 0
        standing = await parts.reader.standing()
        given_up = await parts.given_up.sequences(standing)
        return Depth(
            ready=standing.ready,
            in_flight=standing.in_flight,
            delayed=0,
            dead=buried + len(given_up),
            as_of=as_of,
        )

    async def browse(self) -> AsyncIterator[Held]:
        """See `Queue.browse`. What was given up is not among it, where that can be told.

        Raises:
            UsageError: the stream also keeps what was acked, and does not say which.
        """
        parts = self._open_parts()
        if parts.found.kept is Kept.MORE:
            raise UsageError(
                f"queue {self.name} cannot be browsed: its stream keeps acked messages, too, and does not tell them apart (retention "
                "by work queue does)"
            )
        standing = await parts.reader.standing()
        first = 1 if standing.in_flight else standing.delivered + 1
        async for stored in parts.reader.walk(first):
            attempt = int(stored.sequence <= standing.delivered)
            yield held_of(self._place.stream, stored, dead=False, attempt=attempt)

    async def dead_letters(self) -> AsyncIterator[Held]:
        """See `Queue.dead_letters`. What was given up is moved there first, or shown where it lies if there is no place."""
        parts = self._open_parts()
        dead = await self._dead_letters()
        for stored in await parts.given_up.sequences(await parts.reader.standing()):
            if dead is None or not await parts.given_up.bury(stored):
                yield held_of(self._place.stream, stored, dead=True)
        if dead is not None:
            async for held in dead.browse():
                yield held

    async def oldest(self) -> Micros | None:
        """When the message that is delivered next was published, `None` when there is none."""
        parts = self._open_parts()
        standing = await parts.reader.standing()
        head: Stored | None = await parts.reader.next(standing.delivered + 1) if standing.ready else None
        return head.at if head is not None else None

    # ---- parts -----------------------------------------------------------------------------------------------------

    @property
    def _dead_stream(self) -> str:
        return self._place.dead or f"{self._place.stream}-dead"

    def _open_parts(self) -> Parts:
        if self._parts is None:
            raise UsageError(f"queue {self.name} is not open: await its open() first, or use it in `async with`")
        return self._parts

    async def forget_dead(self, broker_ids: Sequence[str]) -> int:
        """See `ForgetsDead.forget_dead`."""
        dead = await self._dead_letters() if broker_ids else None
        return await dead.forget(frozenset(broker_ids)) if dead is not None else 0

    async def _dead_letters(self) -> DeadLetters | None:
        """The dead letters, looked up when first needed: who only publishes may have no access to them."""
        parts = self._open_parts()
        if parts.given_up.dead is None:
            parts.given_up.dead = await find(self._connection, self.name, self._dead_stream, self._place.durable)
            if parts.given_up.dead is None and not parts.warned:
                parts.warned = True
                _log.warning(
                    "queue %s has no dead letters: there is no stream %s; what cannot be handled comes back until its consumer "
                    "gives it up or its stream forgets it",
                    self.name,
                    self._dead_stream,
                )
        return parts.given_up.dead


def _dying(delivery: Delivery) -> Dying | None:
    told = receipt_of(delivery.receipt)
    if told is None:
        return None
    native = delivery.native if isinstance(delivery, NatsDelivery) else None
    headers = native if native is not None else {name: encoded(text) for name, text in delivery.attributes.items()}
    return Dying(
        key=delivery.receipt, body=delivery.body, headers=headers, dead_id=told.dead_id, attempt=delivery.attempt
    )


def _moved(answer: ReceiptAnswer) -> ReceiptAnswer:
    """The end's answer, told as that of the move."""
    if isinstance(answer, Done):
        return answer
    return NotDone(answer.receipt, f"among the dead letters, but still in the queue: {answer.reason}", answer.lost)
