"""What a victim is told to do, and the messages of a scene."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

GOOD, BROKEN, LATE, INVOICE = "case.released", "case.broken", "case.late", "invoice.issued"

FORMS = ("sqlite3", "aiosqlite", "sqlalchemy", "sqlalchemy-async", "django")


class Sent(msgspec.Struct, frozen=True):
    """One message to publish; two of the same id are one message published twice."""

    id: str
    type: str
    subject: str


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The life of one process.

    Attributes:
        role: `publish` publishes `messages`, `open` opens the book, `work` works until there is nothing left to do, and
            `settle` works until the books are closed, or for `patience` seconds at most. `replay` works, too, and meanwhile brings
            back what died, first by the plans that others left behind.
        boundary, nth: where to die: the boundary's name, and at which time of reaching it. Without a name: not at all.
        mark: the file in which the victim says where it dies, before it does.
        noted: the file in which a publisher notes what it asks for and what was answered.
        pause: seconds a handler takes before it writes.
        sabotage: what is broken on purpose, see `sabotage`.
        hold: a file; the first handler that finds it missing creates it and waits until it is gone again.
    """

    path: str
    queue: str
    role: str
    endpoint: str | None = None
    form: str = "sqlite3"
    batch: int = 1
    optimistic: bool = False
    lease: float = 1.0
    messages: tuple[Sent, ...] = ()
    boundary: str = ""
    nth: int = 0
    mark: str = ""
    noted: str = ""
    pause: float = 0.0
    patience: float = 30.0
    sabotage: str = ""
    hold: str = ""
    hold_inside: bool = False

    def but(self, **changes: Any) -> Job:
        return msgspec.structs.replace(self, **changes)


def traffic(
    chance: random.Random, count: int, *, name: str, mostly: str = GOOD, plain: bool = False
) -> tuple[Sent, ...]:
    """`count` messages: most of one type, and of every other sort some.

    Three in ten good ones ask for an operation that another message asks for, too; one in ten is published twice.
    Not so when they are to be `plain`: then all are good, and each is its own.
    """
    if plain:
        return tuple(Sent(f"{name}.{number}", GOOD, f"{name}-{number}") for number in range(count))
    messages: list[Sent] = []
    subjects: list[str] = []
    for number in range(count):
        type_ = mostly if chance.random() < 0.7 else chance.choice((GOOD, BROKEN, LATE))
        if type_ == GOOD and subjects and chance.random() < 0.3:
            subject = chance.choice(subjects)
        else:
            subject = f"{name}-{number}"
            if type_ == GOOD:
                subjects.append(subject)
        messages.append(Sent(f"{name}.{number}", type_, subject))
        if chance.random() < 0.1:
            messages.append(messages[-1])
    return tuple(messages)


def noted_in(path: Path) -> tuple[set[str], set[str]]:
    """Ids that a publisher asked to publish, and ids it got an answer for."""
    asked: set[str] = set()
    answered: set[str] = set()
    if path.exists():
        for line in path.read_text().splitlines():
            what, _, id_ = line.partition(" ")
            (asked if what == "asked" else answered).add(id_)
    return asked, answered


def ids(messages: Sequence[Sent]) -> set[str]:
    return {message.id for message in messages}
