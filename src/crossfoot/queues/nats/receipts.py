"""Receipts: the subject to which the server wants a delivery's ack. Pure.

It says all there is to know of a delivery: `$JS.ACK.STREAM.DURABLE.DELIVERIES.SEQUENCE.DELIVERY.NANOSECONDS.PENDING`, or
the same with domain and account before the stream.
"""

from __future__ import annotations

import msgspec

from crossfoot.clock import Micros

PREFIX = "$JS.ACK."

_SHORT, _LONG = 9, 11


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery, as its receipt tells it."""

    stream: str
    durable: str
    attempt: int
    sequence: int
    """The message's number in the stream."""
    stored_nanos: int
    """When the server took the message."""

    @property
    def enqueued_at(self) -> Micros:
        return self.stored_nanos // 1_000

    @property
    def dead_id(self) -> str:
        """By what the stream of dead letters knows a second copy of this message: its place in its own stream, and its
        time, should that stream be made anew and count from 1 again."""
        return dead_id(self.stream, self.sequence, self.stored_nanos)


def dead_id(stream: str, sequence: int, stored_nanos: int) -> str:
    return f"{stream}|{sequence}|{stored_nanos}"


def receipt_of(subject: str) -> Receipt | None:
    """What a receipt says; `None` if it is none."""
    if not subject.startswith(PREFIX) or not subject.isascii():
        return None
    parts = subject.split(".")
    if len(parts) >= _LONG:
        parts = [*parts[:2], *parts[4:]]
    if len(parts) < _SHORT or not all(part.isdigit() for part in parts[4:_SHORT]):
        return None
    stream, durable, attempt, sequence, _, nanos = parts[2:8]
    return Receipt(
        stream=stream, durable=durable, attempt=int(attempt), sequence=int(sequence), stored_nanos=int(nanos)
    )


def place_of(dead_id: str) -> str | None:
    """The broker's id of the message that a dead letter was; `None` where it does not bear what `dead_id` made."""
    stream, *numbers = dead_id.split("|")
    if not stream or len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        return None
    return broker_id(stream, int(numbers[0]))


def broker_id(stream: str, sequence: int) -> str:
    """How a message of a stream is called where it has no name of its own."""
    return f"{stream}:{sequence}"


def given_up_receipt(stream: str, durable: str, sequence: int) -> str:
    """A receipt for a message that no longer has a delivery: the server takes its ack, and removes it."""
    return f"{PREFIX}{stream}.{durable}.1.{sequence}.0.0.0"
