"""Binary mode: the attributes as headers, the data as the body (CloudEvents HTTP protocol binding 1.0, section 3.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import msgspec

from crossfoot.errors import EnvelopeInvalid
from crossfoot.message.envelope import JSON, NUMBERS, TEXTS, Message, identity, invalid, is_json, shortened
from crossfoot.message.wire import VERSION, assemble, check_data, instant, read_data, refused, write_json

OPAQUE = "application/octet-stream"
"""What a body without a content type is (RFC 9110, section 8.3)."""

_PREFIX = "ce-"
_CONTENT_TYPE = "content-type"
_STRUCTURED = "application/cloudevents"
# Printable ASCII but space, double quote and percent; everything else is percent-encoded as UTF-8.
_AS_IS = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_ESCAPED = re.compile(r"\\(.)")


def to_binary(message: Message) -> tuple[dict[str, str], bytes]:
    """The message as headers, their names in lower case, and a body.

    Headers are text: numbers and booleans among `extensions` come back as text, and `b""` as no data at all.

    Raises:
        EnvelopeInvalid: JSON cannot express the data (NaN is not JSON), or it should be bytes and is not.
    """
    data: Any = message.data
    as_json = check_data(message)
    headers = {"ce-specversion": VERSION, _CONTENT_TYPE: message.datacontenttype}
    for name in TEXTS:
        if (value := getattr(message, name)) is not None:
            headers[_PREFIX + name] = quote(value, safe=_AS_IS)
    for name, time in (("time", message.time), ("expirytime", message.expirytime)):
        if time is not None:
            headers[_PREFIX + name] = msgspec.to_builtins(instant(time))
    for name in NUMBERS:
        if (value := getattr(message, name)) is not None:
            headers[_PREFIX + name] = str(value)
    for name, value in message.extensions.items():
        headers[_PREFIX + name] = quote(_canonical(value), safe=_AS_IS)
    if data is None:
        return headers, b""
    return headers, write_json(data, data) if as_json else bytes(data)


def from_binary(headers: Mapping[str, str], body: bytes) -> Message:
    """The message that headers (their names in any case) and a body are. Headers of others are left alone.

    Raises:
        EnvelopeInvalid: they are no CloudEvents 1.0 event; says which attribute is at fault, and why.
    """
    attributes: dict[str, str] = {}
    content_type = ""
    try:
        for header, value in headers.items():
            name = header.lower()
            if name == _CONTENT_TYPE:
                content_type = value.strip()
            elif name.startswith(_PREFIX):
                _add(attributes, name.removeprefix(_PREFIX), value)
        attributes["datacontenttype"] = content_type or (OPAQUE if body else JSON)
        return assemble(attributes, _data(body, attributes["datacontenttype"]))
    except EnvelopeInvalid as error:
        raise refused(identity(attributes.get("source"), attributes.get("id")), error) from None


def _add(attributes: dict[str, str], name: str, value: str) -> None:
    if name in attributes:
        raise invalid(shortened(name), "is there twice, in headers that differ in case only")
    if name in ("data", "datacontenttype"):
        raise invalid(_PREFIX + name, "is no header of binary mode: it has the body, and content-type")
    attributes[name] = _value(name, value)


def _value(name: str, text: str) -> str:
    """A header's value: unquoted first, as senders of older versions quoted, then percent-decoded once."""
    text = text.strip(" \t")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = _ESCAPED.sub(r"\1", text[1:-1])
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        raise invalid(shortened(name), "is not UTF-8 when percent-decoded") from None


def _data(body: bytes, content_type: str) -> Any:
    if content_type.lower().startswith(_STRUCTURED):
        raise invalid("content-type", "says that the body is the event (structured mode): decode the body")
    if not body:
        return None
    return read_data(body) if is_json(content_type) else bytes(body)


def _canonical(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
