"""What the book keeps of a message, beside its entries."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

from crossfoot.books.digest import lanes
from crossfoot.clock import SECOND, Micros
from crossfoot.errors import EnvelopeInvalid
from crossfoot.message import Message

BUCKET: Micros = 60 * SECOND
"""Balances are kept per minute of publication."""

UNREADABLE = "unreadable"
"""The type under which messages are booked whose envelope cannot be read."""


def bucket_of(at: Micros) -> int:
    """The bucket's start, in seconds since the epoch."""
    return at // BUCKET * (BUCKET // SECOND)


LONGEST = 1_000
"""Bytes of each name that a book in PostgreSQL takes: an index there holds 2,704 of id, source and queue together."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One message on one queue: the row that entries speak of."""

    queue: str
    source: str
    id: str
    type: str
    subject: str | None
    operation: str | None
    correlation: str | None
    causation: str | None
    sequence: int | None
    at: Micros
    body: bytes | None

    @property
    def identity(self) -> str:
        """What digests are made of, and queues match by."""
        return f"{self.source}|{self.id}"

    def row(self) -> tuple[Any, ...]:
        """The parameters of `sql.INSERT_MESSAGE`."""
        d0, d1 = lanes(self.identity)
        return (
            self.queue, self.source, self.id, self.type, self.subject, self.operation, self.correlation,
            self.causation, self.sequence, self.at, bucket_of(self.at), d0, d1, self.body,
        )  # fmt: skip


def ask_otherwise(one: str | None, other: str | None) -> bool:
    """Whether two copies that state these operations would be carried out twice, under a key each. One that states none asks for
    whatever the other one does."""
    return None not in (one, other) and one != other


def record_of(message: Message, queue: str, *, now: Micros, body: bytes | None) -> Record:
    """The record of a readable message.

    Args:
        now: when it was published, as well as is known. Not the event's own `time`: the events of a backfill happened
            long ago, each in a minute of its own.
        body: what is kept of it.
    """
    return Record(
        queue, message.source, message.id, message.type, message.subject, message.operation,
        message.correlationid, message.causationid, message.sequence, now, body,
    )  # fmt: skip


def see_that_names_fit(record: Record) -> None:
    """For PostgreSQL, where a message of anybody's making could not even be booked as received.

    Raises:
        EnvelopeInvalid: a name by which the message is looked up is too long.
    """
    names = (
        record.id,
        record.source,
        record.type,
        record.subject or "",
        record.operation or "",
        record.correlation or "",
    )
    if 4 * sum(map(len, names)) <= LONGEST:  # no sign is more than four bytes
        return
    for name in ("id", "source", "type", "subject", "operation", "correlation"):
        _see_that_it_fits(name, getattr(record, name) or "")


def see_that_an_operation_fits(operation: str) -> None:
    """For PostgreSQL, as above: what a handler's template made of a message.

    Raises:
        EnvelopeInvalid: it is too long, or holds a NUL, which no text has there.
    """
    if "\0" in operation:
        raise EnvelopeInvalid(
            "its operation holds a NUL character, which no text in PostgreSQL can: name it by another field"
        )
    _see_that_it_fits("operation", operation)


def is_plain(operation: str) -> bool:
    """Whether it certainly fits: no sign is more than four bytes."""
    return 4 * len(operation) <= LONGEST and "\0" not in operation


def _see_that_it_fits(name: str, value: str) -> None:
    size = len(value.encode())
    if size > LONGEST:
        raise EnvelopeInvalid(
            f"{name} is {size:,} bytes, and a book in PostgreSQL takes {LONGEST:,} at most: put what is long into the data"
        )


def unreadable(body: bytes, queue: str, broker_id: str, *, now: Micros, kept: bytes | None) -> Record:
    """The record of bytes that are no event."""
    return under_broker_id(
        Record(queue, "", "", UNREADABLE, None, None, None, None, None, now, kept), body=body, broker_id=broker_id
    )


def under_broker_id(record: Record, *, body: bytes, broker_id: str) -> Record:
    """The record of a message that has no name of its own: named by the broker's id, or else by its bytes' digest.

    A broker's id may be what its publisher liked: of one that no database looks up, the digest is the name.
    """
    told = broker_id.encode(errors="surrogatepass")
    fits = 0 < len(told) <= LONGEST and broker_id.isprintable()
    name = broker_id if fits else blake2b(told or body, digest_size=12).hexdigest()
    return msgspec.structs.replace(record, source=f"queue:{record.queue}", id=name)
