"""One branch of a request: what is called, on which terms, and how it ended."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

from crossfoot.errors import FlowError, UsageError
from crossfoot.flow import places, spans
from crossfoot.flow.fates import ANSWERED, Fate, fate_of
from crossfoot.flow.ledgers import Arrival, Kind, Ledger
from crossfoot.flow.limits import ORDINARY, Limit
from crossfoot.flow.retries import Retry

if TYPE_CHECKING:
    from opentelemetry.trace import Span

T = TypeVar("T")


class Asked(TypedDict, total=False):
    """The arguments of `Terms`, for those who hand them on."""

    required: bool
    limit: Limit | None
    priority: int
    share: float
    retry: Retry | None
    key: str | None
    idempotent: bool
    effect: bool
    fallback: Callable[[], Any] | None


@dataclass(slots=True, kw_only=True)
class Terms:
    """What bounds a branch.

    Attributes:
        required: without its answer there is none: when it fails, the rest is cancelled.
        limit: what it needs a permit of.
        priority: 0 to 9, in the line for it.
        share: the part of the time that is left for which it may take; the rest is for its fallback. In a thread,
            guarded calls are refused after it.
        retry: how it is tried again; needs `key` or `idempotent`, or a function declared so.
        key: the idempotency key that the other side knows the call by.
        idempotent: calling it again does no more than calling it once.
        effect: it is to change something: without an answer it is in doubt, once it was begun.
        fallback: what answers when it does not; a function without arguments, of either kind. One that is to be awaited needs a share
            of less than 1, for when the whole time is over there is none to await it in.

    Raises:
        UsageError: terms that contradict each other.
    """

    required: bool = False
    limit: Limit | None = None
    priority: int = ORDINARY
    share: float = 1.0
    retry: Retry | None = None
    key: str | None = None
    idempotent: bool = False
    effect: bool = False
    fallback: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"a branch's share of {self.share}: more than 0, and 1 at most")
        if self.effect and self.fallback is not None:
            raise UsageError("a branch that is to change something has no fallback: what would it have changed?")
        if self.share == 1 and inspect.iscoroutinefunction(self.fallback):
            raise UsageError(
                "an asynchronous fallback has no time to answer in when its branch has used up all of it: give the branch a share of "
                "it, as share=0.8, or a fallback that answers at once"
            )


PLAIN = Terms()
"""Those of a branch that has none of its own."""


class Branch(Generic[T]):
    """A branch, and how it ended.

    Attributes:
        error: what kept it from a full answer.
    """

    # What it has not from the beginning is the class's, because one is made for every call.
    error: BaseException | None = None
    began: float | None = None
    """When it had its permit and was called, by the clock of its deadline."""
    task: asyncio.Task[Any] | None = None
    span: Span | None = None
    waiting: str | None = None
    """Where it waited when its deadline passed."""
    _value: T | None = None
    _arrival: Arrival | None = None

    def __init__(
        self, name: str, function: Callable[..., object], args: tuple[object, ...], terms: Terms, taken: places.Taken
    ) -> None:
        if terms.retry is not None:
            terms.retry.allow(function, key=terms.key, idempotent=terms.idempotent)
        self.name, self.terms = name, terms
        self.function, self.args = function, args
        self.taken = taken

    @property
    def fate(self) -> Fate | None:
        """Its fate; nothing while it is under way."""
        return self._arrival.fate if self._arrival is not None else None

    @property
    def answered(self) -> bool:
        """Whether there is a value."""
        return self.fate in ANSWERED

    @property
    def value(self) -> T:
        """Its answer.

        Raises:
            UsageError: it is still under way.
            BaseException: the error it ended with, where it has no answer.
        """
        if self.answered:
            return self._value  # type: ignore[return-value] # it has one
        if self.fate is None:
            raise UsageError(f"branch {self.name} has not ended: leave the block first, or wait for it")
        raise (
            self.error
            if isinstance(self.error, Exception)
            else FlowError(f"branch {self.name} has no answer: {self.fate}")
        )

    def get(self, default: T) -> T:
        """Its answer, or `default`."""
        return self.value if self.answered else default

    def __repr__(self) -> str:
        return f"<Branch {self.name}: {self.fate or 'under way'}>"

    # ---- for those who run it ------------------------------------------------------------------------------------

    def arrive(self, ledger: Ledger, kind: Kind = "branch") -> None:
        self._arrival = ledger.arrive(kind, self.name)
        self.span = spans.begin(kind, self.name)

    def begins(self, now: float) -> None:
        """It has its permit, and is called."""
        self.began = now
        if self.span is not None:
            spans.begun(self.span)

    def judged(self, error: BaseException) -> Fate:
        """The fate it has with that error."""
        return fate_of(error, doubtful=self.terms.effect and self.began is not None)

    def end(self, fate: Fate, *, value: T | None = None, error: BaseException | None = None) -> bool:
        """It ended so; whether that is so, as it ends once."""
        assert self._arrival is not None, "it has arrived"
        if not self._arrival.end(fate):
            return False
        self._value = value
        self.error = error
        if self.span is not None:
            spans.end(self.span, fate, error)
        return True


class Request:
    """A request of which branches are parts, from its arrival to its fate; what is done meanwhile in this task is within its span."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._arrival = ledger.arrive("request", name)
        self._span = spans.begin("request", name)
        self._within = None if self._span is None else spans.enter(self._span)

    def end(self, fate: Fate, error: BaseException | None = None) -> bool:
        """It ended so; whether that is so, as it ends once."""
        if not self._arrival.end(fate):
            return False
        if self._span is not None:
            spans.leave(self._within)
            spans.end(self._span, fate, error)
        return True
