"""What handlers of an optimistic batch write, sent together when all of them have returned.

A write of which nothing can be known but how many rows it changed (an INSERT, UPDATE, DELETE or MERGE without RETURNING) is kept, and goes
to the server with the others of the batch, in one trip.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self

import psycopg
from psycopg._queries import PostgresQuery  # how its cursors convert statements, of which nothing is public
from psycopg.adapt import Transformer
from psycopg.pq.abc import PGresult

from crossfoot.effects.databases.postgres_changes import ChangeCounter, Count, changes_only, rows_told
from crossfoot.effects.databases.psycopg_guarded import text_of
from crossfoot.postgres import Trips

MOST, MOST_BYTES = 500, 1_000_000
"""Statements, and bytes of their parameters, that are kept at most."""


class Writer(Protocol):
    """Whoever wrote: the transaction of a handler."""

    def settle(self) -> None: ...
    @property
    def connection(self) -> Any: ...


class Written:
    """What `tx.execute` returns of a write that is kept. Asked what it did, it has all that is kept sent; asked for anything else it is a
    cursor of psycopg's without a result, which is what such a write leaves."""

    def __init__(self, writer: Writer, count: Count) -> None:
        self._writer = writer
        self._count = count
        self._answer: PGresult | None = None
        self._cursor: psycopg.Cursor[Any] | None = None

    def answered(self, answer: PGresult) -> None:
        """The server said what it did."""
        self._answer = answer
        self._count.rows += rows_told(self.statusmessage, self.rowcount)

    @property
    def rowcount(self) -> int:
        return self._told().command_tuples or 0

    @property
    def statusmessage(self) -> str | None:
        status = self._told().command_status
        return None if status is None else status.decode()

    def _told(self) -> PGresult:
        if self._answer is None:
            self._writer.settle()
        assert self._answer is not None, "what was kept has been sent"
        return self._answer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if self._cursor is None:
            self._cursor = self._writer.connection.cursor()
        return getattr(self._cursor, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.__getattr__("fetchall")())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing of it is open."""


class Later:
    """The writes that a session keeps.

    Args:
        trips: of its connection.
    """

    def __init__(self, trips: Trips) -> None:
        self._trips = trips
        self._kept: list[tuple[int, Written]] = []
        self._bytes = 0
        self.lock = threading.RLock()
        """A handler may have threads: held while something is kept, and while what is kept is sent."""

    def keep(self, writer: Writer, counter: ChangeCounter, converter: Any, sql: str, parameters: Any) -> Written:
        """Keep a write.

        Raises:
            psycopg.Error: its parameters are none for it.
        """
        query = PostgresQuery(converter)
        query.convert(sql, parameters or None)
        written = Written(writer, counter.count)
        self._kept.append((self._trips.say_converted(query.query, query.params, query.types, query.formats), written))
        self._bytes += sum(len(one) for one in query.params or () if one is not None)
        return written

    @property
    def is_full(self) -> bool:
        return len(self._kept) >= MOST or self._bytes >= MOST_BYTES

    def answered(self, answers: Sequence[PGresult]) -> None:
        """All that waited to be said was sent: these are the answers."""
        kept = self._kept
        self.forget()
        for number, written in kept:
            written.answered(answers[number])

    def forget(self) -> None:
        """Nothing of what is kept is to be sent any more."""
        self._kept, self._bytes = [], 0


def can_wait(sql: Any, trips: Trips) -> bool:
    """Whether a statement of a handler's may be sent later.

    Raises:
        TransactionMisuse: it may not be executed at all.
    """
    return type(sql) is str and trips.possible and changes_only(sql)


class KeepsWrites:
    """What a session over psycopg has that keeps writes (see `session.LateSession`)."""

    handle: Any
    execute: Callable[..., Any]
    _send: Callable[[], Any]
    _later: Later
    _converter: Any
    _lent = False
    """Whether a handler has had the connection itself since `_converter` was made."""

    def execute_later(self, writer: Writer, sql: Any, parameters: Any = ()) -> Any:
        handle, later = self.handle, self._later
        with later.lock:
            handle.admit()
            handle.counter.look(text_of(sql, handle))
            if not can_wait(sql, handle.trips):
                self.settle()
                return self.execute(sql, parameters)
            if self._lent:  # whoever had the connection may have changed what it converts, and how
                self._converter, self._lent = Transformer(handle), False
            written = later.keep(writer, handle.counter, self._converter, sql, parameters)
            if later.is_full:
                self.settle()
            return written

    def settle(self) -> None:
        try:
            with self._later.lock:
                self._send()
        except psycopg.Error as error:
            self.handle.failed(error)
            raise

    def lend(self) -> Any:
        self.settle()
        self._lent = True
        return self.handle

    def counted(self) -> Count:
        count: Count = self.handle.counted()
        return count
