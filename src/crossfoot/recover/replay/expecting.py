"""What is expected of members that took effect: a stage is not over before it has come, or its time has passed.

That a handler returned with a proof says that it did something. Whether the business got what it was promised, an expectation says; which
ones there are, and how messages stand to them, is told by whoever keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from crossfoot.books import replays
from crossfoot.books.expected import Outlook, Proven
from crossfoot.books.fate import Fate
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection
from crossfoot.recover.replay.policy import Tally

Look = Callable[[Connection, Sequence[Proven], Micros], Outlook]
"""Tells how messages that were brought back, and took effect, stand to what is expected of them."""

PROVEN = (Fate.SETTLED, Fate.NOOP, Fate.SUPERSEDED, Fate.DUPLICATE)
"""Ends of which something may be expected. One that ended badly is counted as that."""

AGAIN: Micros = SECOND // 2
"""Until those that wait are looked at again, if no other member has ended meanwhile."""


class Expecting:
    """Members of a stage of which something may still be expected."""

    def __init__(self, look: Look | None) -> None:
        self._look = look
        self._waiting: dict[int, Proven] = {}
        self._counted: set[tuple[str, int]] = set()
        self._forgiven: set[int] = set()
        self._next: Micros = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self) -> None:
        """A new stage."""
        self._counted.clear()

    def forgive(self, messages: Iterable[int]) -> None:
        """What comes late of these is not counted: they had to wait while the replay was paused. What does not come at all is."""
        self._forgiven.update(messages)

    def add(self, members: Iterable[Proven]) -> None:
        """They have ended."""
        if self._look is not None:
            self._waiting.update((one.message, one) for one in members if one.fate in PROVEN)
            self._next = 0

    def is_due(self, now: Micros) -> bool:
        """Whether it is time to look."""
        return bool(self._waiting) and now >= self._next

    def look(self, connection: Connection, now: Micros, tally: Tally) -> None:
        """Let those go of whom all is decided, and count what did not come in time. Within the caller's read transaction."""
        if self._look is None:
            return
        found = self._look(connection, list(self._waiting.values()), now)
        for name, messages in found.breached.items():
            late = set(found.late.get(name, ()))
            fresh = {message for message in messages if (name, message) not in self._counted} - (late & self._forgiven)
            self._counted.update((name, message) for message in fresh)
            tally.breached[name] = tally.breached.get(name, 0) + len(fresh)
            tally.late[name] = tally.late.get(name, 0) + len(fresh & late)
        self._waiting = {message: self._waiting[message] for message in found.waiting}
        self._next = now + AGAIN


def of_stage(connection: Connection, number: int, stage: int) -> list[Proven]:
    """Members of a stage that ended well, for a runner that goes on with it: all of them are judged again."""
    rows = connection.execute(replays.PROVEN_OF_STAGE, (number, stage)).fetchall()
    return [Proven(message, at, Fate(fate), ended_at) for message, at, fate, ended_at in rows]


def outlook(connection: Connection, number: int, look: Look, now: Micros, archived: Sequence[Proven] = ()) -> Outlook:
    """How all members that were moved and took effect stand to what is expected of them. Within the caller's read transaction.

    Args:
        archived: those that lie in the archive.
    """
    rows = connection.execute(replays.PROVEN_NOW, (number,)).fetchall()
    here = [Proven(message, at, Fate(fate), ended_at) for message, at, fate, ended_at in rows]
    return look(connection, [*here, *archived], now)
