"""What is expected of the business: after each message of a type, an outcome within a time.

Pure. How a message stands is a function of two facts, its own time and the earliest time of an outcome that answers it, and the
earliest is a minimum: it does not care in which order outcomes are seen, how often, or by whom. So a message that was called
missing becomes late when its outcome turns up, and met when one turns up that was in time; a message that was met stays met.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from crossfoot.books.fate import Fate
from crossfoot.books.promised import Standing
from crossfoot.clock import SECOND, Micros
from crossfoot.errors import UsageError
from crossfoot.outcomes.durations import duration, written


class By(StrEnum):
    """What a message and the outcome that answers it have in common."""

    subject = "subject"
    correlation = "correlation"
    message = "message"


EXCUSES = (Fate.NOOP, Fate.DUPLICATE, Fate.SUPERSEDED, Fate.DISCARDED)
"""Fates that say by themselves that nothing more is to come of a message."""


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """After every message of type `after`, the outcome `outcome` within a time.

    Attributes:
        within: from when the message was published until the outcome was recorded.
        by: what both have in common.
        skew: by how much the clocks of those who write may differ: an outcome that another message's handler recorded up to so
            long before the message was published answers it, too.
        since: messages that were published before are not looked at.
        excused: fates of which nothing more is expected, by their labels.
    """

    name: str
    outcome: str
    after: str
    within: Micros
    by: By = By.subject
    skew: Micros = 0
    since: Micros = 0
    excused: tuple[str, ...] = tuple(fate.label for fate in EXCUSES)

    @property
    def definition(self) -> str:
        """As the book keeps it. Equal definitions have equal texts."""
        return msgspec.json.encode(self, order="deterministic").decode()

    @property
    def text(self) -> str:
        """In words."""
        common = "" if self.by is By.message else f" of the same {self.by.value}"
        return f"{self.outcome} within {written(self.within)} after every {self.after}{common}"

    @property
    def is_unnamed(self) -> bool:
        """Whether it was given no name of its own."""
        return self.name == _name(self.outcome, self.after)

    def standing(self, due: Micros, answered: Micros | None, now: Micros) -> Standing:
        """How a message stands that is due at `due`, and was answered then."""
        if answered is not None:
            return Standing.late if answered > due else Standing.met
        return Standing.missing if now > due else Standing.waiting


def expect(outcome: str, *, after: str, within: Any, name: str | None = None, **more: Any) -> Expectation:
    """An expectation as a program states it; see `crossfoot.Crossfoot.expect`.

    Raises:
        UsageError: one of the words will not do.
    """
    stated: dict[str, object] = {"outcome": outcome, "after": after}
    for what, text in stated.items():
        if not isinstance(text, str) or not text.strip():
            raise UsageError(
                f"expect(): {what} is {text!r}: write expect('invoice.issued', after='case.released', within='5m')"
            )
        if "*" in text:
            raise UsageError(f"expect(): {what} = {text!r}: name one {what}; for several, expect each of them")
    for one in more.keys() - _MORE:
        near = get_close_matches(one, _MORE, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(_MORE)}"
        raise UsageError(f"expect() takes no {one!r}: {hint}")
    by, excused = more.get("by", By.subject), tuple(more.get("excused", Expectation(**_EMPTY).excused))
    if by not in list(By):
        raise UsageError(f"expect(): by = {by!r}: it is one of {', '.join(By)}")
    labels = [fate.label for fate in Fate if fate.closed]
    for one in excused:
        if one not in labels:
            raise UsageError(f"expect(): {one!r} is no fate that ends a message: they are {', '.join(labels)}")
    span = duration(within, what="within")
    if not span:
        raise UsageError("expect(): within is 0: an outcome takes some time; write '5m'")
    return Expectation(
        name=name or _name(outcome, after), outcome=outcome, after=after, within=span, by=By(by),
        skew=duration(more.get("skew", 0), what="skew"), since=_since(more.get("since", 0)), excused=excused,
    )  # fmt: skip


def _name(outcome: str, after: str) -> str:
    return f"{outcome} after {after}"


def _since(stated: Any) -> Micros:
    """A time with its zone, or its text."""
    try:
        at = datetime.fromisoformat(stated) if isinstance(stated, str) else stated
    except ValueError:
        at = None
    if isinstance(at, int) and not isinstance(at, bool):
        return at
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise UsageError(f"expect(): since = {stated!r}: write a time with its zone, as in '2026-11-01T00:00:00Z'")
    return round(at.timestamp() * SECOND)


_MORE = ("by", "skew", "since", "excused")
_EMPTY: dict[str, Any] = {"name": "", "outcome": "", "after": "", "within": 0}


def expectation_of(definition: str) -> Expectation:
    """What the book keeps."""
    return msgspec.json.decode(definition, type=Expectation)


class Trigger(NamedTuple):
    """A message of which something is expected, and the earliest outcome that answers it so far."""

    message: int
    id: str
    name: str | None
    at: Micros
    answered: Micros | None


class Answer(NamedTuple):
    """An open message, and the earliest of the outcomes that have come for it."""

    number: int
    due: Micros
    before: Micros | None
    answered: Micros


class Opened(NamedTuple):
    """What new messages come to."""

    opened: int
    met: int
    rows: list[tuple[int, str, str | None, Micros, Micros, Micros | None]]
    """Message, id, name, at, due, answered: of those that are not met."""


class Answered(NamedTuple):
    """What new outcomes come to."""

    met: list[int]
    later: list[tuple[Micros, int]]
    """When it was answered, and the row."""


def open_all(expectation: Expectation, triggers: Sequence[Trigger]) -> Opened:
    """Messages are looked at for the first time."""
    rows = [
        (one.message, one.id, one.name, one.at, one.at + expectation.within, one.answered)
        for one in triggers
        if one.answered is None or one.answered > one.at + expectation.within
    ]
    return Opened(len(triggers), len(triggers) - len(rows), rows)


def answer_all(answers: Iterable[Answer]) -> Answered:
    """Outcomes have come for messages that were open."""
    met, later = [], []
    for one in answers:
        earliest = one.answered if one.before is None else min(one.before, one.answered)
        if earliest <= one.due:
            met.append(one.number)
        elif earliest != one.before:
            later.append((earliest, one.number))
    return Answered(met, later)
