"""Who may go on, and who waits for whom: the rules of a limit, without a clock, a lock or an event loop.

Laws, whatever is asked in whatever order (`tests/flow/test_line.py`):

- permits given out, and not given back, are `in_use`; they never exceed `size` by a grant;
- while somebody waits who may go on, no permit lies idle;
- each permit given back wakes one waiter at most, beside those that are dropped because their time is over;
- a waiter ends in exactly one state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto

PRIORITIES = 10
"""0 to 9, 9 goes first, as the priorities of messages."""

LOWEST_EVERY = 8
"""Each such grant goes to the lowest priority that waits, so that none of them starves."""


class State(Enum):
    """How a waiter stands."""

    WAITING = auto()
    GRANTED = auto()
    SHED = auto()
    """Refused, or put out of the line by somebody with a higher priority."""
    EXPIRED = auto()
    """Its time was over when its turn came."""
    LEFT = auto()
    """It gave up by itself."""


class Waiter:
    """Somebody in line."""

    __slots__ = ("over", "priority", "state")

    def __init__(self, priority: int, over: Callable[[], bool]) -> None:
        self.priority = priority
        self.over = over
        self.state = State.WAITING


class Line:
    """Permits, and the line for them.

    Attributes:
        size: permits there are.
        room: how many may wait.
        newest_first: within a priority, the newest goes first, because the oldest are likeliest to have no time left (Maurer,
            *Fail at Scale*, ACM Queue 13(8), 2015, calls it adaptive LIFO). A full line then puts its oldest out.
    """

    def __init__(self, size: int, room: int, *, newest_first: bool = False) -> None:
        self.size = size
        self.room = room
        self.newest_first = newest_first
        self.in_use = 0
        self.waiting = 0
        self._lanes: tuple[deque[Waiter], ...] = tuple(deque() for _ in range(PRIORITIES))
        self._grants = 0

    def take(self) -> bool:
        """A permit, if there is one and nobody waits for it."""
        if self.in_use >= self.size or self.waiting:
            return False
        self.in_use += 1
        return True

    def join(self, waiter: Waiter) -> Waiter | None:
        """Stand in line, unless it is full; then the waiter's state is SHED. Returns whoever had to leave the line for it."""
        put_out = None
        if self.waiting >= self.room:
            put_out = self._last_before(waiter.priority)
            if put_out is None:
                waiter.state = State.SHED
                return None
            self._end(put_out, State.SHED)
        lane = self._lanes[waiter.priority]
        if len(lane) > 2 * self.room + PRIORITIES:  # it is full of those who have left
            remaining = [one for one in lane if one.state is State.WAITING]
            lane.clear()
            lane.extend(remaining)
        lane.append(waiter)
        self.waiting += 1
        return put_out

    def leave(self, waiter: Waiter) -> list[Waiter]:
        """Give up; a permit that was just granted goes on to the next. Returns whom to wake."""
        if waiter.state is State.WAITING:
            self._end(waiter, State.LEFT)
        elif waiter.state is State.GRANTED:
            waiter.state = State.LEFT
            return self.give_back()
        return []

    def give_back(self) -> list[Waiter]:
        """Give a permit back. Returns whom to wake: those dropped, and the one who goes on."""
        assert self.in_use > 0, "a permit is given back once"
        self.in_use -= 1
        return self._serve()

    def resize(self, size: int) -> list[Waiter]:
        """Have another number of permits. Fewer take nothing from those who have one. Returns whom to wake."""
        self.size = size
        return self._serve()

    def _serve(self) -> list[Waiter]:
        woken = []
        while self.in_use < self.size and (waiter := self._next()) is not None:
            woken.append(waiter)
            if waiter.over():
                self._end(waiter, State.EXPIRED)
            else:
                self._end(waiter, State.GRANTED)
                self.in_use += 1
                self._grants += 1
        return woken

    def _next(self) -> Waiter | None:
        lowest_first = self._grants % LOWEST_EVERY == LOWEST_EVERY - 1
        for lane in self._lanes if lowest_first else reversed(self._lanes):
            while lane:
                waiter = lane.pop() if self.newest_first else lane.popleft()
                if waiter.state is State.WAITING:
                    return waiter
        return None

    def _last_before(self, priority: int) -> Waiter | None:
        """Whoever would be served last, among those whom that priority puts out of a full line."""
        for lane in self._lanes[: priority + 1 if self.newest_first else priority]:
            while lane:
                waiter = lane[0] if self.newest_first else lane[-1]
                if waiter.state is State.WAITING:
                    return waiter
                _ = lane.popleft() if self.newest_first else lane.pop()
        return None

    def _end(self, waiter: Waiter, state: State) -> None:
        assert waiter.state is State.WAITING, "a waiter ends once"
        waiter.state = state
        self.waiting -= 1
