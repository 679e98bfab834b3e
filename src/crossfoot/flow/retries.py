"""Trying again: under a deadline and a budget, only what is safe to repeat, and in one layer only.

again = flow.Retry(attempts=3)
price = await again.run(get_price, case, idempotent=True)
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import anyio

from crossfoot.errors import Rejected, UsageError
from crossfoot.flow import places
from crossfoot.flow.budgets import Budget
from crossfoot.flow.deadlines import Deadline, current, deadline, seconds_of
from crossfoot.flow.fates import leaves
from crossfoot.flow.ledgers import LEDGER, Ledger, Waste
from crossfoot.flow.reports import Report, Trouble, tell
from crossfoot.flow.runtime import SYSTEM

P = ParamSpec("P")
T = TypeVar("T")

METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""HTTP's idempotent methods (RFC 9110, section 9.2.2)."""


class _Layer:
    """A retry that is under way."""

    __slots__ = ("over", "taken")

    def __init__(self, taken: places.Taken) -> None:
        self.taken = taken
        self.over = False


_layer: ContextVar[_Layer | None] = ContextVar("crossfoot_retry", default=None)


def idempotent(function: Callable[P, T]) -> Callable[P, T]:
    """Declare that calling a function again with the same arguments does no more than calling it once."""
    function.__idempotent__ = True  # type: ignore[attr-defined] # a mark of our own
    return function


LOST = {
    "httpx": {"NetworkError", "TimeoutException", "RemoteProtocolError"},
    "aiohttp": {"ClientConnectionError", "ClientPayloadError"},
}
"""Errors of HTTP clients, by package, that say that there was no connection, or no whole answer; none of them is imported here."""

LASTING = {"aiohttp": {"ClientSSLError", "ClientConnectorCertificateError"}}
"""Those among them that come again."""


def worth_another_try(error: BaseException) -> bool:
    """Whether an error is of the kind that passes: no connection, no answer in time, or a refusal."""
    return all(
        isinstance(one, (ConnectionError, TimeoutError, Rejected))
        or getattr(one, "retry_after", None) is not None
        or (_is_one_of(LOST, one) and not _is_one_of(LASTING, one))
        for one in leaves(error)
    )


def _is_one_of(names: dict[str, set[str]], error: BaseException) -> bool:
    return any(kind.__name__ in names.get(kind.__module__.partition(".")[0], ()) for kind in type(error).__mro__)


