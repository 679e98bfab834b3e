"""Ack, release, extension: each asked with a reply, so that done means that the server said so.

The server says so of anything. It answers an ack, a negative ack or a sign of progress under a receipt that was used, that
is out of date, or whose message is long gone, exactly as it answers a good one; and progress under an old receipt extends
whatever hold there is on the message now, somebody else's for instance. So this end keeps count: it remembers until when
each delivery it was given is leased for certain, and takes a lease that is over, or that was over when the answer came,
for lost. An ack is not held back: who acks has the proof in the book, and the message is done, whoever holds it. Only when the
stream was deleted meanwhile no word leaves any more: it would be about another message (`lifetime.py`).

A lease is of any length. The server's own, `ack_wait`, is of one length for all; where another is wanted, the delivery is
"handed back with a delay": the server then waits that long before it delivers again, and takes the ack meanwhile.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from crossfoot.clock import Clock
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.nats.answers import NoAnswer, NobodyListens
from crossfoot.queues.nats.connection import Connection
from crossfoot.queues.nats.lifetime import Lifetime
from crossfoot.queues.nats.receipts import receipt_of
from crossfoot.queues.nats.together import all_of
from crossfoot.queues.queue import Done, NotDone, ReceiptAnswer

ACK, RELEASE, PROGRESS, TERM = b"+ACK", b"-NAK", b"+WPI", b"+TERM"

MANY = 10_000
"""Leases remembered before those that are over are forgotten."""

GONE = "its stream was deleted, and the message with it"

_NANOS = 1_000_000_000
_FOREVER = 9 * 10**18
"""Nanoseconds: the longest time the server can count."""

_log = logging.getLogger("crossfoot.queues.nats")


class Settler:
    """Settles deliveries of one consumer.

    Args:
        made: when the stream was made.
        ack_wait: seconds after which the server delivers again, unless told otherwise.
    """

    def __init__(
        self, connection: Connection, stream: str, durable: str, *, made: str, ack_wait: float, clock: Clock
    ) -> None:
        self._connection = connection
        self._ours = (stream, durable)
        self._ack_wait = ack_wait
        self._clock = clock
        self._over: dict[str, float] = {}
        """When the lease of each delivery in hand ends, by the monotonic clock."""
        self._gone: set[str] = set()
        """Deliveries of a stream that was deleted while they were in hand."""
        self.lifetime = Lifetime(connection, stream, made, self._disown)

    # ---- leases ----------------------------------------------------------------------------------------------------

    def hold(self, receipts: Sequence[str], over: float) -> None:
        """Remember deliveries that are leased until `over`."""
        now = self._clock.monotonic()
        if len(self._over) > MANY:
            self._over = {receipt: end for receipt, end in self._over.items() if end > now}
        self._over.update(dict.fromkeys(receipts, over))

    def leased(self, receipt: str) -> bool:
        return self._over.get(receipt, 0.0) > self._clock.monotonic()

    def _disown(self) -> None:
        """The stream was deleted. Who has one of its messages in hand may finish: nobody else can be given it."""
        if self._over:
            _log.warning(
                "queue %s: the stream was deleted with deliveries in hand: what is not handled by those who have it is gone, and "
                "found missing",
                self._connection.label,
            )
        self._gone |= self._over.keys()
        self._over.clear()

    async def extend(self, receipts: Sequence[str], lease: float) -> list[ReceiptAnswer]:
        """Lease for `lease` seconds from now.

        Raises:
            QueueUnavailable: not one request left.
        """
        asked = self._clock.monotonic()
        word = PROGRESS if lease == self._ack_wait else postponed(lease)

        async def one(receipt: str) -> ReceiptAnswer | QueueUnavailable:
            if receipt in self._gone:
                return Done(receipt)
            if not self.leased(receipt):
                return lost(receipt, "its lease is over: somebody else may hold it")
            answer = await self._say(receipt, word)
            if receipt in self._gone:
                return Done(receipt)
            if isinstance(answer, Done):
                if not self.leased(receipt):
                    return lost(receipt, "its lease was over before the extension was confirmed")
                self._over[receipt] = asked + lease
            return answer

        return joined(receipts, await all_of(receipts, one))

    # ---- ends ------------------------------------------------------------------------------------------------------

    async def ack(self, receipts: Sequence[str], word: bytes = ACK) -> list[ReceiptAnswer]:
        """Forget the messages. Raises what `extend` raises."""
        return await self._end(receipts, word)

    async def release(self, receipts: Sequence[str], delay: float) -> list[ReceiptAnswer]:
        """Deliver again, `delay` seconds from now. Raises what `extend` raises."""
        mine = [receipt for receipt in receipts if self.leased(receipt)]
        done = iter(await self._end(mine, postponed(delay) if delay > 0 else RELEASE) if mine else [])
        over = "its lease is over: it is delivered again without that"
        kept = set(mine)
        return [
            next(done) if receipt in kept else lost(receipt, GONE if receipt in self._gone else over)
            for receipt in receipts
        ]

    async def _end(self, receipts: Sequence[str], word: bytes) -> list[ReceiptAnswer]:
        async def one(receipt: str) -> ReceiptAnswer | QueueUnavailable:
            return await self._say(receipt, word)

        answers = joined(receipts, await all_of(receipts, one))
        for answer in answers:
            if isinstance(answer, Done):
                self._over.pop(answer.receipt, None)
        return answers

    async def _say(self, receipt: str, word: bytes) -> ReceiptAnswer | QueueUnavailable:
        told = receipt_of(receipt)
        if told is None or (told.stream, told.durable) != self._ours:
            return lost(receipt, "it is no receipt of this queue")
        try:
            await self.lifetime.see()
            if receipt in self._gone:
                return Done(receipt) if word == TERM else lost(receipt, GONE)
            await self._connection.ask(receipt, word)
        except NoAnswer as error:
            return NotDone(receipt, str(error), lost=False)
        except NobodyListens:
            return QueueUnavailable(
                f"queue {self._connection.label}: nobody takes acks: its consumer is not there, or has no leader just now"
            )
        except QueueUnavailable as error:
            return error
        return Done(receipt)


def postponed(seconds: float) -> bytes:
    """The word for "not before so many seconds from now"."""
    return RELEASE + b" " + json.dumps({"delay": min(_FOREVER, max(1, round(seconds * _NANOS)))}).encode()


def lost(receipt: str, reason: str) -> NotDone:
    return NotDone(receipt, reason, lost=True)


def joined(receipts: Sequence[str], got: Sequence[ReceiptAnswer | QueueUnavailable]) -> list[ReceiptAnswer]:
    """One answer per receipt, in order.

    Raises:
        QueueUnavailable: not one request left, so it is certain that nothing was done.
    """
    unsent = [one for one in got if isinstance(one, QueueUnavailable)]
    if unsent and len(unsent) == len(got):
        raise unsent[0]
    return [
        NotDone(receipt, str(one), lost=False) if isinstance(one, QueueUnavailable) else one
        for receipt, one in zip(receipts, got, strict=True)
    ]
