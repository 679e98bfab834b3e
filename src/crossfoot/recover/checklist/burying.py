"""3: what lies in the dead letters, what is on its way there, and why? By cause. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from crossfoot.books.fate import Fate
from crossfoot.recover.advice import Step, bring_back
from crossfoot.recover.checklist.findings import Finding, some
from crossfoot.recover.checklist.grouped import Background, CauseGroup, grouped
from crossfoot.recover.checklist.looking import TRIED
from crossfoot.recover.checklist.survey import Survey
from crossfoot.recover.phrases import listed, plural, span

OURS = "crossfoot.errors."

KINDS = {
    f"{OURS}NoProof": "swallowed",
    f"{OURS}UnknownType": "unregistered",
    f"{OURS}EnvelopeInvalid": "malformed",
    f"{OURS}PayloadInvalid": "malformed",
}
"""Causes that are a diagnosis by themselves, by the exception's name."""

ELSEWHERE = {f"{OURS}LeaseLost"}
"""Causes that another question is about: see `timing`."""

PUT_OFF = {f"{OURS}{name}" for name in ("HandlerBusy", "Rejected", "Overloaded")}
"""Work that was refused for now: that is how bounds work, and no failure while it is tried again."""


def groups(survey: Survey) -> list[CauseGroup]:
    """All that failed and is not settled, by cause."""
    failing = [*survey.waiting, *survey.of(Fate.IN_DOUBT)]
    return grouped([*survey.of(Fate.DEAD), *failing], Background(survey.causes, survey.workers, survey.born))


def ask(survey: Survey) -> Iterator[Finding]:
    tries = {one.id: one.attempts for one in survey.waiting}
    for group in groups(survey):
        code = KINDS.get(group.kind, "failing" if group.fingerprint else "dead-unread")
        if group.kind in ELSEWHERE or (group.kind in PUT_OFF and not group.dead):
            continue
        if code == "failing" and not group.dead and max(tries.get(id_, 0) for id_ in group.ids) < TRIED:
            continue
        yield Finding(
            code=code,
            text=_text(code, group),
            count=group.messages,
            ids=some(group.ids),
            queue=next(iter(group.queues)) if len(group.queues) == 1 else None,
            figures=_figures(group),
            first_at=group.first_at,
            last_at=group.last_at,
            next=tuple(_next(code, group)),
        )


def _text(code: str, group: CauseGroup) -> str:
    count, what = plural(group.messages, "message"), listed(sorted(group.types))
    if code == "swallowed":
        return (
            f"{group.title.partition(' at ')[2] or 'a handler'} returned for {count} ({what}) and nothing shows that it did its work: it "
            "catches an exception and does not raise it again"
        )
    if code == "unregistered":
        return f"no handler takes {what}: {count}, {_where(group)}; the version that is at work does not have it"
    if code == "malformed":
        return f"{count} ({what}) cannot be read as what their handler wants: {group.title}; {_where(group)}"
    if code == "dead-unread":
        return f"{count} ({what}) lies in the dead letters, and nobody booked why: the queue gave up by itself"
    return f"{count} ({what}) failed of one cause, {group.title}: {_where(group)}"


def _where(group: CauseGroup) -> str:
    parts = [f"{group.dead:,} dead" if group.dead else "", f"{group.failing:,} tried again" if group.failing else ""]
    return " and ".join(part for part in parts if part)


def _figures(group: CauseGroup) -> dict[str, str]:
    told = {
        "cause": group.fingerprint or "none",
        "raised in": group.raised or "",
        "dead": f"{group.dead:,}",
        "tried again": f"{group.failing:,}",
        "over": span(group.last_at - group.first_at),
        "a minute": f"{group.per_minute:g}",
        "subjects": f"{group.subjects:,}",
        "workers": listed(list(group.workers)),
        "began with": "; ".join(group.changes),
    }
    return {name: value for name, value in told.items() if value}


def _next(code: str, group: CauseGroup) -> Iterator[Step]:
    first = shlex.quote(group.ids[0])
    if code == "unregistered":
        yield Step(
            f"start the version that has a handler for {listed(sorted(group.types))}", "crossfoot worker MODULE:NAME"
        )
    elif group.raised:
        yield Step(f"mend what raised in {group.raised}")
    yield Step("read the whole story of the first", f"crossfoot why {first}")
    if group.fingerprint:
        yield Step("see since when, how fast and where", f"crossfoot causes {group.fingerprint}")
    if group.dead:
        yield bring_back(group.fingerprint)
