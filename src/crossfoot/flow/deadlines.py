"""One deadline for everything that is done for a request.

    with flow.deadline(0.3):
        ...

The same block serves coroutines and threads. In a coroutine the work is cancelled when the time is over, and `Expired` is raised;
a thread cannot be cancelled, so there the next guarded call refuses to begin. Inside the block, in the tasks it begins and in
threads that are started with its context, `remaining()` is what is left.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Self

import anyio

from crossfoot.errors import Expired, UsageError
from crossfoot.flow import places, watching
from crossfoot.flow.reports import Report, Trouble, tell
from crossfoot.flow.runtime import SYSTEM, Clock, Loop, running, scope

TOLERANCE = 0.05
"""Seconds by which work may end after its deadline before that is reported."""

_current: ContextVar[Deadline | None] = ContextVar("crossfoot_deadline", default=None)


def seconds_of(given: Any, what: str) -> float:
    """Seconds as a float.

    Raises:
        UsageError: `what` is not given as a number of 0 or more.
    """
    try:
        seconds = math.nan if isinstance(given, (str, bytes)) else float(given)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not seconds >= 0:
        raise UsageError(f"{what} of {str(given)[:40]} s: give seconds, 0 or more, as a number")
    return seconds


class Deadline:
    """A time by which work has to be over.

    Attributes:
        at: when, by `clock`; infinite for never. Known once the block has begun.
        began: when its block began.
        clock: of the loop in which it was set, or the machine's. Monotonic: a step of the wall clock moves nothing.
    """

    # What most of them never have is the class's, because a deadline is made for every call.
    at: float = math.inf
    began: float = math.nan
    sample: str | None = None
    thread = 0
    waiting: str | None = None
    look: Callable[[], object] | None = None
    """Called before it cancels what is in its block."""
    soon: tuple[float, Callable[[], object]] | None = None
    """Seconds, and what is called when the block has taken so long; on asyncio only. Set before the block."""
    _within: Deadline | None = None
    _token: Token[Deadline | None] | None = None
    _told = False
    _called_off = False
    _lag: float | None = None
    _scope: Any = None
    _timer: asyncio.TimerHandle | None = None
    _task: asyncio.Task[object] | None = None
    _pressed = 0
    _own = False

    def __init__(self, seconds: float, taken: places.Taken | None = None) -> None:
        self._seconds = seconds if type(seconds) is float and seconds >= 0 else seconds_of(seconds, "a deadline")
        self.taken = taken or places.caller()
        self.clock: Clock = SYSTEM

    # ---- asked by everybody --------------------------------------------------------------------------------------

    def remaining(self) -> float:
        """Seconds left, negative when it has passed."""
        return self.at - self.clock()

    def at_by(self, other: Clock) -> float:
        """The same time by another clock."""
        if self.at == math.inf or other == self.clock:
            return self.at
        return other() + self.remaining()

    @property
    def native(self) -> bool:
        """Whether it holds in a task of asyncio's."""
        return self._task is not None

    @property
    def place(self) -> str:
        """Where it was set."""
        return places.told(self.taken)

    def check(self) -> None:
        """Raise `Expired` when it has passed."""
        if self.remaining() <= 0:
            raise self.expired()

    def expired(self) -> Expired:
        """The error that says that it has passed."""
        return Expired(f"the deadline of {self._seconds:g} s set at {self.place} has passed")

    # ---- the block -----------------------------------------------------------------------------------------------

    def _fix(self, loop: Loop | None) -> None:
        """Reckon from now on, by the clock of this loop, and within the deadline that holds here; raise Expired if that is over."""
        outer = _current.get()
        self.clock = clock = loop.time if loop is not None else SYSTEM if outer is None else outer.clock
        self.began = now = clock()
        at = now + self._seconds
        if outer is not None:
            outer_at = outer.at_by(clock)
            if outer_at <= at:
                at, self._seconds, self.taken = outer_at, outer._seconds, outer.taken
            self._within = outer
        self.at = at
        if at <= now:
            raise self.expired()

    def __enter__(self) -> Self:
        return self.begin()

    def begin(self, around: Any = None) -> Self:
        """Begin the block.

        Args:
            around: a scope that was entered just now, as a task group's, or what has its `cancel`: to cancel everything in it and not
                only this task. Whoever entered it leaves it, after `finish`.
        """
        if self._token is not None:
            raise UsageError("a deadline is for one block: make another with flow.deadline(...) for the next")
        loop = running()
        self._fix(loop)
        if loop is not None and (self.at != math.inf or self.soon is not None):
            self._arm(loop, around)
        if watching.running:
            self.thread = threading.get_ident()
            watching.watched[id(self)] = self
        self._token = _current.set(self)
        return self

    def _arm(self, loop: Loop, around: Any) -> None:
        if loop.native is None:
            if around is None:
                self._own = True
                self._scope = anyio.CancelScope(deadline=self.at)
                self._scope.__enter__()
            else:
                self._scope = around
                around.deadline = self.at
        elif (task := asyncio.current_task(loop.native)) is not None:
            # A timer of our own instead of the scope's, because it sees where the task waits before it is cancelled.
            self._task, self._pressed = task, task.cancelling()
            if around is None:
                self._own = True
                self._scope = scope()
                self._scope.__enter__()
            else:
                self._scope = around
            # One timer for both, as most blocks have ended before the first is due.
            if self.soon is not None and (first := self.began + self.soon[0]) < self.at:
                self._timer = loop.native.call_at(first, self._still_going, loop.native)
            else:
                self._timer = loop.native.call_at(self.at, self._expire)

    def _still_going(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self.soon is not None
        if self.at != math.inf:
            self._timer = loop.call_at(self.at, self._expire)
        self.soon[1]()

    def _expire(self) -> None:
        assert self._scope is not None
        assert self._task is not None
        self._lag = self.remaining()
        self.waiting = places.awaited(self._task.get_coro())
        if self.look is not None:
            self.look()
        self._scope.cancel()

    def call_off(self) -> None:
        """Cancel what is in its block because nobody wants it any more; that raises nothing at its end."""
        self._called_off = True
        self._scope.cancel()

    @property
    def fired(self) -> bool:
        """Whether it has cancelled what is in its block."""
        return self._lag is not None or (
            self._task is None and self._scope is not None and self._scope.cancel_called and self.remaining() <= 0
        )

    @property
    def passed(self) -> bool:
        """Whether it is over. Timers may be half a millisecond early, and then it has cancelled its block before its time."""
        held: Deadline | None = self
        while held is not None:
            if held.fired:
                return True
            held = held._within
        return self.remaining() <= 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(kind, error, trace)

    def finish(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """End the block; raises Expired where it was cancelled in a scope of its own.

        Returns:
            Whether it was called off, and this ended it.
        """
        assert self._token is not None, "the block has begun"
        _current.reset(self._token)
        if watching.running:
            watching.watched.pop(id(self), None)
        pressed = self._own and self._task is not None and self._task.cancelling() > self._pressed
        if self._timer is not None and self._own:
            self._timer.cancel()
        caught = False
        try:
            if self._own and self._scope is not None:
                self._scope.__exit__(kind, error, trace)
                caught = self._scope.cancelled_caught
        finally:
            if (over := -self.remaining()) >= 0:
                self._look_back(over, pressed and error is None, trace)
        if caught and not self._called_off:
            raise self.expired() from None
        return caught

    def disarm(self) -> None:
        """The scope around is left; nothing is to be cancelled any more."""
        self.look = None  # which refers back to whoever has this one, as the scope does
        if self._timer is not None:
            self._scope = None
            self._timer.cancel()

    def _look_back(self, over: float, swallowed: bool, trace: TracebackType | None) -> None:
        """Tell what was wrong about a block that ended after its deadline."""
        told = self._told
        if not (told or swallowed or over > TOLERANCE):
            return
        if self._within is not None and self._within.at == self.at:
            self._within._told = True
        if told:
            return
        on_time = self._lag is not None and -self._lag <= TOLERANCE
        if swallowed and on_time:
            trouble, place = Trouble.SWALLOWED, self.waiting
        elif self._task is not None and not on_time:
            trouble, place = Trouble.BLOCKED, self.sample or places.raised(trace)
        else:
            trouble, place = Trouble.LATE, self.sample or self.waiting
        tell(Report(trouble, place or self.place, self.place, over))


def deadline(seconds: float) -> Deadline:
    """A block that must end within `seconds`, and by the end of the block it is in.

    Raises:
        UsageError: negative, or not a number.
        Expired: on entering, when no time is left, and then nothing of the block runs; or at its end, when it was cancelled. A block
            that ended after its deadline keeps its result; that is reported with the place that caused it.
    """
    return Deadline(seconds, places.caller())


def current() -> Deadline | None:
    """The deadline that holds here."""
    return _current.get()


def remaining() -> float:
    """Seconds left here; infinite without a deadline."""
    held = _current.get()
    return math.inf if held is None else held.remaining()


def check() -> None:
    """Raise `Expired` when the deadline that holds here has passed; for loops in threads, and before anything costly."""
    held = _current.get()
    if held is not None:
        held.check()
