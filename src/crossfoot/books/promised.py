"""What is expected of single messages, and how they stand to it right now: for whoever asks about a message, and not about the whole book.

The evaluator keeps what is not met (`expected`), and its place says whether it has come to a message yet. For what has come since, the
outcomes themselves are asked. So the answer is that of an evaluation at this moment, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from crossfoot.books import expected
from crossfoot.books.fate import Fate
from crossfoot.books.grouped import grouped, keys_text
from crossfoot.clock import Micros
from crossfoot.connection import Connection


class Standing(StrEnum):
    """How one message stands to what is expected of it."""

    met = "met"
    waiting = "waiting"
    late = "late"
    missing = "missing"
    excused = "excused"


class Stated(msgspec.Struct, frozen=True, kw_only=True):
    """What an expectation says, as far as one message needs it; see `outcomes.expectation`, which writes it."""

    name: str
    outcome: str
    after: str
    within: Micros
    by: str
    skew: Micros
    since: Micros
    excused: tuple[str, ...]


class Accepted(msgspec.Struct, frozen=True):
    """Who accepted that an outcome is missing or late, why and when."""

    by: str
    reason: str
    at: Micros


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is expected of one message.

    Attributes:
        answered: the earliest outcome that answers it so far.
        accepted: by a person.
        over: whether the evaluator has taken it off: it was met, or excused by its fate.
    """

    stated: Stated
    due: Micros
    answered: Micros | None
    accepted: Accepted | None = None
    over: bool = False

    def standing(self, fate: Fate | None, now: Micros) -> Standing:
        """How a message of that fate stands to it."""
        excused = fate is not None and fate.label in self.stated.excused
        in_time = self.answered is not None and self.answered <= self.due
        if in_time:
            return Standing.met
        if self.accepted is not None:
            return Standing.excused
        if self.over:
            return Standing.excused if excused else Standing.met
        if self.answered is not None:
            return Standing.late
        if now <= self.due:
            return Standing.waiting
        return Standing.excused if excused else Standing.missing


class Asked(NamedTuple):
    """A message that is asked about."""

    key: int
    type: str
    at: Micros


_LOOKED = """
SELECT m.key, ({found}), (SELECT 1 FROM crossfoot_entries r WHERE r.message = m.key AND {read} LIMIT 1)
FROM {messages} m WHERE m.key IN {keys} AND m.type = :after AND m.at >= :since
"""
"""Of a group, the messages of a type: the earliest outcome that answers each, and whether the evaluator has come to it."""


def _looked(by: str) -> str:
    taken = _LOOKED.replace("{found}", expected.FOUND[by])
    return grouped(
        taken.replace("{read}", "r.id <= CAST(:place AS INTEGER)"),
        postgres=taken.replace("{read}", f"(r.xid, r.id) <= {expected.behind('place')}"),
    )


LOOKED = {by: _looked(by) for by in expected.FOUND}

NOT_MET = grouped(
    "SELECT e.message, e.due, e.answered, e.accepted FROM crossfoot_expected e WHERE e.expectation = :name AND e.message IN {keys}"
)
"""Of a group, the messages that the evaluator keeps."""


def promised(connection: Connection, messages: Sequence[Asked]) -> dict[int, tuple[Promise, ...]]:
    """What is expected of the messages, by their keys, in the order of the expectations' names. Within the caller's read transaction.

    A message that lies in the archive alone is told as the evaluator left it, and not told where it was met.
    """
    found: dict[int, list[Promise]] = {}
    types = {one.type for one in messages}
    for kept in expected.kept(connection):
        stated = msgspec.json.decode(kept.definition, type=Stated)
        if stated.after in types:
            asked = {one.key: one for one in messages if one.type == stated.after}
            for key, promise in _of(connection, stated, kept.place, asked).items():
                found.setdefault(key, []).append(promise)
    return {key: tuple(promises) for key, promises in found.items()}


def _of(connection: Connection, stated: Stated, place: str, asked: Mapping[int, Asked]) -> dict[int, Promise]:
    keys = keys_text(asked)
    parameters = {
        "keys": keys, "outcome": stated.outcome, "after": stated.after, "skew": stated.skew, "since": stated.since, "place": place,
    }  # fmt: skip
    found = {
        int(key): Promise(
            stated=stated, due=asked[int(key)].at + stated.within, answered=answered, over=bool(read)
        )
        for key, answered, read in connection.execute(LOOKED[stated.by], parameters)
    }  # fmt: skip
    for key, due, answered, accepted in connection.execute(NOT_MET, {"name": stated.name, "keys": keys}):
        now = found.get(int(key))
        times = [at for at in (answered, now.answered if now is not None else None) if at is not None]
        found[int(key)] = Promise(
            stated=stated, due=due, answered=min(times, default=None), accepted=accepted_of(accepted)
        )  # fmt: skip
    return found


def accepted_of(text: str | None) -> Accepted | None:
    """What the book keeps of who accepted it."""
    return msgspec.json.decode(text, type=Accepted) if text is not None else None
