"""One source and id name one message (CloudEvents 1.0, *source* and *id*): what becomes of another one that bears the same.

A message that is published again must be the same. Only when its first publication came to nothing (it died, was refused
or expired) may it be published again with mended contents, of the same type; then the book keeps the new ones. Everything
else under the same name would be counted as a copy, and be lost without a word.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from crossfoot.books import queries, sql
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate, Summary, fold, posted_fate
from crossfoot.books.record import Record, ask_otherwise
from crossfoot.books.store import Known, find_or_add_all
from crossfoot.connection import Connection
from crossfoot.errors import EnvelopeInvalid, IdentityTaken
from crossfoot.message import decode

_encode = msgspec.json.Encoder(order="deterministic").encode

SENT = (Kind.INTENDED, Kind.PUT_OFF, Kind.PUBLISH_IN_DOUBT, Kind.PUBLISHED)
"""What says that a copy is on its way, or about to be."""

CAME_TO_NOTHING = (Fate.DEAD, Fate.REFUSED, Fate.EXPIRED, Fate.VANISHED, Fate.DISCARDED)


def find_or_publish(connection: Connection, records: Sequence[Record]) -> list[tuple[int, int] | IdentityTaken]:
    """Messages that are about to be published, added where the book does not know them. Within the caller's transaction.

    Returns:
        For each its key, and the attempt that its deliveries go on from: 0, unless its first publication came to nothing. A
        copy of one that is still open is the same publication, to a queue that drops second ones. Or the error that says that
        the book knows another one of that name.

        One that was discarded goes on from the attempt after that: the decision must not outrank what is decided now.
    """
    found = find_or_add_all(connection, records)
    return [_publishable(connection, known, record) for known, record in zip(found, records, strict=True)]


def _publishable(connection: Connection, known: Known, record: Record) -> tuple[int, int] | IdentityTaken:
    if known.is_new:
        return known.key, 0
    if known.is_other(record) or _differs(connection, known, record):
        try:
            mend(connection, known, record)
        except IdentityTaken as error:
            return error
    return known.key, goes_on_from(fold(queries.entries_of(connection, known.key)))


def goes_on_from(summary: Summary) -> int:
    """The attempt that the deliveries of a message go on from which is published again: see `find_or_publish`."""
    fate = posted_fate(summary)
    if fate is Fate.DISCARDED:
        return summary.attempts + 1
    return summary.attempts if fate in CAME_TO_NOTHING else 0


def mend(connection: Connection, known: Known, record: Record) -> None:
    """Keep other contents of a message whose first ones came to nothing. Within the caller's transaction.

    What flow it belongs to, and what caused it, stays known where the new one does not say.

    Raises:
        IdentityTaken: they did not, or may not yet; or it is of another type, and no longer the same message in any sense; or it
            forgets the operation, which is what keeps an effect from happening twice.
    """
    connection.execute(
        sql.LOCK_RECORD, (known.key,)
    )  # somebody else may be mending it, and this one must see what that one did
    if known.type != record.type or not _came_to_nothing(connection, known):
        raise taken(known, record)
    if record.operation is None and (stated := _stated(connection, known)) is not None:
        raise IdentityTaken(
            f"{record.identity}: its first publication stated the operation {stated!r}, and this one states none, so that what took "
            "effect under that key could happen again under another: state the operation, too"
        )
    if known.subject != record.subject or known.asks_other(record):
        connection.execute(sql.NOTE_FACT, (f"former subject of message {known.key}", known.subject or ""))
    contents = (record.subject, record.operation, record.correlation, record.causation, record.sequence, record.body)
    connection.execute(sql.REPLACE_CONTENT, (*contents, known.key))


def taken(known: Known, record: Record) -> IdentityTaken:
    """The error that tells which message has the name."""
    of = f" of {known.subject}" if known.subject else ""
    return IdentityTaken(
        f"{record.identity}: the book knows another message of that source and id ({known.type}{of}): give this one an id of its own"
    )


def _differs(connection: Connection, known: Known, record: Record) -> bool:
    return differ(record, *connection.execute(sql.FIND_CONTENT, (known.key,)).fetchone())


def differ(record: Record, sequence: int | None, operation: str | None, body: bytes | None) -> bool:
    """Whether the contents are others than those in the book, as far as these were kept."""
    if sequence != record.sequence or ask_otherwise(operation, record.operation):
        return True
    if body is None or record.body is None or body == record.body:
        return False
    try:
        said = _said(record.body)
    except EnvelopeInvalid:  # veiled by the service (see `payloads`), as the other one is: they cannot be compared
        return False
    try:
        return _said(body) != said
    except EnvelopeInvalid:
        return True


def _said(body: bytes) -> tuple[bytes, str | None, int | None]:
    """What a message asks for. As text, because to Python 1, 1.0 and true are the same."""
    message = decode(body)
    return _encode(message.data), message.operation, message.predecessor


def _stated(connection: Connection, known: Known) -> str | None:
    """The operation that the message stated itself, as far as its payload was kept."""
    _, _, body = connection.execute(sql.FIND_CONTENT, (known.key,)).fetchone()
    try:
        return decode(body).operation if body is not None else None
    except EnvelopeInvalid:
        return None


def was(connection: Connection, known: Known, record: Record) -> bool:
    """Whether that record is of this message as it was before it was mended: a dead letter of old may tell of it still."""
    row = connection.execute(sql.FIND_FACT, (f"former subject of message {known.key}",)).fetchone()
    return row is not None and known.type == record.type and row[0] == (record.subject or "")


def _came_to_nothing(connection: Connection, known: Known) -> bool:
    """Whether it did, and has not been published again since: what that copy carries must not be changed beneath it."""
    entries = queries.entries_of(connection, known.key)
    summary = fold(entries)
    if posted_fate(summary) not in CAME_TO_NOTHING:
        return False
    ended = max(entries, key=lambda entry: (entry.rank, entry.number)).number
    # A publication that was booked late, of the first copy, is of an earlier attempt.
    since = [entry.kind for entry in entries if entry.number > ended and entry.attempt >= summary.attempts]
    return not since or since[-1] not in SENT
