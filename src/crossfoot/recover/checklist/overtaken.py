"""Events that took effect after a later one of their subject, and which of them prove that the order was wrong. Pure.

A handler that does not take events in order may apply them in any: a retry, several workers, a priority or a replay have an earlier event
take effect after a later one, and whether that matters only the handler knows. Two things prove more than that:

- *sent*: the later event was sent first, so whoever receives it could only apply them the wrong way round. What a handler sends was
  decided on when the message was sent that it handled: so that a retry there is as little a proof as one here;
- *named*: the later event names a predecessor, which it was not to be applied before, and this event is that one or an earlier one.

Both stand in the messages and their entries. Without sequences nothing states an order, and nothing is said. Two kinds of things that
happen to one subject may be counted each by itself: only events of one family of types are held against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from crossfoot.books.entry import Kind
from crossfoot.books.lately import Done
from crossfoot.books.queries import Fact

COMPARED = 20
"""Later events of its subject that one event is held against, the latest that took effect before it."""

SENDING = (Kind.INTENDED, Kind.PUBLISHED)


class Overtaken(msgspec.Struct, frozen=True):
    """An event and those that come later in its subject's order, whose operations were claimed before its own, the latest first."""

    event: Done
    by: tuple[Done, ...]


class Trail(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a message's way, by numbers of entries; 0 where there is none.

    Attributes:
        sent: when somebody decided to send it, by this book; before it, when its causes were first known, the first of them first. Empty
            where another book tells that.
        received: when it was first received, by worker `worker`.
        committed: when it took effect.
        replayed: whether somebody had it sent again from the dead before it did.
        predecessor: the sequence that it was not to be applied before, where it names one.
    """

    sent: tuple[int, ...] = ()
    received: int = 0
    worker: int = 0
    committed: int = 0
    replayed: bool = False
    priority: int = 0
    predecessor: int | None = None


def family(type_: str) -> str:
    """What a type has in common with others that share its subject's order: all but its last word. `bed.left` and `bed.taken` are counted
    together, and `alarm.raised` by itself."""
    return type_.rpartition(".")[0]


def overtaken(done: Iterable[Done]) -> list[Overtaken]:
    """All events that took effect after a later one of their subject, in the order in which they did."""
    applied: dict[tuple[str, str, str], list[Done]] = {}
    found = []
    for one in done:
        if one.subject is None or one.sequence is None or one.kind != Kind.COMMITTED:
            continue
        before = applied.setdefault((one.queue, one.subject, family(one.type)), [])
        later = [
            other
            for other in reversed(before[-COMPARED:])
            if other.sequence is not None and other.sequence > one.sequence
        ]
        if later:
            found.append(Overtaken(one, tuple(later)))
        before.append(one)
    return found


def trail(entries: Sequence[Fact], *, causes: Sequence[int], priority: int, predecessor: int | None) -> Trail:
    """A message's way, from its entries in the order of their numbers.

    Args:
        causes: the number of the first entry of what caused it, the first cause first.
    """
    received = next((entry for entry in entries if entry.kind is Kind.RECEIVED), None)
    committed = max((entry.number for entry in entries if entry.kind is Kind.COMMITTED), default=0)
    sent = next((entry.number for entry in entries if entry.kind in SENDING), None)
    return Trail(
        sent=(*causes, sent) if sent is not None else (),
        received=received.number if received is not None else 0,
        worker=received.worker if received is not None else 0,
        committed=committed,
        replayed=any(entry.kind is Kind.REPLAYED and entry.number < committed for entry in entries),
        priority=priority,
        predecessor=predecessor,
    )  # fmt: skip


def wrongly(one: Overtaken, trails: Mapping[int, Trail]) -> Done | None:
    """The event that it should not have taken effect after, by what their trails prove; `None` where they prove nothing."""
    mine = trails.get(one.event.key)
    if mine is None or mine.replayed:
        return None
    for other in one.by:
        theirs = trails.get(other.key)
        if theirs is None or not 0 < theirs.committed < mine.committed:
            continue  # claimed before, and not applied before
        if _named(one.event, theirs) or _sent_first(mine, theirs):
            return other
    return None


def _named(event: Done, theirs: Trail) -> bool:
    assert event.sequence is not None
    return theirs.predecessor is not None and event.sequence <= theirs.predecessor


def _sent_first(mine: Trail, theirs: Trail) -> bool:
    """Whether the later event was sent first. Where the sender has a book of its own: whether it had come first, which several workers
    and priorities may have made it."""
    if mine.sent and theirs.sent:
        return theirs.sent < mine.sent
    if mine.sent or theirs.sent or not (mine.received and theirs.received) or theirs.priority > mine.priority:
        return False
    same = mine.worker == theirs.worker and theirs.received < mine.received
    return same or theirs.committed < mine.received
