"""Asking several at once from threaded code.

    with flow.fan_out_threads(deadline=0.3) as group:
        stock = group.branch("stock", get_stock, case, required=True)
        price = group.branch("price", get_price, case, fallback=last_price)

The block is left by the deadline, whatever the threads do. Those that go on are counted by their `Threads`, and keep their permits.

A fallback is asked once: by the branch's thread, when the branch has failed in time, and then it has the time that is left; or at the
deadline by whoever leaves the block. That one is waited for, so it must not block: have it answer with what is at hand.
"""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from crossfoot.errors import Expired, UsageError
from crossfoot.flow import places, spans
from crossfoot.flow.branches import Asked, Branch, Request, Terms
from crossfoot.flow.calling import note_waste
from crossfoot.flow.deadlines import Deadline, current
from crossfoot.flow.fanning import USED, Stage, outside, whole
from crossfoot.flow.fates import Fate
from crossfoot.flow.ledgers import LEDGER, Ledger
from crossfoot.flow.threads import Job, Threads

T = TypeVar("T")

THREADS = Threads(name="fan-out threads")
"""Those of fan-outs that name none."""


class ThreadFanOut:
    """Branches in threads, within one deadline."""

    def __init__(self, seconds: float, name: str, threads: Threads, ledger: Ledger, taken: places.Taken) -> None:
        self.branches: list[Branch[Any]] = []
        self.fate: Fate | None = None
        """That of the whole, once the block has ended."""
        self._name, self._threads, self._ledger = name, threads, ledger
        self._deadline = Deadline(seconds, taken)
        self._request: Request | None = None
        self._jobs: dict[Branch[Any], Job | None] = {}
        self._changed = threading.Condition()
        self._stage = Stage.NEW
        self._degrading: set[Branch[Any]] = set()
        """Those whose fallback somebody asks, or has asked."""

    def __enter__(self) -> Self:
        if self._stage is not Stage.NEW:
            raise UsageError(USED)
        self._stage = Stage.OVER  # unless it begins
        if self._name:
            self._request = Request(self._ledger, self._name)
        try:
            self._deadline.__enter__()
        except BaseException as error:
            self._end(error)
            raise
        self._stage = Stage.OPEN
        return self

    def branch(self, name: str, function: Callable[..., T], *args: object, **terms: Unpack[Asked]) -> Branch[T]:
        """Begin a branch in a thread; see `FanOut.branch`. Without a thread for it, it is shed.

        Raises:
            UsageError: terms that contradict each other, an asynchronous fallback, or not within the block.
        """
        if self._stage is not Stage.OPEN:
            raise UsageError(outside(name, self._stage))
        bounds = Terms(**terms)
        if inspect.iscoroutinefunction(bounds.fallback):
            raise UsageError(f"branch {name}: nobody awaits in a thread; give it a fallback that is a plain function")
        branch: Branch[T] = Branch(name, function, args, bounds, places.caller())
        branch.arrive(self._ledger)
        self.branches.append(branch)
        self._jobs[branch] = None
        try:
            self._threads.refuse_if_worn()
            permit = self._threads.limit.permit(branch.terms.priority)
            permit.__enter__()
            self._jobs[branch] = self._threads.start(permit, lambda: None, self._run, (branch,))
        except Exception as error:  # noqa: BLE001 - it is the branch's, and raised when its value is asked for
            self._conclude(branch, error)
        return branch

    def _run(self, branch: Branch[Any]) -> None:
        """In the thread."""
        if branch.span is not None:
            spans.enter(branch.span)
        try:
            with Deadline(max(0.0, self._deadline.remaining()) * branch.terms.share, self._deadline.taken):
                value = self._answer(branch)
        except BaseException as error:  # noqa: BLE001 - as above
            self._conclude(branch, error)
            return
        with self._changed:
            branch.end(Fate.FULL, value=value)
            self._changed.notify_all()

    def _answer(self, branch: Branch[Any]) -> Any:
        def once() -> Any:
            if terms.limit is None:
                branch.begins(self._deadline.clock())
                return branch.function(*branch.args)
            with terms.limit.permit(terms.priority):
                branch.begins(self._deadline.clock())
                return branch.function(*branch.args)

        terms = branch.terms
        return once() if terms.retry is None else terms.retry.run_in_thread_at(branch.taken, self._ledger, once)

    def _conclude(self, branch: Branch[Any], error: BaseException) -> None:
        """A branch has no full answer: its fallback answers, or nothing does."""
        if branch.fate is not None:  # the block has ended without it
            return
        fate, value, fallback = branch.judged(error), None, branch.terms.fallback
        if fallback is not None and isinstance(error, Exception) and self._claim(branch):
            try:
                value = fallback()
                fate = Fate.DEGRADED
            except Exception as further:  # noqa: BLE001 - the branch's own error is the one that is told; this is said along
                error.add_note(f"and its fallback failed: {further!r}")
        with self._changed:
            branch.end(fate, value=value, error=error)
            self._changed.notify_all()

    def _claim(self, branch: Branch[Any]) -> bool:
        """Whether this thread is the one to ask its fallback."""
        with self._changed:
            if branch.fate is not None or branch in self._degrading:
                return False
            self._degrading.add(branch)
            return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stage = Stage.OVER
        try:
            if error is None:
                with self._changed:
                    while not self._settled():
                        if (left := self._deadline.remaining()) <= 0:
                            break
                        self._changed.wait(None if left == math.inf else min(left, threading.TIMEOUT_MAX))
            failed = self._failed()
            self._leave_the_rest(error, failed)
            self._deadline.__exit__(kind, error, trace)
            failed = failed or self._failed()
            if failed and error is None:
                names = ", ".join(branch.name for branch in failed)
                raise ExceptionGroup(
                    f"no answer from {names}",
                    [branch.error for branch in failed if isinstance(branch.error, Exception)],
                )
        except BaseException as raised:
            self._end(raised)
            raise
        self._end(error)

    def _settled(self) -> bool:
        return bool(self._failed()) or all(branch.fate is not None for branch in self.branches)

    def _failed(self) -> list[Branch[Any]]:
        return [one for one in self.branches if one.terms.required and one.fate is not None and not one.answered]

    def _leave_the_rest(self, error: BaseException | None, failed: list[Branch[Any]]) -> None:
        """Give those that have not ended their fate, and leave their threads."""
        for branch, job in self._jobs.items():
            if branch.fate is not None:
                continue
            reason: BaseException = self._deadline.expired()
            if failed or error is not None:
                reason = Unwanted(f"branch {branch.name}: nobody waits for it any more")
            note_waste(branch, reason, self._ledger, self._deadline, failed)
            if isinstance(reason, Expired):
                self._conclude(branch, reason)
            else:
                doubtful = branch.terms.effect and branch.began is not None
                branch.end(Fate.IN_DOUBT if doubtful else Fate.CANCELLED, error=reason)
            if job is not None:
                self._threads.leave(job)

    def _end(self, error: BaseException | None) -> None:
        self.fate = whole(self.branches, error)
        if self._request is not None:
            self._request.end(self.fate, error)


class Unwanted(BaseException):
    """A branch that was left because the rest is of no use any more; no `except Exception` takes it for a failure."""


def fan_out_threads(
    deadline: float | None = None, *, name: str = "", threads: Threads | None = None, ledger: Ledger = LEDGER
) -> ThreadFanOut:
    """Ask several at once, in threads.

    Args:
        deadline: seconds for all of it; without, the deadline that holds already.
        name: book it as a request of that name.
        threads: those that work for it.

    Raises:
        UsageError: no deadline at all.
        Expired: on entering, when no time is left.
        ExceptionGroup: at the block's end: what required branches raised.
    """
    if deadline is None and current() is None:
        raise UsageError("fan_out_threads(deadline=...): give it one, or ask within one")
    return ThreadFanOut(math.inf if deadline is None else deadline, name, threads or THREADS, ledger, places.caller())
