"""What a replay leaves to live traffic: while live messages wait longer than they did before it, it takes less.

How long a message waits is told by the book: from its publication until its operation was claimed. Of what was claimed in the last
minutes before the replay began there is a measure, the time that nine of ten did not pass. While the same of the last seconds is more
than so many times that, the replay's rate and window are halved, step by step; when it is not, they grow back slowly. A little is always
taken, so that a replay beside traffic that is slow for another reason comes to its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from crossfoot.books import replays
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection

EVERY: Micros = SECOND
"""Between two judgements."""

RECENT: Micros = 10 * SECOND
"""For how long what live messages have waited counts."""

BEFORE: Micros = 600 * SECOND
"""How long before the replay its measure is taken at most."""

ENOUGH = 10
"""Messages without which nothing is judged: live traffic that is rarer than one a second does not wait for others."""

SLACK: Micros = SECOND // 200
"""So much longer does not count, whatever it was before: the hand of a clock."""

LEAST = 1 / 32
"""Of rate and window, what is always taken."""

GROWS = 0.05
"""By what share it grows back with each judgement."""


class Yielding:
    """How much of its rate and window a replay may use.

    Args:
        slower: how many times longer than before live messages may wait.
    """

    def __init__(self, slower: float) -> None:
        self._slower = slower
        self._before: Micros | None = None
        self._recent: deque[tuple[Micros, Micros]] = deque(maxlen=1_000)
        self._upto = 0
        self._next: Micros = 0
        self.share = 1.0

    def is_due(self, now: Micros) -> bool:
        """Whether it is time to judge."""
        return self._before is not None and now >= self._next

    def begin(self, connection: Connection, queue: str, started: Micros) -> None:
        """Take the measure of how it was before the replay was first started. Within the caller's read transaction."""
        rows = connection.execute(replays.LIVE_BEFORE, (queue, started, started - BEFORE)).fetchall()
        self._before = measure([wait for (wait,) in rows])
        (self._upto,) = connection.execute(replays.LAST_OPERATION).fetchone()

    def look(self, connection: Connection, replay: int, queue: str, now: Micros) -> None:
        """Judge by what was claimed since the last time. Within the caller's read transaction."""
        rows = connection.execute(replays.LIVE_SINCE, (queue, self._upto, replay)).fetchall()
        if rows:
            self._upto = rows[0][0]
        self.judge(((at, wait) for _, at, wait in reversed(rows)), now)

    def judge(self, waits: Iterable[tuple[Micros, Micros]], now: Micros) -> None:
        """Pure: when and how long live messages have waited, since the last time."""
        self._recent.extend(waits)
        while self._recent and self._recent[0][0] < now - RECENT:
            self._recent.popleft()
        self._next = now + EVERY
        found = measure([wait for _, wait in self._recent])
        if found is None or self._before is None or found <= self._before * self._slower + SLACK:
            self.share = min(1.0, self.share + GROWS)
        else:
            self.share = max(LEAST, self.share / 2)
            self._recent.clear()  # what follows from taking less is to be seen first

    def window(self, window: int) -> int:
        """Of so many members on their way at once, how many there may be."""
        return max(1, int(window * self.share))


def measure(waits: Sequence[Micros]) -> Micros | None:
    """What nine of ten did not wait longer than; `None` of too few."""
    return max(0, sorted(waits)[int(len(waits) * 0.9)]) if len(waits) >= ENOUGH else None
