"""What messages of a type usually come to: the outcomes and the messages of those of its kind that took effect last."""

from __future__ import annotations

from collections import Counter

import msgspec

from crossfoot.books import lately
from crossfoot.books.entry import Kind
from crossfoot.connection import Connection

SEARCHED = 2_000
"""Of the newest operations, so many are looked through for messages of the type."""

ENOUGH = 50
"""Messages that tell the habit."""

TELLING = 20
"""Messages of a type below which nothing can be said of its habits."""

NEARLY_ALL = 0.9
"""Share that makes an outcome a type's habit."""

_ANY = "SELECT max(number) FROM crossfoot_outcomes"

_OUTCOMES = "SELECT DISTINCT name FROM crossfoot_outcomes WHERE message = ?"

FLOW = 1_000
"""Messages of one flow that are looked through for those that it caused: a flow may be a year's."""

_CAUSED = f"""
SELECT DISTINCT type FROM (SELECT type, causation FROM crossfoot_messages WHERE correlation = ? LIMIT {FLOW}) AS flow
WHERE causation = ?
"""

_FLOW = "SELECT coalesce(correlation, id) FROM crossfoot_messages WHERE key = ?"


class Habit(msgspec.Struct, frozen=True, kw_only=True):
    """What the last messages of one type on one queue came to.

    Attributes:
        of: how many of them were looked at.
        outcomes: how many ended with each outcome.
        caused: how many caused messages of each type.
        types: all types of that queue that took effect lately.
    """

    of: int = 0
    outcomes: dict[str, int] = {}
    caused: dict[str, int] = {}
    types: frozenset[str] = frozenset()

    @property
    def usual(self) -> list[str]:
        """Outcomes with which nearly all of them ended."""
        return [name for name, count in self.outcomes.items() if self.of >= TELLING and count >= NEARLY_ALL * self.of]


def has_outcomes(connection: Connection) -> bool:
    """Whether any message of the book ended with an outcome. Asked first, for a habit takes twenty times as long."""
    return connection.execute(_ANY).fetchone()[0] is not None


def habit(connection: Connection, queue: str, type_: str) -> Habit:
    """Of the newest that took effect, at most `ENOUGH`."""
    effects = [
        one for one in lately.done(connection, SEARCHED) if (one.queue, one.kind) == (queue, Kind.COMMITTED)
    ]  # fmt: skip
    done = [one for one in effects if one.type == type_][-ENOUGH:]
    outcomes: Counter[str] = Counter()
    caused: Counter[str] = Counter()
    for one in done:
        outcomes.update(row[0] for row in connection.execute(_OUTCOMES, (one.key,)))
        flow = connection.execute(_FLOW, (one.key,)).fetchone()
        if flow is not None:
            caused.update(row[0] for row in connection.execute(_CAUSED, (flow[0], one.id)))
    return Habit(
        of=len(done), outcomes=dict(outcomes.most_common()), caused=dict(caused.most_common()), types=frozenset(one.type for one in effects)
    )  # fmt: skip
