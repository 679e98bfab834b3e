"""One delivery's work inside one transaction, as steps that any driver can carry out.

The order of the statements is the guarantee. The operation key is inserted *first*: of two workers with the same
operation the second waits for the first one's commit and then finds the key taken, so no effect is written twice.
Outcomes, messages to send, the sequence and the entries follow the handler, and the ack, where it can ride in the
transaction, is last: it changes no row when the lease was lost, and then everything is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextvars import ContextVar
from typing import Any, NamedTuple

import msgspec

from crossfoot.books import sql
from crossfoot.books.entry import Kind
from crossfoot.books.identity import differ, taken
from crossfoot.books.record import record_of
from crossfoot.books.store import Known
from crossfoot.boundaries import Boundary, reach
from crossfoot.clock import Clock, Micros, micros
from crossfoot.effects.databases.session import All, Alone, Many, One, Run, Steps
from crossfoot.effects.handler import Handler
from crossfoot.effects.proof import Evidence, judge
from crossfoot.effects.sending import Sending
from crossfoot.effects.sequence import Turn, awaited, turn_of
from crossfoot.errors import EnvelopeInvalid, LeaseLost, TransactionMisuse
from crossfoot.message import Message

Statement = tuple[str, tuple[Any, ...]]
EntryRow = tuple[Any, ...]
ROWS = tuple(Evidence(rows) for rows in range(8))
"""What most handlers leave: a few rows, and nothing else."""
_json = msgspec.json.Encoder()
ROWS_TOLD = tuple(_json.encode(evidence).decode() for evidence in ROWS)


in_handler: ContextVar[Work | None] = ContextVar("in_handler", default=None)
"""The work whose handler this code runs in, while its transaction may be open."""


class Hold(msgspec.Struct, kw_only=True):
    """A delivery as the book knows it."""

    key: int
    """The message's key in the book."""
    delivery: int
    attempt: int
    worker: int
    queue: str
    body: bytes
    partition: str | None = None
    payloads: bool = True
    """Whether the book keeps what messages carry."""
    ack: Statement | None = None
    """The ack as a statement, where the queue lives in the same database."""
    begin: Callable[[], None] | None = None
    """Told when the handler is about to begin: its deadline runs from here."""
    fence: Callable[[], None] | None = None
    """Raises when this delivery must not commit any more (`LeaseLost`, `DeadlineExceeded`)."""


