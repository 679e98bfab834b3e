"""4: does the handling fit into the lease, and does nothing hold up what waits behind it? From the newest entries. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from math import ceil

import msgspec

from crossfoot.books.entry import Kind
from crossfoot.books.failures import Standing
from crossfoot.books.fate import Fate
from crossfoot.books.lines import Line
from crossfoot.clock import Micros
from crossfoot.recover.advice import Step
from crossfoot.recover.checklist.findings import Finding, some
from crossfoot.recover.checklist.survey import Survey
from crossfoot.recover.phrases import plural, span

ENDS = frozenset((Kind.COMMITTED, Kind.NOOP, Kind.SUPERSEDED, Kind.SUPPRESSED, Kind.FAILED, Kind.DEAD_LETTERED))

LEASE_LOST = "crossfoot.errors.LeaseLost"

TRIED = 3
"""Failed deliveries after which a message is said to hold up those behind it."""


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
    yield from _blocked(survey)


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
    held = deliveries(survey)
    for queue, type_ in sorted({(one.queue, one.type) for one in held}):
        theirs = [one for one in held if (one.queue, one.type) == (queue, type_)]
        again = {(one.id, one.attempt - 1): one.at for one in theirs}
        lost = [one for one in theirs if one.lost or _overtaken(one, again)]
        if not lost:
            continue
        took = [one.took for one in theirs if one.took is not None]
        lease = max(one.lease for one in lost)
        longest = max(took, default=lease)
        yield Finding(
            code="lease-too-short",
            queue=queue,
            text=f"handling {type_} takes up to {span(longest)}, and its lease on queue {queue} is {span(lease)}: "
            f"{plural(len({one.id for one in lost}), 'message')} came to somebody else while it was still being handled",
            count=len({one.id for one in lost}),
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
        )  # fmt: skip


def _overtaken(one: Held, again: dict[tuple[str, int], Micros]) -> bool:
    """Whether the next delivery began before this one had ended, and after the lease that was given first."""
    following = again.get((one.id, one.attempt))
    return following is not None and one.took is not None and one.at + one.lease <= following < one.at + one.took


def _blocked(survey: Survey) -> Iterator[Finding]:
    lines: dict[tuple[str, str], list[Standing]] = {}
    for one in survey.waiting:
        if one.subject is not None:
            lines.setdefault((one.queue, one.subject), []).append(one)
    for (queue, subject), members in sorted(lines.items()):
        first, *behind = sorted(members, key=lambda one: one.key)
        held = [one for one in behind if one.fate is Fate.QUEUED]
        if (
            first.failed is None
            or first.attempts < TRIED
            or not held
            or not _is_the_reason(survey, queue, subject, held)
        ):
            continue
        cause = survey.causes.get(first.failed.cause)
        yield Finding(
            code="blocked",
            queue=queue,
            text=f"{first.id} failed {first.attempts:,} times and is tried again and again; {plural(len(held), 'message')} of {subject} "
            f"{'waits' if len(held) == 1 else 'wait'} behind it, and nothing is wrong with them",
            count=1 + len(held),
            ids=some([first.id, *(one.id for one in held)]),
            figures={
                "blocks": first.id,
                "deliveries": f"{first.attempts:,}",
                "cause": cause.title if cause else first.failed.cause,
                "waits behind": f"{len(held):,}",
                "since": span(survey.as_of - first.since),
            },
            first_at=first.since,
            last_at=first.failed.at,
            next=(
                Step("see what is wrong with the first", f"crossfoot why {shlex.quote(first.id)}"),
                Step("give it up sooner: lower `attempts`, and on the queue itself its limit of deliveries"),
            ),
        )


def _is_the_reason(survey: Survey, queue: str, subject: str, held: list[Standing]) -> bool:
    """Whether those behind wait for it, and not for their turn: others that came later were received, or nothing is before them."""
    oldest = min(one.key for one in held)
    if any(done.queue == queue and done.key > oldest and done.subject != subject for done in survey.done):
        return True
    return not any(
        one.queue == queue and one.subject != subject and one.fate is Fate.QUEUED and one.key < oldest
        for one in survey.waiting
    )
