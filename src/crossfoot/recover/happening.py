"""In which order a message's entries happened, and which clocks contradict that. Pure.

Entries are committed in another order than things happen in: what the publisher's answer was is often booked after the worker's first word.
So they are told by their times, and those of one time in the order of the book. But a time is what the writer's clock said. Of some entries
it is known without any clock which came first: an intent is durable before anything is sent, a delivery is received before it ends, it ends
before it is acked, and a delivery of a lower number was handed over before one of a higher. Where the times say otherwise, a clock was
wrong: the known order is kept, and that is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

import msgspec

from crossfoot.books.entry import Kind
from crossfoot.books.queries import Fact, WorkerRow
from crossfoot.clock import Micros
from crossfoot.recover.phrases import span, worker_name

ACKS = (Kind.ACKED, Kind.ACK_FAILED)

ENDS = frozenset(Kind) - {Kind.RECEIVED, Kind.EXTENDED, *ACKS}
"""Facts that end a delivery; an ack follows an end, and is none."""


SENDINGS = (Kind.INTENDED, Kind.PUBLISH_IN_DOUBT, Kind.REFUSED, Kind.PUBLISHED)
"""Facts of the way to the queue."""


class Contradiction(msgspec.Struct, frozen=True):
    """Two entries of which the first is known to have come first, and bears the later time; by `by` at least a clock was wrong."""

    first: Fact
    then: Fact

    @property
    def by(self) -> Micros:
        return self.first.at - self.then.at


def happened(entries: Iterable[Fact]) -> list[Fact]:
    """The entries in the order in which they happened: what is known, then their times, then the order of the book."""
    by_number = {entry.number: entry for entry in entries}
    behind: dict[int, list[int]] = {}
    before = dict.fromkeys(by_number, 0)
    for first, then in _known(list(by_number.values())):
        behind.setdefault(first.number, []).append(then.number)
        before[then.number] += 1
    # An entry whose time is too early for what it followed is told right behind that, so it counts as of the same time.
    ready = [(by_number[number].at, number) for number, count in before.items() if not count]
    heapify(ready)
    found = []
    while ready:
        at, number = heappop(ready)
        found.append(by_number[number])
        for later in behind.get(number, ()):
            before[later] -= 1
            if not before[later]:
                heappush(ready, (max(at, by_number[later].at), later))
    assert len(found) == len(by_number), "what is known has no circles"
    return found


def contradictions(entries: Sequence[Fact]) -> list[Contradiction]:
    """Where times contradict what is known, the largest first."""
    found = [Contradiction(first, then) for first, then in _known(entries) if then.at < first.at]
    return sorted(found, key=lambda one: (-one.by, one.first.number, one.then.number))


def clocks(entries: Sequence[Fact], workers: Mapping[int, WorkerRow]) -> tuple[str, ...]:
    """Contradictions in words: whose clock was set back, or whose clocks differ; of each clock, or two, the largest."""
    largest: dict[tuple[int, ...], Contradiction] = {}
    for one in contradictions(entries):
        largest.setdefault(tuple(sorted((one.first.worker, one.then.worker))), one)
    return tuple(_told(one, workers, entries) for one in largest.values())


def nth(entries: Sequence[Fact], entry: Fact) -> int:
    """Which delivery an entry speaks of, as people count them. Sending a message again takes a number of its own, so that it comes after
    the death, and nobody was handed that."""
    handed = {one.attempt for one in entries if one.delivery}
    sent = {one.attempt for one in entries if one.kind in SENDINGS and one.attempt} - handed
    return entry.attempt - sum(number < entry.attempt for number in sent)


def _told(one: Contradiction, workers: Mapping[int, WorkerRow], entries: Sequence[Fact]) -> str:
    what = (
        f"{_named(entries, one.then)} bears a time {span(one.by)} before {_named(entries, one.first)}, which came first"
    )
    writers = [worker_name(workers.get(entry.worker)) for entry in (one.first, one.then)]
    if one.first.worker == one.then.worker:
        return f"{what}: the clock of {writers[0] if one.first.worker else 'its sender'} was set back by at least that"
    who = [name if entry.worker else "the sender" for name, entry in zip(writers, (one.first, one.then), strict=True)]
    return f"{what}: the clocks of {who[0]} and {who[1]} differ by at least that"


def _named(entries: Sequence[Fact], entry: Fact) -> str:
    return f"{entry.kind.label} of delivery {nth(entries, entry)}" if entry.delivery else entry.kind.label


def _known(entries: Sequence[Fact]) -> Iterator[tuple[Fact, Fact]]:
    """Pairs of which the first came first, whatever clocks said."""
    by_delivery: dict[int, list[Fact]] = {}
    for entry in sorted(entries, key=lambda entry: entry.number):
        by_delivery.setdefault(entry.delivery, []).append(entry)
    early = by_delivery.pop(0, [])
    begins = []
    for own in by_delivery.values():
        begin = next((entry for entry in own if entry.kind is Kind.RECEIVED), None)
        ends = [entry for entry in own if entry.kind in ENDS]
        if begin is not None:
            begins.append(begin)
            yield from ((begin, entry) for entry in own if entry.kind is not Kind.RECEIVED)
        yield from ((end, ack) for ack in own if ack.kind in ACKS for end in ends)
    yield from _handed_over(begins)
    if early and early[0].kind is Kind.INTENDED and all(early[0].number < begin.number for begin in begins):
        yield from ((early[0], entry) for entry in (*early[1:], *begins))


def _handed_over(begins: Sequence[Fact]) -> Iterator[tuple[Fact, Fact]]:
    """Deliveries one after the other, by their numbers; of two of one number nobody knows which came first."""
    by_attempt: dict[int, list[Fact]] = {}
    for begin in begins:
        by_attempt.setdefault(begin.attempt, []).append(begin)
    numbers = sorted(by_attempt)
    for lower, higher in pairwise(numbers):
        yield from ((first, then) for first in by_attempt[lower] for then in by_attempt[higher])
