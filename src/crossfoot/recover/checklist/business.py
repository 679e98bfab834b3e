"""7: did the business happen, or only the handling? Outcomes against what was settled, from the newest of both. Pure."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from crossfoot.books.entry import Kind
from crossfoot.books.habits import NEARLY_ALL
from crossfoot.books.habits import TELLING as ENOUGH
from crossfoot.books.lately import Done
from crossfoot.recover.advice import Step
from crossfoot.recover.checklist.findings import Finding, some
from crossfoot.recover.checklist.survey import Promise, Survey
from crossfoot.recover.phrases import span


def ask(survey: Survey) -> Iterator[Finding]:
    for promise in survey.service.promises:
        yield _broken(promise)
    yield from _without(survey)


def _broken(promise: Promise) -> Finding:
    """What the program has stated by itself, as of its last evaluation."""
    step = Step("see all that is missing, and where each stands", "crossfoot outcomes")
    why = (
        [Step("see what happened to the first", f"crossfoot why {shlex.quote(promise.ids[0])}")] if promise.ids else []
    )
    return Finding(
        code="promise-broken",
        text=promise.text,
        count=promise.count,
        ids=some(promise.ids),
        of_messages=promise.of_messages,
        figures=promise.figures,
        first_at=promise.first_at,
        next=(*(why if promise.of_messages else []), step),
    )


def _without(survey: Survey) -> Iterator[Finding]:
    names: dict[int, set[str]] = {}
    for outcome in survey.outcomes:
        names.setdefault(outcome.message, set()).add(outcome.name)
    # Of older messages the outcomes may be out of the sample, and not missing.
    reach = min(outcome.at for outcome in survey.outcomes) if len(survey.outcomes) == survey.sample else 0
    by_type: dict[tuple[str, str], list[Done]] = {}
    for one in survey.done:
        if one.kind == Kind.COMMITTED and one.at > reach:
            by_type.setdefault((one.queue, one.type), []).append(one)
    for (queue, type_), settled in sorted(by_type.items()):
        habits = Counter(name for one in settled for name in names.get(one.key, ()))
        for name, count in sorted(habits.items()):
            beside = {other for one in settled if name in names.get(one.key, ()) for other in names[one.key]}
            # What ends with an outcome that is never beside this one ended in another way, and not without.
            has = [bool(names.get(one.key, set()) - beside) or name in names.get(one.key, ()) for one in settled]
            missing = _unusual(has)
            if missing:
                yield _finding(queue, type_, name, count, settled, missing)


def _unusual(has: Sequence[bool]) -> list[int]:
    """Places of the settled messages that lack what nearly all have: of all of them, or of those before it stopped."""
    if len(has) <= ENOUGH:
        return []
    if sum(has) >= NEARLY_ALL * len(has):
        return [place for place, one in enumerate(has) if not one]
    last = max(place for place, one in enumerate(has) if one)
    before, after = has[: last + 1], has[last + 1 :]
    if len(after) >= ENOUGH and len(before) >= ENOUGH and sum(before) >= NEARLY_ALL * len(before):
        return [place for place, one in enumerate(has) if not one]
    return []


def _finding(queue: str, type_: str, outcome: str, count: int, settled: list[Done], places: list[int]) -> Finding:
    missing = [settled[place] for place in places]
    stopped = places == list(range(places[0], len(settled))) and len(places) >= ENOUGH
    how = "and since some time none of them did" if stopped else f"nearly all of them, but {len(missing):,} did not"
    return Finding(
        code="no-outcome",
        queue=queue,
        text=f"messages of type {type_} end with {outcome}, {how}: handled and settled, and nothing tells that the business happened",
        count=len(missing),
        ids=some(one.id for one in missing),
        figures={
            "settled": f"{len(settled):,}", f"with {outcome}": f"{count:,}",
            "over": span(settled[-1].at - settled[0].at),
        },
        first_at=missing[0].at,
        last_at=missing[-1].at,
        next=(
            Step("see what the first was settled by", f"crossfoot why {shlex.quote(missing[0].id)}"),
            Step(f"if each must have it, have it proved: @app.handler({type_!r}, proves={outcome!r})"),
        ),
    )  # fmt: skip
