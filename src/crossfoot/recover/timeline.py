"""What happened to a message, in order: its entries in words, and what is missing among them.

The order is that in which things happened, as far as the book knows it: see `happening`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.queries import Fact, WorkerRow
from crossfoot.clock import SECOND, Micros
from crossfoot.recover.facts import Facts, details
from crossfoot.recover.happening import ENDS, nth
from crossfoot.recover.phrases import clock_time, listed, plural, span, worker_name

SILENT: Micros = 15 * SECOND
"""A working worker says every few seconds that it is alive; after this long without a word it is not."""


class Mark(StrEnum):
    """How a step ended."""

    DONE = "done"
    FAILED = "failed"
    DOUBT = "in doubt"
    OPEN = "open"


MARKS = {
    Kind.PUT_OFF: Mark.DOUBT,
    Kind.REFUSED: Mark.FAILED,
    Kind.PUBLISH_IN_DOUBT: Mark.DOUBT,
    Kind.COMMIT_IN_DOUBT: Mark.DOUBT,
    Kind.FAILED: Mark.FAILED,
    Kind.ACK_FAILED: Mark.DOUBT,
    Kind.EXPIRED: Mark.FAILED,
    Kind.VANISHED: Mark.FAILED,
    Kind.DEAD_LETTERED: Mark.FAILED,
}
"""Kinds that are not simply done."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One hand-over of the message.

    Attributes:
        number: which one, counted over all publications; an entry's `attempt` also counts what was sent again.
        end: the kind of its end in words, `open` while it runs, `no end` when it never came.
        acked: `yes`, `no` (not or not yet) or `failed`.
        text: what there is to say about the end.
    """

    number: int
    worker: str
    received_at: Micros
    lease_until: Micros | None
    end: str
    ended_at: Micros | None
    acked: str
    cause: str | None
    text: str


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the timeline: an entry, or the absence of one."""

    mark: Mark
    at: Micros
    what: str
    delivery: int | None = None
    who: str = ""
    text: str = ""


def deliveries(facts: Facts, now: Micros) -> list[Delivery]:
    """Each hand-over with its end, in the order in which they were received."""
    return [_delivery(facts, group, now) for group in _grouped(facts).values()]


def timeline(facts: Facts, fate: Fate | None, now: Micros) -> list[Moment]:
    """All entries in words, the ends that are missing where they should have been, and what is waited for."""
    lines: list[Moment] = []
    said = ""
    missing: list[Moment] = []
    last = {group[-1].number: group for group in _grouped(facts).values()}
    for entry in facts.entries:
        # What did not end is told when its lease was over, among what happened then.
        over = sorted((one for one in missing if one.at <= entry.at), key=lambda one: one.at)
        lines += over
        missing = [one for one in missing if one not in over]
        moment = _moment(facts, entry)
        if entry.cause:
            lines.append(moment if moment.text != said else msgspec.structs.replace(moment, text="of the same cause"))
            said = moment.text
        else:
            lines.append(moment)
        if entry.number in last:
            missing += _without_end(_delivery(facts, last[entry.number], now))
    lines += sorted(missing, key=lambda one: one.at)
    pending = waiting_for(facts, fate, now)
    return [*lines, pending] if pending is not None else lines


def _without_end(delivery: Delivery) -> list[Moment]:
    """The line that tells of an end that never came, if it did not."""
    if delivery.end != "no end":
        return []
    return [
        Moment(
            mark=Mark.FAILED, at=delivery.lease_until or delivery.received_at, what="no end", delivery=delivery.number,
            who=delivery.worker, text=delivery.text,
        )
    ]  # fmt: skip


def _grouped(facts: Facts) -> dict[int, list[Fact]]:
    """Entries by the hand-over they speak of."""
    grouped: dict[int, list[Fact]] = {}
    for entry in facts.entries:
        if entry.delivery:
            grouped.setdefault(entry.delivery, []).append(entry)
    return grouped


def waiting_for(facts: Facts, fate: Fate | None, now: Micros) -> Moment | None:
    """What an open message waits for, and since or until when."""
    latest = facts.last()
    if fate is None or fate.closed or latest is None:
        return None
    what = {
        Fate.INTENDED: "to be sent", Fate.IN_DOUBT: "for an answer", Fate.QUEUED: "to be received",
        Fate.PROCESSING: "for the handler", Fate.RETRYING: "to be tried again", Fate.PARKED: "for its predecessor",
        Fate.STRANDED: "to be received", Fate.STALLED: "to be received again",
    }[fate]  # fmt: skip
    if latest.kind is Kind.PARKED and fate is Fate.STRANDED:
        what = "to be sent on"
    due = latest.due or latest.at
    text = f"due in {span(due - now)}" if due > now else f"overdue for {span(now - due)}"
    if fate in (Fate.QUEUED, Fate.INTENDED):
        text = f"for {span(now - latest.at)}"
    return Moment(mark=Mark.OPEN, at=max(now, latest.at), what=f"waits {what}", text=text)


