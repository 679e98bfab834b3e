"""The steps that put a message into the outbox, within a transaction that decides whether it is ever sent."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from crossfoot.books import sql
from crossfoot.books.entry import Kind
from crossfoot.books.fate import fold
from crossfoot.books.identity import differ, goes_on_from, taken
from crossfoot.books.payloads import Keeping, kept
from crossfoot.books.queries import ENTRIES_OF, facts
from crossfoot.books.record import record_of
from crossfoot.books.store import Known
from crossfoot.clock import Micros
from crossfoot.effects.databases.session import All, One, Run, Steps
from crossfoot.effects.sending import Sending

EntryRow = tuple[Any, ...]
"""The parameters of `sql.INSERT_ENTRY`."""


AT_ONCE: Micros = 0
"""When a row is due that waits for nothing: whatever a clock reads that is set back, or another machine's."""


def details_of(**facts: Any) -> str:
    """The details of an entry."""
    return msgspec.json.encode(facts).decode()


def send(sending: Sending, rows: list[EntryRow], worker: int, now: Micros, *, payloads: Keeping) -> Steps[None]:
    """Put a message into the outbox: the caller's transaction decides whether it is ever sent."""
    message, body = sending.message, sending.body
    stored = kept(payloads, body, type=message.type, subject=message.subject)
    record = record_of(message, sending.queue, now=now, body=stored)
    found = yield One(sql.FIND_MESSAGE, (record.id, record.source, record.queue))
    base = 0
    added = None if found is not None else (yield One(sql.INSERT_MESSAGE, record.row()))
    if found is None and added is None:  # somebody else has added it meanwhile
        found = yield One(sql.FIND_MESSAGE, (record.id, record.source, record.queue))
    if added is not None:
        found = added
    elif (known := Known(*found)).is_other(record) or differ(record, *(yield One(sql.FIND_CONTENT, (known.key,)))):
        raise taken(known, record)
    else:
        base = goes_on_from(fold(facts((yield All(ENTRIES_OF, (known.key,))))))
    key = int(found[0])
    rows.append((key, int(Kind.INTENDED), base, 0, now, now, worker, None, None))
    partition = message.partitionkey or message.subject
    yield Run(sql.INSERT_OUTBOX, (key, sending.queue, message.key, body, partition, base, AT_ONCE, None))


class Waiting(NamedTuple):
    """A parked message."""

    message: int
    attempt: int
    body: bytes
    partition: str | None
    queue: str
    identity: str


def resume(rows: list[EntryRow], parked: Waiting, worker: int, now: Micros) -> Steps[None]:
    """Send a parked message to its queue again; its deliveries go on counting from where they were."""
    rows.append((parked.message, int(Kind.RESUMED), parked.attempt, 0, now, now, worker, None, None))
    row = (parked.message, parked.queue, parked.identity, parked.body, parked.partition, parked.attempt, AT_ONCE, None)
    yield Run(sql.INSERT_OUTBOX, row)
