"""A delivery in this worker's hands: what it is, and how long it may be kept."""

from __future__ import annotations

import anyio
import msgspec

from crossfoot.clock import Clock
from crossfoot.effects.handler import Handler
from crossfoot.effects.hold import Hold
from crossfoot.effects.work import Work
from crossfoot.errors import DeadlineExceeded, LeaseLost
from crossfoot.message import Message
from crossfoot.queues.queue import Delivery
from crossfoot.tracing.delivering import Trace


class Held(msgspec.Struct, eq=False):
    """One delivery, from receipt to its end.

    The fence reads the monotonic clock: a wall clock that is set back would keep a lease alive that is over.
    """

    delivery: Delivery
    clock: Clock
    lease_over: float
    """When the lease ends, by the monotonic clock."""
    attempt: int
    """Deliveries since the message was last sent, by the broker's count."""
    strict: bool
    """Whether the end of the lease alone forbids the commit; a fenced ack in the transaction knows better."""
    failed: int = 0
    """How many of them failed. Those that were handed back, or have no end, are not the message's fault as far as is known."""
    suspect: bool = False
    """Whether so many have no end that it must be seen whether it takes the process down: see `alone`."""
    waited: float = 0.0
    """Seconds since it was first received, where that matters."""
    lost: bool = False
    eager: bool = False
    completed: str = ""
    """The operation that its message asks for, whatever its handler would call it now: it has completed it, or stated it before."""
    message: Message | None = None
    handler: Handler | None = None
    problem: Exception | None = None
    """Why it cannot be handled at all."""
    hold: Hold | None = None
    work: Work | None = None
    deadline: float | None = None
    until: float | None = None
    """When the message is of no use any more, by the monotonic clock."""
    cancel: anyio.CancelScope | None = None
    undone: bool = False
    """Whether its work was begun together with others', and all of it rolled back."""

    @property
    def tried(self) -> int:
        """Deliveries that count against the message: this one, and those that failed."""
        return self.failed + 1

    def prepare(self) -> Work:
        """A fresh piece of work for this delivery.

        Raises:
            PayloadInvalid: its operation key needs what the message does not have.
        """
        assert self.handler is not None and self.message is not None and self.hold is not None
        self.work = Work(self.handler, self.message, self.hold, self.clock, self.completed, eager=self.eager)
        return self.work

    def start(self) -> Work:
        """The work, to be done now.

        Raises:
            LeaseLost: it waited too long in this worker.
        """
        assert self.work is not None
        self.deadline = None
        self.fence()
        if self.undone:
            self.work, self.undone = self.work.again(), False
        return self.work

    def early(self) -> Work | None:
        """The work, if its transaction may begin as that of the delivery before it is committed."""
        work = self.work
        if work is None or self.suspect or self.undone or self.lost or work.handler.limit or not work.may_begin_early():
            return None
        return work

    def begin(self) -> None:
        """Its handler begins: the deadline runs from here."""
        assert self.handler is not None
        if self.handler.deadline is not None:
            self.deadline = self.clock.monotonic() + self.handler.deadline

    def rest(self) -> None:
        """Its handler is to begin anew, after others: what it used of its time counts no more."""
        self.deadline = None

    def fence(self) -> None:
        """Refuse a commit that comes too late.

        Raises:
            LeaseLost: somebody else may hold the message by now.
            DeadlineExceeded: the handler took longer than it was given.
        """
        now = self.clock.monotonic()
        if self.lost:
            raise LeaseLost(
                f"{self._what}: the queue took it back while it was in hand, and somebody else may hold it; nothing was kept: it comes "
                "again by itself"
            )
        if self.strict and now >= self.lease_over:
            raise LeaseLost(
                f"{self._what}: the lease was over before the commit, and somebody else may hold it; nothing was kept: make "
                "the handler faster, or the lease longer"
            )
        if self.deadline is not None and now > self.deadline:
            over = now - self.deadline
            raise DeadlineExceeded(f"{self._what}: the handler ran {over:.2f} s over its deadline; nothing was kept")

    @property
    def trace(self) -> Trace | None:
        """What follows it for OpenTelemetry, where somebody does."""
        return self.hold.trace if self.hold is not None else None

    def stamp(self) -> None:
        """Its work ends now."""
        if (trace := self.trace) is not None:
            trace.stamp()

    def part(self) -> None:
        """Let go of what refers back here, so that all of it is freed now and not by the garbage collector."""
        if (trace := self.trace) is not None:
            trace.drop()
        self.work = None
        if self.hold is not None:
            self.hold.begin = self.hold.rest = self.hold.fence = None

    def lose(self) -> None:
        """The broker says that the lease is void."""
        self.lost = True
        if self.cancel is not None:
            self.cancel.cancel()
        elif self.hold is not None and self.hold.running is not None:  # in a batch, whose others go on
            self.hold.running.cancel()

    @property
    def _what(self) -> str:
        return self.message.key if self.message is not None else self.delivery.broker_id
