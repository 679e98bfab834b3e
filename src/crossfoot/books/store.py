"""The book: writes records and entries, in groups, each group one durable transaction."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from crossfoot.books import schema, sql
from crossfoot.books.cause import Cause
from crossfoot.books.entry import Entry
from crossfoot.books.payloads import Keeping, kept, restored
from crossfoot.books.place import place_of
from crossfoot.books.record import Record, ask_otherwise, record_of, see_that_names_fit
from crossfoot.clock import Clock, Micros, SystemClock
from crossfoot.connection import Connection, is_postgres
from crossfoot.errors import Conflict, DatabaseUnavailable, UsageError
from crossfoot.message import Message
from crossfoot.sqlite import explain, is_outside

T = TypeVar("T")

AGAIN = 5
"""How often a transaction is done once more that the database undid for the sake of another one."""


class Named(Protocol):
    """A message, as far as what it carries is restored by it."""

    @property
    def type(self) -> str: ...
    @property
    def subject(self) -> str | None: ...


class Book:
    """The durable record of one service, in that service's own database.

    All methods are synchronous and may be called from any thread, one at a time (a lock sees to it).
    Every write method commits before it returns.

    Args:
        path: the name of a SQLite file, or the URL of a PostgreSQL database.
        synchronous: SQLite's; on PostgreSQL, `NORMAL` accepts a server that confirms commits before its disk has them.
        payloads: whether messages are kept with what they carry, or how.

    Raises (any method that writes):
        DiskFull, DatabaseUnavailable: nothing of that call was kept; whether it was, where the commit itself gave no answer, is
            known when it is read again.
    """

    def __init__(
        self, path: str | Path, *, clock: Clock | None = None, synchronous: str = "FULL", payloads: Keeping = True
    ) -> None:
        self.payloads = payloads
        self.path = str(path)
        self.place = place_of(self.path, synchronous=synchronous)
        self.clock = clock or SystemClock()
        self._synchronous = synchronous
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._pid = 0
        self._identity = ""

    def open(self) -> Book:
        """Connect, and create or migrate the tables.

        Raises:
            SchemaMismatch: the book was written by a newer crossfoot.
            DatabaseUnavailable: the database cannot be used; the message says why and what to do.
        """
        with self._lock:
            if self._connection is None:
                connection = self.place.connect()
                try:
                    schema.ensure(connection, self.place)
                except BaseException:
                    connection.close()
                    raise
                self._connection, self._pid = connection, os.getpid()
        return self

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def another(self) -> Book:
        """The same book over a connection of its own, for what should not wait for this one, nor this one for it."""
        return Book(self.path, clock=self.clock, synchronous=self._synchronous, payloads=self.payloads)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One write transaction on the book's own connection; on a new one, if the server ended that while it was idle."""
        with self._lock, ExitStack() as stack:
            try:
                connection = stack.enter_context(self.connection.writing())
            except DatabaseUnavailable:
                if self._connection is None or not self._connection.broken:
                    raise
                connection = stack.enter_context(self.connection.writing())  # nothing had been said yet
            yield connection

    def write(self, steps: Callable[[Connection], T]) -> T:
        """What `steps` does, in one transaction; from its beginning again where the database undoes it for the sake of another one.

        Raises:
            Conflict: so it did each time.
        """
        for _ in range(AGAIN):
            with suppress(Conflict), self.writing() as connection:
                return steps(connection)
        with self.writing() as connection:
            return steps(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """The book's own connection, for statements that only read and are read to their end."""
        with self._lock:
            try:
                yield self.connection
            except sqlite3.Error as error:
                if is_outside(error):
                    raise explain(error, self.path) from error
                raise

    @property
    def connection(self) -> Connection:
        if (
            self._connection is None or self._connection.broken
        ):  # its server may have been restarted: then a new one is made
            self._connection = None
            self.open()
        assert self._connection is not None
        if self._pid != os.getpid():
            raise UsageError(
                f"book {self.place.name} was opened before this process was forked, and its connections do not survive that: "
                "make the Crossfoot object, or publish for the first time, in the child"
            )
        return self._connection

    def kept(self, body: bytes, *, type: str, subject: str | None = None) -> bytes | None:
        """What is kept of an encoded message."""
        return kept(self.payloads, body, type=type, subject=subject)

    def sealed(self, body: bytes, *, type: str, subject: str | None) -> bytes | None:
        """What a plan keeps of an encoded message, which is needed even where the book keeps none."""
        return body if isinstance(self.payloads, bool) else self.kept(body, type=type, subject=subject)

    def restored(self, row: Named, stored: bytes | None) -> bytes | None:
        """A message as it was, from what is kept of it; `None` where that cannot be had."""
        return restored(self.payloads, stored, type=row.type, subject=row.subject)

    def record_of(self, message: Message, queue: str, *, now: Micros, body: bytes) -> Record:
        """What this book keeps of a message.

        Raises:
            EnvelopeInvalid: it bears a name that the database cannot look up.
        """
        record = record_of(message, queue, now=now, body=self.kept(body, type=message.type, subject=message.subject))
        if is_postgres(self.path):
            see_that_names_fit(record)
        return record

    # ---- what the worker and the publisher write -------------------------------------------------------------

    def append(self, entries: Iterable[Entry], causes: Iterable[Cause] = ()) -> None:
        """Write entries, and the causes they name, in one transaction."""
        rows, named, now = [entry_row(entry) for entry in entries], list(causes), self.clock.now()

        def append(connection: Connection) -> None:
            write_rows(connection, rows)
            write_causes(connection, named, now)

        self.write(append)

    def keys_of(self, records: Sequence[Record]) -> list[int]:
        """The keys of messages, which are added where the book does not know them."""
        return self.write(lambda connection: [find_or_add(connection, record).key for record in records])

    def start_worker(self, name: str, service: str) -> int:
        """Register this process; its number stands in the entries it writes."""
        now = self.clock.now()
        row = (name, service, socket.gethostname(), os.getpid(), version("crossfoot"), now, now)
        return self.write(lambda connection: int(connection.execute(sql.INSERT_WORKER, row).fetchone()[0]))

    def see_worker(self, number: int) -> None:
        """Say that the worker is alive."""
        self.write(lambda connection: connection.execute(sql.SEE_WORKER, (self.clock.now(), number)))

    def stop_worker(self, number: int) -> None:
        """Say that the worker stopped in order; one that is killed never gets here, which is how it is known."""
        now = self.clock.now()
        self.write(lambda connection: connection.execute(sql.STOP_WORKER, (now, now, number)))

    def tidy(self) -> bool:
        """Give back what is not needed any more, and have ready what will be. True when there was something."""
        with self._lock:
            return self.place.tidy(self.connection, self.clock.now())

    def identity(self) -> str:
        """This book's own id, made when it is first asked for."""

        def find_or_make(connection: Connection) -> str:
            connection.execute(
                "INSERT INTO crossfoot_facts (name, value) VALUES ('book', ?) ON CONFLICT (name) DO NOTHING",
                (str(uuid.uuid4()),),
            )
            return str(connection.execute("SELECT value FROM crossfoot_facts WHERE name = 'book'").fetchone()[0])

        if not self._identity:
            self._identity = self.write(find_or_make)
        return self._identity


def entry_row(entry: Entry) -> tuple[Any, ...]:
    """The parameters of `sql.INSERT_ENTRY`."""
    return (
        entry.message, int(entry.kind), entry.attempt, entry.delivery, entry.at, entry.due, entry.worker,
        entry.cause, entry.details,
    )  # fmt: skip


def write_entries(connection: Connection, entries: Iterable[Entry]) -> None:
    """Within the caller's transaction."""
    write_rows(connection, [entry_row(entry) for entry in entries])


def write_rows(
    connection: Connection,
    rows: Sequence[tuple[Any, ...]],
    *,
    each: str = sql.INSERT_ENTRY,
    group: str = sql.INSERT_ENTRIES,
) -> None:
    """Entries as rows, a group in one statement. Within the caller's transaction."""
    whole = len(rows) - len(rows) % sql.GROUP
    for first in range(0, whole, sql.GROUP):
        connection.execute(group, flat(rows[first : first + sql.GROUP]))
    connection.executemany(each, rows[whole:])


def flat(rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The parameters of a statement for a group."""
    return list(chain.from_iterable(rows))


def write_causes(connection: Connection, causes: Iterable[Cause], now: int) -> None:
    """Within the caller's transaction."""
    connection.executemany(sql.INSERT_CAUSE, [(c.fingerprint, c.kind, c.title, c.frames, now) for c in causes])


class Known(NamedTuple):
    """A message as the book knows it, as of the last posting."""

    key: int
    type: str
    subject: str | None
    operation: str | None
    latest: int
    marks: int
    is_new: bool = False

    def is_other(self, record: Record) -> bool:
        """Whether that record is of another message, which bears the same identity."""
        return self.type != record.type or self.subject != record.subject

    def asks_other(self, record: Record) -> bool:
        """Whether that record states another operation: a copy that is carried out under a key of its own is carried out
        twice."""
        return ask_otherwise(self.operation, record.operation)


def find_or_add(connection: Connection, record: Record) -> Known:
    """A message, added if the book does not know it. Within the caller's transaction."""
    found = connection.execute(sql.FIND_MESSAGE, (record.id, record.source, record.queue)).fetchone()
    if found is not None:
        return Known(*found)
    added = connection.execute(sql.INSERT_MESSAGE, record.row()).fetchone()
    if added is None:  # by somebody else, since it was looked for
        return find_or_add(connection, record)
    return _new(added[0], record)


def _new(key: int, record: Record) -> Known:
    return Known(key, record.type, record.subject, record.operation, 0, 0, is_new=True)


def find_or_add_all(connection: Connection, records: Sequence[Record]) -> list[Known]:
    """Messages, in order, looked up and added in groups. Within the caller's transaction."""
    found: dict[int, Known] = {}
    for group in _groups(range(len(records))):
        names = [(records[place].id, records[place].source, records[place].queue) for place in group]
        rows = connection.execute(sql.FIND_MESSAGES, _filled(flat(names), 3 * sql.GROUP))
        found.update((group[row[0]], Known(*row[1:])) for row in rows)
    # In one order, so that two who add the same do not wait for each other.
    new = sorted(
        (place for place in range(len(records)) if place not in found), key=lambda place: records[place].identity
    )
    for group in _groups(new):
        if len(group) == sql.GROUP:
            rows = connection.execute(sql.INSERT_MESSAGES, flat([records[place].row() for place in group]))
            added = {tuple(name): key for key, *name in rows}
        else:
            added = {}
        for place in group:
            record = records[place]
            key = added.pop((record.id, record.source, record.queue), None)
            found[place] = find_or_add(connection, record) if key is None else _new(key, record)
    return [found[place] for place in range(len(records))]


def completed(connection: Connection, operations: Sequence[str], messages: Sequence[int] = ()) -> dict[str, int]:
    """Those of the operations that are completed, and those that the messages have completed; each with the message that did it."""
    if connection.dialect == "postgres":
        return dict(connection.execute(sql.FIND_OPERATIONS, (list(operations), list(messages))).fetchall())
    return {
        key: message
        for keys, owners in zip_longest(_groups(operations), _groups(messages), fillvalue=())
        for key, message in connection.execute(
            sql.FIND_OPERATIONS, [*_filled(keys, sql.GROUP), *_filled(owners, sql.GROUP)]
        )
    }


def _groups(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """In groups of the size that the statements have; the last one may be smaller."""
    for first in range(0, len(items), sql.GROUP):
        yield items[first : first + sql.GROUP]


def _filled(values: Sequence[Any], size: int) -> Sequence[Any]:
    """The parameters of a whole group."""
    return values if len(values) == size else [*values, *[None] * (size - len(values))]
