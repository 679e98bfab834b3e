"""A queue that loses acks and messages, and whose leases can be cut short. For the workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import anyio.to_thread
import msgspec

from crossfoot.clock import Micros, SystemClock, micros
from crossfoot.demo.hands import Hands
from crossfoot.demo.outgoing import Delegate
from crossfoot.demo.plan import Act, Fault
from crossfoot.demo.record import Record
from crossfoot.demo.shield import Shield
from crossfoot.errors import EnvelopeInvalid
from crossfoot.message import key_of
from crossfoot.queues.queue import (
    Delivery,
    Done,
    Held,
    KeepsExpired,
    LocalQueue,
    NotDone,
    Outgoing,
    Queue,
    ReceiptAnswer,
    SqlStatement,
)

SILENCE = "ReadTimeoutError: the request was sent, and no answer came"
LATER_COPY = "a later copy was received: "
"""The signal, followed by the message's id."""


class KeepingQueue(Queue, KeepsExpired, Protocol):
    """A queue that keeps what is past its retention."""


class Hold(msgspec.Struct):
    """A delivery that this worker has in hand."""

    id: str
    act: Act
    delivery: Delivery
    lease_until: Micros
    muted: bool = False
    """Whether what is asked about it gets lost."""
    overran: bool = False
    """Whether its lease ran out while its handler ran, whatever came after that."""


class FaultyReceive(Delegate):
    """Loses, deletes and forgets as the plan says.

    Args:
        acts: by message key.
        hands: somebody else's, on the same queue.
    """

    acks_in_transactions = False
    """Whether an ack rides in the effect's transaction, so that no answer to it can be lost."""

    def __init__(self, inner: Queue, acts: Mapping[str, Act], record: Record, shield: Shield, hands: Hands) -> None:
        super().__init__(inner)
        self._acts = acts
        self._hands = hands
        self._clock = SystemClock()
        self._lock = threading.Lock()
        self._latest: dict[str, Hold] = {}
        self._booked: list[str] = []
        self.record = record
        self.shield = shield
        self.held: dict[str, Hold] = {}
        """Planned deliveries in hand, by receipt."""
        self.on_first_receive: Callable[[], None] | None = None

    # ---- the port ------------------------------------------------------------------------------------------------

    async def receive(self, limit: int, *, lease: float, wait: float = 0.0) -> list[Delivery]:
        if self.on_first_receive is not None:
            self.on_first_receive()
            self.on_first_receive = None
        if self._booked:
            await anyio.to_thread.run_sync(self._tell_of_copies)
        deliveries = await self.inner.receive(limit, lease=lease, wait=wait)
        planned = [one for one in deliveries if _key(one) in self._acts]
        stolen = await anyio.to_thread.run_sync(self._look_at, planned) if planned else set()
        return [one for one in deliveries if one.receipt not in stolen]

    async def extend(self, receipts: Sequence[str], *, lease: float) -> list[ReceiptAnswer]:
        muted = {one for one in receipts if one in self.held and self.held[one].muted}
        passed = iter(await self.inner.extend([one for one in receipts if one not in muted], lease=lease))
        answers = [NotDone(one, SILENCE, lost=False) if one in muted else next(passed) for one in receipts]
        for receipt, answer in zip(receipts, answers, strict=True):
            if isinstance(answer, Done) and receipt in self.held:
                self.held[receipt].lease_until = self._clock.now() + micros(lease)
        return answers

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        lost = await anyio.to_thread.run_sync(self._lose, receipts) if self._any_ack_to_lose(receipts) else set()
        passed = iter(await self.inner.ack([one for one in receipts if one not in lost]))
        return [NotDone(one, SILENCE, lost=False) if one in lost else next(passed) for one in receipts]

    # ---- for hooks -----------------------------------------------------------------------------------------------

    def latest(self, id_: str) -> Hold:
        """The delivery of that message that came last."""
        with self._lock:
            return self._latest[id_]

    def show(self, hold: Hold) -> None:
        """Have the message delivered again although `hold` is not over."""
        self._hands.show(hold.delivery)

    def until_taken_away(self, hold: Hold, seconds: float) -> bool:
        """Wait until its partition was taken away, for so many seconds at most. Whether it was; here nobody has partitions."""
        return False

    def is_void(self, receipt: str) -> bool:
        """Whether its partition was taken away."""
        return False

    def forget(self, receipt: str) -> None:
        """This delivery has come to its end, and its entries are in the book."""
        if receipt in self.held:
            with self._lock:
                del self.held[receipt]
            self.shield.down(receipt)

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _look_at(self, deliveries: Sequence[Delivery]) -> set[str]:
        """Take note of planned deliveries. The receipts of those that somebody deleted meanwhile."""
        stolen = set()
        for delivery in deliveries:
            key = _key(delivery)
            act, id_ = self._acts[key], key.partition("|")[2]
            if act is Act.DELETE and self._deleted(delivery, id_):
                stolen.add(delivery.receipt)
                continue
            hold = Hold(id_, act, delivery, delivery.lease_until)
            with self._lock:
                self.held[delivery.receipt] = self._latest[id_] = hold
            if act is Act.REDELIVER:
                self._booked.append(f"{LATER_COPY}{id_} {delivery.attempt}")
        return stolen

    def _deleted(self, delivery: Delivery, id_: str) -> bool:
        if self.record.has(Fault.DELETED, id_):
            return False
        with self.shield.over(f"delete {id_}"):
            return self._hands.delete(delivery) and self.record.note(Fault.DELETED, id_)

    def _tell_of_copies(self) -> None:
        """The worker asks for more, so what it was given before is in the book by now."""
        signals, self._booked = self._booked, []
        for signal in signals:
            self.record.signal(signal)

    def _any_ack_to_lose(self, receipts: Sequence[str]) -> bool:
        return any(one in self.held and self.held[one].act is Act.LOSE_ACK for one in receipts)

    def _lose(self, receipts: Sequence[str]) -> set[str]:
        lost = set()
        for receipt in receipts:
            hold = self.held.get(receipt)
            if hold is None or hold.act is not Act.LOSE_ACK:
                continue
            self.shield.up(receipt)  # until the worker has booked that it got no answer
            hold.muted = hold.muted or self.record.note(Fault.ACK_LOST, hold.id)
            if hold.muted:
                lost.add(receipt)  # and every time it asks again
        return lost


