"""Asking several at once, and answering with what came in time.

    async with flow.fan_out(deadline=0.3) as group:
        stock = group.branch("stock", get_stock, case, required=True)
        price = group.branch("price", get_price, case, limit=pricing, fallback=last_price)

    answer(stock.value, price.value, complete=group.fate is flow.Fate.FULL)

Nothing outlives the block. At its end every branch has its fate, `group.fate` is that of the whole, and what a required branch
raised is raised in an ExceptionGroup.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from crossfoot.errors import Expired, UsageError
from crossfoot.flow import places, spans
from crossfoot.flow.branches import PLAIN, Asked, Branch, Request, Terms
from crossfoot.flow.calling import run
from crossfoot.flow.deadlines import Deadline, current
from crossfoot.flow.fates import Fate, fate_of
from crossfoot.flow.groups import group
from crossfoot.flow.ledgers import LEDGER, Ledger
from crossfoot.flow.reports import Report, Trouble, tell

T = TypeVar("T")


class Stage(Enum):
    """How far a block is."""

    NEW = auto()
    OPEN = auto()
    OVER = auto()


USED = "a fan-out is for one block: make another for the next"


def outside(name: str, stage: Stage) -> str:
    """What is said to those who begin a branch outside the block."""
    when = "has not begun yet" if stage is Stage.NEW else "has ended"
    return f"branch {name}: its fan-out's block {when}, and nothing would end the branch; begin it within the block"


class FanOut:
    """Branches that run at once, within one deadline."""

    def __init__(self, seconds: float, name: str, ledger: Ledger, taken: places.Taken) -> None:
        self.branches: list[Branch[Any]] = []
        self.fate: Fate | None = None
        """That of the whole, once the block has ended."""
        self._name, self._ledger = name, ledger
        self._deadline = Deadline(seconds, taken)
        self._request: Request | None = None
        self._stage = Stage.NEW
        self._failed: list[Branch[Any]] = []

    async def __aenter__(self) -> Self:
        if self._stage is not Stage.NEW:
            raise UsageError(USED)
        self._stage = Stage.OVER  # unless it begins
        if self._name:
            self._request = Request(self._ledger, self._name)
        try:
            self._group = group()
            await self._group.__aenter__()
            try:
                self._deadline.begin(self._group.cancel_scope)
                self._deadline.look = self._look
            except BaseException:
                await self._group.__aexit__(None, None, None)
                raise
        except BaseException as error:
            self._end(error)
            raise
        self._stage = Stage.OPEN
        return self

    def branch(
        self, name: str, function: Callable[..., Awaitable[T]], *args: object, **terms: Unpack[Asked]
    ) -> Branch[T]:
        """Begin a branch.

        Args:
            name: as results, errors and figures call it.
            function: called with `args`.
            terms: see `Terms`.

        Raises:
            UsageError: terms that contradict each other, or not within the block.
        """
        if self._stage is not Stage.OPEN:
            raise UsageError(outside(name, self._stage))
        bounds, taken = (Terms(**terms), places.caller()) if terms else (PLAIN, self._deadline.taken)
        branch: Branch[T] = Branch(name, function, args, bounds, taken)
        branch.arrive(self._ledger)
        self.branches.append(branch)
        try:
            task = self._group.start_soon(self._run, branch)
        except BaseException as error:
            branch.end(branch.judged(error), error=error)
            raise
        if isinstance(task, asyncio.Task):
            branch.task = task
        return branch

    async def _run(self, branch: Branch[Any]) -> None:
        if branch.span is not None:
            spans.enter(branch.span)
        await run(branch, self._ledger, self._deadline, siblings=self._failed)
        if branch.terms.required and not branch.answered:
            self._failed.append(branch)
            self._group.cancel_scope.cancel()
        elif branch.task is not None and branch.task.cancelling() and branch.fate is Fate.FULL and not self._failed:
            over = max(0.0, -self._deadline.remaining())
            tell(Report(Trouble.SWALLOWED, branch.waiting or branch.name, self._deadline.place, over))

    def _look(self) -> None:
        """See where the branches wait, before the deadline cancels them."""
        for branch in self.branches:
            if branch.task is not None and branch.fate is None:
                branch.waiting = places.awaited(branch.task.get_coro())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            # By the same deadline the block is cancelled, and the branches are; a block that is through waits for them.
            stopped = (
                error is not None and not isinstance(error, Exception) and self._deadline.fired and not self._failed
            )
            self._deadline.finish(kind, error, trace)
            try:
                swallowed = await self._group.__aexit__(kind, error, trace)
            finally:
                self._stage = Stage.OVER
                self._deadline.disarm()
            if (self._failed or stopped) and (swallowed or error is None):
                raise self._failure(self._deadline.expired() if stopped else None)
        except BaseException as raised:
            self._end(raised)
            raise
        self._end(error)
        return bool(swallowed)

    def _failure(self, late: Expired | None) -> ExceptionGroup[Exception]:
        names = ", ".join(branch.name for branch in self._failed) or "the block itself"
        errors = [branch.error for branch in self._failed if isinstance(branch.error, Exception)]
        return ExceptionGroup(f"no answer from {names}", [*errors, *([late] if late is not None else [])])

    def _end(self, error: BaseException | None) -> None:
        for branch in self.branches:
            if branch.fate is None:  # its task was cancelled before it had begun
                branch.end(Fate.EXPIRED if self._deadline.fired and not self._failed else Fate.CANCELLED)
        self.fate = whole(self.branches, error)
        if self._request is not None:
            self._request.end(self.fate, error)


def whole(branches: list[Branch[Any]], error: BaseException | None) -> Fate:
    """The fate of a request, of how it ended and of its branches'. Effects in doubt leave all of it in doubt."""
    found = Fate.FULL
    for branch in branches:
        fate = branch.fate
        if fate is Fate.IN_DOUBT:
            return Fate.IN_DOUBT
        if fate is not Fate.FULL:
            found = Fate.DEGRADED
    return found if error is None else fate_of(error)


def fan_out(deadline: float | None = None, *, name: str = "", ledger: Ledger = LEDGER) -> FanOut:
    """Ask several at once.

    Args:
        deadline: seconds for all of it; without, the deadline that holds already.
        name: book it as a request of that name.

    Raises:
        UsageError: no deadline at all.
        Expired: on entering, when no time is left.
        ExceptionGroup: at the block's end: what required branches raised, what the block raised, or `Expired`, where the block itself
            was stopped.
    """
    if deadline is None and current() is None:
        raise UsageError(
            "fan_out(deadline=...): give it one, or ask within one; branches without a deadline may never end"
        )
    return FanOut(math.inf if deadline is None else deadline, name, ledger, places.caller())
