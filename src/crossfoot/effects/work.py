"""One delivery's work inside one transaction, as steps that any driver can carry out.

The order of the statements is the guarantee. The operation key is inserted *first*: of two workers with the same
operation the second waits for the first one's commit and then finds the key taken, so no effect is written twice.
Outcomes, messages to send, the sequence and the entries follow the handler, and the ack, where it can ride in the
transaction, is last: it changes no row when the lease was lost, and then everything is undone.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextvars import ContextVar, Token
from typing import Any

import msgspec

from crossfoot.books import sql
from crossfoot.books.entry import Kind
from crossfoot.boundaries import Boundary, reach
from crossfoot.clock import Clock, Micros
from crossfoot.effects import in_order
from crossfoot.effects.databases.changes import misuse_behind
from crossfoot.effects.databases.session import All, Many, One, Run, Steps
from crossfoot.effects.handler import Handler
from crossfoot.effects.hold import Hold
from crossfoot.effects.letters import EntryRow, details_of, send
from crossfoot.effects.proof import Evidence, judge
from crossfoot.effects.sending import Sending
from crossfoot.errors import LeaseLost, NoProof, TransactionMisuse
from crossfoot.message import Message, decode

Closing = tuple[int, int, int, int, Micros, int, str | None]
"""The parameters of `sql.INSERT_CLOSING`."""
ROWS = tuple(Evidence(rows) for rows in range(8))
"""What most handlers leave: a few rows, and nothing else."""
_json = msgspec.json.Encoder()
ROWS_TOLD = tuple(_json.encode(evidence).decode() for evidence in ROWS)


_telling = threading.Lock()

in_handler: ContextVar[Work | None] = ContextVar("in_handler", default=None)
"""The work whose handler this code runs in, while its transaction may be open."""


Entered = tuple[Token["Work | None"], Any]


def enter(work: Work) -> Entered:
    """Its handler is about to begin here, or what stands for it. Returns what `leave` wants."""
    trace = work.hold.trace
    return in_handler.set(work), trace.enter(work.handler.name, work.operation) if trace is not None else None


def leave(work: Work, entered: Entered) -> None:
    """What its handler does and writes is over, or undone."""
    token, span = entered
    if work.hold.trace is not None:
        work.hold.trace.leave(span)
    in_handler.reset(token)


class Decided(BaseException):
    """Raised through the handler when the book has decided what becomes of the delivery without it.

    Not an `Exception`, so that a handler which catches everything does not swallow it; and if it does all the same,
    the work remembers.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        super().__init__(kind.label)


class Told(msgspec.Struct):
    """What a handler said beside the rows it changed."""

    outcomes: list[tuple[str, str | None, str | None]] = []
    """Name, subject, facts."""
    sendings: list[Sending] = []
    receipts: list[str] = []