class FaultyKeepingReceive(FaultyReceive):
    """The same over a queue that keeps what is past its retention."""

    inner: KeepingQueue

    async def expired(self, limit: int = 100) -> list[Held]:
        return await self.inner.expired(limit)

    async def purge(self, messages: Sequence[Held]) -> int:
        return await self.inner.purge(messages)


class FaultyLocalReceive(FaultyKeepingReceive):
    """The same over a queue that is a table, whose acks ride in the effect's transaction where that is in the same database.

    There is no moment in which such an ack could be lost. So that there is one, the statement handed out for a planned
    message reports success and does nothing, as brokers have been known to.
    """

    inner: LocalQueue

    def __init__(self, inner: LocalQueue, *others: Any, database: str) -> None:
        super().__init__(inner, *others)
        self.acks_in_transactions = inner.is_in(database)

    def is_in(self, path: str) -> bool:
        return self.inner.is_in(path)

    def ack_statement(self, receipt: str) -> SqlStatement:
        statement, parameters = self.inner.ack_statement(receipt)
        hold = self.held.get(receipt)
        if hold is None or hold.act is not Act.LOSE_ACK or self.record.has(Fault.ACK_LOST, hold.id):
            return statement, parameters
        return statement.replace("DELETE FROM crossfoot_queue", "UPDATE crossfoot_queue SET token = token"), parameters

    def release_statement(self, receipt: str, now: Micros, delay: float = 0.0) -> SqlStatement:
        return self.inner.release_statement(receipt, now, delay)

    def dead_letter_statement(self, receipt: str, now: Micros, reason: str) -> SqlStatement:
        return self.inner.dead_letter_statement(receipt, now, reason)

    def publish_statements(self, messages: Sequence[Outgoing], now: Micros) -> Sequence[SqlStatement]:
        return self.inner.publish_statements(messages, now)

    def wake(self) -> None:
        self.inner.wake()

    async def oldest(self) -> Micros | None:
        return await self.inner.oldest()


def id_in(delivery: Delivery) -> str:
    """The message's id; empty where the envelope cannot be read."""
    return _key(delivery).partition("|")[2]


def _key(delivery: Delivery) -> str:
    try:
        return key_of(delivery.body) or ""
    except EnvelopeInvalid:
        return ""
