"""What would become of a member, from what it carries and the handler that would take it. Pure.

What statements can tell of all members at once (completed operations, the horizon) is in `books.replays`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import NamedTuple

from crossfoot.books.replays import (
    EARLY,
    NO_HANDLER,
    OUT_OF_TIME,
    PAYLOAD_GONE,
    READY,
    SCHEMA,
    STALE,
    Candidate,
)
from crossfoot.clock import Micros
from crossfoot.effects.handler import Handler
from crossfoot.effects.sequence import Turn, awaited, turn_of
from crossfoot.errors import EnvelopeInvalid, PayloadInvalid, UsageError
from crossfoot.message import Message, decode, encode

Transform = Callable[[Message], Message]
"""Mends the payload of a message; everything that names it stays."""

KEPT = (
    "source",
    "id",
    "type",
    "subject",
    "sequence",
    "predecessor",
    "operation",
    "partitionkey",
    "correlationid",
    "causationid",
)
"""What a transformation may not touch: by these a message is known, carried out once, and put in order."""


class Verdict(NamedTuple):
    """The class of a member, why, and what it will carry if that is not what it carried.

    `operation` is the key that its handler would ask for, where the book does not know it yet.
    """

    class_: str
    reason: str | None = None
    after: bytes | None = None
    operation: str | None = None


class Turns:
    """The sequences that will have been applied, while members are gone through in the order in which they will be moved.

    Args:
        last: the sequence applied last, by handler and subject.
    """

    def __init__(self, last: Mapping[tuple[str, str], int]) -> None:
        self._last = dict(last)

    def learn(self, last: Mapping[tuple[str, str], int]) -> None:
        """Add what is known of further subjects; what was gone through stays."""
        for key, value in last.items():
            self._last.setdefault(key, value)

    def take(self, handler: Handler, message: Message) -> Verdict:
        """Whether it would be applied in its turn; if so, later ones go on from it."""
        order, subject, sequence = handler.in_order, message.subject, message.sequence
        if order is None or subject is None or sequence is None:
            return Verdict(READY)
        last = self._last.get((handler.name, subject))
        turn = turn_of(last, sequence, message.predecessor, order)
        if turn is Turn.SUPERSEDE:
            return Verdict(STALE, f"sequence {last} of {subject} is applied, and its own is {sequence}")
        if turn is Turn.PARK:
            return Verdict(EARLY, f"sequence {awaited(sequence, message.predecessor, order)} of {subject} is missing")
        self._last[handler.name, subject] = sequence
        return Verdict(READY)


def judge(
    candidate: Candidate, body: bytes | None, handler: Handler | None, turns: Turns, now: Micros,
    transform: Transform | None = None,
) -> Verdict:  # fmt: skip
    """What would become of it.

    Raises:
        UsageError: the transformation touched what names the message, or gave something else.
    """
    if body is None:
        return Verdict(PAYLOAD_GONE, "neither the book nor the dead letters have what it carried")
    if handler is None:
        return Verdict(NO_HANDLER, f"no handler of this version takes {candidate.type}")
    if transform is None and not _needs_reading(candidate, body, handler):
        return Verdict(READY)
    try:
        message = decode(body)
    except EnvelopeInvalid as error:
        return Verdict(SCHEMA, str(error))
    after = None
    if transform is not None:
        message, after = _mended(message, body, transform)
    if message.expirytime is not None and message.expirytime <= now:
        return Verdict(OUT_OF_TIME, "its expirytime has passed, and it would expire again", after)
    try:
        typed = handler.typed(message)
        operation = None if candidate.operation is not None else handler.operation(typed)
    except PayloadInvalid as error:
        return Verdict(SCHEMA, str(error), after)
    except Exception as error:  # noqa: BLE001 - the user's types may raise anything: then the payload does not fit them
        return Verdict(SCHEMA, f"the handler's payload type raised {type(error).__name__}", after)
    return turns.take(handler, message)._replace(after=after, operation=operation)


def _needs_reading(candidate: Candidate, body: bytes, handler: Handler) -> bool:
    """Whether what it carries can make a difference. Its envelope was read when it was booked."""
    return (
        handler.payload is not None or handler.in_order is not None or candidate.operation is None or b'"expirytime"' in body
    )  # fmt: skip


def _mended(message: Message, body: bytes, transform: Transform) -> tuple[Message, bytes | None]:
    try:
        made = transform(message)
    except Exception as error:  # the user's function may raise anything; what it says may hold the payload
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(
            f"the transformation raised {type(error).__name__} for {message.key} ({frame.filename}:{frame.lineno}): it has to mend "
            "every message that is selected, or leave it as it is"
        ) from error
    if not isinstance(made, Message):
        raise UsageError(
            f"the transformation gave a {type(made).__name__} for {message.key}: return the message, mended"
        )
    for name in KEPT:
        if getattr(made, name) != getattr(message, name):
            raise UsageError(
                f"the transformation changed {name} of {message.key}: it may mend what a message carries, and not what names it"
            )
    encoded = encode(made)
    return made, None if encoded == body else encoded
