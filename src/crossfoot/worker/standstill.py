"""Who holds up the event loop: seen by a thread beside it, while it stands still.

What blocks in an asynchronous handler (a request without `await`, a long computation) holds up all that the worker does in
its event loop, above all the extension of leases: other messages lose theirs, and look as if they were to blame. The thread
asks the loop for a sign of life, and while none comes it looks at what the loop's thread is doing. That names the handler and the
line, and costs the handlers nothing.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType

import anyio
import anyio.to_thread
import msgspec

from crossfoot.books.cause import module_of, place_of
from crossfoot.clock import Clock
from crossfoot.effects.perform import acalled
from crossfoot.effects.work import Work
from crossfoot.errors import LeaseLost
from crossfoot.worker.held import Held

logger = logging.getLogger("crossfoot.worker")

PERIOD = 0.5
"""Seconds between two looks at most."""

WORTH_TELLING = 1.0
"""Seconds of one handler that are told."""

QUIET = 60.0
"""Seconds for which a place is not told again."""


MOST_LOOKS = 240
"""Looks at one standstill that are kept, the last ones: two minutes of them, and it may never end."""


class Seen(msgspec.Struct, frozen=True):
    """What the loop's thread was doing at one look.

    Attributes:
        handler: whose coroutine ran; empty where it was none's.
        place: the line of the user's code, as `billing.py:42 charge()`.
        delivery: the number of the delivery it ran for.
        many: whether that handler takes a list, and so ran for others too.
        what: the message, for a log.
    """

    handler: str = ""
    place: str = ""
    delivery: int = 0
    many: bool = False
    what: str = ""

    def is_of(self, held: Held) -> bool:
        """Whether that was this very delivery's handler."""
        if self.many:
            return held.handler is not None and held.handler.name == self.handler
        return held.hold is not None and held.hold.delivery == self.delivery

    def __str__(self) -> str:
        if self.handler:
            return f"in handler {self.handler}" + (f", at {self.place}" if self.place else "")
        return f"at {self.place}"


NOTHING_SEEN = Seen()


class Standstill(msgspec.Struct, frozen=True):
    """The event loop did not turn for a while. Times by the monotonic clock."""

    began: float
    until: float
    looks: tuple[Seen, ...]

    @property
    def seconds(self) -> float:
        return self.until - self.began

    @property
    def culprit(self) -> Seen:
        """What was seen most often."""
        return max(self.looks, key=self.looks.count, default=NOTHING_SEEN)


