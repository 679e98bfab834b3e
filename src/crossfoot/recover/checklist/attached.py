"""How the attached queues are set, against what the book knows of the work they do. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from crossfoot.books.fate import Fate
from crossfoot.clock import micros
from crossfoot.recover.advice import Step
from crossfoot.recover.checklist.findings import Finding
from crossfoot.recover.checklist.survey import Attached, Survey
from crossfoot.recover.checklist.timing import deliveries
from crossfoot.recover.phrases import plural, span


def ask(survey: Survey) -> Iterator[Finding]:
    for attached in survey.service.attached.values():
        for text, remedy in _said(survey, attached):
            yield Finding(
                code="setting",
                queue=attached.name,
                text=f"queue {attached.name}: {text}",
                figures=attached.told.figures,
                next=tuple(remedy),
            )


def _said(survey: Survey, attached: Attached) -> Iterator[tuple[str, list[Step]]]:
    told = attached.told
    for warning in told.warnings:
        yield warning, []
    if attached.retention is not None and attached.retention < survey.recovery:
        yield (
            f"it forgets after {span(micros(attached.retention))}, and recovering may take {span(micros(survey.recovery))} (--recovery)",
            [Step("make its retention longer")],
        )
    if told.buries is False:
        yield (
            "it has no place for dead letters: what always fails is delivered for ever, and blocks what is behind it",
            [Step("give it one (on SQS a RedrivePolicy)")],
        )
    if (
        told.since_origin and told.dead_retention is not None and attached.retention is not None
        and told.dead_retention <= attached.retention
    ):  # fmt: skip
        yield (
            f"dead letters are forgotten {span(micros(told.dead_retention))} after the message was first sent, and the queue keeps it "
            f"for {span(micros(attached.retention))}: one that dies late is forgotten at once",
            [Step("make the retention of the dead letters longer than the queue's: 14 days")],
        )
    yield from _lease(survey, attached)
    if attached.dead is None or survey.of_type is not None:
        return  # what the queue counts is of all types
    of_queue = survey.balance.queues.get(attached.name)
    booked = of_queue.fates[Fate.DEAD.label] if of_queue is not None else 0
    if (unbooked := attached.dead - booked) > 0:
        yield (
            f"{plural(unbooked, 'dead letter')} of it {'is' if unbooked == 1 else 'are'} not in the book as dead: nobody watches them, or "
            "they are left of messages that came to something since, and of no use any more",
            [
                Step("start a worker: it books them within its `reconcile`", "crossfoot worker MODULE:NAME"),
                Step("then see them", f"crossfoot dead list --queue {shlex.quote(attached.name)}"),
            ],
        )


def _lease(survey: Survey, attached: Attached) -> Iterator[tuple[str, list[Step]]]:
    lease = attached.told.lease
    if lease is None:
        return
    took = [one.took for one in deliveries(survey) if one.queue == attached.name and one.took is not None]
    if took and max(took) > micros(lease):
        yield (
            f"its own visibility timeout is {span(micros(lease))}, and the slowest handling took {span(max(took))}: whoever receives from "
            "it without crossfoot gets a message twice",
            [Step(f"set it above {span(max(took))}")],
        )
