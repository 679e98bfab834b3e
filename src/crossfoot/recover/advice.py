"""What to do next: concrete commands, none where there is nothing to do."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import msgspec

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.record import UNREADABLE
from crossfoot.recover.discarding import OPEN_INTENTS
from crossfoot.recover.expecting import Expected, makeup
from crossfoot.recover.facts import Facts, details


class Step(msgspec.Struct, frozen=True):
    """Something to do, and the command that does it (`None` where no command can)."""

    do: str
    command: str | None = None


LOOK = "look at what it carried"
AGAIN = (
    "once that is mended, have the service of queue {queue} send it again under the same id, with its payload, mended if need be: what "
    "took effect before does not again"
)


def advise(facts: Facts, fate: Fate | None, expected: Sequence[Expected] = ()) -> list[Step]:
    """What a person should do about a message of this fate, and about what is missing of what was promised after it."""
    made_up_for = [Step(do, command) for do, command in makeup(expected, fate, facts.row.id)]
    return [*_about(facts, fate), *_unusual(facts, fate, expected), *made_up_for]


def _unusual(facts: Facts, fate: Fate | None, expected: Sequence[Expected]) -> list[Step]:
    """What others of its kind end with, and this one did not, though nobody has promised it."""
    if fate is not Fate.SETTLED or facts.habit is None or facts.outcomes:
        return []
    promised = {one.outcome for one in expected}
    return [
        Step(
            f"see whether {name} is missing: {facts.habit.outcomes[name]} of the last {facts.habit.of} {facts.row.type} that took effect "
            "ended with it, and this one recorded no outcome",
            "crossfoot check",
        )
        for name in facts.habit.usual
        if name not in promised
    ]


def _about(facts: Facts, fate: Fate | None) -> list[Step]:
    name, queue = shlex.quote(facts.row.id), shlex.quote(facts.row.queue)
    work = Step("start a worker of its service", "crossfoot worker MODULE:NAME")
    payload = Step(LOOK, f"crossfoot why {name} --payload")
    again = _again(facts)
    if fate is None:
        return [Step("rebuild the book from its entries and see what is missing", "crossfoot verify")]
    if fate is Fate.DEAD:
        if facts.owner is not None and facts.owner.row.key != facts.row.key:
            owner = shlex.quote(facts.owner.row.id)
            return [
                payload,
                Step("nothing need be sent: another message completed its operation", f"crossfoot why {owner}"),
            ]
        return [
            *_mend(facts), payload, Step("see which others died of the same cause", "crossfoot dead list --by-cause"),
            *_all_of_it(facts), again,
        ]  # fmt: skip
    if fate is Fate.STRANDED:
        others = Step("see whether others wait, too", f"crossfoot balance --queue {queue}")
        if facts.last(Kind.RECEIVED) is not None:
            return [work, others]
        ask = Step(
            f"or, if another service receives from queue {facts.row.queue}, ask its book",
            f"crossfoot why {name} --db ITS_BOOK",
        )
        return [work, ask, others]
    if fate is Fate.STALLED:
        return [Step("start a worker of its service: it receives the message again", work.command)]
    if fate is Fate.IN_DOUBT:
        find = Step(
            "start a worker of its service: it finds out, by the operation key or by sending again", work.command
        )
        take = Step("or, if it need not happen any more, take it back", f"crossfoot discard {name} --reason '...'")
        latest = facts.last()
        return [find, take] if latest is not None and latest.kind in OPEN_INTENTS else [find]
    if fate is Fate.VANISHED:
        queue = facts.row.queue
        mend = Step(
            f"find out who deletes messages from queue {queue}, or moved its group's offset (Kafka): no worker of this book did"
        )
        return [mend if facts.last(Kind.VANISHED) else Step("find the code that acks without proof"), payload, again]
    if fate in (Fate.EXPIRED, Fate.REFUSED):
        return [payload, again]
    if fate is Fate.DUPLICATE and facts.owner is not None:
        return [Step("see the message that completed it", f"crossfoot why {shlex.quote(facts.owner.row.id)}")]
    if fate is Fate.PARKED:
        subject = shlex.quote(facts.row.subject or facts.row.id)
        return [Step("see where its predecessor is", f"crossfoot why {subject}")]
    if fate in (Fate.RETRYING, Fate.PROCESSING, Fate.QUEUED, Fate.INTENDED):
        subject = shlex.quote(facts.row.subject or "")
        watch = Step("watch it", f"crossfoot tail --subject {subject}" if facts.row.subject else "crossfoot tail")
        return [*_misspelt(facts), watch]
    return []


def _misspelt(facts: Facts) -> list[Step]:
    """Whether its type looks like another one that is handled, while none of its own is."""
    type_, habit = facts.row.type, facts.habit
    if habit is None or habit.of or facts.last(Kind.RECEIVED, Kind.COMMITTED) is not None:
        return []
    near = get_close_matches(type_, habit.types, 1, cutoff=0.8)
    if not near:
        return []
    return [
        Step(
            f"see that its type is spelt as was meant: of the newest messages that took effect none was {type_}, but {near[0]} was. If no "
            "handler takes it, workers hand it back, and then it dies; publish what was meant"
        )
    ]


def _again(facts: Facts) -> Step:
    if facts.sent_again is not None:
        return Step(
            "start a worker of its service: it was sent again, and that copy waits", "crossfoot worker MODULE:NAME"
        )
    if facts.row.type == UNREADABLE:
        return Step(
            "once its sender is mended, have it sent anew: nothing could be read of this one, not even what to call a copy"
        )
    return Step(AGAIN.format(queue=facts.row.queue), _publish(facts))


def beyond_looking(steps: Iterable[Step]) -> tuple[Step, ...]:
    """What is left to do for somebody who sees what the message carried."""
    return tuple(step for step in steps if step.do != LOOK)


def _mend(facts: Facts) -> list[Step]:
    """Where to begin, if the failure says which line it came from."""
    failure = facts.last(Kind.FAILED)
    raised = details(failure).get("raised") if failure is not None else None
    return [Step(f"mend what raised in {raised}")] if raised else []


def _all_of_it(facts: Facts) -> list[Step]:
    """How all that died of the same come back at once."""
    failure = facts.last(Kind.FAILED)
    if failure is None or failure.cause is None or facts.sent_again is not None:
        return []
    return [bring_back(failure.cause)]


def _publish(facts: Facts) -> str:
    """All that names the message, its operation, and the flow it belongs to; what it carries is left to a person."""
    row = facts.row
    options = {
        "source": row.source, "id": row.id, "subject": row.subject, "sequence": row.sequence, "operation": facts.stated,
        "correlation": row.correlation, "causation": row.causation,
    }  # fmt: skip
    stated = "".join(f" --{name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None)
    return f"crossfoot publish MODULE:NAME {shlex.quote(row.type)}{stated} --data '...'"


def send_again(queue: str) -> Step:
    """For several that came to nothing."""
    return Step(f"once that is mended, have the service of queue {queue} send them again, under the same ids")


def bring_back(fingerprint: str | None) -> Step:
    """For all that died of one cause, once that is mended."""
    if fingerprint is None:
        return Step("once it is mended, see what the dead letters died of", "crossfoot dead list --by-cause")
    return Step(
        "once that is mended, plan how they come back in stages: what took effect before does not again",
        f"crossfoot replay plan MODULE:NAME --cause {fingerprint} --why '...'",
    )