class Decided(BaseException):
    """Raised through the handler when the book has decided what becomes of the delivery without it.

    Not an `Exception`, so that a handler which catches everything does not swallow it; and if it does all the same,
    the work remembers.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        super().__init__(kind.label)


class Work:
    """What one delivery does to the book, from the operation key to the ack."""

    __slots__ = ("acks_later", "claimed", "clock", "decided", "eager", "evidence", "gap", "handler", "hold", "message",
                 "opened", "operation", "outcomes", "proven", "receipts", "rows", "sendings", "sends")  # fmt: skip

    def __init__(
        self, handler: Handler, message: Message, hold: Hold, clock: Clock, *, eager: bool = False, completed: str = ""
    ) -> None:
        self.handler = handler
        self.message = message
        self.hold = hold
        self.clock = clock
        self.operation = completed or handler.operation(message)
        self.eager = eager
        self.opened = False
        self.decided: Kind | None = None
        self.gap: int | None = None
        self.outcomes: list[tuple[str, str | None, str | None]] = []
        self.sendings: list[Sending] = []
        self.receipts: list[str] = []
        self.rows: list[EntryRow] = []
        self.evidence = ROWS[0]
        self.sends = False
        """Whether its transaction puts anything into the outbox."""
        self.claimed = False
        """Whether its operation was claimed with those of its batch."""
        self.acks_later = False
        """Whether its ack is carried out with those of its batch."""
        self.proven: Collection[int] = ()
        """Messages that works before this one of the same batch have closed; their entries are not written yet."""

    def restart(self) -> None:
        """To its beginning, after a rollback: whoever holds it goes on with it."""
        fresh = self.again()
        for name in Work.__slots__:
            setattr(self, name, getattr(fresh, name))

    def again(self) -> Work:
        """The same work from its beginning, after a rollback."""
        return Work(self.handler, self.message, self.hold, self.clock, eager=self.eager, completed=self.operation)

    # ---- steps --------------------------------------------------------------------------------------------------

    def out_of_turn(self) -> Steps[bool]:
        """Whether it is out of order as far as can be seen before the transaction, so that its handler need not start.

        A turn that has come stays or is taken by a later event, which `open` sees; it is never early again.
        """
        message, order = self.message, self.handler.in_order
        if order is None:
            return False
        if message.sequence is None or message.subject is None:
            return True
        found = yield One(sql.FIND_SEQUENCE, (self._line, message.subject))
        last = found[0] if found else None
        return turn_of(last, message.sequence, message.predecessor, order) is not Turn.APPLY

    def open(self) -> Steps[Kind | None]:
        """Claim the operation. Returns what was decided instead of the handler, or `None`: run it."""
        claimed = self.claimed or (
            yield Run(sql.INSERT_OPERATION, (self.operation, self.hold.key, int(Kind.COMMITTED), self.clock.now()))
        )
        if not claimed:
            self.decided = Kind.SUPPRESSED
        elif self.handler.in_order is not None:
            self.decided = yield from self._turn()
        return self.decided

    def close(self, result: Any, rows: int) -> Steps[Kind]:
        """Judge the handler's return, and write everything that commits with the effect.

        Raises:
            NoProof: nothing shows that the work was done.
            LeaseLost: the ack in the transaction found the message gone or with somebody else.
        """
        self.evidence = self._evidence(result, rows)
        kind = judge(result, self.evidence, self.handler.proves, what=self)
        if kind is not Kind.COMMITTED:
            yield Run(sql.CLOSE_OPERATION, (int(kind), self.operation))
        if self.outcomes:
            now = self.clock.now()
            yield Many(
                sql.INSERT_OUTCOME,
                [(self.hold.key, name, subject, now, facts) for name, subject, facts in self.outcomes],
            )
        for sending in self.sendings:
            self.sends = True
            yield from send(sending, self.rows, self.hold.worker, self.clock.now(), payloads=self.hold.payloads)
        if self.handler.in_order is not None:
            yield from self._advance()
        rows = self.evidence.rows
        plain = rows < len(ROWS) and self.evidence is ROWS[rows]
        yield from self._settle(kind, ROWS_TOLD[rows] if plain else _json.encode(self.evidence).decode())
        return kind

    def settle(self, kind: Kind) -> Steps[Kind]:
        """Write what was decided without the handler."""
        self.rows.clear()
        if kind is Kind.PARKED:
            yield from self._park()
            return kind
        details = None
        if kind is Kind.SUPPRESSED:
            owner = yield One(sql.FIND_OPERATION, (self.operation,))
            if owner is not None and owner[0] == self.hold.key and not (yield from self._is_proven()):
                raise TransactionMisuse(
                    f"{self.what}: operation {self.operation!r} was committed without its entry, so its handler ended the "
                    "transaction half-way: what it did must be looked at by a person"
                )
            details = _details(operation=self.operation, by=owner[0] if owner else None)
            yield Run(sql.NAME_OPERATION, (self.operation, self.hold.key))
            yield from self._advance_if_next()
        elif kind is Kind.SUPERSEDED:  # it completed nothing: a later event may ask for the same operation
            yield Run(sql.DROP_OPERATION, (self.operation, self.hold.key))
            yield Run(sql.NAME_OPERATION, (self.operation, self.hold.key))
            details = _details(sequence=self.message.sequence)
        yield from self._settle(kind, details)
        return kind

    def begins_claimed(self) -> bool:
        """Whether there is nothing left to ask before the handler: its batch claimed its operation, and it keeps no order."""
        return self.claimed and self.handler.in_order is None

    # ---- what a page and an error call it --------------------------------------------------------------------

    def __str__(self) -> str:
        return self.what

    @property
    def what(self) -> str:
        subject = f" ({self.message.subject})" if self.message.subject else ""
        return f"{self.message.type} {self.message.id}{subject}"

    # ---- parts -----------------------------------------------------------------------------------------------

    def _evidence(self, result: Any, rows: int) -> Evidence:
        reason = getattr(result, "reason", "")
        if not (self.outcomes or self.sendings or self.receipts or reason or self.gap is not None):
            return ROWS[rows] if rows < len(ROWS) else Evidence(rows)
        return Evidence(
            rows, tuple(o[0] for o in self.outcomes), tuple(s.message.type for s in self.sendings), tuple(self.receipts),
            reason, self.gap,
        )  # fmt: skip

    @property
    def _line(self) -> str:
        """Whose sequences these are: one handler may serve several queues, and several services share a file."""
        return f"{self.hold.queue}/{self.handler.name}"

    def entry(self, kind: Kind, details: str | None = None, due: Micros | None = None) -> EntryRow:
        """A row about this delivery."""
        hold = self.hold
        return (hold.key, int(kind), hold.attempt, hold.delivery, self.clock.now(), due, hold.worker, None, details)

    def _settle(self, kind: Kind, details: str | None) -> Steps[None]:
        self.rows.append(self.entry(kind, details))
        if self.hold.fence is not None:
            self.hold.fence()
        if self.hold.ack is not None:
            if self.acks_later:
                self.rows.append(self.entry(Kind.ACKED))
            elif (yield Run(*self.hold.ack)):
                reach(Boundary.AFTER_ACK)
                self.rows.append(self.entry(Kind.ACKED))
            elif kind is not Kind.SUPPRESSED:  # a suppressed delivery has no effect that could be lost
                raise LeaseLost(f"{self.what}: somebody else holds it by now; nothing was kept")

    def _turn(self) -> Steps[Kind | None]:
        message, order = self.message, self.handler.in_order
        assert order is not None
        if message.sequence is None or message.subject is None:
            raise EnvelopeInvalid(
                f"{self.what}: handler {self.handler.name} takes events in order and needs a subject and a sequence; the "
                "publisher must set both"
            )
        last = yield from self._last()
        turn = turn_of(last, message.sequence, message.predecessor, order)
        if turn is Turn.PARK and (yield One(sql.GAP_ACCEPTED, self._place())):
            self.gap = awaited(message.sequence, message.predecessor, order)
            yield Run(sql.UNPARK, self._place())
            turn = Turn.APPLY
        return {Turn.APPLY: None, Turn.SUPERSEDE: Kind.SUPERSEDED, Turn.PARK: Kind.PARKED}[turn]

    def _is_proven(self) -> Steps[bool]:
        """Whether this message's proof is in the book, or about to be written with the rest of the batch."""
        if self.hold.key in self.proven:
            return True
        return (yield One(sql.FIND_PROOF, (self.hold.key,))) is not None

    def _advance_if_next(self) -> Steps[None]:
        """Another message completed this one's operation: if its turn has come, those behind it need not wait for it."""
        message, order = self.message, self.handler.in_order
        if order is None or message.sequence is None or message.subject is None:
            return
        last = yield from self._last()
        if turn_of(last, message.sequence, message.predecessor, order) is Turn.APPLY:
            yield from self._advance()

    def _last(self) -> Steps[int | None]:
        """The last sequence applied, which nobody but this transaction moves from now on."""
        yield Alone(f"{self._line}/{self.message.subject}")
        found = yield One(sql.TAKE_SEQUENCE, (self._line, self.message.subject))
        return found[0] if found else None

    def _place(self) -> tuple[Any, ...]:
        return (self._line, self.message.subject, self.message.sequence, self.hold.key)

    def _advance(self) -> Steps[None]:
        """Note the sequence, and send on whoever waited for it: in this transaction, so that none is forgotten."""
        name, subject, sequence, now = self._line, self.message.subject, self.message.sequence, self.clock.now()
        yield Run(sql.ADVANCE_SEQUENCE, (name, subject, sequence, now))
        for row in (yield All(sql.FOLLOWERS, (name, subject, sequence))):
            message, follower, attempt, body, partition, until, queue, source, id_ = row
            yield Run(sql.UNPARK, (name, subject, follower, message))
            if until:  # else it was sent on already, when its patience was over
                parked = Waiting(message, attempt, body, partition, queue, f"{source}|{id_}")
                self.sends = True
                yield from resume(self.rows, parked, self.hold.worker, now)

    def _park(self) -> Steps[None]:
        """Keep the early message in the book; the queue need not hold it any longer."""
        message, order, hold, now = self.message, self.handler.in_order, self.hold, self.clock.now()
        assert order is not None and message.sequence is not None
        before = awaited(message.sequence, message.predecessor, order)
        until = now + micros(order.wait)
        yield Run(sql.DROP_OPERATION, (self.operation, hold.key))
        yield Run(sql.PARK, (*self._place(), before, hold.attempt, until, hold.body, hold.partition))
        details = _details(predecessor=before, sequence=message.sequence)
        self.rows.append(self.entry(Kind.PARKED, details, until))
        if hold.ack is not None:
            if not self.acks_later and not (yield Run(*hold.ack)):
                raise LeaseLost(f"{self.what}: somebody else holds it by now; nothing was kept")
            self.rows.append(self.entry(Kind.ACKED))


