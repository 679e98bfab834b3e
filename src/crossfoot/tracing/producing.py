"""Spans of what is published: a message gets its creation context, unless it carries one already, and takes it along.

One message alone: its `send` span is its creation context. Several at once: each has a `create` span, and the one `send`
span links to all of them. What a transaction sends gets a `create` span; the relay has its `send` span later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from crossfoot.message import Message, encode
from crossfoot.tracing import words
from crossfoot.tracing.provider import (
    Carried,
    carried_by,
    context_of,
    current_ids,
    end,
    fail,
    happened,
    harmless,
    link_to,
    note,
    spanning,
    start,
    tracer,
)
from crossfoot.tracing.words import Event, Span

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span as OpenSpan


class Place(NamedTuple):
    """Where messages go: the queue's name, what kind of broker it is, and the largest message that it takes."""

    queue: str
    system: str
    limit: int | None = None


class Ready(NamedTuple):
    """A message with its context, and as it will travel."""

    message: Message
    body: bytes


class Answer(NamedTuple):
    """What became of a message that was sent.

    Attributes:
        fate: its fate by that.
        error: `refused`, `in_doubt`, or empty where it was accepted.
    """

    id: str
    fate: str
    error: str


class Publication:
    """What is published together, and how it went."""

    def __init__(self, ready: list[Ready], span: OpenSpan | None = None) -> None:
        self.ready = ready
        self._span = span

    def answered(self, answers: Sequence[Answer]) -> None:
        """Note what became of each message."""
        if self._span is None:
            return
        amiss = [answer for answer in answers if answer.error]
        if len(answers) == 1:
            note(self._span, {words.FATE: answers[0].fate})
        elif amiss:
            for one in amiss:
                happened(self._span, Event.NOT_ACCEPTED, {words.MESSAGE_ID: one.id, words.FATE: one.fate})
        if amiss:
            fail(self._span, amiss[0].error, f"{len(amiss)} of {len(answers)} not accepted")


@contextmanager
def publishing(messages: Sequence[Message], place: Place) -> Iterator[Publication]:
    """Publish these within the block.

    Raises:
        EnvelopeInvalid: one cannot be encoded.
    """
    if tracer() is None or not messages:
        yield Publication([Ready(message, encode(message)) for message in messages])
        return
    if len(messages) == 1:
        (message,) = messages
        with spanning(_send_one(message, place)) as span:
            yield Publication([_with(message, None if message.traceparent else span, place)], span)
        return
    ready = [creating(message, place) for message in messages]
    with spanning(_send_span(place, [_Sent(one.id, one.traceparent, one.tracestate) for one, _ in ready])) as span:
        yield Publication(ready, span)


def creating(message: Message, place: Place, *, inherited: bool = False) -> Ready:
    """A message with the context of a span that stands for its creation.

    Args:
        inherited: whether the context it carries is that of the message it comes from, and not its own.

    Raises:
        EnvelopeInvalid: it cannot be encoded.
    """
    if tracer() is None or (message.traceparent is not None and not inherited):
        return Ready(message, encode(message))
    parent = None if current_ids() else context_of(message.traceparent, message.tracestate)
    span = start(Span.CREATE, place.queue, "PRODUCER", _of_message(Span.CREATE, message, place), parent=parent)
    try:
        return _with(message, span, place)
    finally:
        if span is not None:
            end(span)


class _Sent(msgspec.Struct):
    """What a `send` span says of a message on its way."""

    id: str
    traceparent: str | None = None
    tracestate: str | None = None


_read_sent = harmless(msgspec.json.Decoder(_Sent).decode)


@contextmanager
def relaying(bodies: Sequence[bytes], place: Place) -> Iterator[Publication]:
    """Send messages that were created before, within the block."""
    sent = [_read_sent(body) or _Sent("") for body in bodies] if tracer() is not None else []
    span = _send_span(place, sent) if sent else None
    with spanning(span):
        yield Publication([], span)


def _send_span(place: Place, sent: Sequence[_Sent]) -> OpenSpan | None:
    contexts = [context_of(one.traceparent, one.tracestate) for one in sent]
    links = [link_to(context, {words.MESSAGE_ID: one.id}) for one, context in zip(sent, contexts, strict=True)]
    alone = len(sent) == 1
    about = {words.MESSAGE_ID: sent[0].id} if alone else {words.MESSAGE_COUNT: len(sent)}
    parent = contexts[0] if alone and not current_ids() else None
    return start(Span.SEND, place.queue, "CLIENT", {**_of(Span.SEND, place), **about}, links=links, parent=parent)


def _send_one(message: Message, place: Place) -> OpenSpan | None:
    attributes = _of_message(Span.SEND, message, place)
    if message.traceparent is None:
        return start(Span.SEND, place.queue, "PRODUCER", attributes)
    own = context_of(message.traceparent, message.tracestate)
    parent: Context | None = None if current_ids() else own
    return start(Span.SEND, place.queue, "CLIENT", attributes, links=[link_to(own)], parent=parent)


def _with(message: Message, span: OpenSpan | None, place: Place) -> Ready:
    """With the span's context; without, where that alone would make it too large for its queue."""
    carried: Carried | None = carried_by(span) if span is not None else None
    if carried is None:
        return Ready(message, encode(message))
    traced = msgspec.structs.replace(message, traceparent=carried.traceparent, tracestate=carried.tracestate)
    body = encode(traced)
    if place.limit is not None and len(body) > place.limit:
        return Ready(message, encode(message))
    return Ready(traced, body)


def _of(operation: Span, place: Place) -> dict[str, Any]:
    return {
        words.SYSTEM: place.system,
        words.DESTINATION: place.queue,
        words.OPERATION_NAME: operation.value,
        words.OPERATION_TYPE: operation.type,
    }


def _of_message(operation: Span, message: Message, place: Place) -> dict[str, Any]:
    return {
        **_of(operation, place),
        words.MESSAGE_ID: message.id,
        words.CONVERSATION: message.correlationid,
        words.EVENT_TYPE: message.type,
        words.EVENT_SOURCE: message.source,
        words.EVENT_SUBJECT: message.subject,
        words.OPERATION: message.operation,
    }
