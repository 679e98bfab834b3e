"""A delivery in this worker's hands: what it is, and how long it may be kept."""

from __future__ import annotations

import anyio

from crossfoot.clock import Clock
from crossfoot.effects.handler import Handler
from crossfoot.effects.work import Hold, Work
from crossfoot.errors import DeadlineExceeded, LeaseLost
from crossfoot.message import Message
from crossfoot.queues.queue import Delivery


class Held:
    """One delivery, from receipt to its end.

    The fence reads the monotonic clock: a wall clock that is set back would keep a lease alive that is over.
    """

    __slots__ = (
        "_clock",
        "attempt",
        "cancel",
        "completed",
        "deadline",
        "delivery",
        "eager",
        "failed",
        "handler",
        "hold",
        "lease_over",
        "lost",
        "message",
        "problem",
        "strict",
        "suspect",
        "waited",
        "work",
    )  # fmt: skip

    def __init__(self, delivery: Delivery, clock: Clock, lease_over: float, *, strict: bool) -> None:
        self._clock = clock
        self.delivery = delivery
        self.attempt = delivery.attempt
        """Deliveries since the message was last sent, by the broker's count."""
        self.failed = 0
        """How many of them failed. Those that were handed back, or have no end, are not the message's fault as far as is known."""
        self.suspect = False
        """Whether so many have no end that it must be seen whether it takes the process down: see `alone`."""
        self.waited = 0.0
        """Seconds since it was first received, where that matters."""
        self.lease_over = lease_over
        """When the lease ends, by the monotonic clock."""
        self.strict = strict
        """Whether the end of the lease alone forbids the commit; a fenced ack in the transaction knows better."""
        self.lost = False
        self.eager = False
        self.completed = ""
        """The operation that its message has completed already, if it has; whatever its handler would call it now."""
        self.message: Message | None = None
        self.handler: Handler | None = None
        self.problem: Exception | None = None
        """Why it cannot be handled at all."""
        self.hold: Hold | None = None
        self.work: Work | None = None
        self.deadline: float | None = None
        self.cancel: anyio.CancelScope | None = None

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
        self.work = Work(self.handler, self.message, self.hold, self._clock, eager=self.eager, completed=self.completed)
        return self.work

    def start(self) -> Work:
        """The work, to be done now.

        Raises:
            LeaseLost: it waited too long in this worker.
        """
        assert self.work is not None
        self.deadline = None
        self.fence()
        return self.work

    def begin(self) -> None:
        """Its handler begins: the deadline runs from here."""
        assert self.handler is not None
        if self.handler.deadline is not None:
            self.deadline = self._clock.monotonic() + self.handler.deadline

    def fence(self) -> None:
        """Refuse a commit that comes too late.

        Raises:
            LeaseLost: somebody else may hold the message by now.
            DeadlineExceeded: the handler took longer than it was given.
        """
        now = self._clock.monotonic()
        if self.lost or (self.strict and now >= self.lease_over):
            raise LeaseLost(
                f"{self._what}: the lease was over before the commit, and somebody else may hold it; nothing was kept: make "
                "the handler faster, or the lease longer"
            )
        if self.deadline is not None and now > self.deadline:
            over = now - self.deadline
            raise DeadlineExceeded(f"{self._what}: the handler ran {over:.2f} s over its deadline; nothing was kept")

    def part(self) -> None:
        """Let go of what refers back here, so that all of it is freed now and not by the garbage collector."""
        self.work = None
        if self.hold is not None:
            self.hold.begin = self.hold.fence = None

    def lose(self) -> None:
        """The broker says that the lease is void."""
        self.lost = True
        if self.cancel is not None:
            self.cancel.cancel()

    @property
    def _what(self) -> str:
        return self.message.key if self.message is not None else self.delivery.broker_id
