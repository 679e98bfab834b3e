"""What is stored of a message, and what cannot be. Pure."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from crossfoot.errors import MessageTooLarge, UsageError
from crossfoot.queues.postgres.tables import PRIORITIES
from crossfoot.queues.queue import Outgoing, Refused

CENTURY = 100 * 366 * 86_400.0
"""Seconds; what is longer, or endless, is no time that can be waited."""

REASON_CHARACTERS = 500


class Row(msgspec.Struct, frozen=True):
    """One message as the table has it."""

    message: str
    line: str | None
    delay: timedelta
    priority: int
    attributes: str | None
    body: bytes


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one queue takes.

    Attributes:
        retention: seconds, `None` for ever.
        max_bytes: of body and attributes.
        ordered: whether messages of one partition stand in line.
    """

    queue: str
    retention: float | None
    max_bytes: int
    ordered: bool

    def row(self, message: Outgoing) -> Row:
        """The message, to be stored.

        Raises:
            MessageTooLarge: it is over `max_bytes`.
            UsageError: its delay, its priority or its text can never be stored.
        """
        attributes = msgspec.json.encode(message.attributes).decode() if message.attributes else None
        try:
            texts = "".join((message.key, message.partition or "", *message.attributes, *message.attributes.values()))
            size = len(message.body) + sum(len(k.encode()) + len(v.encode()) for k, v in message.attributes.items())
            texts.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"message {message.key!r} holds text that has no UTF-8 form: {error}") from error
        if size > self.max_bytes:
            raise MessageTooLarge(
                f"message {message.key} is {size} bytes with its attributes, and queue {self.queue} takes at most "
                f"{self.max_bytes}: store the data elsewhere and send where it is, or raise the queue's max_bytes"
            )
        if "\x00" in texts:
            raise UsageError(
                f"message {message.key!r} holds a zero character, which PostgreSQL keeps in no text: leave it out"
            )
        if not 0 <= message.priority < PRIORITIES:
            raise UsageError(
                f"message {message.key} has priority {message.priority}: queue {self.queue} knows 0 to {PRIORITIES - 1}"
            )
        delay = duration(message.delay, f"the delay of message {message.key}")
        if self.retention is not None and message.delay > self.retention:
            raise UsageError(
                f"message {message.key} is delayed by {message.delay} s, and queue {self.queue} forgets after "
                f"{self.retention} s: it would be gone before its first delivery"
            )
        line = message.partition if self.ordered else None
        return Row(message.key, line, delay, message.priority, attributes, message.body)

    def refusal(self, message: Outgoing) -> Refused | Row:
        """`row`, or as an answer why there is none."""
        try:
            return self.row(message)
        except (MessageTooLarge, UsageError) as error:
            return Refused(message.key, str(error), permanent=True)


def duration(seconds: float, what: str, *, least: float = 0.0) -> timedelta:
    """Seconds as PostgreSQL takes them.

    Raises:
        UsageError: less than `least`, no number, or longer than a century.
    """
    if not least <= seconds <= CENTURY:
        raise UsageError(f"{what} must be between {least:g} s and a century, not {seconds} s")
    return timedelta(seconds=seconds)


def told(reason: str) -> str:
    """Why a message was buried, as it can be stored."""
    return reason[:REASON_CHARACTERS].encode("utf-8", "replace").decode().replace("\x00", " ")
