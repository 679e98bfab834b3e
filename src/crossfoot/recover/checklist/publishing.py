"""1: was everything accepted, and under its own id? Pure."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches

from crossfoot.books.entry import Kind
from crossfoot.books.failures import Standing
from crossfoot.books.fate import Fate
from crossfoot.effects.handler import matcher
from crossfoot.recover.advice import Step, send_again
from crossfoot.recover.checklist.findings import Finding, some
from crossfoot.recover.checklist.survey import Survey
from crossfoot.recover.phrases import listed, plural


def ask(survey: Survey) -> Iterator[Finding]:
    yield from _nobody_publishes(survey)
    yield from _refused(survey)
    yield from _in_doubt(survey)


def _nobody_publishes(survey: Survey) -> Iterator[Finding]:
    """Two names for what was meant to be one queue: workers receive from one, and the messages lie in the other."""
    taken = {name: queue.boundaries for name, queue in survey.balance.queues.items()}
    idle = {name for name, accepted in survey.opened.items() if not accepted and not any(taken.get(name, {}).values())}
    worked = survey.service.queue
    if worked is not None and not any(taken.get(worked, {}).values()):
        idle.add(worked)
    if worked is not None and worked not in idle:
        idle.clear()
    for name in sorted(set(taken) - idle - set(survey.service.sends_to)):
        waiting = [one for one in survey.waiting if one.queue == name and not one.received]
        if not idle or not waiting or taken[name].get(Kind.RECEIVED.label):
            continue
        if not get_close_matches(name, idle, 1) and not (worked in idle and _takes_some(survey, waiting)):
            continue  # a queue of another service's: neither its name nor what lies in it is that of this one
        theirs = listed(sorted(idle))
        yield Finding(
            code="nobody-publishes",
            queue=name,
            text=f"queue {theirs} is worked, and nothing was ever published to it; {plural(len(waiting), 'message')} "
            f"{'lies' if len(waiting) == 1 else 'lie'} in queue {name}, from which nobody ever received: one name is wrong",
            count=len(waiting),
            ids=some(one.id for one in waiting),
            figures={"published to": name, "worked": theirs, "workers at work": str(len(survey.at_work))},
            first_at=min(one.since for one in waiting),
            last_at=max(one.since for one in waiting),
            next=(
                Step(f"have the workers receive from queue {name}, or the publisher send to {theirs}"),
                Step("see what each queue holds", f"crossfoot balance --queue {shlex.quote(name)}"),
                Step("see one of the messages", f"crossfoot why {shlex.quote(waiting[0].id)}"),
            ),
        )


def _takes_some(survey: Survey, waiting: list[Standing]) -> bool:
    """Whether the program has a handler for what waits there."""
    patterns = [matcher(handler.type) for handler in survey.service.handlers or ()]
    return any(re.fullmatch(pattern, type_) for type_ in {one.type for one in waiting} for pattern in patterns)


def _refused(survey: Survey) -> Iterator[Finding]:
    for queue, members in _by_queue(survey.of(Fate.REFUSED)):
        accepted = survey.balance.queues[queue].boundaries.get(Kind.PUBLISHED.label, 0)
        types = Counter(one.type for one in members)
        yield Finding(
            code="refused",
            queue=queue,
            text=f"queue {queue} refused {plural(len(members), 'message')} for good, while it accepted {accepted:,}: a batch that is "
            "partly refused is no error to a sender who does not read each answer",
            count=len(members),
            ids=some(one.id for one in members),
            figures={
                "accepted": f"{accepted:,}",
                **{f"refused {type_}": f"{count:,}" for type_, count in types.items()},
            },
            first_at=min(one.since for one in members),
            last_at=max(one.since for one in members),
            next=(Step("read why it was refused", f"crossfoot why {shlex.quote(members[0].id)}"), send_again(queue)),
        )


def _in_doubt(survey: Survey) -> Iterator[Finding]:
    late = [
        one for one in survey.of(Fate.IN_DOUBT, Fate.INTENDED)
        if one.latest % 32 != Kind.COMMIT_IN_DOUBT and one.due and survey.as_of > one.due + survey.patience.intended
    ]  # fmt: skip
    for queue, members in _by_queue(late):
        yield Finding(
            code="publish-in-doubt",
            queue=queue,
            text=f"{plural(len(members), 'message')} for queue {queue} {'was' if len(members) == 1 else 'were'} decided on and never "
            "confirmed: no relay sends them",
            count=len(members),
            ids=some(one.id for one in members),
            first_at=min(one.at for one in members),
            last_at=max(one.at for one in members),
            next=(
                Step("start a worker of the service: it sends them again, under their ids", "crossfoot worker MODULE:NAME"),
                Step("see one of them", f"crossfoot why {shlex.quote(members[0].id)}"),
                Step(
                    "or take one back that need not happen", f"crossfoot discard {shlex.quote(members[0].id)} --reason '...'"
                ),
            ),
        )  # fmt: skip


def _by_queue(members: list[Standing]) -> Iterator[tuple[str, list[Standing]]]:
    for queue in sorted({one.queue for one in members}):
        yield queue, [one for one in members if one.queue == queue]
