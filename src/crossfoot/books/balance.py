"""The balance: rows (messages by fate) against columns (what each boundary counted by itself), with ids for every gap.

Pure: from tallies and sets of identities to a verdict. The digest of a set is a sum (see `digest`), so two boundaries
are compared by the *totals* over all buckets, and a loss in one bucket does not balance a duplicate in another; buckets
only serve to find the ids once totals differ. `stock` reads what is needed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from crossfoot.books.digest import EMPTY, Tally
from crossfoot.books.entry import ACK_REASONS, Kind
from crossfoot.books.fate import OVERDUE, Fate
from crossfoot.books.measures import OPERATION, entry_measure, fate_measure
from crossfoot.clock import Micros

Sums = Mapping[str, Tally]
"""The tallies of one queue (or of one cell of it) by measure."""

Side = tuple[str, ...]
"""Measures that are added up."""

NOT_ACCEPTED = (Fate.INTENDED, Fate.REFUSED, Fate.IN_DOUBT)
"""Fates that do not say that the broker has, or had, the message."""

AT_THE_BROKER = sum(
    1 << kind
    for kind in (Kind.PUBLISHED, Kind.RECEIVED, Kind.RELEASED, Kind.EXPIRED, Kind.VANISHED, Kind.DEAD_LETTERED)
)
"""Marks that a message bears once some boundary saw it at the broker."""

JUSTIFIED = sum(1 << kind for kind in ACK_REASONS)
"""Marks that justify an ack."""

_accepted = tuple(fate_measure(fate) for fate in Fate if fate not in NOT_ACCEPTED)


class Rule(msgspec.Struct, frozen=True):
    """Two counts of the same messages, which must be equal in count and digest.

    Attributes:
        left: forms of the one count; any may fit.
        right: forms of the other; only a largest may fit, because what one boundary saw cannot be unseen by another.
    """

    name: str
    left: tuple[Side, ...]
    right: tuple[Side, ...]

    @property
    def measures(self) -> set[str]:
        return {measure for side in (*self.left, *self.right) for measure in side}

    def holds(self, sums: Sums) -> bool:
        others = [total(side, sums) for side in self.right]
        most = max(other.count for other in others)
        return any(total(side, sums) == other for side in self.left for other in others if other.count == most)


ACCEPTED = Rule(
    "accepted",
    left=(_accepted, (*_accepted, fate_measure(Fate.IN_DOUBT))),
    right=((entry_measure(Kind.PUBLISHED),), (entry_measure(Kind.RECEIVED),)),
)
"""A publisher's own messages are all published, a mere consumer's are all received; a mixture is opened by bucket."""

OPERATIONS = Rule("operations", left=((fate_measure(Fate.SETTLED),),), right=((OPERATION,),))

LEDGER = Rule("ledger", left=((fate_measure(Fate.SETTLED),),), right=((entry_measure(Kind.COMMITTED),),))

RULES = (ACCEPTED, OPERATIONS, LEDGER)

TITLES = {
    "accepted": "accepted by the broker = messages by fate",
    "operations": "operations in the business database = messages settled",
    "acks": "every ack has its proof",
    "holdings": "held by the queue = open and dead fates",
    "parked": "kept for their predecessors = parked fates",
    "ledger": "ledger = journal",
}
"""The identities, in the order in which they are shown."""


class Overdue(msgspec.Struct, frozen=True):
    """Open messages of one queue that are past their due time: `fate` is the one that was posted."""

    queue: str
    fate: Fate
    count: int
    ids: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was found about one identity in one queue.

    Attributes:
        holds: `None` when it could not be looked at; `text` then says why.
        ids: of messages that break it, the first of `count`.
        unknown: `source|id` of messages that the queue has and the book does not know, which break nothing; the first of
            `unknown_count`.
    """

    identity: str
    queue: str = ""
    holds: bool | None = True
    text: str = ""
    ids: tuple[str, ...] = ()
    count: int = 0
    unknown: tuple[str, ...] = ()
    unknown_count: int = 0


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """One identity, over all queues looked at."""

    title: str
    holds: bool | None
    notes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    count: int = 0
    unknown: tuple[str, ...] = ()
    unknown_count: int = 0


class QueueBalance(msgspec.Struct, frozen=True, kw_only=True):
    """One queue's rows and columns."""

    published: int
    fates: dict[str, int]
    boundaries: dict[str, int]
    queue: dict[str, int] | None = None
    """The queue's own counts, where it tells."""