class Watch:
    """Watches the event loop of one worker.

    Args:
        lease: seconds; what it is about is that a lease runs out unextended.
        resumed: called in the loop as soon as it turns again after it stood still for so long that leases are in danger.
    """

    def __init__(self, lease: float, clock: Clock, resumed: Callable[[], None] = lambda: None) -> None:
        self._lease = lease
        self._clock = clock
        self._resumed = resumed
        self._period = min(PERIOD, lease / 12)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._asked: float | None = None
        """Since when an answer is waited for."""
        self._looks: deque[Seen] = deque(maxlen=MOST_LOOKS)
        self._past: deque[Standstill] = deque(maxlen=16)
        self._told: dict[str, float] = {}

    async def run(self) -> None:
        """Watch the loop this is called in, until cancelled."""
        loop, thread = asyncio.get_running_loop(), threading.get_ident()
        try:
            await anyio.to_thread.run_sync(
                self._look_on, loop, thread, limiter=anyio.CapacityLimiter(1), abandon_on_cancel=True
            )
        finally:
            self._over.set()

    def _look_on(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        warned = False
        while not self._over.wait(self._period):
            with self._lock:
                asked = self._asked
                if asked is None:
                    self._asked, warned = self._clock.monotonic(), False
                    try:
                        loop.call_soon_threadsafe(self._answer)
                    except RuntimeError:  # the loop is closed
                        return
                    continue
                self._looks.append(_doing(thread))
                standstill = Standstill(asked, self._clock.monotonic(), tuple(self._looks))
            if not warned and standstill.seconds > self._lease / 2:
                warned = True
                self._tell(standstill, "has stood still")

    def _answer(self) -> None:
        """The loop turns. Runs in it."""
        with self._lock:
            assert self._asked is not None
            standstill = Standstill(self._asked, self._clock.monotonic(), tuple(self._looks))
            self._asked = None
            self._looks.clear()
        if standstill.seconds > self._lease / 4:
            self._past.append(standstill)
        if standstill.seconds > self._lease / 2:  # at least so much of each was left when it began
            self._resumed()
        if standstill.seconds > (WORTH_TELLING if standstill.culprit.place else self._lease / 2):
            self._tell(standstill, "stood still")

    def _tell(self, standstill: Standstill, how: str) -> None:
        culprit, now = standstill.culprit, standstill.until
        about = str(culprit) if culprit.place or culprit.handler else UNSEEN
        if now < self._told.get(how + about, 0.0):
            return
        self._told[how + about] = now + QUIET
        logger.warning(
            "the event loop %s for %.1f s, %s%s: meanwhile nothing else ran in it, and no lease was extended%s",
            how, standstill.seconds, about, f" ({culprit.what})" if culprit.what else "", f". {REMEDY}" if culprit.place else "",
        )  # fmt: skip

    def explain(self, held: Held, error: Exception) -> Exception:
        """The failure, said as what it was: a lease that ran out because nobody could extend it. Where another delivery's
        handler was seen at that, it does not count against this one."""
        if not isinstance(error, LeaseLost):
            return error
        standstill = self._before(min(held.lease_over, self._clock.monotonic()))
        if standstill is None:
            return error
        name = held.message.key if held.message is not None else held.delivery.broker_id
        own = sum(look.is_of(held) for look in standstill.looks)
        others = sum(bool(look.handler) for look in standstill.looks) - own
        told = f"{name}: its lease ran out, because the event loop of this worker stood still for {standstill.seconds:.1f} s"
        if own > others:
            return LeaseLost(f"{told} in its own handler, at {standstill.culprit.place}; nothing was kept. {REMEDY}")
        if not standstill.culprit.place:
            return LeaseLost(f"{told}, {UNSEEN}; nothing was kept: it comes again by itself")
        explained = LeaseLost(f"{told} {standstill.culprit}; nothing was kept: it comes again by itself. {REMEDY}")
        # Looks are a period apart at least: so long somebody else's handler had the loop, whatever this one did in a thread.
        explained.counts = others * self._period < self._lease / 4
        return explained

    def _before(self, at: float) -> Standstill | None:
        """What kept a lease from being extended that was over at that time. It is asked for from its first third on, by a beat
        every sixth: so when its second half is over unextended, something is the matter with that half."""
        with self._lock:
            found = list(self._past)
            if self._asked is not None:
                found.append(Standstill(self._asked, self._clock.monotonic(), tuple(self._looks)))
        for one in reversed(found):
            if min(one.until, at) - max(one.began, at - self._lease / 2) > self._lease / 4:
                return one
        return None


UNSEEN = "and no line of yours was seen at it: the process was stopped, had no processor time, or ran code that lets no other thread run"
REMEDY = "What blocks belongs in a handler that is `def` and not `async def`, or in a thread: `await anyio.to_thread.run_sync(...)`"


def _doing(thread: int) -> Seen:
    """What a thread does just now, from its innermost frame to the handler, or to its event loop."""
    frames: list[FrameType] = []
    frame = sys._current_frames().get(thread)
    while frame is not None and module_of(frame) not in ("asyncio.events", "asyncio.runners"):
        if frame.f_code is acalled.__code__:
            work: Work = frame.f_locals["work"]
            place = place_of([(one, one.f_lineno) for one in reversed(frames)])
            return Seen(work.handler.name, place, work.hold.delivery, work.handler.many, work.what)
        frames.append(frame)
        frame = frame.f_back
    return Seen(place=place_of([(one, one.f_lineno) for one in reversed(frames)]))
