"""5: does anything take effect twice, or in the wrong order? From the newest operations. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from crossfoot.books.entry import Kind
from crossfoot.books.lately import Done
from crossfoot.recover.advice import Step
from crossfoot.recover.checklist.findings import Finding, some
from crossfoot.recover.checklist.looking import HOUR, alike
from crossfoot.recover.checklist.overtaken import wrongly
from crossfoot.recover.checklist.survey import Survey
from crossfoot.recover.phrases import listed, plural


def ask(survey: Survey) -> Iterator[Finding]:
    yield from _twice(survey)
    yield from _out_of_order(survey)


def _twice(survey: Survey) -> Iterator[Finding]:
    """One business action under several ids: of one type and subject, with the same payload, each an operation of its own."""
    outcomes: dict[int, list[str]] = {}
    for outcome in survey.outcomes:
        outcomes.setdefault(outcome.message, []).append(outcome.name)
    found: dict[tuple[str, str], list[list[Done]]] = {}
    for group in alike(survey.done):
        by_payload: dict[bytes, list[Done]] = {}
        for one in group:
            if one.kind == Kind.COMMITTED and one.key in survey.alike:
                by_payload.setdefault(survey.alike[one.key], []).append(one)
        for same in by_payload.values():
            if len(same) > 1 and not _is_habit(same):
                found.setdefault((same[0].queue, same[0].type), []).append(same)
    for (queue, type_), groups in sorted(found.items()):
        members = [one for same in groups for one in same]
        extra = len(members) - len(groups)
        names = sorted({name for one in members for name in outcomes.get(one.key, ())})
        yield Finding(
            code="effect-twice",
            queue=queue,
            text=f"{plural(len(groups), 'business action')} of type {type_} took effect {len(members):,} times: the same was asked for "
            f"under several ids, and {_keyless(members)}, so each id was an operation of its own",
            count=len(members),
            ids=some(one.id for one in members),
            figures={
                "too many": f"{extra:,}",
                "subjects": f"{len({one.subject for one in members}):,}",
                "outcomes": listed(names),
                "without a stated operation": f"{sum(one.of_itself for one in survey.done):,} of the newest {len(survey.done):,}",
            },
            first_at=min(one.at for one in members),
            last_at=max(one.at for one in members),
            next=(
                Step(f"if that is one action, name it: @app.handler({type_!r}, operation='...:{{subject}}:...')"),
                Step("see both of the first", f"crossfoot why {shlex.quote(str(members[0].subject))}"),
                Step("undo by hand what took effect too often: the book has each of them"),
            ),
        )  # fmt: skip


HABIT = 4
"""As often, and for longer than an hour, something repeats that is meant to: a sign of life, a reading."""


def _is_habit(same: list[Done]) -> bool:
    times = [one.at for one in same]
    return len(same) >= HABIT and max(times) - min(times) > HOUR


def _keyless(members: list[Done]) -> str:
    if all(one.of_itself for one in members):
        return "the handler states no operation key"
    return "the handler's operation key names the message's id"


def _out_of_order(survey: Survey) -> Iterator[Finding]:
    """Applied after an event that comes later in its subject's own order, where the messages prove that this was wrong."""
    late: dict[str, list[tuple[Done, Done]]] = {}
    for one in survey.overtaken:
        before = wrongly(one, survey.trails)
        if before is not None:
            late.setdefault(one.event.queue, []).append((one.event, before))
    for queue, pairs in sorted(late.items()):
        first, overtaken = pairs[0]
        types = sorted({one.type for pair in pairs for one in pair})
        yield Finding(
            code="out-of-order",
            queue=queue,
            text=f"{plural(len(pairs), 'event')} of queue {queue} took effect after a later one of the same subject: {first.id} "
            f"({first.type}, sequence {first.sequence}) after {overtaken.id} ({overtaken.type}, sequence {overtaken.sequence}), "
            f"which {_proof(first, overtaken, survey)}",
            count=len(pairs),
            ids=some(one.id for one, _ in pairs),
            figures={
                "subjects": f"{len({one.subject for one, _ in pairs}):,}",
                "types": listed(types),
                "overtaken by": listed([before.id for _, before in pairs[:3]]),
            },
            first_at=min(one.at for one, _ in pairs),
            last_at=max(one.at for one, _ in pairs),
            next=(
                Step("take each subject's events in order: one handler for all of its types, with in_order=True"),
                Step("see the first subject's events", f"crossfoot why {shlex.quote(str(first.subject))}"),
            ),
        )


def _proof(first: Done, overtaken: Done, survey: Survey) -> str:
    predecessor = survey.trails[overtaken.key].predecessor
    if predecessor is not None and first.sequence is not None and first.sequence <= predecessor:
        return f"names sequence {predecessor} as the one before it"
    return "was sent first" if survey.trails[first.key].sent else "came first"
