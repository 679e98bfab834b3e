"""4: does the handling fit into the lease, and does nothing hold up what waits behind it? From the newest entries. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from math import ceil

import msgspec

from crossfoot.books.entry import Kind
from crossfoot.books.lines import Line
from crossfoot.clock import Micros
from crossfoot.recover.advice import Step
from crossfoot.recover.checklist import blocking
from crossfoot.recover.checklist.findings import Finding, some
from crossfoot.recover.checklist.survey import Survey
from crossfoot.recover.phrases import plural, span

ENDS = frozenset((Kind.COMMITTED, Kind.NOOP, Kind.SUPERSEDED, Kind.SUPPRESSED, Kind.FAILED, Kind.DEAD_LETTERED))

LEASE_LOST = "crossfoot.errors.LeaseLost"


class Held(msgspec.Struct, frozen=True):
    """One delivery: who had which message for how long, on a lease of what length, and how often that was extended."""

    queue: str
    type: str
    id: str
    attempt: int
    at: Micros
    took: Micros | None
    lease: Micros
    extended: int
    lost: bool


def ask(survey: Survey) -> Iterator[Finding]:
    yield from _too_short(survey)
    yield from blocking.ask(survey)


def deliveries(survey: Survey) -> list[Held]:
    """The deliveries of which the sample holds the beginning."""
    by_delivery: dict[tuple[str, str, int], list[Line]] = {}
    for line in survey.lines:
        if line.queue is not None and line.id is not None and line.attempt:
            by_delivery.setdefault((line.queue, line.id, line.attempt), []).append(line)
    found = []
    for (queue, id_, attempt), lines in by_delivery.items():
        begun = next((line for line in lines if line.kind == Kind.RECEIVED), None)
        if begun is None or begun.due is None:
            continue
        end = next((line for line in lines if line.kind in ENDS), None)
        lost = any(_kind(survey, line) == LEASE_LOST for line in lines)
        extended = sum(line.kind == Kind.EXTENDED for line in lines)
        took = None if end is None else end.at - begun.at
        found.append(
            Held(queue, begun.type or "", id_, attempt, begun.at, took, begun.due - begun.at, extended, lost)
        )  # fmt: skip
    return found


def _kind(survey: Survey, line: Line) -> str:
    cause = survey.causes.get(line.cause or "")
    return cause.kind if cause is not None else ""


def quantile(values: list[Micros], share: float) -> Micros:
    """The smallest value that so many are not above; of none, 0."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)] if values else 0


def _too_short(survey: Survey) -> Iterator[Finding]:
    by_type: dict[tuple[str, str], list[Held]] = {}
    for one in deliveries(survey):
        by_type.setdefault((one.queue, one.type), []).append(one)
    lost = {place: _lost(theirs) for place, theirs in by_type.items()}
    leases: dict[str, Micros] = {}  # a delivery that was booked late seems to have had less of it
    for (queue, _), found in lost.items():
        leases[queue] = max([leases.get(queue, 0), *(one.lease for one in found)])
    slow = {
        place: [one for one in found if one.took is None or one.took >= leases[place[0]]]
        for place, found in lost.items()
    }
    by_slow = {queue for (queue, _), found in slow.items() if found}
    for (queue, type_), theirs in sorted(by_type.items()):
        # What was quick was only in the hand of a worker that something slow kept from extending its lease.
        told = slow[queue, type_] if queue in by_slow else lost[queue, type_]
        if told:
            yield _finding(queue, type_, theirs, told)


def _finding(queue: str, type_: str, theirs: list[Held], lost: list[Held]) -> Finding:
    took = [one.took for one in theirs if one.took is not None]
    lease = max(one.lease for one in lost)
    longest = max(took, default=lease)
    count = len({one.id for one in lost})
    how = (
        f"handling {type_} takes up to {span(longest)}, and its lease on queue {queue} is {span(lease)}"
        if longest >= lease
        else f"a worker of queue {queue} did not extend its leases of {span(lease)}, while handling {type_} takes {span(longest)} at most"
    )
    return Finding(
        code="lease-too-short",
        queue=queue,
        text=f"{how}: {plural(count, 'message')} came to somebody else while it was still being handled",
        count=count,
        ids=some(one.id for one in lost),
        figures={
            "lease": span(lease),
            "half take": span(quantile(took, 0.5)),
            "95 of 100 take": span(quantile(took, 0.95)),
            "longest": span(longest),
            "deliveries": f"{len(theirs):,}",
            "longer than the lease": f"{sum(value > lease for value in took):,}",
            "leases lost": f"{len(lost):,}",
            "extended": f"{sum(one.extended for one in theirs):,}",
        },
        first_at=min(one.at for one in lost),
        last_at=max(one.at for one in lost),
        next=(
            Step(
                f"set lease above {span(longest)}, or let the worker extend it: a handler that blocks the event loop keeps it from that"
            ),
            Step("see who had the first, and when", f"crossfoot why {shlex.quote(lost[0].id)}"),
        ),
    )


def _lost(theirs: list[Held]) -> list[Held]:
    """Those that came to somebody else before they had ended."""
    again = {(one.id, one.attempt - 1): one.at for one in theirs}
    return [one for one in theirs if one.lost or _overtaken(one, again)]


def _overtaken(one: Held, again: dict[tuple[str, int], Micros]) -> bool:
    """Whether the next delivery began before this one had ended, and after the lease that was given first."""
    following = again.get((one.id, one.attempt))
    return following is not None and one.took is not None and one.at + one.lease <= following < one.at + one.took
