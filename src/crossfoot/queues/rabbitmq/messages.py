"""A message as RabbitMQ has it, and as the port has it. Pure.

The body travels as it is. Attributes are headers; those that begin with `x-` are the broker's and ours, and `CC` and `BCC` would
have copies made. An attribute `priority` is the property of that name, too. Every publish has a message id of its own, because
the client matches what is returned by it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from crossfoot.clock import Micros
from crossfoot.queues.queue import Outgoing, Refused

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage

PUBLISHED_AT, DELIVERIES, MESSAGE_ID = "x-crossfoot-at", "x-crossfoot-deliveries", "x-crossfoot-id"
REASON, QUEUE = "x-crossfoot-reason", "x-crossfoot-queue"

_COUNTED = "x-delivery-count"
_DEATHS = "x-death"
_PERSISTENT = 2
_AROUND = 20
"""Bytes of a frame around the properties in it."""
_LONGEST_NAME = 255
_MADE_BY_THE_BROKER = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "x-opt-")
_MOST_DELIVERIES = 10**6


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One message as it is sent."""

    key: str
    """What the answer is matched by."""
    exchange: str
    routing_key: str
    body: bytes
    properties: Any
    """AMQP's, as the client has them."""

    @property
    def broker_id(self) -> str:
        return str(self.properties.headers.get(MESSAGE_ID) or self.properties.message_id)


class Came(msgspec.Struct, frozen=True, kw_only=True):
    """One message as it came: what is read from it."""

    body: bytes
    before: int
    """Deliveries before this one."""
    again: bool
    """The broker's own flag: it was delivered before, it says not how often."""
    at: Micros | None
    broker_id: str
    attributes: dict[str, str]
    reason: str
    """Why it died; empty where that is not told."""
    died_after: int
    """Deliveries before it died, as far as is told."""


def entry_of(
    message: Outgoing, *, exchange: str, key: str, max_bytes: int, longest_headers: int, now: Micros
) -> Entry | Refused:
    """The message as an entry, or why it can never be one."""
    reason = _attributes_wrong(message.attributes)
    headers = sum(len(name.encode()) + len(text.encode()) + 6 for name, text in message.attributes.items())
    if not reason and headers > longest_headers:
        reason = (
            f"{headers} bytes of attributes; RabbitMQ takes {longest_headers} of them, because they travel in one frame"
        )
    if not reason and len(message.body) + headers > max_bytes:
        reason = f"{len(message.body) + headers} bytes, attributes included; the queue takes {max_bytes}"
    if reason:
        return Refused(message.key, reason, permanent=True)
    priority = message.attributes.get("priority", "")
    properties = _properties(
        headers={**message.attributes, PUBLISHED_AT: now}, message_id=_new_id(), delivery_mode=_PERSISTENT,
        priority=int(priority) if priority.isascii() and priority.isdecimal() and int(priority) < 256 else None,
    )  # fmt: skip
    return Entry(key=message.key, exchange=exchange, routing_key=key, body=message.body, properties=properties)


def copy_of(
    message: DeliveredMessage,
    *,
    key: str,
    queue: str,
    told: Mapping[str, str | int],
    frame: int,
    expiration: str | None = None,
) -> Entry:
    """The message anew, to be sent to a queue: its properties, and what is told about it. Where these do not fit into one frame of
    so many bytes, the longest headers are left out: the broker ends the connection of whoever sends more.

    What the broker wrote into its headers is left out: it would take a copy that died before for one that goes in a circle, and
    drop it. So is the user's name, which the broker would compare with ours.
    """
    old = message.header.properties
    headers = {name: value for name, value in (old.headers or {}).items() if not name.startswith(_MADE_BY_THE_BROKER)}
    headers, told = _writable(headers), {MESSAGE_ID: came_of(message).broker_id, **told}
    kept = {
        name: getattr(old, name)
        for name in ("content_type", "content_encoding", "priority", "correlation_id", "reply_to", "timestamp",
                     "message_type", "app_id")
    }  # fmt: skip
    properties = _properties(
        headers={**headers, **told}, message_id=_new_id(), delivery_mode=_PERSISTENT, expiration=expiration, **kept
    )
    while headers and _size(properties) > frame - _AROUND:
        del headers[max(headers, key=lambda name: _size(_properties(headers={name: headers[name]})))]
        properties.headers = {**headers, **told}
    return Entry(key=key, exchange="", routing_key=queue, body=message.body, properties=properties)


def _size(properties: Any) -> int:
    """Bytes of properties as they are sent; none of those that cannot be, which is found when it is tried."""
    try:
        return len(properties.marshal())
    except (ValueError, TypeError, struct.error):
        return 0


def _writable(value: Any) -> Any:
    """A header as the client can write it: bytes that are no text came as text, and go as bytes."""
    if isinstance(value, dict):
        return {name: _writable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_writable(one) for one in value]
    return bytearray(value) if isinstance(value, bytes) else value


def came_of(message: DeliveredMessage) -> Came:
    """Read a message, anybody's."""
    properties = message.header.properties
    headers: Mapping[str, Any] = properties.headers or {}
    attributes = {
        str(name): value
        for name, value in headers.items()
        if isinstance(value, str) and not str(name).startswith((*_MADE_BY_THE_BROKER, "x-crossfoot-"))
    }
    if properties.priority is not None:
        attributes.setdefault("priority", str(properties.priority))
    reason = _reason(headers)
    return Came(
        body=message.body,
        before=_number(headers.get(DELIVERIES)) + _number(headers.get(_COUNTED)),
        again=bool(getattr(message.delivery, "redelivered", False)),
        at=_at(headers.get(PUBLISHED_AT), properties.timestamp),
        broker_id=str(headers.get(MESSAGE_ID) or properties.message_id or sha256(message.body).hexdigest()[:32]),
        attributes=attributes,
        reason=reason,
        died_after=max(_number(headers.get(DELIVERIES)), int(reason.endswith((": rejected", ": delivery_limit")))),
    )


def _reason(headers: Mapping[str, Any]) -> str:
    """What was told when it was buried, or else what the broker says of its latest death."""
    if isinstance(told := headers.get(REASON), str):
        return told
    deaths = headers.get(_DEATHS)
    latest = deaths[0] if isinstance(deaths, list) and deaths else None
    if not isinstance(latest, Mapping) or "reason" not in latest:
        return ""
    return f"the broker moved it out of queue {latest.get('queue')}: {latest['reason']}"


def _at(micros: Any, stamp: Any) -> Micros | None:
    if isinstance(micros, int) and micros > 0:
        return micros
    return int(stamp.timestamp()) * 1_000_000 if isinstance(stamp, datetime) else None


def _number(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < _MOST_DELIVERIES else 0


def _attributes_wrong(attributes: Mapping[str, str]) -> str:
    for name in attributes:
        if not name or len(name.encode()) > _LONGEST_NAME:
            return f"AMQP does not take a header named {name[:50]!r}: 1 to {_LONGEST_NAME} bytes"
        if name.lower().startswith("x-") or name in ("CC", "BCC"):
            return f"headers named like {name!r} are RabbitMQ's own"
    return ""


def _new_id() -> str:
    return os.urandom(16).hex()


def _properties(**values: Any) -> Any:
    from aiormq import spec

    return spec.Basic.Properties(**values)
