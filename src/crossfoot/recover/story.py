"""A message's way through the boundaries, told in sentences: who decided on it, who had it, what became of it, what followed.

Pure, from the facts and the time. The timeline shows every entry; this says what they come to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.queries import Fact
from crossfoot.clock import Micros
from crossfoot.recover.expecting import Expected, sentences
from crossfoot.recover.facts import Facts, details
from crossfoot.recover.phrases import clock_time, listed, plural, span
from crossfoot.recover.timeline import Delivery, deliveries, proof

TOLD = 3
"""Deliveries that are told one by one; of more, the first and the last, and how many there were between."""


def story(facts: Facts, fate: Fate | None, now: Micros, expected: Iterable[Expected] = ()) -> tuple[str, ...]:
    """The sentences, in order."""
    if not facts.entries:
        return ()
    parts = (
        _sent(facts, now), _handled(facts, now), _stands(fate), _followed(facts), sentences(expected, fate, now), _kept(facts),
    )  # fmt: skip
    return tuple(filter(None, chain.from_iterable(parts)))


def _sent(facts: Facts, now: Micros) -> Iterator[str]:
    """From the intent to the queue."""
    row, by_kind = facts.row, _first(facts)
    cause = next((link for link in facts.chain.links if link.depth == -1), None)
    told = f" because of {cause.row.type if cause.row else 'message'} {cause.id}" if cause is not None else ""
    first = facts.entries[0]
    intended, published = by_kind.get(Kind.INTENDED), by_kind.get(Kind.PUBLISHED)
    if intended is not None:
        yield f"{row.source} decided at {clock_time(intended.at, now)} to send {row.type} to queue {row.queue}{told}."
    elif published is None:
        yield f"{row.type} was first seen at {clock_time(first.at, now)} on queue {row.queue}{told}; another book tells who sent it."
    tries = sum(entry.kind in (Kind.PUT_OFF, Kind.PUBLISH_IN_DOUBT) for entry in facts.entries)
    late = f", after {plural(tries, 'try', 'tries')} without a yes" if tries else ""
    if published is not None and intended is not None:
        yield f"The queue took it {span(max(0, published.at - intended.at))} later{late}."
    elif published is not None:
        yield f"{row.source} sent {row.type} to queue {row.queue} at {clock_time(published.at, now)}{told}{late}."
    elif tries:
        yield f"The queue has not said yes in {plural(tries, 'try', 'tries')}."


def _handled(facts: Facts, now: Micros) -> Iterator[str]:
    """Each hand-over and how it ended, with the evidence, and what was decided between them; in the order in which it happened."""
    numbers = dict.fromkeys(entry.delivery for entry in facts.entries if entry.delivery)
    held = dict(zip(numbers, deliveries(facts, now), strict=True))
    first = next(iter(held.values()), None)
    proven = facts.last(Kind.COMMITTED)
    run: list[Delivery] = []
    for entry in facts.entries:
        begun = held.pop(entry.delivery, None)
        if begun is not None:
            run.append(begun)
        told = _decided(entry) if entry.kind is not Kind.COMMITTED or entry is proven else None
        if told is not None:
            yield from _delivered(facts, run, first)
            yield told
            run = []
    yield from _delivered(facts, run, first)


def _delivered(facts: Facts, run: list[Delivery], first: Delivery | None) -> Iterator[str]:
    """Deliveries between which nothing else is told."""
    published = _first(facts).get(Kind.PUBLISHED)
    shown = run if len(run) <= TOLD else [run[0], None, run[-1]]
    for delivery in shown:
        if delivery is None:
            between = run[1:-1]
            ends = listed(list(dict.fromkeys(one.end for one in between)))
            yield f"{plural(len(between), 'delivery', 'deliveries')} followed, which ended so: {ends}."
            continue
        waited = ""
        if delivery is first and published is not None and delivery.received_at >= published.at:
            waited = f" after {span(delivery.received_at - published.at)} in the queue"
        yield f"{_who(delivery)} received it{waited}{_end(delivery)}."


def _who(delivery: Delivery) -> str:
    return f"Worker {delivery.worker}" if delivery.worker else "A worker"


def _end(delivery: Delivery) -> str:
    if delivery.end == "open":
        return " and has it still"
    if delivery.end == "no end":
        return ", and nothing tells of an end"
    took = span(max(0, (delivery.ended_at or delivery.received_at) - delivery.received_at))
    acked = {"yes": ", and acked it", "failed": ", and its ack failed"}.get(delivery.acked, "")
    ends = {
        "committed": f" and committed its effect {took} later", "noop": f" and found nothing to do, {took} later",
        "suppressed": " and found its operation complete", "superseded": " and found that a later event had been applied",
        "parked": " and kept it for its predecessor", "failed": f" and failed after {took}",
        "released": " and handed it back", "dead lettered": " and failed, for good",
    }  # fmt: skip
    return ends.get(delivery.end, f"; that ended as {delivery.end}") + acked


DECIDED = {
    Kind.REPLAYED: "It was sent again from the dead", Kind.DISCARDED: "A person decided that it need not happen",
    Kind.DEAD_LETTERED: "It was put into the dead letters", Kind.EXPIRED: "Its time was over",
    Kind.VANISHED: "It was gone from the queue without proof",
}  # fmt: skip
"""Ends, and new beginnings, that are no delivery's own."""


def _decided(entry: Fact) -> str | None:
    """The evidence, or the end that was no delivery's; `None` where the entry is neither, and empty where it tells nothing."""
    told = details(entry)
    if entry.kind is Kind.COMMITTED:
        evidence = proof(told)
        return f"Proof: {evidence}." if evidence else ""
    text, why, who = DECIDED.get(entry.kind), told.get("reason"), told.get("by")
    return text and text + (f" by {who}" if who else "") + (f": {why}" if why else "") + "."


def _stands(fate: Fate | None) -> Iterator[str]:
    if fate is not None and not fate.closed:
        yield f"It is {fate.label} now."


def _followed(facts: Facts) -> Iterator[str]:
    """What it caused, to the last."""
    below = [link for link in facts.chain.links if link.depth > 0]
    if not below:
        return
    direct = sum(link.depth == 1 for link in below)
    fates: dict[str, int] = {}
    for link in below:
        label = link.fate.label if link.fate is not None else "unaccounted"
        fates[label] = fates.get(label, 0) + 1
    what = f"It caused {plural(direct, 'message')}"
    if len(below) > direct:
        what += f", and these {len(below) - direct:,} more"
    yield f"{what}: {listed([f'{count:,} {label}' for label, count in fates.items()])}."


def _kept(facts: Facts) -> Iterator[str]:
    if facts.seal is not None:
        yield f"Its bucket was closed, and it lies in the archive under seal {facts.seal.number}." + (
            f" {plural(facts.late, 'entry', 'entries')} came after that." if facts.late else ""
        )


def _first(facts: Facts) -> dict[Kind, Fact]:
    found: dict[Kind, Fact] = {}
    for entry in facts.entries:
        found.setdefault(entry.kind, entry)
    return found
