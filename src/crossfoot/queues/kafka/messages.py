"""A message as Kafka has it, and as the port has it. Pure.

The body travels as it is, under the content type of CloudEvents' structured mode (Kafka protocol binding 1.0.2, section 3.3).
Events that others publish in its binary mode (section 3.2: attributes in headers `ce_…`, data in the value) come as structured
ones, too; `?mode=binary` publishes so. Attributes are headers; those that begin with `x-crossfoot-` are ours.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from crossfoot.clock import Micros
from crossfoot.errors import EnvelopeInvalid
from crossfoot.message import decode, encode, from_binary, to_binary
from crossfoot.queues.queue import Outgoing, Refused

Headers = list[tuple[str, bytes]]

REASON, TOPIC, PARTITION, OFFSET, DELIVERIES, PUBLISHED_AT = (
    f"x-crossfoot-{name}" for name in ("reason", "topic", "partition", "offset", "deliveries", "at")
)

OURS = "x-crossfoot-"

CONTENT_TYPE = "content-type"
STRUCTURED = "application/cloudevents+json; charset=UTF-8"

FRAME = 512
"""Bytes of a batch and a record that are neither key, value nor header; there are fewer."""

REASON_BYTES = 400
"""Of a dead letter's reason: with it, one of the largest size still fits (`checks.OVERHEAD`)."""

_LATEST = 10**16
"""Microseconds, in the year 2286: a later time is none, and one of any size would not fit into the books."""

_CE = "ce_"

_log = logging.getLogger("crossfoot.queues.kafka")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One message as it is sent."""

    key: str
    """What the answer is matched by."""
    topic: str
    line: bytes | None
    """Kafka's key."""
    body: bytes
    headers: Headers


