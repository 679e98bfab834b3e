"""Structured mode: the whole event as one JSON object (CloudEvents JSON format 1.0)."""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from typing import Any, Literal

import msgspec

from crossfoot.errors import EnvelopeInvalid
from crossfoot.message.envelope import JSON, Message, identity, invalid, is_json
from crossfoot.message.wire import (
    VERSION,
    Timestamp,
    assemble,
    check_data,
    check_version,
    instant,
    micros,
    number_of,
    numeral,
    read_data,
    refused,
    why_unreadable,
    write_json,
)

CONTENT_TYPE = "application/cloudevents+json"
"""The content type of what `encode` returns."""

_CHARSET = re.compile(r';[ \t]*charset="?([^";]*)', re.IGNORECASE)
_CHARSETS = frozenset(("utf-8", "utf8", "us-ascii", "iso-8859-1", "windows-1252", "utf-16"))


class _Event(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """The attributes we know, as JSON writes them. An event with others is read attribute by attribute."""

    specversion: Literal["1.0"]
    type: str
    source: str
    id: str
    subject: str | None = None
    time: Timestamp | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    partitionkey: str | None = None
    operation: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    sequence: int | str | None = None
    predecessor: int | str | None = None
    expirytime: Timestamp | None = None
    data: Any = None
    data_base64: bytes | None = None


class _Identity(msgspec.Struct):
    source: str
    id: str


_NOTHING_FURTHER = (None,) * 10

_read_event = msgspec.json.Decoder(_Event).decode
_read_object = msgspec.json.Decoder(dict[str, Any]).decode
_read_identity = msgspec.json.Decoder(_Identity).decode


def encode(message: Message) -> bytes:
    """The message as one JSON object, of content type `CONTENT_TYPE`.

    Raises:
        EnvelopeInvalid: JSON cannot express the data (NaN is not JSON), or it should be bytes and is not.
    """
    data: Any = message.data
    as_json = check_data(message)
    event = _Event(
        specversion=VERSION,
        type=message.type,
        source=message.source,
        id=message.id,
        subject=message.subject,
        time=None if message.time is None else instant(message.time),
        datacontenttype=message.datacontenttype,
        dataschema=message.dataschema,
        correlationid=message.correlationid,
        causationid=message.causationid,
        partitionkey=message.partitionkey,
        operation=message.operation,
        traceparent=message.traceparent,
        tracestate=message.tracestate,
        sequence=numeral(message.sequence),
        predecessor=numeral(message.predecessor),
        expirytime=None if message.expirytime is None else instant(message.expirytime),
        data=data if as_json else None,
        data_base64=None if as_json else data,
    )
    body = write_json(event, data)
    if not message.extensions:
        return body
    return b"".join((body[:-1], b",", write_json(message.extensions, None)[1:]))


def decode(body: bytes) -> Message:
    """The message that one JSON object is, with attributes we do not know in `extensions`.

    Raises:
        EnvelopeInvalid: the bytes are no CloudEvents 1.0 event; says which attribute is at fault, and why.
    """
    try:
        event = _read_event(body)
    except (ValueError, RecursionError):
        event = None  # malformed, or merely unusual: the slow way finds out
    try:
        return _decode_slowly(body) if event is None else _message(event)
    except EnvelopeInvalid as error:
        raise refused(key_of(body), error) from None


def key_of(body: bytes) -> str | None:
    """The `Message.key` of an encoded event, at a fraction of the cost of decoding it.

    Also for events that do not decode, as long as their identity can be read; `None` where it cannot.
    """
    try:
        found = _read_identity(body)
    except (ValueError, RecursionError):
        return None
    return identity(found.source, found.id)


def _message(event: _Event) -> Message:
    data, content_type, sequence, predecessor = event.data, event.datacontenttype, event.sequence, event.predecessor
    time = None if event.time is None else micros(event.time)
    if content_type is None:
        content_type = JSON
    if event.data_base64 is not None or content_type != JSON:
        data = _data(data, event.data_base64, content_type)
    further = (
        event.dataschema, event.correlationid, event.causationid, event.partitionkey, event.operation, event.traceparent,
        event.tracestate, sequence, predecessor, event.expirytime,
    )  # fmt: skip
    if further == _NOTHING_FURTHER:  # half the time: what an argument costs grows with their number
        return Message(
            type=event.type, source=event.source, id=event.id, subject=event.subject, time=time, data=data,
            datacontenttype=content_type,
        )  # fmt: skip
    return Message(
        type=event.type,
        source=event.source,
        id=event.id,
        subject=event.subject,
        time=time,
        data=data,
        datacontenttype=content_type,
        dataschema=event.dataschema,
        correlationid=event.correlationid,
        causationid=event.causationid,
        partitionkey=event.partitionkey,
        operation=event.operation,
        traceparent=event.traceparent or None,
        tracestate=event.tracestate or None,
        sequence=None if sequence is None else number_of("sequence", sequence),
        predecessor=None if predecessor is None else number_of("predecessor", predecessor),
        expirytime=None if event.expirytime is None else micros(event.expirytime),
    )


def _decode_slowly(body: bytes) -> Message:
    try:
        attributes = _read_object(body)
    except (ValueError, RecursionError) as error:
        raise EnvelopeInvalid(f"it is no JSON object: {why_unreadable(error)}") from None
    check_version(attributes.get("specversion"))
    data, in_base64 = attributes.pop("data", None), attributes.pop("data_base64", None)
    content_type = attributes.get("datacontenttype")
    if content_type is not None and not isinstance(content_type, str):
        raise invalid("datacontenttype", "must be text")
    decoded = None if in_base64 is None else _from_base64(in_base64)
    return assemble(attributes, _data(data, decoded, content_type or JSON))


def _from_base64(text: object) -> bytes:
    if isinstance(text, str):
        with suppress(ValueError):
            return base64.b64decode(text, validate=True)
    raise invalid("data_base64", "is not base64")


def _data(data: Any, decoded: bytes | None, content_type: str) -> Any:
    """What the members `data` and `data_base64` say together with the content type."""
    if decoded is not None:
        if data is not None:
            raise invalid("data", "and data_base64 are both there: an event has one of them")
        return read_data(decoded) if is_json(content_type) else decoded
    if data is None or is_json(content_type):
        return data
    if not isinstance(data, str):
        raise invalid("data", "must be text, or in data_base64, where datacontenttype is not JSON")
    charset = _CHARSET.search(content_type)
    name = charset[1].lower() if charset else "utf-8"
    try:
        return data.encode(name if name in _CHARSETS else "ascii")
    except UnicodeEncodeError:
        raise invalid("data", "has characters outside its charset: send it in data_base64") from None