class Attention(msgspec.Struct, frozen=True):
    """Messages somebody should look at: how many, what is the matter, and the first of their ids."""

    count: int
    text: str
    ids: tuple[str, ...]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What `stock` read in one snapshot.

    Attributes:
        rows: messages the book has a row for, `None` when a filter leaves only part of the book.
        blank: ids of rows that no entry speaks of.
        sampled: the first ids of messages by fate, for fates somebody should look at.
    """

    as_of: Micros
    posted: int
    waiting: int
    sums: dict[str, dict[str, Tally]]
    own: dict[str, dict[str, int]] = {}
    overdue: tuple[Overdue, ...] = ()
    late_doubts: tuple[Overdue, ...] = ()
    findings: tuple[Finding, ...] = ()
    rows: int | None = None
    blank: dict[str, tuple[str, ...]] = {}
    sampled: dict[str, tuple[str, ...]] = {}


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """The books, drawn up."""

    as_of: Micros
    posted: int
    """Entries up to this number are in it."""
    waiting: int
    """Entries that are not."""
    published: int
    fates: dict[str, int]
    unaccounted: int
    unaccounted_ids: tuple[str, ...]
    boundaries: dict[str, int]
    identities: dict[str, Identity]
    queues: dict[str, QueueBalance]
    attention: dict[str, Attention]
    problems: tuple[str, ...]
    """What makes the answer *no*."""
    warnings: tuple[str, ...]
    """What limits the answer: queues that were not asked, entries that are not posted."""

    @property
    def balanced(self) -> bool:
        return not self.problems


def total(side: Side, sums: Sums) -> Tally:
    """The sum of some measures."""
    result = EMPTY
    for measure in side:
        result += sums.get(measure, EMPTY)
    return result


def draw_up(reading: Reading) -> Balance:
    """The balance of what was read."""
    queues = {name: _queue(name, reading) for name in sorted({*reading.sums, *reading.own, *reading.blank})}
    fates = _added([dict.fromkeys((fate.label for fate in Fate), 0), *(queue.fates for queue in queues.values())])
    counted = sum(fates.values())
    blank = tuple(id_ for ids in reading.blank.values() for id_ in ids)
    published = reading.rows if reading.rows is not None else counted + len(blank)
    unaccounted = abs(published - counted)
    identities = {name: _identity(name, reading.findings) for name in TITLES}
    attention = _attention(fates, reading)
    return Balance(
        as_of=reading.as_of, posted=reading.posted, waiting=reading.waiting, published=published, fates=fates,
        unaccounted=unaccounted, unaccounted_ids=blank, boundaries=_added(q.boundaries for q in queues.values()),
        identities=identities, queues=queues, attention=attention,
        problems=tuple(_problems(unaccounted, identities, attention)),
        warnings=tuple(_warnings(identities, reading)),
    )  # fmt: skip


def _queue(name: str, reading: Reading) -> QueueBalance:
    sums = reading.sums.get(name, {})
    fates = {fate.label: sums.get(fate_measure(fate), EMPTY).count for fate in Fate}
    for late in reading.overdue:
        if late.queue == name:
            fates[late.fate.label] -= late.count
            fates[OVERDUE[late.fate].label] += late.count
    measures = {entry_measure(kind): kind.label for kind in Kind} | {OPERATION: "operations"}
    boundaries = {label: sums[measure].count for measure, label in measures.items() if measure in sums}
    published = sum(fates.values()) + len(reading.blank.get(name, ()))
    return QueueBalance(published=published, fates=fates, boundaries=boundaries, queue=reading.own.get(name))


def _identity(name: str, findings: Iterable[Finding]) -> Identity:
    mine = [finding for finding in findings if finding.identity == name]
    holds = [finding.holds for finding in mine]
    return Identity(
        title=TITLES[name],
        holds=False if False in holds else None if None in holds else True,
        notes=tuple(f"{f'{f.queue}: ' if f.queue else ''}{f.text}" for f in mine if f.text),
        ids=tuple(id_ for finding in mine for id_ in finding.ids),
        count=sum(finding.count for finding in mine),
        unknown=tuple(id_ for finding in mine for id_ in finding.unknown),
        unknown_count=sum(finding.unknown_count for finding in mine),
    )


def _attention(fates: Mapping[str, int], reading: Reading) -> dict[str, Attention]:
    """What is overdue, gone or dead: what makes the answer *no* first."""
    found: dict[str, Attention] = {}
    for fate, text in (PROBLEMS | WARNINGS).items():
        late = [one for one in (*reading.overdue, *reading.late_doubts) if OVERDUE.get(one.fate, one.fate) is fate]
        count = fates[fate.label] if fate.label in reading.sampled else sum(one.count for one in late)
        ids = reading.sampled.get(fate.label) or tuple(id_ for one in late for id_ in one.ids)
        if count:
            found[fate.label] = Attention(count, text, ids)
    return found


PROBLEMS = {
    Fate.STRANDED: "waiting, and not taken up in time",
    Fate.STALLED: "taken by a worker that did not finish",
    Fate.IN_DOUBT: "in doubt for too long",
    Fate.VANISHED: "gone from the queue without proof",
}
WARNINGS = {
    Fate.DEAD: "in the dead letters",
    Fate.EXPIRED: "expired before they were handled",
    Fate.REFUSED: "refused by the queue",
}
"""Accounted for, and somebody should look at them all the same."""


def _problems(
    unaccounted: int, identities: Mapping[str, Identity], attention: Mapping[str, Attention]
) -> Iterable[str]:
    if unaccounted:
        yield f"{unaccounted:,} unaccounted: nothing tells their fate"
    for name, identity in identities.items():
        if identity.holds is False:
            yield f"identity {name!r} is broken"
    for fate in PROBLEMS:
        if fate.label in attention:
            yield f"{attention[fate.label].count:,} {fate.label}: {attention[fate.label].text}"


def _warnings(identities: Mapping[str, Identity], reading: Reading) -> Iterable[str]:
    for name, identity in identities.items():
        if identity.holds is None:
            yield f"identity {name!r} was not checked for every queue: {'; '.join(identity.notes)}"
    if reading.waiting:
        yield f"{reading.waiting:,} newer entries are not posted yet: this is the balance up to entry {reading.posted:,}"


def _added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    result: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            result[name] = result.get(name, 0) + count
    return result
