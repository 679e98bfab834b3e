"""From entries to fate: a fold that is a join.

A `Summary` holds what the fold needs of all entries of one message: which kinds were ever seen (a union of bits),
and the highest-ranking fact (a maximum). Union and maximum are commutative, associative and idempotent, so `join` is
the join of a semilattice, and the fate is a function of the *set* of entries: any order, any repetition and any split
over several books that are merged later give the same answer (after Shapiro et al., *Conflict-free replicated data
types*, 2011).

What may still change a fate that looks closed follows from that: a proof (committed, noop, superseded, suppressed) is
final. Everything else is a statement about the attempts seen so far, and a later attempt outranks it: a message that
was dead-lettered at its fifth delivery and is delivered a sixth time is open again.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import msgspec

from crossfoot.books.entry import PROOF_MARKS, PROOFS, RANKS, Entry, Kind
from crossfoot.clock import SECOND, Micros


class Fate(IntEnum):
    """How a message stands, or ended. Stored by number: numbers are never reused."""

    INTENDED = 1
    IN_DOUBT = 2
    QUEUED = 3
    PROCESSING = 4
    RETRYING = 5
    PARKED = 6
    STRANDED = 7
    STALLED = 8
    SETTLED = 20
    NOOP = 21
    SUPERSEDED = 22
    DUPLICATE = 23
    DEAD = 24
    EXPIRED = 25
    REFUSED = 26
    DISCARDED = 27
    VANISHED = 28

    @property
    def closed(self) -> bool:
        return self >= Fate.SETTLED

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", " ")


FATE_OF_PROOF: dict[Kind, Fate] = {
    Kind.COMMITTED: Fate.SETTLED,
    Kind.NOOP: Fate.NOOP,
    Kind.SUPERSEDED: Fate.SUPERSEDED,
    Kind.SUPPRESSED: Fate.DUPLICATE,
}

FATE_OF_LATEST: dict[Kind, Fate] = {
    Kind.INTENDED: Fate.INTENDED,
    Kind.PUT_OFF: Fate.INTENDED,
    Kind.REFUSED: Fate.REFUSED,
    Kind.PUBLISH_IN_DOUBT: Fate.IN_DOUBT,
    Kind.PUBLISHED: Fate.QUEUED,
    Kind.RECEIVED: Fate.PROCESSING,
    Kind.EXTENDED: Fate.PROCESSING,
    Kind.RELEASED: Fate.QUEUED,
    Kind.COMMIT_IN_DOUBT: Fate.IN_DOUBT,
    Kind.FAILED: Fate.RETRYING,
    Kind.ACK_FAILED: Fate.PROCESSING,
    Kind.ACKED: Fate.VANISHED,
    Kind.PARKED: Fate.PARKED,
    Kind.RESUMED: Fate.QUEUED,
    Kind.EXPIRED: Fate.EXPIRED,
    Kind.DISCARDED: Fate.DISCARDED,
    Kind.VANISHED: Fate.VANISHED,
    Kind.DEAD_LETTERED: Fate.DEAD,
    Kind.REPLAYED: Fate.QUEUED,
}
"""Without a proof, the highest-ranking fact tells. `ACKED` alone is an ack that nothing justified."""

OVERDUE: dict[Fate, Fate] = {
    Fate.QUEUED: Fate.STRANDED,
    Fate.RETRYING: Fate.STRANDED,
    Fate.PARKED: Fate.STRANDED,
    Fate.PROCESSING: Fate.STALLED,
    Fate.INTENDED: Fate.IN_DOUBT,
}
"""What an open fate is called once it is overdue: only these depend on the time."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long an open fate may last beyond its due time before it is called overdue (microseconds)."""

    stranded: Micros = 15 * 60 * SECOND
    """For messages that wait in the queue."""
    stalled: Micros = 30 * SECOND
    """For deliveries whose lease is over."""
    intended: Micros = 60 * SECOND
    """For publishes that nobody carried out."""


PATIENCE = Patience()


class Summary(msgspec.Struct, frozen=True):
    """All that the fold keeps of a message's entries.

    Attributes:
        marks: one bit per kind that was ever written, `1 << kind`.
        latest: the highest rank, `attempt * RANKS + kind`; 0 when there are no entries.
        due: when the state of the latest fact is overdue; 0 when it cannot be.
    """

    marks: int = 0
    latest: int = 0
    due: Micros = 0

    @property
    def kind(self) -> Kind | None:
        """The highest-ranking fact."""
        return Kind(self.latest % RANKS) if self.latest else None

    @property
    def attempts(self) -> int:
        return self.latest // RANKS


NOTHING = Summary()


def summary_of(entry: Entry) -> Summary:
    return Summary(1 << entry.kind, entry.rank, entry.due or 0)


def join(one: Summary, other: Summary) -> Summary:
    """The least summary that knows what both know."""
    latest, due = max((one.latest, one.due), (other.latest, other.due))
    return Summary(one.marks | other.marks, latest, due)


def fold(entries: Iterable[Entry]) -> Summary:
    result = NOTHING
    for entry in entries:
        result = join(result, summary_of(entry))
    return result


def posted_fate(summary: Summary) -> Fate | None:
    """The fate as far as it does not depend on the time; `None` without entries."""
    if summary.marks & PROOF_MARKS:
        return next(FATE_OF_PROOF[kind] for kind in PROOFS if summary.marks & (1 << kind))
    kind = summary.kind
    return FATE_OF_LATEST[kind] if kind is not None else None


def fate_of(summary: Summary, now: Micros, patience: Patience = PATIENCE) -> Fate | None:
    """The one fate, at the time `now`."""
    fate = posted_fate(summary)
    if fate is None or fate not in OVERDUE or not summary.due:
        return fate
    return OVERDUE[fate] if now > summary.due + grace(fate, patience) else fate


def grace(fate: Fate, patience: Patience) -> Micros:
    """How long after its due time a message of this open fate becomes overdue."""
    if fate is Fate.PROCESSING:
        return patience.stalled
    return patience.intended if fate is Fate.INTENDED else patience.stranded
