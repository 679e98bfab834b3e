"""Work in threads, with one honest rule: a thread cannot be cancelled.

Whoever waits for a thread may leave when the deadline is over, but the thread goes on. So its permit is held until it ends, threads
that were left are counted, and when too many of them are still running nothing new is begun: without that, each call that timed out
would hold a thread of a pool whose size says otherwise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import anyio

from crossfoot.errors import Overloaded, UsageError
from crossfoot.flow import places
from crossfoot.flow.deadlines import current
from crossfoot.flow.ledgers import LEDGER, Ledger, Waste
from crossfoot.flow.limits import Limit, Permit
from crossfoot.flow.reports import Report, Trouble, tell
from crossfoot.flow.runtime import running

T = TypeVar("T")

IDLE_SECONDS = 10.0
"""How long a thread waits for its next job."""


class Threads:
    """At most `size` threads, those that were left included.

    Args:
        size: threads that work at once.
        abandoned: how many of them may be going on after their callers have left; half of them, unless given.
        wait: seconds one waits for a thread at most.

    Raises:
        UsageError: no thread, or more abandoned ones than there are.
    """

    def __init__(
        self,
        size: int = 40,
        *,
        abandoned: int | None = None,
        name: str = "threads",
        wait: float = 1.0,
        ledger: Ledger = LEDGER,
    ) -> None:
        self._most = max(1, size // 2) if abandoned is None else abandoned
        if not 1 <= self._most <= size:
            raise UsageError(f"Threads({size}, abandoned={self._most}): need 1 <= abandoned <= size")
        self.limit = Limit(size, name=name, wait=wait, status=503)
        self.abandoned = 0
        """How many are going on after their callers have left, now."""
        self._ledger = ledger
        self._idle = 0
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._lock = threading.Lock()

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Call a function in a thread, with this context, and wait for it until the deadline.

        Raises:
            Overloaded: too many threads were left, or none came free.
            Expired: the deadline passed; the thread may be going on.
            Exception: what it raised.
        """
        self.refuse_if_worn()
        permit = self.limit.permit()
        await permit.__aenter__()
        loop = running()
        assert loop is not None, "in a coroutine"
        ended = anyio.Event()
        job = self.start(permit, lambda: loop.soon(ended.set), function, args)
        try:
            await ended.wait()
        except BaseException:
            self.leave(job)
            raise
        answer: T = job.answer()
        return answer

    # ---- for those who wait for jobs themselves --------------------------------------------------------------------

    def refuse_if_worn(self) -> None:
        """Raise Overloaded when too many threads are going on for nobody."""
        if self.abandoned >= self._most:
            raise Overloaded(
                f"{self.limit.name}: {self.abandoned} threads are going on after their callers have left, and more would "
                "leave none; give what they call a timeout of its own",
                retry_after=1.0,
            )

    def start(
        self, permit: Permit, ended: Callable[[], object], function: Callable[..., Any], args: tuple[object, ...]
    ) -> Job:
        """Begin, with a permit that the job gives back. `ended` is called in the thread."""
        job = Job(self, permit, ended, function, args)
        try:
            with self._lock:
                if self._idle:
                    self._idle -= 1
                    self._jobs.put(job)
                    return job
            threading.Thread(target=self._work, args=(job,), name=f"crossfoot {self.limit.name}", daemon=True).start()
        except BaseException:
            permit.give_back()
            raise
        return job

    def leave(self, job: Job) -> None:
        """Nobody waits for it any more; if it goes on, that is counted until it ends."""
        with self._lock:
            if job.over:
                return
            job.left = time.monotonic()
            self.abandoned += 1
        tell(Report(Trouble.ABANDONED, places.blocked(job.thread) or job.name, job.within))

    def ended(self, job: Job) -> None:
        with self._lock:
            job.over = True
            if job.left is None:
                return
            self.abandoned -= 1
            seconds = time.monotonic() - job.left
        self._ledger.waste(Waste.THREAD, seconds)

    def _work(self, job: Job) -> None:
        while True:
            job.run()
            with self._lock:
                self._idle += 1
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._jobs.empty():
                        self._idle -= 1
                        return
                job = self._jobs.get()  # handed over at the last moment: whoever did has counted this thread as busy


class Job:
    """A call in a thread."""

    def __init__(
        self,
        threads: Threads,
        permit: Permit,
        ended: Callable[[], object],
        function: Callable[..., Any],
        args: tuple[object, ...],
    ) -> None:
        self._threads, self._permit, self._ended = threads, permit, ended
        self._function, self._args = function, args
        self._context = copy_context()
        self._value: Any = None
        self.error: BaseException | None = None
        held = current()
        self.within = "no deadline" if held is None else held.place
        self.name = getattr(function, "__qualname__", "?")
        self.thread = 0
        self.over = False
        self.left: float | None = None
        """When its caller left."""

    def run(self) -> None:
        self.thread = threading.get_ident()
        try:
            self._value = self._context.run(self._function, *self._args)
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
            self.error = error
        del self._function, self._args, self._context
        self._threads.ended(self)
        self._permit.give_back(self.error)
        with suppress(RuntimeError):  # the loop that waited has ended
            self._ended()

    def answer(self) -> Any:
        """Its answer, or the error it ended with."""
        if self.error is not None:
            raise self.error
        return self._value