def no_end(worker: WorkerRow | None, lease_until: Micros, now: Micros) -> str:
    """Why a delivery has no end, as far as the worker's registration tells."""
    name = worker_name(worker)
    if worker is None:
        return f"{name} never ended it; the lease was over at {clock_time(lease_until, now)}"
    if worker.stopped_at is not None:
        return f"{name} stopped in order at {clock_time(worker.stopped_at, now)}, and did not end it"
    if worker.seen_at > lease_until:
        return f"{name} let the lease run out at {clock_time(lease_until, now)}, and was still alive"
    if now - worker.seen_at > SILENT:
        return f"{name} was last heard of at {clock_time(worker.seen_at, now)}: no orderly stop"
    return f"{name} was last heard of at {clock_time(worker.seen_at, now)}; its lease is over"


def _delivery(facts: Facts, group: list[Fact], now: Micros) -> Delivery:
    begin, worker = group[0], facts.worker(group[0])
    ends = [entry for entry in group if entry.kind in ENDS]
    end = max(ends, key=lambda entry: entry.rank, default=None)
    leases = [entry.due for entry in group if entry.kind in (Kind.RECEIVED, Kind.EXTENDED) and entry.due]
    lease_until = max(leases, default=None)
    acks = {entry.kind for entry in group}
    if end is not None:
        name, text = end.kind.label, facts.cause(end)
    elif lease_until is None or lease_until > now:
        name, text = "open", f"lease until {clock_time(lease_until, now)}" if lease_until else ""
    else:
        name, text = "no end", no_end(worker, lease_until, now)
    return Delivery(
        number=nth(facts.entries, begin), worker=worker.name if worker else "", received_at=begin.at, lease_until=lease_until,
        end=name, ended_at=end.at if end is not None else None,
        acked="yes" if Kind.ACKED in acks else "failed" if Kind.ACK_FAILED in acks else "no",
        cause=end.cause if end is not None else None, text=text,
    )  # fmt: skip


def _moment(facts: Facts, entry: Fact) -> Moment:
    worker = facts.worker(entry)
    return Moment(
        mark=MARKS.get(entry.kind, Mark.DONE), at=entry.at, what=entry.kind.label,
        delivery=nth(facts.entries, entry) if entry.delivery else None, who=worker.name if worker is not None else "",
        text=told(facts, entry),
    )  # fmt: skip


def told(facts: Facts, entry: Fact) -> str:
    """What an entry has to say beside its kind."""
    if entry.cause:
        return facts.cause(entry)
    known = details(entry)
    if entry.kind in (Kind.COMMITTED, Kind.NOOP):
        return proof(known)
    if entry.kind is Kind.SUPPRESSED:
        return f"operation {known.get('operation')} was complete"
    if entry.kind is Kind.PARKED:
        return f"waits for sequence {known.get('predecessor')}"
    if entry.kind is Kind.REPLAYED:
        mended = ", with a mended payload" if known.get("mended") else ""
        return f"replay {known.get('replay')} by {known.get('by')}, from {known.get('from')}{mended}: {known.get('reason')}"
    if entry.kind is Kind.SUPERSEDED:
        return f"a later event than sequence {known.get('sequence')} was applied before it"
    return str(known.get("reason") or known.get("text") or "")


def proof(known: dict[str, object]) -> str:
    """The evidence of a handler's work."""
    parts: list[str] = []
    if known.get("reason"):
        return f"nothing to do: {known['reason']}"
    rows = known.get("rows")
    if isinstance(rows, int) and rows:
        of = known.get("of")
        parts.append(f"{plural(rows, 'row')} changed" + (f" for {of} messages together" if of else ""))
    for name, one in (("outcomes", "outcome"), ("sent", "sent"), ("receipts", "receipt")):
        values = known.get(name)
        if isinstance(values, list) and values:
            parts.append(f"{one} {listed(_distinct(map(str, values)))}")
    if known.get("gap") is not None:
        parts.append(f"sequence {known['gap']} was not waited for any longer")
    return ", ".join(parts)


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
