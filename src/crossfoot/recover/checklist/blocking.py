"""4, too: does one message that fails again and again hold up others, with which nothing is wrong? Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from crossfoot.books.failures import Standing
from crossfoot.books.fate import Fate
from crossfoot.recover.advice import Step
from crossfoot.recover.checklist.findings import Finding, some
from crossfoot.recover.checklist.looking import TRIED
from crossfoot.recover.checklist.survey import Survey
from crossfoot.recover.phrases import plural, span


def ask(survey: Survey) -> Iterator[Finding]:
    lines: dict[tuple[str, str], list[Standing]] = {}
    traffic = Traffic(survey)
    for one in survey.waiting:
        if (line := survey.partitions.get(one.key) or one.subject) is not None:
            lines.setdefault((one.queue, line), []).append(one)
    for (queue, line), members in sorted(lines.items()):
        first, *behind = sorted(members, key=lambda one: one.key)
        if first.failed is None or first.attempts < TRIED:
            continue
        queued = [one for one in behind if one.fate is Fate.QUEUED]
        held = [*(queued if traffic.passes(queue, members, queued) else ()), *_parked(survey, first)]
        if held:
            yield _finding(survey, line, first, held)


def _finding(survey: Survey, line: str, first: Standing, held: list[Standing]) -> Finding:
    assert first.failed is not None
    cause = survey.causes.get(first.failed.cause)
    return Finding(
        code="blocked",
        queue=first.queue,
        text=f"{first.id} failed {first.attempts:,} times and is tried again and again; {plural(len(held), 'message')} of {line} "
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


class Traffic:
    """What else a queue has: the last that was done of each subject, and those that wait, the oldest first."""

    def __init__(self, survey: Survey) -> None:
        last: dict[str, dict[str | None, int]] = {}
        for done in survey.done:
            of_queue = last.setdefault(done.queue, {})
            of_queue[done.subject] = max(done.key, of_queue.get(done.subject, done.key))
        self._last = {
            queue: sorted(((key, subject) for subject, key in of_queue.items()), key=lambda pair: -pair[0])
            for queue, of_queue in last.items()
        }
        self._queued: dict[str, list[int]] = {}
        for one in sorted(survey.waiting, key=lambda one: one.key):
            if one.fate is Fate.QUEUED:
                self._queued.setdefault(one.queue, []).append(one.key)

    def passes(self, queue: str, line: list[Standing], held: list[Standing]) -> bool:
        """Whether those behind wait for it, and not for their turn: others that came later were received, or nothing is before them."""
        if not held:
            return False
        oldest, keys, subjects = min(one.key for one in held), {one.key for one in line}, {one.subject for one in line}
        last = next((key for key, subject in self._last.get(queue, ()) if subject not in subjects), 0)
        first = next((key for key in self._queued.get(queue, ()) if key not in keys), oldest)
        return last > oldest or first >= oldest


def _parked(survey: Survey, first: Standing) -> list[Standing]:
    """Later events of its subject that a handler which takes them in order has put aside until it was applied."""
    if first.subject is None or first.sequence is None:
        return []
    return [
        one for one in survey.parked
        if (one.queue, one.subject) == (first.queue, first.subject) and one.sequence is not None and one.sequence > first.sequence
    ]  # fmt: skip
