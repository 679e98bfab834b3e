"""What is true afterwards: counted in the business tables, and in the books, by identity.

The business tables are counted without any help of crossfoot's. The books are judged by their entries, folded here one by
one, and by crossfoot's own `balance` and `verify`, which must find nothing either.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import msgspec

from crossfoot.books.entry import ACK_REASONS, Entry, Kind
from crossfoot.books.fate import Fate, fold, posted_fate
from crossfoot.books.stock import take_stock
from crossfoot.books.verify import verify
from crossfoot.clock import SystemClock
from crossfoot.connection import Connection
from crossfoot.sqlite import connect
from tests.crash.job import BROKEN, GOOD, INVOICE, LATE, Sent

EFFECTS = ("effects", "ledger", "receipts")

OPEN = ", ".join(str(fate.value) for fate in Fate if not fate.closed)

_IS_CLOSED = f"""
SELECT EXISTS (SELECT 1 FROM crossfoot_messages WHERE fate IN (0, {OPEN}))
  OR EXISTS (SELECT 1 FROM crossfoot_outbox)
  OR (SELECT coalesce(max(id), 0) FROM crossfoot_entries)
     > (SELECT coalesce(max(CAST(value AS INTEGER)), 0) FROM crossfoot_facts WHERE name = 'posted entries')
"""


class Audit(msgspec.Struct, kw_only=True):
    """What was found.

    Attributes:
        lost, doubled: effects, as `table subject`.
        unaccounted: message ids without a closed fate, and ids the book does not know.
        problems: everything else that is not as it should be, in words.
    """

    lost: list[str]
    doubled: list[str]
    unaccounted: list[str]
    problems: list[str]

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.unaccounted or self.problems)


def is_closed(path: str) -> bool:
    """Whether every message the book knows has a closed fate, posted, and nothing is left to send."""
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        try:
            return not connection.execute(_IS_CLOSED).fetchone()[0]
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return False
            raise


def audit(path: str, published: Iterable[Sent], *, held: int) -> Audit:
    """Compare what happened with what should have.

    Args:
        published: every message that was accepted.
        held: what the queue still holds.
    """
    messages = set(published)
    good = {message.subject for message in messages if message.type == GOOD}
    with closing(connect(path)) as connection:
        lost, doubled = _effects(connection, good)
        unaccounted, problems = _fates(connection, messages)
        problems += acks_without_reason(connection) + crossfoots_own(connection)
    if held:
        problems.append(f"the queue still holds {held}")
    return Audit(lost=lost, doubled=doubled, unaccounted=unaccounted, problems=problems)


def _effects(connection: Connection, good: set[str]) -> tuple[list[str], list[str]]:
    lost: list[str] = []
    doubled: list[str] = []
    for table in EFFECTS:
        found = Counter(subject for (subject,) in connection.execute(f"SELECT subject FROM {table}"))
        lost += [f"{table} {subject}" for subject in sorted(good - found.keys())]
        doubled += [f"{table} {subject}" for subject, count in sorted(found.items()) if count > 1]
        doubled += [f"{table} {subject} (never asked for)" for subject in sorted(found.keys() - good)]
    return lost, doubled


def _fates(connection: Connection, messages: set[Sent]) -> tuple[list[str], list[str]]:
    """One closed fate for every message: by its entries, in the ledger, and the one that fits its type."""
    rows = connection.execute("SELECT key, id, type, subject, fate FROM crossfoot_messages").fetchall()
    unaccounted = [f"{message.id} (not in the book)" for message in messages - {Sent(*row[1:4]) for row in rows}]
    problems: list[str] = []
    settled: Counter[tuple[str, str]] = Counter()
    for key, id_, type_, subject, stored in rows:
        fate = posted_fate(fold(entries_of(connection, key)))
        if fate is None or not fate.closed:
            unaccounted.append(f"{id_} ({type_}, {fate.label if fate else 'no entries'})")
        elif fate != stored:
            problems.append(f"{id_} is {fate.label} by its entries, and {Fate(stored).label} in the ledger")
        elif fate not in _FITTING[type_]:
            problems.append(f"{id_} of type {type_} ended as {fate.label}")
        settled[type_, subject] += fate is Fate.SETTLED
    problems += [
        f"{count} messages settled {subject} ({type_})"
        for (type_, subject), count in settled.items()
        if type_ in (GOOD, INVOICE) and count != 1
    ]
    return unaccounted, problems


_FITTING = {
    GOOD: (Fate.SETTLED, Fate.DUPLICATE),
    INVOICE: (Fate.SETTLED,),
    BROKEN: (Fate.DEAD,),
    LATE: (Fate.EXPIRED,),
}


def entries_of(connection: Connection, key: int) -> list[Entry]:
    rows: list[Any] = connection.execute(
        "SELECT kind, attempt, delivery, at, due FROM crossfoot_entries WHERE message = ?", (key,)
    ).fetchall()
    return [
        Entry(message=key, kind=Kind(kind), attempt=attempt, delivery=delivery, at=at, due=due)
        for kind, attempt, delivery, at, due in rows
    ]


def acks_without_reason(connection: Connection) -> list[str]:
    """Every ack has a reason that was written before it."""
    reasons = ", ".join(str(kind.value) for kind in ACK_REASONS)
    rows = connection.execute(
        f"""SELECT DISTINCT m.id FROM crossfoot_entries a JOIN crossfoot_messages m ON m.key = a.message
        WHERE a.kind = {Kind.ACKED.value} AND NOT EXISTS (
          SELECT 1 FROM crossfoot_entries p WHERE p.message = a.message AND p.kind IN ({reasons}) AND p.id < a.id)"""
    ).fetchall()
    return [f"{id_} was acked without a reason" for (id_,) in rows]


def crossfoots_own(connection: Connection) -> list[str]:
    now = SystemClock().now()
    verified = verify(connection, now)
    balance = take_stock(connection, now, depth_of=None)
    found = [f"verify: {one.what}: {one.text} {one.id or ''}" for one in verified.differences]
    if balance.unaccounted:
        found.append(f"balance: {balance.unaccounted} unaccounted {balance.unaccounted_ids}")
    for name, identity in balance.identities.items():
        if identity.holds is False:
            found.append(f"balance: identity {name} is broken: {'; '.join(identity.notes)} {identity.ids}")
    return found
