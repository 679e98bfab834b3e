"""What is expected of a message, in words: whether it came, and where it did not, what to do. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from crossfoot.books.fate import Fate
from crossfoot.books.promised import Accepted, Promise, Standing
from crossfoot.clock import Micros
from crossfoot.recover.phrases import clock_time, listed, span

LACKING = (Standing.missing, Standing.late)
"""What `crossfoot outcomes` names the message for."""


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """One expectation, and how the message stands to it.

    Attributes:
        name: of the expectation; `text` is what it says.
        due: until when the outcome was to come.
        answered_at: when it came, if it did and the book still knows.
        accepted: who accepted that it is missing or late, if somebody did.
    """

    name: str
    text: str
    outcome: str
    standing: Standing
    due: Micros
    answered_at: Micros | None
    accepted: Accepted | None


def expected_of(promises: Iterable[Promise], fate: Fate | None, now: Micros) -> tuple[Expected, ...]:
    """How a message of that fate stands to all that is expected of it."""
    return tuple(
        Expected(
            name=one.stated.name, text=_text(one), outcome=one.stated.outcome, standing=one.standing(fate, now),
            due=one.due, answered_at=one.answered, accepted=one.accepted,
        )
        for one in promises
    )  # fmt: skip


def lacking(expected: Iterable[Expected]) -> list[Expected]:
    """Those for which somebody should do something."""
    return [one for one in expected if one.standing in LACKING]


def lacks(expected: Iterable[Expected]) -> str:
    """The same in two words; empty where it lacks nothing."""
    standings = {one.standing for one in expected}
    return next((f"outcome {one.value}" for one in LACKING if one in standings), "")


def headline(expected: Iterable[Expected], now: Micros) -> str:
    """What a page's first lines say of it; empty where nothing is missing or late."""
    missing = [one for one in expected if one.standing is Standing.missing]
    late = [one for one in expected if one.standing is Standing.late]
    told = [f"What was promised has not come: {one.outcome}, due {span(now - one.due)} ago." for one in missing]
    told += [f"What was promised came late: {one.outcome}, by {span(_late(one))}." for one in late]
    return " ".join(told)


def sentences(expected: Iterable[Expected], fate: Fate | None, now: Micros) -> Iterator[str]:
    """The same as a part of the story: all of them, those that are well among them."""
    for one in expected:
        yield f"The program promises {one.text}: {_told(one, fate, now)}."


def makeup(expected: Sequence[Expected], fate: Fate | None, id_: str) -> Iterator[tuple[str, str | None]]:
    """What to do about it, and the command, beside what the fate asks for."""
    missing = [one.outcome for one in expected if one.standing is Standing.missing]
    late = [one.outcome for one in expected if one.standing is Standing.late]
    accept = f"crossfoot outcomes --accept {shlex.quote(id_)} --reason '...'"
    if missing:
        names = listed(missing)
        if fate is Fate.SETTLED:
            yield f"find out why {names} was not recorded: the handler took effect without it", None
        yield f"see which others lack {names}", "crossfoot outcomes"
        if fate is Fate.SETTLED:
            yield (
                (
                    f"once that is mended, have {names} made up for, by hand or by a message with a new id and operation: the guide "
                    "to outcomes says how; a replay would not, since this message took effect"
                ),
                None,
            )
        yield "or, once it is dealt with, accept that it is missing", accept
    elif late:
        yield "see which others were late", "crossfoot outcomes"
        yield f"accept that {listed(late)} came late", accept


def _text(promise: Promise) -> str:
    stated = promise.stated
    common = "" if stated.by == "message" else f" of the same {stated.by}"
    return f"{stated.outcome} within {span(stated.within)} after every {stated.after}{common}"


def _late(one: Expected) -> Micros:
    return (one.answered_at or one.due) - one.due


def _told(one: Expected, fate: Fate | None, now: Micros) -> str:
    if one.accepted is not None and one.standing is Standing.excused:
        what = "came late" if one.answered_at is not None else "did not come"
        who = one.accepted
        return f"it {what}, and {who.by} accepted that at {clock_time(who.at, now)}: {who.reason.rstrip('.')}"
    came = f", at {clock_time(one.answered_at, now)}" if one.answered_at is not None else ""
    return {
        Standing.met: f"it came in time{came}",
        Standing.waiting: f"it has until {clock_time(one.due, now)}",
        Standing.late: f"it came {span(_late(one))} late{came}",
        Standing.missing: f"it has not come, and was due at {clock_time(one.due, now)}, {span(now - one.due)} ago",
        Standing.excused: f"nothing more is expected of one that is {fate.label if fate is not None else 'unaccounted'}",
    }[one.standing]