def send(sending: Sending, rows: list[EntryRow], worker: int, now: Micros, *, payloads: bool) -> Steps[None]:
    """Put a message into the outbox: the caller's transaction decides whether it is ever sent."""
    message, body = sending.message, sending.body
    record = record_of(message, sending.queue, now=now, body=body if payloads else None)
    found = yield One(sql.FIND_MESSAGE, (record.id, record.source, record.queue))
    added = None if found is not None else (yield One(sql.INSERT_MESSAGE, record.row()))
    if found is None and added is None:  # somebody else has added it meanwhile
        found = yield One(sql.FIND_MESSAGE, (record.id, record.source, record.queue))
    if added is not None:
        found = added
    elif (known := Known(*found)).is_other(record) or differ(record, *(yield One(sql.FIND_CONTENT, (known.key,)))):
        raise taken(known, record)
    key = int(found[0])
    rows.append((key, int(Kind.INTENDED), 0, 0, now, now, worker, None, None))
    partition = message.partitionkey or message.subject
    yield Run(sql.INSERT_OUTBOX, (key, sending.queue, message.key, body, partition, 0, now, None))


class Waiting(NamedTuple):
    """A parked message."""

    message: int
    attempt: int
    body: bytes
    partition: str | None
    queue: str
    identity: str


def resume(rows: list[EntryRow], parked: Waiting, worker: int, now: Micros) -> Steps[None]:
    """Send a parked message to its queue again; its deliveries go on counting from where they were."""
    rows.append((parked.message, int(Kind.RESUMED), parked.attempt, 0, now, now, worker, None, None))
    row = (parked.message, parked.queue, parked.identity, parked.body, parked.partition, parked.attempt, now, None)
    yield Run(sql.INSERT_OUTBOX, row)


def _details(**facts: Any) -> str:
    return _json.encode(facts).decode()
