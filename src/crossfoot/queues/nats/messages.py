"""What a message must be for JetStream to take it, and what became of it on the way. Pure.

The body travels as it is. Attributes are headers, their values percent-encoded as CloudEvents has it for NATS; headers that
begin with `Nats-` are the server's own. Its limits are on headers and body together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import msgspec

from crossfoot.clock import Micros
from crossfoot.queues.nats.receipts import broker_id, receipt_of
from crossfoot.queues.queue import Delivery, Outgoing, Refused

if TYPE_CHECKING:
    from nats.aio.msg import Msg

MSG_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"

REASON = "crossfoot-reason"
ATTEMPT = "crossfoot-attempt"
QUEUE = "crossfoot-queue"
ORIGINAL_ID = "crossfoot-message-id"

OWN_BYTES = 1_024
"""Kept free for headers of ours: of a publish, and of the same message as a dead letter."""

LONGEST_ID = 200

FRAME = len(b"NATS/1.0\r\n\r\n")
_PLAIN_ID = re.compile(rf"[!-~]{{1,{LONGEST_ID}}}")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")
_AS_IS = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


class NatsDelivery(Delivery, kw_only=True):
    """A delivery with what a move to the dead letters must keep."""

    native: dict[str, str] = msgspec.field(default_factory=dict)
    """The headers as they came: other producers may have their own."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One message as it is sent."""

    key: str
    """What the answer is matched by."""
    body: bytes
    headers: dict[str, str]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What one stream takes."""

    queue: str
    stream: str
    max_bytes: int


def entry_of(message: Outgoing, rules: Rules) -> Entry | Refused:
    """The message as an entry, or why it can never be one."""
    reason = _attributes_wrong(message.attributes)
    headers = {name: encoded(value) for name, value in message.attributes.items()}
    size = len(message.body) + size_of(headers)
    if message.delay > 0:
        reason = reason or f"queue {rules.queue} is on NATS, which cannot delay a publish ({message.delay:g} s asked)"
    if not reason and size > rules.max_bytes:
        reason = f"{size} bytes, attributes included; queue {rules.queue} takes {rules.max_bytes}"
    if reason:
        return Refused(message.key, reason, permanent=True)
    own = {MSG_ID: plain_id(message.deduplication or message.key), EXPECTED_STREAM: rules.stream}
    return Entry(key=message.key, body=message.body, headers={**headers, **own})


def delivery_of(msg: Msg, lease_until: Micros) -> NatsDelivery | None:
    """What a message of a pull is as a delivery; `None` if it is none, but a word of the server's."""
    receipt = receipt_of(msg.reply)
    if receipt is None:
        return None
    native = {str(name): value for name, value in (msg.headers or {}).items()}
    return NatsDelivery(
        body=msg.data,
        receipt=msg.reply,
        attempt=receipt.attempt,
        lease_until=lease_until,
        enqueued_at=receipt.enqueued_at,
        broker_id=broker_id(receipt.stream, receipt.sequence),
        attributes=attributes_of(native),
        native=native,
    )


def attributes_of(headers: Mapping[str, str]) -> dict[str, str]:
    """What it was published with; a dead letter has what is told about its death among it."""
    return {name: unquote(value) for name, value in headers.items() if not is_servers_own(name)}


def dead_headers(native: Mapping[str, str], told: Mapping[str, str], *, room: int) -> dict[str, str]:
    """Headers of a dead letter: the message's own, and, where there is room, what is told about its death.

    Args:
        room: bytes that headers may take in all.
    """
    headers = {name: value for name, value in native.items() if not is_servers_own(name)}
    if (original := native.get(MSG_ID)) is not None:
        told = {ORIGINAL_ID: original, **told}
    for name, value in told.items():
        left = room - size_of(headers) - size_of({name: ""})
        if left >= 8:
            headers[name] = _cut(encoded(value), left)
    return headers


def plain_id(text: str) -> str:
    """A deduplication id as a header: itself where it is short and plain, else its hash."""
    return text if _PLAIN_ID.fullmatch(text) else sha256(text.encode()).hexdigest()


def encoded(value: str) -> str:
    return quote(value, safe=_AS_IS)


def is_servers_own(name: str) -> bool:
    return name.lower().startswith("nats-")


def size_of(headers: Mapping[str, str]) -> int:
    """Bytes of a block of headers; what frames the block is in `OWN_BYTES`."""
    return sum(len(name.encode()) + len(value.encode()) + 4 for name, value in headers.items())


def wire_size(entry: Entry) -> int:
    """Bytes that the server counts."""
    return len(entry.body) + (size_of(entry.headers) + FRAME if entry.headers else 0)


def _cut(text: str, length: int) -> str:
    """As much of a percent-encoded text as fits, no escape cut in two."""
    return text if len(text) <= length else re.sub(r"%[0-9A-F]?$", "", text[:length])


def _attributes_wrong(attributes: Mapping[str, str]) -> str:
    for name in attributes:
        if not _NAME.fullmatch(name):
            return f"NATS does not take a header named {name!r}"
        if is_servers_own(name):
            return f"headers named like {name!r} are the NATS server's own"
    return ""
