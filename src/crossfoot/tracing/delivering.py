"""The span of a delivery: from where its handler begins to where its end is known.

A delivery has one span, however often its transaction is begun anew. It continues the trace that the message carries, and
links to it; in batch mode to the batch's span as well. What it was closed as is known after the commit, so it is ended
then, with the time at which its own work ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from crossfoot.message import Message
from crossfoot.tracing import words
from crossfoot.tracing.provider import (
    context_of,
    end,
    enter,
    fail,
    happened,
    leave,
    link_of,
    link_to,
    note,
    nowhere,
    spanning,
    start,
    tracer,
)
from crossfoot.tracing.words import Event, Span

if TYPE_CHECKING:
    from opentelemetry.trace import Link
    from opentelemetry.trace import Span as OpenSpan


class Origin:
    """Where deliveries come from: the queue, what kind of broker it is, and the worker that takes them.

    Args:
        worker: its name.
    """

    def __init__(self, queue: str, system: str, worker: str) -> None:
        self.queue = queue
        self.system = system
        self.worker = worker

    def attributes(self, operation: Span) -> dict[str, Any]:
        """What all spans of an operation say."""
        return {
            words.SYSTEM: self.system,
            words.DESTINATION: self.queue,
            words.OPERATION_NAME: operation.value,
            words.OPERATION_TYPE: operation.type,
            words.CLIENT: self.worker,
        }

    def delivery(self, message: Message | None, *, id_: str, size: int, attempt: int) -> Trace | None:
        """What follows a delivery; `None` where nobody traces.

        Args:
            message: unless its envelope could not be read.
            id_: the broker's name for it, for that case.
            size: bytes of the envelope.
        """
        return Trace(self, message, id_, size, attempt) if tracer() is not None else None


class Trace:
    """One delivery's span, not begun before its handler."""

    def __init__(self, origin: Origin, message: Message | None, id_: str, size: int, attempt: int) -> None:
        self.origin = origin
        self.context = context_of(message.traceparent, message.tracestate) if message is not None else None
        self.batch: Link | None = None
        self.id = message.id if message is not None else id_
        self._about = {
            words.MESSAGE_ID: self.id or None,
            words.ENVELOPE_SIZE: size,
            words.ATTEMPT: attempt,
        }
        if message is not None:
            self._about |= {
                words.CONVERSATION: message.correlationid,
                words.EVENT_TYPE: message.type,
                words.EVENT_SOURCE: message.source,
                words.EVENT_SUBJECT: message.subject,
            }
        self._span: OpenSpan | None = None
        self._over: int | None = None

    @property
    def link(self) -> Link | None:
        """To where the message was created."""
        return link_to(self.context, {words.MESSAGE_ID: self.id})

    def enter(self, handler: str, operation: str) -> Any:
        """The handler is about to begin, here. Returns what `leave` wants."""
        if self._span is None:
            self._begin({words.HANDLER: handler, words.OPERATION: operation})
        else:
            happened(self._span, Event.BEGUN_AGAIN)
        return enter(self._span) if self._span is not None else None

    def leave(self, token: Any) -> None:
        self.stamp()
        if token is not None:
            leave(token)

    def stamp(self) -> None:
        """Its work ends now; what became of it is told later."""
        if self._span is not None:
            self._over = time.time_ns()

    def close(self, fate: str, event: Event | None = None) -> None:
        """It came to a good end.

        Args:
            fate: the message's, by now.
        """
        self._finish(fate, event, {})

    def failed(
        self, fate: str, error: str, told: str, *, event: Event | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        """It failed, perhaps before its handler began.

        Args:
            error: the exception's class.
            told: type and place of the error; nothing of its text.
            facts: of the event.
        """
        if self._span is None:
            self._begin({})
        if self._span is not None:
            fail(self._span, error, told)
        self._finish(fate, event, facts or {})

    def drop(self) -> None:
        """Nobody will say what became of it: the worker is cut short, or stops over a fault."""
        if self._span is not None:
            self._finish(None, None, {})

    def _begin(self, more: Mapping[str, Any]) -> None:
        attributes = {**self.origin.attributes(Span.PROCESS), **self._about, **more}
        links = [link_to(self.context), self.batch]
        self._span = start(
            Span.PROCESS, self.origin.queue, "CONSUMER", attributes, links=links, parent=self.context or nowhere()
        )

    def _finish(self, fate: str | None, event: Event | None, facts: Mapping[str, Any]) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        if event is not None:
            happened(span, event, facts)
        note(span, {words.FATE: fate})
        end(span, self._over)


@contextmanager
def settling(operation: Span, traces: Sequence[Trace | None]) -> Iterator[Settlement]:
    """Ask the queue within the block to ack these, to take them back, or to move them to the dead letters."""
    known = [trace for trace in traces if trace is not None]
    if not known:
        yield Settlement(None)
        return
    origin, first = known[0].origin, known[0]
    alone = len(traces) == 1
    about = {words.MESSAGE_ID: first.id or None} if alone else {words.MESSAGE_COUNT: len(traces)}
    attributes = origin.attributes(operation) | about
    parent = first.context if alone and first.context is not None else nowhere()
    links = [trace.link for trace in known]
    span = start(operation, origin.queue, "CLIENT", attributes, links=links, parent=parent)
    with spanning(span):
        yield Settlement(span)


class Settlement:
    """One request that settles deliveries."""

    def __init__(self, span: OpenSpan | None) -> None:
        self._span = span

    def answered(self, amiss: Sequence[bool]) -> None:
        """Note what was not done.

        Args:
            amiss: of each such delivery whether its lease is lost; otherwise there was no answer.
        """
        if self._span is not None and amiss:
            fail(self._span, "lease_lost" if all(amiss) else "no_answer", f"{len(amiss)} not settled")


@contextmanager
def together(traces: Sequence[Trace | None]) -> Iterator[None]:
    """Deliveries that are handled in one transaction: it has a span of its own, which links to where they come from."""
    known = [trace for trace in traces if trace is not None]
    if not known:
        yield
        return
    origin = known[0].origin
    attributes = origin.attributes(Span.PROCESS_BATCH) | {words.MESSAGE_COUNT: len(traces)}
    links = [trace.link for trace in known]
    span = start(Span.PROCESS_BATCH, origin.queue, "CONSUMER", attributes, links=links, parent=nowhere())
    with spanning(span):
        if span is not None:
            there = link_of(span)
            for trace in known:
                trace.batch = there
        yield
