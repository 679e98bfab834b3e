"""What is in hand: leases, and the ends of deliveries.

RabbitMQ has no leases. A delivery is its consumer's until it is acked or handed back, or until its channel or connection is gone,
when all that came by it is the broker's again, at once. So the lease is kept here: when it is over, the delivery is handed back
by this end. An extension asks the broker, by the channel that the delivery came by, whether that channel still lives: the broker
takes us for dead after a heartbeat's silence and not before, which is how long the answer is good for, and the longest lease.

The broker knows a delivery by its number on the channel, and ends the channel, with all it holds, of whoever names a number
that is not outstanding. None is named here that is not. Acks have no answer either; the answer to a request behind them on the
same channel shows that they were taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
from anyio import CancelScope, Lock

from crossfoot.clock import Clock
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Done, NotDone, ReceiptAnswer
from crossfoot.queues.rabbitmq.answers import NoAnswer, Rejected
from crossfoot.queues.rabbitmq.link import Link

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage

FRAME = 131_072
"""Bytes of a frame by default."""

_log = logging.getLogger("crossfoot.queues.rabbitmq")


class Hold(msgspec.Struct, eq=False):
    """One delivery in hand."""

    receipt: str
    tag: int
    """Its number on the channel."""
    message: DeliveredMessage
    received: float
    attempt: int = 1
    timer: asyncio.TimerHandle | None = None


class Holding:
    """The deliveries of one queue in this process's hands. They came by one link: when that is lost, they are void.

    Args:
        held: seconds after which the broker ends the channel of whoever still holds a delivery.
    """

    def __init__(self, label: str, clock: Clock, *, held: float) -> None:
        self._label = label
        self._clock = clock
        self._held = held
        self._settling = Lock()
        self._link: Link | None = None
        self._holds: dict[str, Hold] = {}
        """By receipt, in the order of their numbers."""
        self._unheard: set[str] = set()
        """Receipts whose end was said, and whose connection was lost before anything was heard behind it. Until it is asked for again."""
        self._last = 0
        """The number of the link's latest delivery."""
        self._whole = True
        """Whether every delivery of the link was seen here: one that was not must not be acked with others."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.tell: Callable[[Sequence[str]], None] = lambda receipts: None
        """Called with the receipts that are void, in the moment in which they become so."""

    def __len__(self) -> int:
        return len(self._holds)

    def __contains__(self, receipt: str) -> bool:
        return receipt in self._holds

    def get(self, receipt: str) -> Hold | None:
        return self._holds.get(receipt)

    @property
    def frame(self) -> int:
        """Bytes of one frame, of the link that things are held by."""
        return self._link.frame if self._link is not None and self._link.up else FRAME

    def take(self, link: Link, message: DeliveredMessage) -> Hold:
        """It was delivered: nobody else has it from now on."""
        tag = int(message.delivery.delivery_tag or 0)  # type: ignore[union-attr] # a delivery has one
        receipt = f"{link.id}:{tag}"
        if self._link is not None and self._link is not link:
            self.void(self._link, "another connection has taken its place")
        if self._link is not link:
            self._link, self._last, self._whole = link, 0, True
        if tag != self._last + 1:
            self._whole = False
        self._last = tag
        self._holds[receipt] = hold = Hold(receipt, tag, message, self._clock.monotonic())
        return hold

    def lease(self, receipt: str, seconds: float) -> None:
        """Hand it back in so many seconds, unless something else is done with it until then."""
        hold = self._holds.get(receipt)
        if hold is not None:
            _stop(hold)
            hold.timer = asyncio.get_running_loop().call_later(seconds, self._lapse, receipt)

    def void(self, link: Link, reason: str) -> None:
        """The link was lost: the broker gives to others what came by it."""
        if link is not self._link:
            return
        holds, self._holds, self._link = self._holds, {}, None
        for hold in holds.values():
            _stop(hold)
        if holds:
            _log.warning("queue %s: %d deliveries in hand are void: %s", self._label, len(holds), reason)
            self.tell(list(holds))

    # ---- ends ------------------------------------------------------------------------------------------------------

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        async def send(link: Link, tag: int, multiple: bool) -> None:
            await link.channel.basic_ack(tag, multiple=multiple, wait=False)

        return await self._end(receipts, send)

    async def hand_back(self, receipts: Sequence[str], *, requeue: bool = True) -> list[ReceiptAnswer]:
        """To be delivered again at once; or, without `requeue`, to where the broker sends what was rejected."""

        async def send(link: Link, tag: int, multiple: bool) -> None:
            await link.channel.basic_nack(tag, multiple=multiple, requeue=requeue, wait=False)

        return await self._end(receipts, send)

    async def extend(self, receipts: Sequence[str], lease: float) -> list[ReceiptAnswer]:
        """Lease for `lease` seconds from now."""
        asked, link = self._clock.monotonic(), self._link
        failed = ""
        if link is not None and any(receipt in self._holds for receipt in receipts):
            failed = await self._is_alive(link)
        answers: list[ReceiptAnswer] = []
        for receipt in receipts:
            hold = self._holds.get(receipt)
            if hold is None:
                answers.append(_lost(receipt))
            elif failed:
                answers.append(NotDone(receipt, failed, lost=False))
            elif asked + lease > hold.received + self._held:
                why = f"the broker lets nobody hold a message longer than {self._held:g} s (its consumer_timeout; ?held= in the address)"
                answers.append(NotDone(receipt, why, lost=False))
            else:
                self.lease(receipt, asked + lease - self._clock.monotonic())
                answers.append(Done(receipt))
        return answers

    async def close(self) -> None:
        """Forget everything: the broker takes it back with the connection."""
        for hold in self._holds.values():
            _stop(hold)
        self._holds, self._link = {}, None
        self._unheard.clear()
        with CancelScope(shield=True):
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- parts -----------------------------------------------------------------------------------------------------

    async def _end(
        self, receipts: Sequence[str], send: Callable[[Link, int, bool], asyncio.Future[None] | object]
    ) -> list[ReceiptAnswer]:
        with CancelScope(shield=True):
            async with self._settling:  # what is outstanding must not change between the look and the word
                link = self._link
                mine = {receipt: self._holds[receipt] for receipt in receipts if receipt in self._holds}
                failed = await self._say(link, mine, send) if link is not None and mine else ""
            if link is not None and mine and not failed:
                failed = await self._is_alive(link)
        unheard = self._unheard.intersection(receipts)
        self._unheard -= unheard
        if failed:
            self._unheard.update(receipt for receipt in mine if receipt not in self._holds)
        answers: list[ReceiptAnswer] = []
        for receipt in receipts:
            if mine.pop(receipt, None) is not None:
                answers.append(NotDone(receipt, failed, lost=False) if failed else Done(receipt))
            elif receipt in unheard:
                answers.append(NotDone(receipt, "the connection was lost before the broker answered", lost=False))
            else:
                answers.append(_lost(receipt))
        return answers

    async def _say(self, link: Link, mine: dict[str, Hold], send: Callable[[Link, int, bool], object]) -> str:
        """Say it of all of them; why not, if so."""

        async def say() -> None:
            outstanding = [hold.tag for hold in self._holds.values()] if self._whole else []
            for tag, multiple in grouped(outstanding, [hold.tag for hold in mine.values()]):
                await send(link, tag, multiple)  # type: ignore[misc] # both senders are coroutines
            for receipt, hold in mine.items():
                _stop(hold)
                self._holds.pop(receipt, None)

        return await _asked(link, say)

    async def _is_alive(self, link: Link) -> str:
        """Whether the channel has taken all that was said on it; why not, if not."""

        async def ask() -> None:
            await link.channel.flow(active=True)  # changes nothing, and is answered

        return await _asked(link, ask)

    def _lapse(self, receipt: str) -> None:
        """Its lease is over."""

        async def hand_back() -> None:
            await self.hand_back([receipt])

        task = asyncio.get_running_loop().create_task(hand_back())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _asked(link: Link, request: Callable[[], object]) -> str:
    try:
        await link.ask(request)  # type: ignore[arg-type] # both requests are coroutines
    except (Rejected, NoAnswer, QueueUnavailable) as error:
        return str(error)
    return ""


def grouped(outstanding: Iterable[int], ours: Iterable[int]) -> list[tuple[int, bool]]:
    """The fewest words that end exactly ours: one for all up to a number where none of the others is below it, then one for each.

    Args:
        outstanding: every number on the channel that has no end yet, in their order; none when that is not known.

    Returns:
        Numbers, each with whether those below it are meant, too.
    """
    left = set(ours)
    last, count = 0, 0
    for tag in outstanding:
        if tag not in left:
            break
        left.discard(tag)
        last, count = tag, count + 1
    words = [(last, count > 1)] if count else []
    return words + [(tag, False) for tag in sorted(left)]


def _stop(hold: Hold) -> None:
    if hold.timer is not None:
        hold.timer.cancel()
        hold.timer = None


def _lost(receipt: str) -> NotDone:
    return NotDone(receipt, "it is void: used, over, or lost with the connection it came by", lost=True)
