"""Messages as entries of a stream, and back. Pure.

An entry has the field `body`, and a field for each attribute. Whoever publishes by other means need only do the same; an
entry without a body is delivered as what it has, in JSON, and ends among the dead letters like any envelope nobody can read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from crossfoot.clock import Micros
from crossfoot.queues.attempts import attempts_told
from crossfoot.queues.queue import Delivery, Held, Outgoing, Refused

BODY = "body"
REASON, ATTEMPT, ORIGIN = "crossfoot-reason", "crossfoot-attempt", "crossfoot-id"
"""What a dead letter says beside the message: why, after how many deliveries, and under which id it was in the queue."""

OURS = frozenset(name.encode() for name in (REASON, ATTEMPT, ORIGIN))

MOST_ATTRIBUTES = 1_000
"""Of what is published: a script that moves an entry has room for a few thousand names and values."""

Fields = Sequence[bytes]
"""An entry as the server tells it: name, value, name, value."""


def fields_of(message: Outgoing | Delivery) -> list[bytes]:
    """The message as fields."""
    fields = [BODY.encode(), message.body]
    for name, value in message.attributes.items():
        fields += [name.encode(), value.encode()]
    return fields


def refusal(message: Outgoing, *, queue: str, max_bytes: int) -> Refused | None:
    """Why it can never be published, if so."""
    reason = ""
    try:
        size = sum(map(len, fields_of(message))) - len(BODY)
    except UnicodeEncodeError as error:
        return Refused(message.key, f"an attribute cannot be written as UTF-8: {error.reason}", permanent=True)
    if size > max_bytes:
        reason = f"{size} bytes, attributes included; queue {queue} takes at most {max_bytes}"
    elif len(message.attributes) > MOST_ATTRIBUTES:
        reason = f"{len(message.attributes):,} attributes; queue {queue} takes at most {MOST_ATTRIBUTES:,}"
    elif BODY in message.attributes:
        reason = f"an attribute cannot be called {BODY!r}: the entry's field of that name is the message"
    elif message.delay < 0:
        reason = f"a delay of {message.delay:g} s"
    return Refused(message.key, reason, permanent=True) if reason else None


def packed(fields: Fields) -> bytes:
    """Fields as one string, which `unpacked` of the scripts takes apart."""
    return b"".join(b"%d:%b" % (len(field), field) for field in fields)


def unpacked(text: bytes) -> list[bytes]:
    fields, at = [], 0
    while at < len(text):
        colon = text.index(b":", at)
        end = colon + 1 + int(text[at:colon])
        fields.append(text[colon + 1 : end])
        at = end
    return fields


def unlike_any_other(fields: Fields) -> bytes:
    """A delayed message: members of a set must differ, and messages need not."""
    return packed([os.urandom(8).hex().encode(), *fields])


def body_and_attributes(fields: Fields) -> tuple[bytes, dict[str, str]]:
    """What a consumer is given."""
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    body = pairs.pop(BODY.encode(), None)
    attributes = {text_of(name): text_of(value) for name, value in pairs.items()}
    return (body, attributes) if body is not None else (msgspec.json.encode(attributes), {})


def held_of(fields: Fields, *, broker_id: str, attempt: int, dead: bool = False) -> Held:
    """What browsing shows: of a dead letter, the entry as it was delivered."""
    said = {name: text_of(value) for name, value in zip(fields[::2], fields[1::2], strict=True) if name in OURS}
    if dead:  # an entry without a body is its fields, of which these were none
        fields = [
            one
            for name, value in zip(fields[::2], fields[1::2], strict=True)
            if name not in OURS
            for one in (name, value)
        ]
    body, attributes = body_and_attributes(fields)
    origin = said.get(ORIGIN.encode(), broker_id)
    return Held(
        body=body, attempt=attempts_told(said.get(ATTEMPT.encode()), attempt), enqueued_at=entered_at(origin), broker_id=origin,
        attributes=attributes, dead=dead,
    )  # fmt: skip


def entered_at(entry_id: str) -> Micros | None:
    """When the entry entered the stream, by the server's clock: its id begins with it."""
    milliseconds = entry_id.partition("-")[0]
    return int(milliseconds) * 1_000 if milliseconds.isdecimal() and len(milliseconds) < 16 else None


def text_of(value: bytes) -> str:
    return value.decode(errors="replace")


def pairs_of(answer: Sequence[bytes]) -> Mapping[str, bytes]:
    """A list of names and values as a mapping."""
    return {text_of(name): value for name, value in zip(answer[::2], answer[1::2], strict=True)}
