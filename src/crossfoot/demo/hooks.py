"""Handlers that raise, swallow what was raised, outlast their lease, or are overtaken by a second delivery.

A hook runs where the handler's own code would: after the delivery was booked as received, before its transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from crossfoot.clock import SystemClock, micros
from crossfoot.demo.incoming import LATER_COPY, FaultyReceive, Hold
from crossfoot.demo.messages import SOURCE
from crossfoot.demo.plan import FAULT_OF, Act, Fault
from crossfoot.dialect import translate
from crossfoot.effects.handler import Handler
from crossfoot.message import Message

AFTER_THE_LEASE = 0.3
"""Seconds by which a handler outlasts its lease."""

LOOK_AGAIN = 0.02
"""Seconds between two looks for a second delivery; the lease is cut short again every tenth time."""

LATER = 6
"""By how much less the second delivery's number is greater than the first one's: one may be on its way into hands that are full."""

GIVE_UP_SECONDS = 25.0
"""How long a handler waits to be overtaken; then it goes on, and that fault has not happened."""

Function = Callable[..., Any]


class ArchiveUnavailable(ConnectionError):
    """What a handler's code meets when the service behind it is down."""


class Spelt:
    """A transaction of PostgreSQL's for an example that speaks SQLite's words.

    Its tables are there. It makes them at each message, if they are not; in PostgreSQL that locks them, so that two who have
    done so and go on to write wait for each other.

    Args:
        made: the statements that make the tables.
    """

    def __init__(self, tx: Any, made: Sequence[str]) -> None:
        self._tx = tx
        self._made = made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def execute(self, statement: str, *parameters: Any) -> Any:
        if statement not in self._made:
            return self._tx.execute(translate(statement).decode(), *parameters)


class Hooks:
    """What happens in handlers before they do their work.

    Args:
        acts: by message key.
        made: in PostgreSQL, see `Spelt`.
    """

    def __init__(self, acts: Mapping[str, Act], queue: FaultyReceive, *, made: Sequence[str] = ()) -> None:
        self._acts = acts
        self._made = made
        self._queue = queue
        self._record = queue.record
        self._clock = SystemClock()
        self._before: dict[Act, Callable[[Message, Hold], None]] = {
            Act.RAISE_ONCE: self._raise_once,
            Act.RAISE_ALWAYS: self._raise_always,
            Act.OVERRUN: self._overrun,
            Act.REDELIVER: self._wait_for_a_second,
            Act.LOSE_ACK: self._commit_in_peace,
            Act.REBALANCE: self._lose_the_partition,
        }

    def around(self, handler: Handler) -> Function:
        """The handler's function with the planned faults in front of it."""

        def hooked(message: Message, tx: Any) -> Any:
            tx = Spelt(tx, self._made) if self._made else tx
            act = self._acts.get(f"{SOURCE}|{message.id}")
            if act is None:
                return handler.function(*handler.arguments(message, tx))
            if act is Act.SWALLOW:
                return self._swallow(message)
            before = self._before.get(act)
            if before is not None:
                before(message, self._queue.latest(message.id))
            return handler.function(*handler.arguments(message, tx))

        return hooked

    # ---- acts ----------------------------------------------------------------------------------------------------

    def _swallow(self, message: Message) -> None:
        """The bug everybody has written once."""
        self._record.note(Fault.SWALLOWED, message.id)
        with suppress(ArchiveUnavailable):
            _fail(message)

    def _raise_always(self, message: Message, hold: Hold) -> None:
        self._record.note(Fault.RAISES_ALWAYS, message.id)
        _fail(message)

    def _raise_once(self, message: Message, hold: Hold) -> None:
        if self._record.has(Fault.RAISES_ONCE, message.id):
            return
        self._queue.shield.up(hold.delivery.receipt)
        self._record.note(Fault.RAISES_ONCE, message.id)
        _fail(message)

    def _commit_in_peace(self, message: Message, hold: Hold) -> None:
        """Where it rides in the effect's transaction the ack is lost together with the commit, which therefore must come."""
        if self._queue.acks_in_transactions and not self._record.has(Fault.ACK_LOST, message.id):
            self._queue.shield.up(hold.delivery.receipt)
            self._record.note(Fault.ACK_LOST, message.id)

    def _overrun(self, message: Message, hold: Hold) -> None:
        """No heartbeat gets through, and the handler takes longer than its lease."""
        if not self._begins(message, hold, everyone=False):
            return
        hold.muted = True
        while self._clock.now() < hold.lease_until + micros(AFTER_THE_LEASE):
            time.sleep(LOOK_AGAIN)
        if not self._queue.is_void(hold.delivery.receipt):
            self._record.note(Fault.OVERRUN, message.id)
            hold.overran = True
        else:  # it did not run out, it was taken away: the next one is to be the one
            self._record.withdraw(_began(Fault.OVERRUN, message))

    def _lose_the_partition(self, message: Message, hold: Hold) -> None:
        """The group gives it to somebody else while the handler runs."""
        if self._begins(message, hold, everyone=True) and not self._queue.until_taken_away(hold, GIVE_UP_SECONDS):
            self._queue.shield.down(hold.delivery.receipt)

    def _wait_for_a_second(self, message: Message, hold: Hold) -> None:
        """The queue delivers the message a second time, although the first copy is being handled and its lease runs."""
        # This delivery is in the book by now. Whoever waits for it need not wait until its worker asks for more.
        self._record.signal(f"{LATER_COPY}{message.id} {hold.delivery.attempt}")
        if not self._begins(message, hold, everyone=True):
            return
        seconds = [f"{LATER_COPY}{message.id} {hold.delivery.attempt + later}" for later in range(1, LATER)]
        looks = 0
        give_up_at = self._clock.now() + micros(GIVE_UP_SECONDS)
        while self._clock.now() < min(give_up_at, hold.lease_until - micros(1.0)):
            if any(map(self._record.signalled, seconds)):
                self._record.note(Fault.REDELIVERED, message.id)
                return
            if looks % 10 == 0:  # again and again, because heartbeats hide it again
                self._queue.show(hold)
            looks += 1
            time.sleep(LOOK_AGAIN)

    def _begins(self, message: Message, hold: Hold, *, everyone: bool) -> bool:
        """Whether this delivery is the one it happens to: the first that no kill interrupts before it is shielded."""
        fault = FAULT_OF[hold.act]
        self._queue.shield.up(hold.delivery.receipt, everyone=everyone)
        if self._record.has(fault, message.id) or self._record.signalled(_began(fault, message)):
            self._queue.shield.down(hold.delivery.receipt)
            return False
        self._record.signal(_began(fault, message))
        return True


def _began(fault: Fault, message: Message) -> str:
    """The signal that it has begun to happen."""
    return f"{fault.value} began: {message.id}"


def _fail(message: Message) -> None:
    raise ArchiveUnavailable(f"the archive does not answer: {message.subject} could not be looked up")
