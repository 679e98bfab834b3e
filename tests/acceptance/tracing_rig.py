"""A program's own tracer provider, for the length of a test, and what its spans say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from crossfoot.message import Message

ONCE = "_TRACER_PROVIDER"
"""A provider can be set once in a process's life, and these are many programs in one process."""


class Spans:
    """What was exported until now."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self, operation: str | None = None) -> list[ReadableSpan]:
        """Those of an operation, in the order in which they ended."""
        found = self._exporter.get_finished_spans()
        return [span for span in found if operation is None or said(span, "messaging.operation.name") == operation]

    def of(self, message: Message | str, operation: str = "process") -> list[ReadableSpan]:
        """Those that stand for one message."""
        id_ = message if isinstance(message, str) else message.id
        return [span for span in self.all(operation) if said(span, "messaging.message.id") == id_]

    def one(self, message: Message | str, operation: str = "process") -> ReadableSpan:
        (span,) = self.of(message, operation)
        return span

    def text(self) -> str:
        """All that they say."""
        return "\n".join(span.to_json() for span in self.all())


@contextmanager
def provided(provider: Any) -> Iterator[None]:
    """The program has set this provider."""
    before = getattr(trace, ONCE)
    setattr(trace, ONCE, provider)
    try:
        yield
    finally:
        setattr(trace, ONCE, before)


@contextmanager
def traced() -> Iterator[Spans]:
    """A provider of the real SDK, whose spans are kept."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provided(provider):
        yield Spans(exporter)
    provider.shutdown()


def said(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(name)


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def trace_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def links_of(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def events_of(spans: Sequence[ReadableSpan]) -> list[str]:
    return [event.name for span in spans for event in span.events]


def traceparent_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
