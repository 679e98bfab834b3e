"""The entry: one immutable fact about one message, and the kinds of facts there are.

The number of a kind is its rank among the facts of one attempt: where two facts of the same attempt disagree about
the state of a message, the higher one wins, whichever arrived first. That makes the state a maximum, and a maximum
does not care about order, repetition or which process wrote what (see `fate`).
"""

from __future__ import annotations

from enum import IntEnum
from functools import cached_property

import msgspec

from crossfoot.clock import Micros


class Kind(IntEnum):
    """What an entry states. Stored by number: numbers are never reused or reordered."""

    INTENDED = 1
    """Somebody decided to publish it; written before the broker is called."""
    PUT_OFF = 2
    """The broker refused it for now; it is sent again at `due`."""
    REFUSED = 3
    """The broker said no, or there is none to ask, and sending it again would not help."""
    PUBLISH_IN_DOUBT = 4
    """The broker was asked and did not answer; it is sent again, under the same id, at `due`."""
    PUBLISHED = 5
    """The broker said it has the message."""
    RECEIVED = 6
    """A worker holds it; `due` is the end of its lease."""
    EXTENDED = 7
    """The lease was extended; `due` is its new end."""
    RELEASED = 8
    """Handed back unhandled (a worker that stops)."""
    COMMIT_IN_DOUBT = 9
    """The commit was sent and its answer lost."""
    FAILED = 10
    """The handler raised, returned without proof, or lost its lease; `due` is when it is tried again."""
    ACK_FAILED = 11
    """The ack was refused, or its answer lost."""
    ACKED = 12
    """The broker confirmed the ack."""
    PARKED = 13
    """Early: kept in the book until its predecessor arrives, or until `due`."""
    RESUMED = 14
    """No longer parked: sent to the queue again."""
    EXPIRED = 15
    """Its time was over: the message's own, or the queue's retention."""
    DISCARDED = 16
    """A person decided that it need not happen."""
    VANISHED = 17
    """The queue no longer has it, and nothing proves that it was handled."""
    DEAD_LETTERED = 18
    """It lies in the dead letters."""
    REPLAYED = 19
    """Sent again from the dead, with provenance."""
    SUPPRESSED = 20
    """Its operation was already complete."""
    SUPERSEDED = 21
    """A later event of the same subject was applied before it."""
    NOOP = 22
    """The handler said that there was nothing to do, and why."""
    COMMITTED = 23
    """The effect and this entry were committed in one transaction."""

    @cached_property
    def label(self) -> str:
        """The kind in words, as pages and `--json` show it."""
        return self.name.lower().replace("_", " ")


RANKS = 32
"""Room for kinds within one attempt: `attempt * RANKS + kind` orders facts (a power of two above every kind)."""

PROOFS = (Kind.COMMITTED, Kind.NOOP, Kind.SUPERSEDED, Kind.SUPPRESSED)
"""Facts that close a message for good, strongest first: nothing observed later can undo them."""

PROOF_MARKS = sum(1 << kind for kind in PROOFS)

ACK_REASONS = (*PROOFS, Kind.PARKED, Kind.EXPIRED, Kind.DISCARDED, Kind.DEAD_LETTERED)
"""Facts that justify an ack. One of them is durable before the ack is sent."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One fact. `attempt` orders the facts of a message; wall clocks never do.

    Attributes:
        message: the message's key in its book.
        attempt: the delivery it speaks of, counted over all publications; 0 for the producer's half.
        delivery: names one hand-over, so that two deliveries of the same count stay apart; 0 for none.
        at: when the writer saw it, by the writer's clock.
        due: when the state it leaves is overdue (end of lease, next try), if it can be.
        worker: the worker's number in this book; 0 for none.
        cause: fingerprint of the failure, if it is one.
        details: what a person wants to read, as a JSON object.
    """

    message: int
    kind: Kind
    at: Micros
    attempt: int = 0
    delivery: int = 0
    due: Micros | None = None
    worker: int = 0
    cause: str | None = None
    details: str | None = None

    @property
    def rank(self) -> int:
        return self.attempt * RANKS + self.kind
