"""The checklist, walked: an answer to each question, and the findings with the most telling first. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import msgspec

from crossfoot.clock import Micros
from crossfoot.recover.checklist import (
    attached,
    burying,
    business,
    counting,
    keeping,
    once,
    publishing,
    reach,
    replaying,
    timing,
)
from crossfoot.recover.checklist.findings import QUESTIONS, Finding, ranked
from crossfoot.recover.checklist.survey import Survey
from crossfoot.recover.phrases import listed

Question = Callable[[Survey], Iterable[Finding]]

ASKED: dict[str, Question] = {
    "publish": publishing.ask, "balance": counting.ask, "dead": burying.ask, "time": timing.ask, "once": once.ask,
    "retention": keeping.ask, "outcomes": business.ask, "replay": replaying.ask, "settings": attached.ask,
}  # fmt: skip


class Answer(msgspec.Struct, frozen=True):
    """One question. `verdict` is `well`, `found` or `not asked`; `findings` counts what was found, and `note` says what limits it."""

    question: str
    asks: str
    verdict: str
    findings: int
    note: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The checklist's answers as of a time."""

    as_of: Micros
    answers: tuple[Answer, ...]
    findings: tuple[Finding, ...]

    @property
    def well(self) -> bool:
        """Whether nothing was found that nobody has accepted."""
        return all(finding.accepted for finding in self.findings)


def walk(survey: Survey, accepted: Collection[str] = ()) -> Report:
    """Ask all questions.

    Args:
        accepted: codes of findings that are known, or `CODE:QUEUE` where that is of one queue only.
    """
    found = list(reach.stated(survey, (finding for ask in ASKED.values() for finding in ask(survey))))
    findings = ranked(
        msgspec.structs.replace(one, accepted=bool({one.code, f"{one.code}:{one.queue}"} & set(accepted)))
        for one in _without_symptoms(found)
    )
    return Report(as_of=survey.as_of, answers=tuple(_answers(survey, findings)), findings=findings)


def _without_symptoms(found: list[Finding]) -> list[Finding]:
    """Without what another finding says already of the very same messages: waiting is told by who keeps them waiting."""
    told = {id_ for one in found if one.code in ("nobody-publishes", "blocked") for id_ in one.ids}
    waits = ("nobody-receives", "stranded", "loss-ahead", "failing")
    return [one for one in found if one.code not in waits or not one.ids or not told.issuperset(one.ids)]


def _answers(survey: Survey, findings: Collection[Finding]) -> Iterable[Answer]:
    for question, asks in QUESTIONS.items():
        mine = [one for one in findings if one.question == question]
        note = _unasked(survey, question) or reach.note(survey, question)
        open_ = any(not one.accepted for one in mine)
        asked = question != "settings" or survey.service.attached
        yield Answer(question, asks, "found" if open_ else "well" if asked else "not asked", len(mine), note)


def _unasked(survey: Survey, question: str) -> str:
    if question == "balance" and (unknown := counting.not_known(survey)):
        return unknown
    if question in ("settings", "retention") and survey.service.unasked:
        return f"not asked: {listed(survey.service.unasked)}"
    return ""
