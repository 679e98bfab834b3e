"""From a name that a person has to the messages it means: an id, a subject, a correlation id or an operation key."""

from __future__ import annotations

from collections import Counter

import msgspec

from crossfoot.books import queries
from crossfoot.books.archive.past import Past
from crossfoot.books.fate import PATIENCE, Fate, Patience, Summary, fate_of, fold
from crossfoot.books.queries import KINDS_OF_NAME, Fact, Row
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.recover.expecting import Expected, expected_of, lacking
from crossfoot.recover.facts import gather
from crossfoot.recover.records import Records
from crossfoot.recover.why import Page, explain

FOLDED = 500
"""Messages of one name whose fates are told; of more, the newest."""

LISTED = 50
"""Messages that are listed one by one."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One of several messages of the same name.

    Attributes:
        last_at: when its last entry was written.
        title: what its last failure was, if it has failed and is not settled.
        lacks: outcomes that the program promises after it, and that are missing or came late.
    """

    message: Row
    fate: str
    attempts: int
    last_at: Micros | None
    title: str | None
    lacks: tuple[Expected, ...] = ()


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a name means.

    Attributes:
        name: as it was asked for.
        kind: as what it was found; empty when it was not.
        count: how many messages there are.
        page: of the message, when there is one only.
        listed: the newest, when there are several; `fates` counts those of the newest `folded`, and `lacking` is how many of these are
            without an outcome that was promised, or got it late.
    """

    name: str
    kind: str
    count: int
    page: Page | None = None
    listed: tuple[Listed, ...] = ()
    fates: dict[str, int] = {}
    folded: int = 0
    lacking: int = 0


def look_up(
    connection: Connection, name: str, now: Micros, *, queue: str | None = None, patience: Patience = PATIENCE,
    past: Past | None = None,
) -> Found:  # fmt: skip
    """Explain the message of that name, or list the messages.

    Tried in order: message id, subject, correlation id, operation key, `source|id`; the first that is found counts.

    Args:
        connection: on the book, in no transaction. Nothing needs to be posted: the entries themselves are folded.
        queue: only messages of this queue (a message published to three has three fates).
        past: the book's archive, which is looked into, too.

    Raises:
        ArchiveBroken: the archive may hold it, and cannot be read.
    """
    records = Records(connection, past)
    with connection.snapshot():
        if past is not None:
            past.renew(connection)
        for kind in KINDS_OF_NAME:
            rows = records.named(kind, name, FOLDED, queue)
            if len(rows) == 1:
                page = explain(gather(records, rows[0], now, patience), now, patience)
                return Found(name=name, kind=kind, count=1, page=page)
            if rows:
                count = len(rows) if len(rows) < FOLDED else records.count_named(kind, name, queue)
                return _list(records, rows, Found(name=name, kind=kind, count=count), now, patience)
    return Found(name=name, kind="", count=0)


def _list(records: Records, rows: list[Row], found: Found, now: Micros, patience: Patience) -> Found:
    fates: Counter[str] = Counter()
    listed: list[Listed] = []
    promises, without = records.promises_of(rows), 0
    for row in rows:
        entries = records.entries_of(row)
        summary = fold(entries)
        fate = fate_of(summary, now, patience)
        fates[fate.label if fate is not None else "unaccounted"] += 1
        lacks = tuple(lacking(expected_of(promises[row.key], fate, now)))
        without += bool(lacks)
        if len(listed) < LISTED:
            line = _line(records.connection, row, entries, summary, fate)
            listed.append(msgspec.structs.replace(line, lacks=lacks))
    return msgspec.structs.replace(
        found, listed=tuple(listed), fates=dict(fates.most_common()), folded=len(rows), lacking=without
    )  # fmt: skip


def _line(connection: Connection, row: Row, entries: list[Fact], summary: Summary, fate: Fate | None) -> Listed:
    failures = [entry for entry in entries if entry.cause]
    title = None
    if failures and fate is not Fate.SETTLED:
        fingerprint = max(failures, key=lambda entry: entry.rank).cause or ""
        cause = queries.causes(connection, [fingerprint]).get(fingerprint)
        title = cause.title if cause is not None else None
    return Listed(
        message=row,
        fate=fate.label if fate is not None else "unaccounted",
        attempts=summary.attempts,
        last_at=max((entry.at for entry in entries), default=None),
        title=title,
    )
