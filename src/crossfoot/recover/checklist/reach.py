"""How far the checklist looked: what a finding and an answer rest on, where that is not all there is. Pure.

A bounded look never reads as a total: its finding says in its evidence what was looked at, and of how much where that is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from crossfoot.books.fate import Fate
from crossfoot.recover.checklist.findings import Finding
from crossfoot.recover.checklist.looking import MOST_COMPARED, alike
from crossfoot.recover.checklist.overtaken import wrongly
from crossfoot.recover.checklist.survey import WAITING, Survey
from crossfoot.recover.phrases import plural

FAILING = (Fate.DEAD, Fate.QUEUED, Fate.RETRYING, Fate.PROCESSING, Fate.IN_DOUBT)

READ: dict[str, tuple[Fate, ...]] = {
    "unregistered": FAILING, "swallowed": FAILING, "malformed": FAILING, "failing": FAILING, "dead-unread": (Fate.DEAD,),
    "acked-elsewhere": (Fate.VANISHED,), "refused": (Fate.REFUSED,), "publish-in-doubt": (Fate.IN_DOUBT, Fate.INTENDED),
    "commit-in-doubt": (Fate.IN_DOUBT,), "expired": (Fate.EXPIRED,), "no-payload": (Fate.DEAD,), "stale-replay": (Fate.DEAD,),
    "nobody-publishes": (Fate.QUEUED, Fate.RETRYING), "nobody-receives": (Fate.QUEUED, Fate.RETRYING, Fate.PARKED),
    "stranded": (Fate.QUEUED, Fate.RETRYING, Fate.PARKED), "stalled": (Fate.PROCESSING,),
    "blocked": (Fate.QUEUED, Fate.RETRYING), "loss-ahead": (Fate.DEAD, *WAITING),
}  # fmt: skip
"""Findings made of messages that were read one by one, and of which fates."""

ENTRIES = frozenset({"lease-too-short", "received-elsewhere"})
OPERATIONS = frozenset({"effect-twice", "out-of-order", "no-outcome", "stale-replay"})
"""Findings made of the newest entries, or of the newest operations."""

OVERDUE = {
    Fate.QUEUED: Fate.STRANDED,
    Fate.RETRYING: Fate.STRANDED,
    Fate.PARKED: Fate.STRANDED,
    Fate.PROCESSING: Fate.STALLED,
}
"""What the balance may call a message of a fate by now."""


def stated(survey: Survey, findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings, with what they rest on among their figures where that is not all."""
    read = survey.read
    return (_stated(survey, read, finding) for finding in findings)


def _stated(survey: Survey, read: Counter[Fate], finding: Finding) -> Finding:
    fates = READ.get(finding.code, ())
    if finding.code == "loss-ahead":  # of dead letters of one cause, or of what waits
        fates = (Fate.DEAD,) if "cause" in finding.figures else WAITING
    looked_at = "; ".join([*_of_fates(survey, read, fates), *_of_the_newest(survey, finding.code)])
    if not looked_at:
        return finding
    return msgspec.structs.replace(finding, figures={**finding.figures, "looked at": looked_at})


def _of_fates(survey: Survey, read: Counter[Fate], fates: Iterable[Fate]) -> Iterator[str]:
    cut = [fate for fate in fates if read[fate] >= survey.most]
    if cut:
        counted = survey.balance.fates
        labels = {label for fate in cut for label in (fate.label, OVERDUE.get(fate, fate).label)}
        looked = sum(read[fate] for fate in cut)
        of = max(looked, sum(counted.get(label, 0) for label in labels))
        yield f"{looked:,} of the {of:,} messages that are {' or '.join(fate.label for fate in cut)}"


def _of_the_newest(survey: Survey, code: str) -> Iterator[str]:
    if code == "effect-twice" and (may := sum(map(len, alike(survey.done)))) > MOST_COMPARED:
        yield f"what {MOST_COMPARED:,} carried, the newest of {may:,} that may ask for the same"
    if code in ENTRIES and len(survey.lines) >= survey.sample:
        yield f"the newest {len(survey.lines):,} entries"
    if code in OPERATIONS and survey.operations >= survey.sample:
        yield f"the newest {survey.operations:,} operations"


def note(survey: Survey, question: str) -> str:
    """What limits the answer to a question."""
    return "; ".join(_notes(survey, question))


def _notes(survey: Survey, question: str) -> Iterator[str]:
    if question == "once" and survey.service.veiled:
        yield "what messages carried is not compared: the program has it stored in another form"
    if question in ("time", "once", "outcomes") and not survey.complete:
        yield f"of the newest {len(survey.lines):,} entries and {survey.operations:,} operations"
    if question in ("publish", "balance", "dead", "retention", "replay") and survey.more:
        yield f"of {survey.most:,} messages of each fate, where there are more"
    if question == "once":
        yield from _unjudged(survey)


def _unjudged(survey: Survey) -> Iterator[str]:
    """Events that took effect after later ones, and of which nobody but their handler knows whether that matters."""
    followed = [one for one in survey.overtaken if one.event.key in survey.trails]
    known = sum(wrongly(one, survey.trails) is not None for one in followed)
    if count := len(followed) - known:
        yield (
            f"{plural(count, 'event')} took effect after a later one of the subject, by a retry, several workers or a replay: that is "
            "well where the handler does not mind the order"
        )
    if rest := len(survey.overtaken) - len(followed):
        yield f"{plural(rest, 'more such event is', 'more such events are')} older, and {'was' if rest == 1 else 'were'} not looked at"