class Came(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One message as it came."""

    offset: int
    key: bytes | None
    body: bytes
    headers: Headers
    at: Micros | None

    @property
    def size(self) -> int:
        return len(self.body) + len(self.key or b"") + sum(len(name) + len(value) for name, value in self.headers)

    def header(self, name: str) -> str:
        """The latest of that name, as text; empty when there is none."""
        found = [value for one, value in self.headers if one == name]
        return found[-1].decode(errors="replace") if found else ""

    @property
    def is_binary(self) -> bool:
        return any(name == "ce_specversion" for name, _ in self.headers)

    @property
    def event(self) -> bytes:
        """The body, as one that the envelope can be read from: a binary event as a structured one.

        One that cannot be read stays as it is, and is found so by whoever reads it.
        """
        if not self.is_binary:
            return self.body
        named = {name: value for name, value in self.headers if name.startswith(_CE) or name == CONTENT_TYPE}
        try:
            return encode(from_binary({_http(name): _quoted(name, value) for name, value in named.items()}, self.body))
        except (EnvelopeInvalid, UnicodeDecodeError):
            return self.body

    @property
    def attributes(self) -> dict[str, str]:
        """The headers of whoever published it, as far as they are text."""
        found = {}
        for name, value in self.headers:
            if name.startswith((OURS, _CE)) or (name == CONTENT_TYPE and value.startswith(b"application/cloudevents")):
                continue
            try:
                found[name] = value.decode()
            except UnicodeDecodeError:
                continue
        if self.is_binary:
            found.pop(CONTENT_TYPE, None)
        return found


def came_of(message: Any) -> Came:
    """Read a message of the client's."""
    kind, stamp = message.timestamp()
    headers = _headers_of(message)
    told = next((value for name, value in headers if name == PUBLISHED_AT), b"")
    at = int(told) if told.isdigit() and len(told) < 20 else stamp * 1_000 if kind else 0
    return Came(
        offset=message.offset(), key=message.key(), body=message.value() or b"", headers=headers,
        at=at if 0 < at < _LATEST else None,
    )  # fmt: skip


def _headers_of(message: Any) -> Headers:
    """Those whose names are text. One message with others must not stop its partition, nor end the process.

    The client takes all names for text. Of one that is none it complains, at the call or at the next one into C, whatever that is;
    asked again, it hands out a pair with nothing at all in the name's place: whoever touches that ends the process. So the pairs are
    counted from outside, by what they refer to.
    """
    for _ in range(2):
        with suppress(SystemError, UnicodeDecodeError):
            pairs = message.headers() or ()
            found = [pair for pair in pairs if len(gc.get_referents(pair)) == 2]
            if len(found) < len(pairs):
                break
            return [(name, value if value is not None else b"") for name, value in found]
    else:
        found = []
    _log.warning(
        "message %s/%s/%s comes without those of its headers whose names are no UTF-8 text",
        message.topic(), message.partition(), message.offset(),
    )  # fmt: skip
    return [(name, value if value is not None else b"") for name, value in found]


def entry_of(message: Outgoing, *, topic: str, binary: bool, max_bytes: int, now: Micros) -> Entry | Refused:
    """The message as an entry, or why it can never be one."""
    if message.delay > 0:
        return Refused(
            message.key, f"a delay of {message.delay:g} s; Kafka delivers what it has, at once", permanent=True
        )
    for name in message.attributes:
        if name.lower().startswith((OURS, _CE)) or name.lower() == CONTENT_TYPE:
            return Refused(message.key, f"headers named like {name!r} are crossfoot's or CloudEvents'", permanent=True)
        if not name or "\0" in name:
            return Refused(message.key, f"the client does not take a header named {name!r}", permanent=True)
    headers, body = _event(message.body) if binary else ([(CONTENT_TYPE, STRUCTURED.encode())], message.body)
    try:
        own = [(name, text.encode()) for name, text in message.attributes.items()]
        line = message.partition.encode() if message.partition is not None else None
        size = len(body) + len(line or b"") + sum(len(name.encode()) + len(value) for name, value in own)
    except UnicodeEncodeError:
        return Refused(message.key, "its partition key or its attributes are no UTF-8 text", permanent=True)
    if size > max_bytes:
        return Refused(
            message.key, f"{size} bytes, key and attributes included; the topic takes {max_bytes}", permanent=True
        )
    headers = [*headers, *own, (PUBLISHED_AT, str(now).encode())]
    return Entry(key=message.key, topic=topic, line=line, body=body, headers=headers)


def buried(came: Came, *, key: str, topic: str, dead: str, partition: int, attempt: int, reason: str) -> Entry:
    """The message as a dead letter: as it was, and where and why it died."""
    told: Mapping[str, str | int] = {
        REASON: _shortened(reason) or "unknown", TOPIC: topic, PARTITION: partition, OFFSET: came.offset, DELIVERIES: attempt,
    }  # fmt: skip
    headers = [(name, value) for name, value in came.headers if name not in told]
    if came.at is not None and not came.header(PUBLISHED_AT):
        headers.append((PUBLISHED_AT, str(came.at).encode()))
    headers += [(name, str(value).encode()) for name, value in told.items()]
    return Entry(key=key, topic=dead, line=came.key, body=came.body, headers=headers)


def _shortened(reason: str) -> str:
    return reason.encode("utf-8", "replace")[:REASON_BYTES].decode("utf-8", "ignore")


def number_in(came: Came, name: str) -> int:
    """A header that is a number; 0 where it is none."""
    text = came.header(name)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def _event(body: bytes) -> tuple[Headers, bytes]:
    """The event in binary mode; what is none is left as it is."""
    try:
        named, data = to_binary(decode(body))
    except EnvelopeInvalid:
        return [], body
    return [(_kafka(name), _plain(name, value)) for name, value in named.items()], data


def _kafka(name: str) -> str:
    return _CE + name.removeprefix("ce-") if name.startswith("ce-") else name


def _http(name: str) -> str:
    return "ce-" + name.removeprefix(_CE) if name.startswith(_CE) else name


def _plain(name: str, value: str) -> bytes:
    """Kafka's headers are bytes: nothing in them is percent-encoded, as it is in those of HTTP."""
    return (unquote(value) if name.startswith("ce-") else value).encode()


def _quoted(name: str, value: bytes) -> str:
    return quote(value.decode(), safe="") if name.startswith(_CE) else value.decode()
