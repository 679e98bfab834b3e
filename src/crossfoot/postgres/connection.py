"""The book's connection to PostgreSQL, the counterpart of SQLite's.

There are many writers here: whoever relies on being the only one says so with `alone`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, ParamSpec, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper, Loader
from psycopg.pq.abc import PGresult
from psycopg.rows import tuple_row

from crossfoot.connection import Cursor, shown
from crossfoot.dialect import translate
from crossfoot.postgres.connecting import BOUNDS, BY_INDEX, connect_raw
from crossfoot.postgres.errors import AGAIN, explain, first_line, is_missing, is_outside
from crossfoot.postgres.trips import Speaking, Trips, rows_changed, rows_of

BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"
SNAPSHOT = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
COMMIT, ROLLBACK = b"COMMIT", b"ROLLBACK"

ALONE = b"""
SELECT pg_advisory_xact_lock(hashtextextended('crossfoot ' || %s::text, 0)), current_setting('transaction_isolation')
"""

AFTER_OTHERS = b"""
INSERT INTO crossfoot_facts (name, value) VALUES ('alone ' || %s::text, '')
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
"""Who waited for others does not see what they did if its snapshot is older (above READ COMMITTED). Then this fails, as what must
be done again, because they changed the same row."""

P = ParamSpec("P")
T = TypeVar("T")

_streams = itertools.count()


class _Whole(Dumper):
    """An integer whose type is for the server to find: sent as the smallest that holds it, as psycopg does, each size
    would make another prepared statement."""

    oid = 0

    def dump(self, obj: Any) -> bytes:
        return b"%d" % int(obj)

    def quote(self, obj: Any) -> bytes:
        return b" %d" % int(obj)  # a sign must not meet the one before it


class _Sum(Loader):
    """The sums of integers are of type numeric, and whole all the same."""

    def load(self, data: Any) -> int:
        return int(bytes(data))


def adapt(context: psycopg.abc.AdaptContext) -> None:
    """Have integers sent and read as the book wants it, on a connection or a cursor of ours."""
    context.adapters.register_dumper(int, _Whole)
    context.adapters.register_loader("numeric", _Sum)


class Raw(Speaking, psycopg.Connection[Any]):
    """The driver's connection beneath one of the book's."""


class Answer:
    """What a statement that made a trip gave."""

    def __init__(self, results: Sequence[PGresult], context: AdaptContext) -> None:
        self.rowcount = rows_changed(results)
        self._rows = iter(rows_of(results[-1], context) if results else ())

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows


class Connection:
    """A connection of the book's. Outside of `writing` and `snapshot` each statement commits by itself.

    Statements with parameters go past the driver's cursors where they can (see `trips`): those read a statement of many parameters
    anew each time, which takes longer than all else that becomes of it here.

    Args:
        raw: with autocommit.
        where: what it leads to, for people.
    """

    dialect: Literal["postgres"] = "postgres"

    def __init__(self, raw: Raw, where: str) -> None:
        self.raw = raw
        self.where = where
        raw.trips = Trips(raw)
        adapt(raw)

    @property
    def broken(self) -> bool:
        return self.raw.closed

    @property
    def in_transaction(self) -> bool:
        return self.raw.info.transaction_status is not pq.TransactionStatus.IDLE

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        if parameters and not isinstance(parameters, Mapping) and self.raw.trips.say(translate(sql), [parameters]):
            return self._explained(self._trip)
        return self._explained(self.raw.cursor(row_factory=tuple_row).execute, translate(sql), parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Cursor:
        rows = list(parameters)
        if rows and not isinstance(rows[0], Mapping) and self.raw.trips.say(translate(sql), rows):
            return self._explained(self._trip)
        cursor = self.raw.cursor(row_factory=tuple_row)
        self._explained(cursor.executemany, translate(sql), rows)
        return cursor

    def stream(self, sql: str, parameters: Any = (), /) -> Iterator[Any]:
        """The rows of a large result, in portions. Within a transaction."""
        with self.raw.cursor(f"crossfoot_{next(_streams)}", row_factory=tuple_row) as cursor:
            cursor.itersize = 2_000
            yield from self._explained(cursor.execute, translate(sql), parameters)

    def alone(self, what: str) -> None:
        """Until the end of the transaction nobody else does `what`; waits for who does it."""
        self._explained(self.raw.execute, ALONE, (what,))

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One write transaction: committed at the end, rolled back on any exception.

        Raises:
            DiskFull: the server's disk is full; nothing of the transaction was kept.
            DatabaseUnavailable: the server has gone, only reads, or ended the session.
        """
        self.begin()
        try:
            yield self
        except BaseException:
            self.abandon()
            raise
        self.finish()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Everything read inside is of one moment. Nobody waits for anybody.

        Raises:
            DatabaseUnavailable: the server has gone, or ended the session.
        """
        self._explained(self.raw.execute, SNAPSHOT)
        try:
            yield self
        finally:
            self.abandon()

    def begin(self) -> None:
        """Begin a transaction whose every statement sees what is committed by then."""
        self._explained(self.raw.execute, BEGIN)

    def finish(self) -> None:
        """Commit. After an exception the outcome is unknown until it is read again."""
        try:
            self._explained(self.raw.execute, COMMIT)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Roll back, whatever state the transaction is in."""
        if self.in_transaction:
            with suppress(psycopg.Error):  # a session that has ended took its transaction with it
                self.raw.execute(ROLLBACK)

    def close(self) -> None:
        self.raw.close()

    def _trip(self) -> Answer:
        with self.raw.lock:
            return Answer(self.raw.wait(self.raw.trips.send()), self.raw)

    def _explained(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return call(*arguments, **named)
        except psycopg.Error as error:
            if is_outside(error) or error.sqlstate in AGAIN or is_missing(error.sqlstate, first_line(error)):
                raise explain(error, self.where) from error
            raise


def connect(url: str, *, synchronous: str = "FULL", by_index: bool = False) -> Connection:
    """Open `url`; a commit is on the server's disk when it returns, unless `synchronous` is NORMAL.

    Args:
        by_index: for who writes, and says the same for hours: see `BY_INDEX` and `BOUNDS`. Where much is counted, the server chooses
            better by itself, and may take its time.

    Raises:
        DatabaseUnavailable: the server cannot be reached, refuses us, is too old or has no such database.
    """
    raw = connect_raw(Raw, url, synchronous=synchronous)
    try:
        connection = Connection(raw, shown(url))
        if by_index and raw.prepare_threshold is not None:
            connection.execute(BY_INDEX)
            connection.execute(BOUNDS)
    except BaseException:  # such as a statement cancelled by an operator
        raw.close()
        raise
    return connection