class Retry:
    """How often, and when, something is tried again.

    Pauses have full jitter: anything from nothing to `base` doubled for each try, `cap` at most (Brooker, *Exponential Backoff and
    Jitter*, AWS Architecture Blog, 2015). An error that has `retry_after` says itself how long to wait (RFC 9110, section 10.2.3),
    and is waited for, with jitter on top.

    Args:
        attempts: tries in all.
        base: seconds the first pause may last.
        cap: seconds any pause may last, unless the other side asks for more.
        each: seconds a single try may last.
        budget: shared by all calls of this retry, and of others that are given it. It goes by the machine's clock, because the loops
            that share it may have clocks of their own.
        again: whether an error is worth another try.
        chance: from 0 to 1, at random.

    Raises:
        UsageError: fewer than 1 attempt, or pauses or times that are none.
    """

    def __init__(
        self,
        attempts: int = 3,
        *,
        base: float = 0.05,
        cap: float = 2.0,
        each: float | None = None,
        budget: Budget | None = None,
        again: Callable[[BaseException], bool] = worth_another_try,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not attempts >= 1 or not 0 <= base <= cap:
            raise UsageError(
                f"Retry(attempts={attempts}, base={base}, cap={cap}): need an attempt, and 0 <= base <= cap"
            )
        self.attempts = attempts
        self.base, self.cap = base, cap
        self.each = None if each is None else seconds_of(each, "Retry(each=...)")
        self.budget = budget or Budget()
        self._again = again
        self._chance = chance

    def allow(self, function: Callable[..., object], *, key: str | None, idempotent: bool) -> None:
        """Raise UsageError unless it is safe to repeat that."""
        if not (key or idempotent or getattr(function, "__idempotent__", False)):
            raise UsageError(
                f"{_name(function)} is tried again only if that does no harm: pass key=... (and send it along), "
                "or idempotent=True, or declare it with @flow.idempotent"
            )

    async def run(
        self,
        function: Callable[..., Awaitable[T]],
        *args: object,
        key: str | None = None,
        idempotent: bool = False,
        ledger: Ledger = LEDGER,
    ) -> T:
        """Call it until it answers.

        Args:
            key: an idempotency key that the other side knows the call by.
            idempotent: calling it again does no more than calling it once.

        Raises:
            UsageError: without a deadline, or when it is not safe to repeat.
            Exception: what the last try raised. A note on it says why there was no other.
        """
        self.allow(function, key=key, idempotent=idempotent)
        return await self.run_at(places.caller(), ledger, function, *args)

    async def run_at(
        self, taken: places.Taken, ledger: Ledger, function: Callable[..., Awaitable[T]], *args: object
    ) -> T:
        """The same for those who have asked `allow`, and know the place that is to be named."""
        tries = _Tries(self, function, ledger, taken)
        with tries:
            while True:
                began = tries.clock()
                try:
                    with nullcontext() if self.each is None else deadline(self.each):
                        return await function(*args)
                except Exception as error:
                    pause = tries.after(error, began)
                    if pause is None:
                        raise
                await anyio.sleep(pause)

    def run_in_thread(
        self,
        function: Callable[..., T],
        *args: object,
        key: str | None = None,
        idempotent: bool = False,
        ledger: Ledger = LEDGER,
    ) -> T:
        """The same in a thread, which sleeps between the tries."""
        self.allow(function, key=key, idempotent=idempotent)
        return self.run_in_thread_at(places.caller(), ledger, function, *args)

    def run_in_thread_at(self, taken: places.Taken, ledger: Ledger, function: Callable[..., T], *args: object) -> T:
        """As `run_at`, in a thread."""
        tries = _Tries(self, function, ledger, taken)
        with tries:
            while True:
                began = tries.clock()
                try:
                    with nullcontext() if self.each is None else deadline(self.each):
                        return function(*args)
                except Exception as error:
                    pause = tries.after(error, began)
                    if pause is None:
                        raise
                time.sleep(pause)

    def pause(self, attempt: int, hint: float | None) -> float:
        """Seconds until the next try, after `attempt` tries failed; `hint` is what the other side asked for."""
        jitter: float = self._chance() * min(self.cap, self.base * 2 ** min(attempt - 1, 40))
        return jitter if hint is None else hint + jitter


class _Tries:
    """The tries of one call."""

    def __init__(self, retry: Retry, function: Callable[..., object], ledger: Ledger, taken: places.Taken) -> None:
        held = current()
        if held is None:
            raise UsageError(
                f"{_name(function)} is tried again only under a deadline: `with flow.deadline(...)` around it"
            )
        self._retry, self._function, self._ledger = retry, function, ledger
        self._held: Deadline = held
        self.clock = held.clock
        self._made = 0
        self._layer = _Layer(taken)
        outer = _layer.get()
        self._attempts = retry.attempts
        if outer is not None and not outer.over:
            # Three tries within three are nine, and within three more twenty-seven: the outer layer is the one that tries.
            self._attempts = 1
            tell(Report(Trouble.NESTED_RETRY, places.told(self._layer.taken), places.told(outer.taken)))

    def __enter__(self) -> None:
        self._token = _layer.set(self._layer)
        self._retry.budget.call(SYSTEM())

    def __exit__(self, *_: object) -> None:
        _layer.reset(self._token)
        self._layer.over = True  # tasks that it began, and that go on, are not within it any more

    def after(self, error: Exception, began: float) -> float | None:
        """Seconds until the next try; nothing when there is none."""
        self._made += 1
        if not self._retry._again(error):
            return None
        if self._made >= self._attempts:
            return None
        hints = [hint for one in leaves(error) if (hint := getattr(one, "retry_after", None)) is not None]
        pause = self._retry.pause(self._made, max(hints, default=None))
        left = self._held.remaining()
        if pause >= left:
            error.add_note(
                f"not tried again: {max(0.0, left):.3f} s are left, and the next try was due in {pause:.3f} s"
            )
            return None
        if not self._retry.budget.retry(SYSTEM()):
            error.add_note("not tried again: the budget for retries is used up")
            return None
        self._ledger.waste(Waste.RETRIED, self.clock() - began)
        return pause


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", repr(function))
