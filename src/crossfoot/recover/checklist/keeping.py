"""6: what was forgotten, and what will be before anybody handles it? Time to loss, by queue and by cause. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import msgspec

from crossfoot.books.entry import Kind
from crossfoot.books.failures import Standing
from crossfoot.books.fate import Fate
from crossfoot.books.losing import Ahead, ahead
from crossfoot.clock import SECOND, Micros, micros
from crossfoot.recover.advice import Step, bring_back, send_again
from crossfoot.recover.checklist.counting import is_there
from crossfoot.recover.checklist.findings import Finding, some
from crossfoot.recover.checklist.grouped import UNTOLD
from crossfoot.recover.checklist.survey import Attached, Survey
from crossfoot.recover.facts import told_in
from crossfoot.recover.phrases import plural, span

WINDOW: Micros = 10 * 60 * SECOND
"""Over the last of which it is measured how fast a queue is worked."""

CLOSING = frozenset((Kind.COMMITTED, Kind.NOOP, Kind.SUPERSEDED, Kind.SUPPRESSED, Kind.DEAD_LETTERED, Kind.EXPIRED))

AGED = 0.1
"""Share of the retention that must be over before a queue nobody works is called a loss ahead: else it was only just published."""


def ask(survey: Survey) -> Iterator[Finding]:
    yield from _expired(survey)
    for attached in survey.service.attached.values():
        yield from _queue_ahead(survey, attached)
        yield from _dead_ahead(survey, attached)


def _expired(survey: Survey) -> Iterator[Finding]:
    booked = {(line.queue, line.id): line for line in survey.lines if line.kind == Kind.EXPIRED and line.id is not None}
    members = survey.of(Fate.EXPIRED)
    for queue in sorted({one.queue for one in members}):
        own: list[Standing] = []
        forgotten: list[Standing] = []
        for one in members:
            if one.queue == queue:
                line = booked.get((queue, one.id))
                reason = str(told_in(line.details).get("reason") or "") if line is not None else ""
                (own if "expirytime" in reason else forgotten).append(one)
        for theirs, by in ((forgotten, "the retention of its queue"), (own, "an expirytime of its own")):
            if theirs:
                yield _forgotten(survey, queue, theirs, by, {id_: line.at for (_, id_), line in booked.items()})


def _forgotten(
    survey: Survey, queue: str, members: list[Standing], by: str, booked: dict[str | None, Micros]
) -> Finding:
    attached = survey.service.attached.get(queue)
    retention = attached.retention if attached is not None else None
    waited = max(booked.get(one.id, one.since) - one.since for one in members)
    never = sum(not one.received for one in members)
    told = f" of {span(micros(retention))}" if retention is not None and by.startswith("the retention") else ""
    figures = {"never received": f"{never:,}", "waited for": span(waited)}
    if retention is not None:
        figures["retention"] = span(micros(retention))
    return Finding(
        code="expired",
        queue=queue,
        text=f"{plural(len(members), 'message')} of queue {queue} expired unhandled: nobody handled it for longer than {by}{told}",
        count=len(members),
        ids=some(one.id for one in members),
        figures=figures,
        first_at=min(one.since for one in members),
        last_at=max(one.since for one in members),
        next=(
            Step("see when it was published, and when its time was over", f"crossfoot why {shlex.quote(members[0].id)}"),
            Step(f"make the retention of queue {queue} longer than the longest outage"),
            send_again(queue),
        ),
    )  # fmt: skip


class Drained(msgspec.Struct, frozen=True):
    """How fast a queue is worked: messages a second that ended, 0 where none did; and over which time that was measured."""

    rate: float
    over: str


def drained(survey: Survey, queue: str) -> Drained:
    """By the last ten minutes; by what the newest entries cover, where they do not reach so far back."""
    recent = [
        line.at for line in survey.lines
        if line.queue == queue and line.kind in CLOSING and survey.as_of - line.at <= WINDOW
    ]  # fmt: skip
    since, over = survey.as_of - WINDOW, f"the last {span(WINDOW)}"
    if len(survey.lines) >= survey.sample and survey.lines[0].at > since:
        since = survey.lines[0].at
        over = f"the newest {len(survey.lines):,} entries, the last {span(survey.as_of - since)}"
    elif survey.lines:
        since = max(since, survey.lines[0].at)
    return Drained(len(recent) / max((survey.as_of - since) / SECOND, 1.0) if recent else 0.0, over)


def _queue_ahead(survey: Survey, attached: Attached) -> Iterator[Finding]:
    if attached.retention is None:
        return
    waiting = sorted((one for one in survey.waiting if one.queue == attached.name), key=lambda one: one.since)
    if not waiting or not is_there(survey, attached.name):
        return
    speed = drained(survey, attached.name)
    rate = speed.rate
    retention = micros(attached.retention)
    left = [one.since + retention - survey.as_of for one in waiting]
    lost = [n for n, one in enumerate(waiting) if _is_lost(survey, n, one, rate, retention)]
    total = max(len(waiting), _waiting(survey, attached.name))
    # Of those behind the ones that were read only this is sure: none has more left than the whole retention.
    behind = (
        min(total - len(waiting), max(0, total - int(rate * retention / SECOND)))
        if rate and total > len(waiting)
        else 0
    )
    if not lost and not behind:
        return
    soonest = min((left[n] for n in lost), default=retention)
    first = lost[0] if lost else 0
    yield Finding(
        code="loss-ahead",
        queue=attached.name,
        text=f"queue {attached.name} forgets {plural(len(lost) + behind, 'message')} before anybody handles it, the first "
        f"{f'in {span(soonest)}' if soonest > 0 else 'at any moment'}",
        count=len(lost) + behind,
        ids=some(waiting[n].id for n in lost),
        figures={
            "retention": span(retention), "waiting": f"{total:,}", "handled a second": f"{rate:.3g}", "measured over": speed.over,
            "time to loss": span(max(soonest, 0)),
        },
        first_at=waiting[first].since,
        next=(
            Step("start more workers, or start one at all", "crossfoot worker MODULE:NAME"),
            Step("see the one that is lost first", f"crossfoot why {shlex.quote(waiting[first].id)}"),
            Step(f"or make the retention of queue {attached.name} longer, now"),
        ),
    )  # fmt: skip


def _is_lost(survey: Survey, place: int, one: Standing, rate: float, retention: Micros) -> bool:
    """Whether the queue forgets it before its turn, which is at `place` of those that wait."""
    left = one.since + retention - survey.as_of
    if one.fate is Fate.RETRYING and one.due > survey.as_of:
        return one.due > one.since + retention  # it is put off for longer than the queue remembers it
    # What was tried before is not handled at the queue's speed, however fast others are.
    if rate and not one.attempts:
        return place / rate * SECOND > left  # the oldest is handled first: the n-th in n / rate seconds
    return survey.as_of - one.since >= AGED * retention and left < micros(survey.recovery)


def _waiting(survey: Survey, queue: str) -> int:
    """How many wait in a queue, of which only the oldest were read one by one."""
    found = survey.balance.queues.get(queue)
    return sum(found.fates[fate.label] for fate in (Fate.QUEUED, Fate.RETRYING, Fate.STRANDED)) if found else 0


def _dead_ahead(survey: Survey, attached: Attached) -> Iterator[Finding]:
    """Dead letters, by cause. A standard queue of SQS counts their retention from when they were first sent."""
    retention = attached.told.dead_retention
    if retention is None:
        return
    dead = [one for one in survey.of(Fate.DEAD) if one.queue == attached.name]
    until: dict[str | None, list[Ahead]] = {}
    for found in ahead(
        dead, retention, since_origin=attached.told.since_origin, now=survey.as_of, within=micros(survey.recovery)
    ):
        until.setdefault(found.one.failed.cause if found.one.failed else None, []).append(found)
    for fingerprint, theirs in until.items():
        members, left = [one for _, one in theirs], theirs[0].left
        cause = survey.causes.get(fingerprint or "", UNTOLD)
        yield Finding(
            code="loss-ahead",
            queue=attached.name,
            text=f"the dead letters of queue {attached.name} are forgotten, the first {f'in {span(left)}' if left > 0 else 'by now'}: "
            f"{plural(len(members), 'message')}, {cause.title}",
            count=len(members),
            ids=some(one.id for one in members),
            figures={
                "cause": fingerprint or "none", "retention": span(micros(retention)), "time to loss": span(max(left, 0)),
                "counted from": "the first send" if attached.told.since_origin else "the death",
            },
            first_at=min(one.since for one in members),
            next=(
                Step("read why they died", f"crossfoot why {shlex.quote(members[0].id)}"),
                bring_back(fingerprint),
                Step("or make their retention longer: the longest there is, 14 days on SQS"),
            ),
        )  # fmt: skip
