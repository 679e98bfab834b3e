"""The page about one message: its fate with the reason, what happened, what is still open, and what to do.

Pure: from the facts and the time. The fate is folded from the message's own entries here and now, so that the page does
not depend on what has been posted.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from crossfoot.books.archive.folder import FACTS
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate, Patience, fate_of
from crossfoot.books.queries import CauseRow, OutcomeRow, Row
from crossfoot.clock import Micros
from crossfoot.recover.advice import Step, advise
from crossfoot.recover.expecting import Expected, expected_of, headline, lacking
from crossfoot.recover.facts import Facts, Relative, details
from crossfoot.recover.happening import clocks
from crossfoot.recover.story import story
from crossfoot.recover.timeline import Delivery, Moment, deliveries, timeline
from crossfoot.recover.unhappened import unhappened
from crossfoot.recover.wording import reason

NEEDS_SOMEBODY = frozenset(
    {Fate.STRANDED, Fate.STALLED, Fate.IN_DOUBT, Fate.DEAD, Fate.EXPIRED, Fate.REFUSED, Fate.VANISHED}
)
"""Fates that are a finding: `why` exits with 1."""


class EntryLine(msgspec.Struct, frozen=True, kw_only=True):
    """One entry as it is in the book, with names instead of numbers."""

    number: int
    kind: str
    attempt: int
    delivery: int
    at: Micros
    due: Micros | None
    worker: str | None
    cause: str | None
    details: dict[str, object]


class Operation(msgspec.Struct, frozen=True):
    """The operation it asked for: which message completed it, when and how; `None` while nobody has."""

    key: str
    completed_by: str | None = None
    by_this: bool = False
    kind: str | None = None
    at: Micros | None = None


class Cause(msgspec.Struct, frozen=True):
    """Why deliveries of it failed, and how many of them. `text` and `raised` are those of the latest."""

    fingerprint: str
    kind: str
    title: str
    text: str
    frames: str
    raised: str | None
    deliveries: int


class Related(msgspec.Struct, frozen=True):
    """Another message, and its fate in words."""

    message: Row
    fate: str


class Linked(msgspec.Struct, frozen=True):
    """A message of the chain, and its fate in words; without a message where it is not in this book."""

    depth: int
    id: str
    message: Row | None
    fate: str


class Archived(msgspec.Struct, frozen=True):
    """Where a message lies in the archive, and how many entries came after it was put there."""

    seal: int
    at: Micros
    file: str
    late: int


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one message that fits a page.

    Attributes:
        fate: in words; `unaccounted` when no entry speaks of it.
        needs_somebody: whether a person should do something.
        parents: the messages that caused it; `children` those it caused.
        story: its way in sentences.
        chain: everything that caused it, and that it caused, with the message itself at depth 0; the first cause first.
        archived: where it lies in the archive, if it does.
        clocks: where the times of entries contradict what is known of their order.
        expected: what the program promises after such a message, and how this one stands to it.
        would_have: of a message that came to nothing, what would have happened, as far as the book knows.
    """

    message: Row
    fate: str
    reason: str
    needs_somebody: bool
    as_of: Micros
    entries: tuple[EntryLine, ...]
    timeline: tuple[Moment, ...]
    deliveries: tuple[Delivery, ...]
    operation: Operation | None
    outcomes: tuple[OutcomeRow, ...]
    causes: tuple[Cause, ...]
    parents: tuple[Related, ...]
    children: tuple[Related, ...]
    next: tuple[Step, ...]
    story: tuple[str, ...] = ()
    chain: tuple[Linked, ...] = ()
    archived: Archived | None = None
    would_have: tuple[str, ...] = ()
    clocks: tuple[str, ...] = ()
    expected: tuple[Expected, ...] = ()


def explain(facts: Facts, now: Micros, patience: Patience) -> Page:
    """The page about a message, at the time `now`."""
    fate = fate_of(facts.summary, now, patience)
    expected = expected_of(facts.promises, fate, now)
    return Page(
        message=facts.row,
        fate=_word(fate),
        reason=" ".join(filter(None, (reason(facts, fate, now), headline(expected, now)))),
        needs_somebody=fate is None or fate in NEEDS_SOMEBODY or bool(lacking(expected)),
        as_of=now,
        entries=tuple(_entries(facts)),
        timeline=tuple(timeline(facts, fate, now)),
        deliveries=tuple(deliveries(facts, now)),
        operation=_operation(facts),
        outcomes=facts.outcomes,
        causes=tuple(_causes(facts)),
        parents=tuple(map(_related, facts.parents)),
        children=tuple(map(_related, facts.children)),
        next=tuple(advise(facts, fate, expected)),
        story=story(facts, fate, now, expected),
        chain=tuple(_linked(facts)),
        archived=_archived(facts),
        would_have=unhappened(facts, fate),
        clocks=clocks(facts.entries, facts.workers),
        expected=expected,
    )


def _archived(facts: Facts) -> Archived | None:
    seal = facts.seal
    return Archived(seal.number, seal.at, f"{seal.name}{FACTS}", facts.late) if seal is not None else None


def _entries(facts: Facts) -> list[EntryLine]:
    return [
        EntryLine(
            number=entry.number, kind=entry.kind.label, attempt=entry.attempt, delivery=entry.delivery, at=entry.at,
            due=entry.due, worker=worker.name if (worker := facts.worker(entry)) is not None else None,
            cause=entry.cause, details=details(entry),
        )
        for entry in facts.entries
    ]  # fmt: skip


def _operation(facts: Facts) -> Operation | None:
    found = facts.operation
    if found is None:
        return Operation(facts.row.operation) if facts.row.operation is not None else None
    by_this = found.message == facts.row.key
    owner = facts.row.id if by_this else facts.owner.row.id if facts.owner is not None else f"message {found.message}"
    return Operation(found.key, owner, by_this, Kind(found.kind).label, found.at)


def _causes(facts: Facts) -> list[Cause]:
    """Each cause once, the latest first, with the words of its latest failure."""
    failures = [entry for entry in facts.entries if entry.cause and entry.kind is not Kind.DEAD_LETTERED]
    counts = Counter(entry.cause for entry in failures)
    latest = {entry.cause: entry for entry in failures}
    unknown = CauseRow("", "", "a cause the book has lost", "", 0)
    found = []
    for fingerprint, entry in sorted(latest.items(), key=lambda item: item[1].number, reverse=True):
        cause = facts.causes.get(fingerprint or "", unknown)
        told = details(entry)
        text, raised = str(told.get("text") or ""), str(told.get("raised") or "") or None
        found.append(
            Cause(fingerprint or "", cause.kind, cause.title, text, cause.frames, raised, deliveries=counts[fingerprint])
        )  # fmt: skip
    return found


def _linked(facts: Facts) -> list[Linked]:
    """The chain, where there is more of it than the message itself."""
    links = facts.chain.links
    found = [
        Linked(one.depth, one.id, one.row, _word(one.fate) if one.row is not None else "in no book here")
        for one in links
    ]
    return found if len(found) > 1 else []


def _related(relative: Relative) -> Related:
    return Related(relative.row, _word(relative.fate))


def _word(fate: Fate | None) -> str:
    return fate.label if fate is not None else "unaccounted"
