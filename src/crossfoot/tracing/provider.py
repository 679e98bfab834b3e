"""The way to the program's tracer. It is found, never set: the SDK, its exporters and its sampling are the program's.

Whatever goes wrong in there is told to the log and goes no further: a span is not worth a delivery.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from crossfoot.message import valid_traceparent

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanKind, Tracer

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("crossfoot.tracing")

CONVENTIONS = "https://opentelemetry.io/schemas/1.44.0"
"""The version of OpenTelemetry's semantic conventions that the names are from; later ones rename `messaging.system`, which
what reads traces does not know yet."""

MOST_TOLD = 10
"""Faults of the tracer that are told of: it may have one at every span."""

_told = 0
_made: tuple[Any, Tracer] | None = None


def harmless(call: Callable[P, T]) -> Callable[P, T | None]:
    """The same, which gives `None` where it would raise."""

    @wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - tracers, exporters and samplers are the program's, and may raise anything
            _tell(error)
            return None

    return guarded


def _tell(error: Exception) -> None:
    global _told  # noqa: PLW0603 - one process, one count
    if _told < MOST_TOLD:
        _told += 1
        logger.warning("a span is lost, and nothing else: the tracer raised %s", type(error).__name__)


@harmless
def _tracer() -> Tracer | None:
    global _made  # noqa: PLW0603 - one process, one provider
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None  # what nobody has imported, nobody has configured
    provider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        return None
    if _made is None or _made[0] is not provider:
        _made = (provider, provider.get_tracer("crossfoot", schema_url=CONVENTIONS))
    return _made[1]


def tracer() -> Tracer | None:
    """The program's tracer, where it has set a provider."""
    return _tracer() if "opentelemetry.trace" in sys.modules else None


class Ids(NamedTuple):
    """The span that is current here, as log records name it: 32 and 16 hexadecimal digits."""

    trace: str
    span: str


def current_ids() -> Ids | None:
    """Where this code runs, as far as somebody traces it."""
    return _current_ids() if "opentelemetry.trace" in sys.modules else None


@harmless
def _current_ids() -> Ids | None:
    from opentelemetry import trace

    here = trace.get_current_span().get_span_context()
    return Ids(f"{here.trace_id:032x}", f"{here.span_id:016x}") if here.is_valid else None


# ---- contexts --------------------------------------------------------------------------------------------------------


class Carried(NamedTuple):
    """A span's context as a message carries it."""

    traceparent: str
    tracestate: str | None


@harmless
def carried_by(span: Span) -> Carried | None:
    """The context of a span, for the envelope."""
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, set_span_in_context(span))
    traceparent = headers.get("traceparent")
    if traceparent is None or not valid_traceparent(traceparent):
        return None
    return Carried(traceparent, headers.get("tracestate") or None)


@harmless
def context_of(traceparent: str | None, tracestate: str | None = None) -> Context | None:
    """The context that a message carries; `None` where it carries none that can be used."""
    if traceparent is None or not valid_traceparent(traceparent):
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers = {"traceparent": traceparent} | ({"tracestate": tracestate} if tracestate else {})
    return TraceContextTextMapPropagator().extract(headers, Context())


@harmless
def link_to(context: Context | None, attributes: Mapping[str, Any] | None = None) -> Link | None:
    """A link to the span that a context is of."""
    from opentelemetry.trace import Link, get_current_span

    there = get_current_span(context).get_span_context() if context is not None else None
    return Link(there, dict(attributes or {})) if there is not None and there.is_valid else None


@harmless
def link_of(span: Span) -> Link | None:
    """A link to a span of this process."""
    from opentelemetry.trace import Link

    return Link(span.get_span_context())


@harmless
def nowhere() -> Context:
    """The context in which nothing is current: what begins there is the first span of its trace."""
    from opentelemetry.context import Context

    return Context()


# ---- spans -----------------------------------------------------------------------------------------------------------


@harmless
def start(
    operation: str, queue: str, kind: str, attributes: Mapping[str, Any], *, links: Sequence[Link | None] = (),
    parent: Context | None = None,
) -> Span | None:  # fmt: skip
    """A span that has begun; `None` where nobody traces.

    Args:
        kind: `PRODUCER`, `CONSUMER` or `CLIENT`.
        parent: where it belongs; to the current span unless given.
    """
    found = tracer()
    if found is None:
        return None
    from opentelemetry.trace import SpanKind

    wanted: SpanKind = SpanKind[kind]
    stated = {name: value for name, value in attributes.items() if value is not None}
    return found.start_span(
        f"{operation} {queue}", parent, wanted, stated, [link for link in links if link is not None],
        record_exception=False, set_status_on_exception=False,  # an exception's text may hold what a message carries
    )  # fmt: skip


@harmless
def enter(span: Span) -> Any:
    """Make it the current span. Returns what `leave` wants."""
    from opentelemetry import context, trace

    return context.attach(trace.set_span_in_context(span))


@harmless
def leave(token: Any) -> None:
    from opentelemetry import context

    context.detach(token)


@harmless
def fail(span: Span, kind: str, told: str = "") -> None:
    """Say that what it stands for failed.

    Args:
        kind: the exception's class, or another word of few.
        told: one line without a value of any payload.
    """
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, told or None))


@harmless
def note(span: Span, attributes: Mapping[str, Any]) -> None:
    """Set attributes; those without a value are left out."""
    for name, value in attributes.items():
        if value is not None:
            span.set_attribute(name, value)


@harmless
def happened(span: Span, event: str, attributes: Mapping[str, Any] | None = None) -> None:
    """Add an event."""
    span.add_event(str(event), dict(attributes or {}))


@harmless
def end(span: Span, at: int | None = None) -> None:
    """End it, now or at that time (nanoseconds since the epoch)."""
    span.end(at)


@contextmanager
def spanning(span: Span | None) -> Iterator[Span | None]:
    """Be in a span until the end of the block, and end it there."""
    if span is None:
        yield None
        return
    token = enter(span)
    try:
        yield span
    except Exception as error:
        fail(span, name_of(error))
        raise
    finally:
        if token is not None:
            leave(token)
        end(span)


def name_of(error: BaseException) -> str:
    """The name of an exception's class, as `error.type` wants it."""
    kind = type(error)
    module = getattr(kind, "__module__", "")
    return kind.__qualname__ if module in ("builtins", "") else f"{module}.{kind.__qualname__}"
