"""What a program has stated and is not kept, for the checklist: expectations that are breached, invariants that do not hold."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.books.stock import Part
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.outcomes.evaluating import Report
from crossfoot.outcomes.invariant import Statement
from crossfoot.outcomes.summary import summarize
from crossfoot.recover.checklist.findings import SHOWN
from crossfoot.recover.checklist.survey import Promise
from crossfoot.recover.phrases import plural


def broken(connection: Connection, now: Micros, part: Part) -> Iterator[Promise]:
    """All of them, as of the last evaluation; of a part of the book none, since a promise is of the whole."""
    if part.queue is not None or part.type is not None:
        return
    found = summarize(connection, now, limit=SHOWN)
    yield from (_without(one) for one in found.expectations if one.missing)
    yield from (_violated(one) for one in found.invariants if one.result is not None and one.result.holds is not True)


def _without(one: Report) -> Promise:
    missing = one.missing_messages
    return Promise(
        text=f"{plural(one.missing, 'message')} {'is' if one.missing == 1 else 'are'} without what was promised: {one.text}",
        count=one.missing,
        ids=tuple(breach.id for breach in missing),
        of_messages=True,
        figures={
            "expectation": one.name, "messages": f"{one.opened:,}", "met": f"{one.met:,}", "late": f"{one.late:,}",
            "their fates": ", ".join(sorted({breach.fate for breach in missing})),
        },
        first_at=min((breach.due for breach in missing), default=None),
    )  # fmt: skip


def _violated(one: Statement) -> Promise:
    assert one.result is not None
    if one.result.holds is None:
        return Promise(text=f"nobody can tell whether the invariant holds: {one.name}: {one.result.error}")
    more = "at least " if one.result.at_least else ""
    return Promise(
        text=f"the invariant does not hold: {one.name}: {more}{plural(one.result.count, 'row')}",
        count=one.result.count,
        ids=one.result.ids,
    )