class Work(msgspec.Struct, eq=False):
    """What one delivery does to the book, from the operation key to the ack."""

    handler: Handler
    message: Message
    hold: Hold
    clock: Clock
    operation: str = ""
    """Named by the handler, unless the message is known to have completed another one."""
    eager: bool = False
    opened: bool = False
    decided: Kind | None = None
    before: Kind | None = None
    """How its own message closed the operation, where an earlier delivery of it did."""
    gap: int | None = None
    told: Told | None = None
    rows: list[EntryRow] = []
    """Entries to be written before the commit, but for the one that says how it was closed."""
    closing: Closing | None = None
    """That one."""
    acked: bool = False
    """Whether that it was acked is written with it."""
    evidence: Evidence = ROWS[0]
    sends: bool = False
    """Whether its transaction puts anything into the outbox."""
    claimed: bool = False
    """Whether its operation was claimed with those of its batch, or as its transaction was begun."""
    begun: bool = False
    """Whether its transaction was begun as the one before it was committed."""
    acks_later: bool = False
    """Whether its ack is carried out with those of its batch."""
    beside: int = 0
    """How many more its handler is called with."""
    proven: Collection[int] = ()
    """Messages that works before this one of the same batch have closed; their entries are not written yet."""
    caught: str = ""
    """The last error that a statement of its handler raised, in words, with the line: it may have caught it."""

    def __post_init__(self) -> None:
        if not self.operation:
            self.operation = self.handler.operation(self.message)

    def restart(self) -> None:
        """To its beginning, after a rollback: whoever holds it goes on with it."""
        fresh = self.again()
        for name in Work.__struct_fields__:
            setattr(self, name, getattr(fresh, name))

    def again(self) -> Work:
        """The same work from its beginning, after a rollback. Its message is read anew: its handler may have changed what the
        first one carried, and would take what is left of it for the whole."""
        if self.hold.rest is not None:
            self.hold.rest()
        message = self.handler.typed(decode(self.hold.body))
        return Work(self.handler, message, self.hold, self.clock, self.operation, eager=self.eager)

    def tell(self) -> Told:
        """Where what a handler says is gathered, from whatever thread of its."""
        with _telling:
            self.told = self.told or Told()
            return self.told

    def forget(self) -> None:
        """Nothing of what was to be written is true any more."""
        self.rows.clear()
        self.closing, self.acked = None, False

    @property
    def ended(self) -> bool:
        """Whether it came to an end that is to be written."""
        return self.closing is not None or bool(self.rows)

    # ---- steps --------------------------------------------------------------------------------------------------

    def open(self) -> Steps[Kind | None]:
        """Claim the operation. Returns what was decided instead of the handler, or `None`: run it."""
        if not (self.claimed or (yield self.claim())):
            self.decided = Kind.SUPPRESSED
        elif self.handler.in_order is not None:
            self.decided = yield from in_order.turn(self)
        return self.decided

    def claim(self) -> Run:
        """The request that claims its operation: it changes a row, or the operation is somebody else's."""
        return Run(sql.INSERT_OPERATION, (self.operation, self.hold.key, int(Kind.COMMITTED), self.clock.now()))

    def owner(self) -> Steps[tuple[int, int, str] | None]:
        """Which message keeps it from claiming its operation, how that one closed which: itself, if it has completed any."""
        found: list[tuple[int, int, str]] = yield All(sql.FIND_OPERATION, (self.operation, self.hold.key))
        return min(found, key=lambda row: row[0] != self.hold.key, default=None)

    def may_begin_early(self) -> bool:
        """Whether its transaction may begin as the one before it is committed: nothing is to be looked up before it."""
        return not self.eager and self.handler.in_order is None

    @property
    def given(self) -> Message | list[Message]:
        """What its handler is called with."""
        return [self.message] if self.handler.many else self.message

    def judge(self, result: Any, rows: int) -> Kind:
        """What the handler's return is, by the evidence.

        Raises:
            NoProof: nothing shows that the work was done.
        """
        self.evidence = self._evidence(result, rows)
        if self.beside:
            self.evidence = msgspec.structs.replace(self.evidence, of=self.beside + 1)
        return judge(result, self.evidence, self.handler.proves, what=self)

    def explained(self, error: Exception) -> Exception:
        """What its handler's failure comes from, as far as that is known here; or the failure itself."""
        if misuse := misuse_behind(error):
            return misuse
        if isinstance(error, NoProof) and self.caught:
            told = NoProof(f"{error}. A statement of it had raised, and it went on: {self.caught}")
            told.__cause__ = error.__cause__
            return told
        return error

    def asks_no_more(self, kind: Kind) -> bool:
        """Whether nothing but its entries and its ack is left to be written, and these with its batch's or by the queue."""
        return (
            kind is Kind.COMMITTED
            and self.told is None
            and self.handler.in_order is None
            and (self.acks_later or self.hold.ack is None)
        )

    def close(self, kind: Kind) -> Steps[None]:
        """Write everything that commits with the effect.

        Raises:
            LeaseLost: the ack in the transaction found the message gone or with somebody else.
        """
        if kind is not Kind.COMMITTED:
            yield Run(sql.CLOSE_OPERATION, (int(kind), self.operation))
        if self.told is not None:
            yield from self._write_told(self.told)
        if self.handler.in_order is not None:
            yield from in_order.advance(self)
        self.note_proof(kind)
        yield from self._ack(kind)

    def note_proof(self, kind: Kind) -> None:
        """Note how it was closed, by which evidence; and the ack, if its batch carries it out.

        Raises:
            LeaseLost, DeadlineExceeded: it must not commit any more.
        """
        evidence = self.evidence
        rows = evidence.rows
        plain = rows < len(ROWS) and evidence is ROWS[rows]
        self._note(kind, ROWS_TOLD[rows] if plain else _json.encode(evidence).decode())

    def settle(self, kind: Kind) -> Steps[Kind]:
        """Write what was decided without the handler."""
        self.forget()
        if kind is Kind.PARKED:
            yield from in_order.park(self)
            return kind
        details = None
        if kind is Kind.SUPPRESSED:
            owner = yield from self.owner()
            if owner is not None and owner[0] == self.hold.key:
                self.operation = owner[2]  # it may have completed it before another version called it otherwise
                if not (yield from self._is_proven()):
                    raise TransactionMisuse(
                        f"{self.what}: operation {self.operation!r} was committed without its entry, so its handler ended the "
                        "transaction half-way: what it did must be looked at by a person"
                    )
                self.before = Kind(owner[1])
            details = details_of(operation=self.operation, by=owner[0] if owner else None)
            yield Run(sql.NAME_OPERATION, (self.operation, self.hold.key))
            yield from in_order.advance_if_next(self)
        elif kind is Kind.SUPERSEDED:  # it completed nothing: a later event may ask for the same operation
            yield Run(sql.DROP_OPERATION, (self.operation, self.hold.key))
            yield Run(sql.NAME_OPERATION, (self.operation, self.hold.key))
            details = details_of(sequence=self.message.sequence)
        self._note(kind, details)
        yield from self._ack(kind)
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

    @property
    def lost(self) -> str:
        """What is said of it when the ack finds that its lease is lost."""
        return f"{self.what}: somebody else holds it by now; nothing was kept"

    # ---- parts -----------------------------------------------------------------------------------------------

    def _evidence(self, result: Any, rows: int) -> Evidence:
        reason = getattr(result, "reason", "")
        told = self.told
        if told is None:
            if not reason and self.gap is None:
                return ROWS[rows] if rows < len(ROWS) else Evidence(rows)
            told = Told()
        return Evidence(
            rows, tuple(o[0] for o in told.outcomes), tuple(s.message.type for s in told.sendings), tuple(told.receipts),
            reason, self.gap,
        )  # fmt: skip

    def _write_told(self, told: Told) -> Steps[None]:
        now = self.clock.now()
        if told.outcomes:
            rows = [(self.hold.key, name, subject, now, facts) for name, subject, facts in told.outcomes]
            yield Many(sql.INSERT_OUTCOME, rows)
        for sending in told.sendings:
            self.sends = True
            yield from send(sending, self.rows, self.hold.worker, now, payloads=self.hold.payloads)

    def entry(self, kind: Kind, details: str | None = None, due: Micros | None = None) -> EntryRow:
        """A row about this delivery."""
        hold = self.hold
        return (hold.key, int(kind), hold.attempt, hold.delivery, self.clock.now(), due, hold.worker, None, details)

    def _note(self, kind: Kind, details: str | None) -> None:
        hold = self.hold
        self.closing = (hold.key, int(kind), hold.attempt, hold.delivery, self.clock.now(), hold.worker, details)
        if hold.fence is not None:
            hold.fence()
        self.acked = self.acks_later and hold.ack is not None

    def _ack(self, kind: Kind) -> Steps[None]:
        if self.acks_later or self.hold.ack is None:
            return
        if kind is Kind.SUPPRESSED:  # it has no effect that could be lost
            if (yield Run(*self.hold.ack)):
                reach(Boundary.AFTER_ACK)
                self.acked = True
            return
        if (yield Run(*self.hold.ack, must=1)) in (None, 1):
            reach(Boundary.AFTER_ACK)
            self.acked = True
        else:
            raise LeaseLost(self.lost)

    def _is_proven(self) -> Steps[bool]:
        """Whether this message's proof is in the book, or about to be written with the rest of the batch."""
        if self.hold.key in self.proven:
            return True
        return (yield One(sql.FIND_PROOF, (self.hold.key,))) is not None
