"""8: what would go wrong if the dead letters were sent again? Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from crossfoot.books.fate import Fate
from crossfoot.effects.handler import matcher
from crossfoot.recover.advice import Step
from crossfoot.recover.checklist.findings import Finding, some
from crossfoot.recover.checklist.overtaken import family
from crossfoot.recover.checklist.survey import HandlerTold, Survey
from crossfoot.recover.phrases import plural


def ask(survey: Survey) -> Iterator[Finding]:
    gone = [one for one in survey.of(Fate.DEAD) if one.key in survey.unkept]
    if gone:
        yield Finding(
            code="no-payload",
            text=f"the book does not keep what {plural(len(gone), 'dead letter')} carried: only the queue does, while it keeps them",
            count=len(gone),
            ids=some(one.id for one in gone),
            next=(
                Step("keep payloads from now on: payloads = true"),
                Step("see the first", f"crossfoot dead show {shlex.quote(gone[0].id)}"),
            ),
        )  # fmt: skip
    yield from _stale(survey)


def _in_order(handlers: Sequence[HandlerTold] | None, type_: str) -> bool:
    """Whether every handler that takes this type takes each subject's events in order; not where nobody knows."""
    theirs = [one.in_order for one in handlers or () if re.fullmatch(matcher(one.type), type_)]
    return bool(theirs) and all(theirs)


def _stale(survey: Survey) -> Iterator[Finding]:
    """Older than what has been applied to their subject since: harmless where the handler takes events in order, and only there. Another
    kind of events of the same subject is counted by itself."""
    handlers = survey.service.handlers
    highest: dict[tuple[str, str, str], int] = {}
    for one in survey.done:
        if one.subject is not None and one.sequence is not None:
            place = (one.queue, one.subject, family(one.type))
            highest[place] = max(one.sequence, highest.get(place, one.sequence))
    stale = [
        one for one in survey.of(Fate.DEAD)
        if one.subject is not None and one.sequence is not None and not _in_order(handlers, one.type)
        and one.sequence < highest.get((one.queue, one.subject, family(one.type)), one.sequence)
    ]  # fmt: skip
    if stale:
        yield Finding(
            code="stale-replay",
            text=f"later events of the same subject have been applied since {plural(len(stale), 'dead letter')} died: sent again, it would "
            "take effect after them, unless its handler has in_order",
            count=len(stale),
            ids=some(one.id for one in stale),
            next=(
                Step("take each subject's events in order, before anything is sent again: in_order=True"),
                Step("see what came after the first", f"crossfoot why {shlex.quote(str(stale[0].subject))}"),
            ),
        )  # fmt: skip
