"""At most so many at once: a limit (bulkhead), for coroutines and threads alike.

    pricing = flow.Limit(40, name="pricing", wait=0.05)

    async with pricing.permit():
        ...

A permit is waited for until `wait` or the deadline is over, whichever is first, and then `Rejected` or `Expired` says so.
"""

from __future__ import annotations

import math
import threading
from enum import Enum, auto
from types import TracebackType
from typing import Self

import anyio

from crossfoot.errors import Expired, Overloaded, Rejected, UsageError
from crossfoot.flow.deadlines import current
from crossfoot.flow.line import PRIORITIES, Line, State, Waiter
from crossfoot.flow.runtime import SYSTEM, Clock, Loop, running
from crossfoot.flow.sizes import Algorithm, Outcome

ORDINARY = 5
"""The priority of those who state none."""


class Order(Enum):
    """Who goes first among those of one priority."""

    FIFO = auto()
    NEWEST = auto()


class Limit:
    """A number of permits, and a line for them.

    Args:
        size: permits; or an algorithm that finds their number by itself.
        name: as errors and figures call it.
        waiting: how many may wait; as many as there are permits, unless given.
        wait: seconds one waits at most.
        order: who goes first among those of one priority.
        dark: refuse nobody and let nobody wait; only count what would have been.
        status: 429, or 503 where whoever is refused is not the one who asked too much.

    Raises:
        UsageError: a size below 1, or a negative room or wait.
    """

    def __init__(
        self,
        size: int | Algorithm,
        *,
        name: str = "",
        waiting: int | None = None,
        wait: float = 1.0,
        order: Order = Order.FIFO,
        dark: bool = False,
        status: int = 429,
    ) -> None:
        if not isinstance(size, int) and not hasattr(size, "sample"):
            raise UsageError(f"Limit({size}): a whole number of permits, or an algorithm as flow.Aimd(20)")
        self._algorithm = None if isinstance(size, int) else size
        permits = size if isinstance(size, int) else size.size
        if permits < 1:
            raise UsageError(f"Limit({size}): at least 1 permit; to refuse everything, do not call")
        if not (waiting is None or waiting >= 0) or not wait >= 0:
            raise UsageError(f"Limit(waiting={waiting}, wait={wait}): need numbers of 0 or more")
        if status not in (429, 503):
            raise UsageError(f"Limit(status={status}): 429 or 503")
        self.name = name or f"limit of {permits}"
        self.wait = wait
        self.dark = dark
        self.counts = Counts()
        self._refusal = Overloaded if status == 503 else Rejected
        self._line = Line(permits, permits if waiting is None else waiting, newest_first=order is Order.NEWEST)
        self._follows = waiting is None and self._algorithm is not None
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Permits there are now."""
        return self._line.size

    @property
    def in_use(self) -> int:
        """Permits given out now."""
        return self._line.in_use

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return self._line.waiting

    def permit(self, priority: int = ORDINARY) -> Permit:
        """A permit for one block, `async with` in a coroutine and `with` in a thread.

        Args:
            priority: 0 to 9, 9 goes first; in a full line it puts out those of lower ones.

        Raises on entering:
            Rejected: no permit, and none in time. Nothing was begun.
            Expired: the deadline was over before there was one.
        """
        if not 0 <= priority < PRIORITIES:
            raise UsageError(f"a priority of {priority}: 0 to {PRIORITIES - 1}")
        return Permit(self, priority)

    # ---- for permits ---------------------------------------------------------------------------------------------

    def _take(self) -> bool:
        held = current()
        if held is not None and held.remaining() <= 0:
            self.counts.expired += 1
            raise held.expired()
        with self._lock:
            taken = self._line.take()
            if not taken and self.dark:
                self._line.in_use += 1
                self.counts.would_refuse += 1
                taken = True
            if taken:
                self.counts.granted += 1
        return taken

    def _join(self, waiter: _Turn) -> None:
        with self._lock:
            put_out = self._line.join(waiter)
        if put_out is not None:
            self._wake([put_out])
        if waiter.state is State.SHED:
            self.counts.shed += 1
            raise self._refused(f"{self._line.room} wait already")

    def _ended(self, waiter: _Turn) -> None:
        """What a waiter that was woken, or lost patience, has come to."""
        with self._lock:
            if waiter.state is State.GRANTED:
                self.counts.granted += 1
                return
            self._line.leave(waiter)
        held, put_out = current(), waiter.state is State.SHED
        if held is not None and (held.passed or (waiter.until == waiter.ends and not put_out)):
            self.counts.expired += 1
            raise held.expired()
        self.counts.shed += 1
        raise self._refused(
            "a higher priority took the place in line" if put_out else f"none came free in {self.wait:g} s"
        )

    def _cancelled(self, waiter: Waiter) -> None:
        """A waiter was cancelled: by its deadline, which is counted, or by somebody else."""
        self._leave(waiter)
        held = current()
        if held is not None and held.passed:
            self.counts.expired += 1

    def _leave(self, waiter: Waiter) -> None:
        with self._lock:
            woken = self._line.leave(waiter)
        self._wake(woken)

    def _give_back(self, seconds: float, outcome: Outcome) -> None:
        with self._lock:
            woken = self._line.give_back()
            if self._algorithm is not None:
                # The one who leaves was in use, too, while it worked.
                size = self._algorithm.sample(outcome, seconds, self._line.in_use + 1)
                if self._follows:
                    self._line.room = size
                if size != self._line.size:
                    woken += self._line.resize(size)
        if woken:
            self._wake(woken)

    def _wake(self, woken: list[Waiter]) -> None:
        for waiter in woken:
            assert isinstance(waiter, _Turn)
            try:
                waiter.wake()
            except RuntimeError:  # its loop has ended, and it with it
                self._leave(waiter)

    def _refused(self, why: str) -> Rejected:
        text = f"{self.name}: all {self.size} permits are in use, and {why}; ask again later"
        return self._refusal(text, retry_after=max(1.0, self.wait) if self.wait < math.inf else 1.0)


class Counts:
    """What a limit has done so far."""

    __slots__ = ("expired", "granted", "shed", "would_refuse")

    def __init__(self) -> None:
        self.granted = 0
        self.shed = 0
        self.expired = 0
        self.would_refuse = 0


class _Turn(Waiter):
    """A waiter that can be woken, from whatever thread."""

    __slots__ = ("_loop", "_thread", "ends", "event", "until")

    def __init__(self, priority: int, patience: float, ends: float, time: Clock, loop: Loop | None) -> None:
        """It waits until its `patience` or its deadline `ends`, whichever is first, by that clock."""
        until = min(patience, ends)
        super().__init__(priority, lambda: time() >= until)
        self.until, self.ends = until, ends
        self.event: anyio.Event | threading.Event = threading.Event() if loop is None else anyio.Event()
        self._loop = loop
        self._thread = threading.get_ident()

    def wake(self) -> None:
        if self._loop is None or self._thread == threading.get_ident():
            self.event.set()
        else:
            self._loop.soon(self.event.set)


class Permit:
    """The right to do one thing under a limit; given back at the end of the block, once."""

    __slots__ = ("_begun", "_held", "_limit", "_outcome", "_priority", "_time")

    def __init__(self, limit: Limit, priority: int) -> None:
        self._limit = limit
        self._priority = priority
        self._held = False
        self._outcome: Outcome | None = None

    def overloaded(self) -> None:
        """Tell an adaptive limit that what was called had too much to do, as an answer of 429 or 503 says."""
        self._outcome = Outcome.OVERLOADED

    def take(self) -> bool:
        """Have it at once, if there is one and nobody waits for it; whether it is had."""
        loop = running()
        if not self._limit._take():
            return False
        self._start(SYSTEM if loop is None else loop.time)
        return True

    async def __aenter__(self) -> Self:
        loop = running()
        assert loop is not None, "in a coroutine"
        if not self._limit._take():
            waiter = self._turn(loop)
            self._limit._join(waiter)
            try:
                with anyio.CancelScope(deadline=waiter.until):
                    await waiter.event.wait()  # type: ignore[misc] # a loop's waiter has a loop's event
            except BaseException:
                self._limit._cancelled(waiter)  # granted in this very tick, perhaps: then it goes on to the next
                raise
            self._limit._ended(waiter)
        self._start(loop.time)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back(error)

    def __enter__(self) -> Self:
        if running() is not None:
            raise UsageError(f"{self._limit.name}: `async with` in a coroutine; `with` would hold up its event loop")
        if not self._limit._take():
            waiter = self._turn(None)
            self._limit._join(waiter)
            try:
                waiter.event.wait(min(max(0.0, waiter.until - SYSTEM()), threading.TIMEOUT_MAX))  # type: ignore[call-arg] # a thread's event
            except BaseException:
                self._limit._leave(waiter)
                raise
            self._limit._ended(waiter)
        self._start(SYSTEM)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back(error)

    def give_back(self, error: BaseException | None = None) -> None:
        """End it, in whatever thread; a second time does nothing.

        Args:
            error: how the work ended, for an adaptive limit.
        """
        if self._held:
            self._held = False
            self._limit._give_back(self._time() - self._begun, self._outcome or outcome_of(error))

    def _turn(self, loop: Loop | None) -> _Turn:
        time = SYSTEM if loop is None else loop.time
        held = current()
        ends = math.inf if held is None else held.at_by(time)
        return _Turn(self._priority, time() + self._limit.wait, ends, time, loop)

    def _start(self, time: Clock) -> None:
        self._time = time
        self._begun = time()
        self._held = True


def outcome_of(error: BaseException | None) -> Outcome:
    """What an error says about the capacity of what was called."""
    if error is None:
        return Outcome.GOOD
    if isinstance(error, Exception):
        return Outcome.OVERLOADED if isinstance(error, (Expired, TimeoutError, Rejected)) else Outcome.UNKNOWN
    held = current()  # a cancellation: of the deadline's, or of somebody who lost interest
    return Outcome.OVERLOADED if held is not None and held.passed else Outcome.UNKNOWN
