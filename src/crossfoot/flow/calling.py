"""One guarded call: a deadline, a permit, retries, a fallback, and exactly one fate.

price = await flow.call(get_price, case, deadline=0.2, limit=pricing)
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, Unpack

import anyio

from crossfoot.errors import Expired
from crossfoot.flow import spans
from crossfoot.flow.branches import PLAIN, Asked, Branch, Terms
from crossfoot.flow.deadlines import Deadline
from crossfoot.flow.fates import Fate, fate_of
from crossfoot.flow.ledgers import LEDGER, Ledger, Waste

T = TypeVar("T")


async def call(
    function: Callable[..., Awaitable[T]],
    *args: object,
    name: str = "",
    deadline: float = math.inf,
    ledger: Ledger = LEDGER,
    **terms: Unpack[Asked],
) -> T:
    """Call one thing within its bounds, in this task.

    Args:
        function: called with `args`.
        name: as figures call it; the function's own, unless given.
        deadline: seconds, in which a fallback has to answer, too.
        terms: see `Terms`.

    Raises:
        Expired: the deadline passed.
        Rejected: no permit in time.
        InDoubt: it said so.
        Exception: what it raised, if there is no fallback that answered.
    """
    whole = Deadline(deadline)
    bounds = Terms(**terms) if terms else PLAIN
    branch: Branch[T] = Branch(name or getattr(function, "__qualname__", "?"), function, args, bounds, whole.taken)
    branch.arrive(ledger, "call")
    within = None if branch.span is None else spans.enter(branch.span)
    try:
        # Whether a cancellation is the deadline's is for the deadline to say: one of somebody else's may come in the same tick.
        with whole:
            await _run(branch, ledger, whole)
    except Expired as error:
        if branch.fate is None:
            note_waste(branch, error, ledger, whole, ())
            await _degrade(branch, error, whole)
    except BaseException as error:
        if branch.fate is None:
            note_waste(branch, error, ledger, whole, ())
            branch.end(branch.judged(error), error=error)
        raise
    finally:
        if within is not None:
            spans.leave(within)
    return branch.value


async def run(branch: Branch[Any], ledger: Ledger, whole: Deadline, *, siblings: Sequence[Branch[Any]] = ()) -> None:
    """Run a branch to its fate in a task of its own, which nobody cancels but the scope that it is in.

    Args:
        whole: the deadline of what it is a branch of; this task is within a scope that it cancels.
        siblings: required ones that have failed so far; the rest is cancelled on their account.
    """
    try:
        await _run(branch, ledger, whole)
    except BaseException as caught:
        if isinstance(caught, anyio.get_cancelled_exc_class()) and whole.fired and not siblings:
            error = whole.expired()
            note_waste(branch, error, ledger, whole, siblings)
            await _degrade(branch, error, whole)
            return
        note_waste(branch, caught, ledger, whole, siblings)
        branch.end(branch.judged(caught), error=caught)
        raise


async def _run(branch: Branch[Any], ledger: Ledger, whole: Deadline) -> None:
    """Run a branch to its fate, but for what is no error: that is raised, and for the caller to judge."""
    try:
        if branch.terms is PLAIN:  # what most are, without a step in between
            branch.begins(whole.clock())
            value = await branch.function(*branch.args)  # type: ignore[misc] # it is one of coroutines
        elif branch.terms.share < 1:
            with Deadline(max(0.0, whole.remaining()) * branch.terms.share, whole.taken):
                value = await _answer(branch, ledger, whole)
        else:
            value = await _answer(branch, ledger, whole)
        branch.end(Fate.FULL, value=value)
    except Exception as error:  # noqa: BLE001 - it is the branch's, and raised when its value is asked for
        note_waste(branch, error, ledger, whole, ())
        await _degrade(branch, error, whole)


async def _answer(branch: Branch[Any], ledger: Ledger, whole: Deadline) -> Any:
    retry = branch.terms.retry
    if retry is None:
        return await _once(branch, whole)
    return await retry.run_at(branch.taken, ledger, _once, branch, whole)


async def _once(branch: Branch[Any], whole: Deadline) -> Any:
    limit = branch.terms.limit
    if limit is None:
        branch.begins(whole.clock())
        return await branch.function(*branch.args)  # type: ignore[misc] # it is one of coroutines
    permit = limit.permit(branch.terms.priority)
    if not permit.take():
        await permit.__aenter__()
    try:
        branch.begins(whole.clock())
        value = await branch.function(*branch.args)  # type: ignore[misc] # as above
    except BaseException as error:
        permit.give_back(error)
        raise
    permit.give_back()
    return value


async def _degrade(branch: Branch[Any], error: Exception, whole: Deadline) -> None:
    """Have the fallback answer, if there is one and it can."""
    fallback, fate = branch.terms.fallback, branch.judged(error)
    if fallback is None:
        branch.end(fate, error=error)
        return
    try:
        value = fallback()
        if inspect.isawaitable(value):
            value = await _in_time(value, whole)
    except Exception as further:  # noqa: BLE001 - the branch's own error is the one that is told; this is said along
        error.add_note(f"and its fallback failed: {further!r}")
        branch.end(fate, error=error)
    except BaseException as cancelled:
        branch.end(fate if whole.fired else Fate.CANCELLED, error=error if whole.fired else cancelled)
        raise
    else:
        branch.end(Fate.DEGRADED, value=value, error=error)


async def _in_time(answer: Awaitable[Any], whole: Deadline) -> Any:
    """Await it for what is left of the whole."""
    try:
        whole.check()
        return await answer
    finally:
        if inspect.iscoroutine(answer):
            answer.close()  # no time was left, and so it was not begun


def note_waste(
    branch: Branch[Any], error: BaseException, ledger: Ledger, whole: Deadline, siblings: Sequence[Branch[Any]]
) -> None:
    """Book the work that a branch has done for nothing, if it did any."""
    fate = fate_of(error)
    if branch.began is None or fate not in (Fate.EXPIRED, Fate.CANCELLED):
        return
    cause = Waste.EXPIRED if fate is Fate.EXPIRED else Waste.REQUIRED if siblings else Waste.LEFT
    ledger.waste(cause, whole.clock() - branch.began)
