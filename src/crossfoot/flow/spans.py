"""Spans of requests, branches and calls for OpenTelemetry, where the program has set a tracer provider; else nothing is imported.

A span begins when its thing arrives and ends with its fate; the wait for a permit is an event in it. What the thing calls is within it.
The SDK, its exporters and its sampling are the program's, and whatever they raise is told to the log and goes no further.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from crossfoot.flow.deadlines import remaining
from crossfoot.flow.fates import Fate, leaves

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

P = ParamSpec("P")
T = TypeVar("T")

LOG = logging.getLogger("crossfoot.flow")

KIND, NAME, FATE, LEFT = (f"crossfoot.flow.{word}" for word in ("kind", "name", "fate", "seconds_left"))
ERROR = "error.type"

BEGUN = "crossfoot.flow.begun"
"""The event that it had its permit, and was called."""

AMISS = frozenset({Fate.SHED, Fate.EXPIRED, Fate.FAILED, Fate.IN_DOUBT})
"""Fates that are errors to OpenTelemetry. What nobody wanted any more is none."""

_told = False


def _harmless(call: Callable[P, T]) -> Callable[P, T | None]:
    @wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
        global _told  # noqa: PLW0603 - told once, for it may be so at every span
        try:
            return call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a span is not worth a request
            if not _told:
                _told = True
                LOG.warning("a span is lost, and nothing else: the tracer raised %s", type(error).__name__)
            return None

    return guarded


def begin(kind: str, name: str) -> Span | None:
    """A span that begins now, within the one that is current here; nothing where nobody traces."""
    return _begin(kind, name) if "opentelemetry.trace" in sys.modules else None


@_harmless
def _begin(kind: str, name: str) -> Span | None:
    tracer = _tracer()
    if tracer is None:
        return None
    about: dict[str, Any] = {KIND: kind, NAME: name}
    if (left := remaining()) < math.inf:
        about[LEFT] = left
    return tracer.start_span(
        name if name == kind else f"{kind} {name}",
        attributes=about,
        record_exception=False,
        set_status_on_exception=False,
    )


def _tracer() -> Tracer | None:
    trace = sys.modules["opentelemetry.trace"]
    provider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        return None
    found: Tracer = provider.get_tracer("crossfoot.flow")
    return found


@_harmless
def enter(span: Span) -> Any:
    """Make it the current one. Returns what `leave` wants; a task or thread of its own need not leave."""
    from opentelemetry import context, trace

    return context.attach(trace.set_span_in_context(span))


@_harmless
def leave(token: Any) -> None:
    from opentelemetry import context

    context.detach(token)


@_harmless
def begun(span: Span) -> None:
    """It has its permit, and is called."""
    span.add_event(BEGUN)


@_harmless
def end(span: Span, fate: Fate, error: BaseException | None) -> None:
    """It ended so."""
    span.set_attribute(FATE, str(fate))
    if error is not None:
        first = next(leaves(error), error)
        span.set_attribute(ERROR, type(first).__name__)
    if fate in AMISS:
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR, str(fate)))
    span.end()
