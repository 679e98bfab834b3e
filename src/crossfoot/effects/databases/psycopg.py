"""psycopg 3: the handler gets a `psycopg.Connection`, inside the transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, Self, TypeVar

import psycopg
from psycopg import pq, sql

from crossfoot.connection import shown
from crossfoot.effects.databases.postgres_changes import PLAIN, ChangeCounter, rows_told
from crossfoot.effects.databases.psycopg_steps import answer, asks_again, own_cursor, tell_full_disk
from crossfoot.effects.databases.session import KEEP, MARK, UNDO, Ask, AsyncSession, Session
from crossfoot.effects.databases.sqlite import OVER
from crossfoot.errors import TransactionMisuse
from crossfoot.postgres import COMMIT, ROLLBACK, connect_raw

T = TypeVar("T")

BEGIN = b"BEGIN"
"""With the isolation that the user, the database or the URL set."""

DURABLE = b"SELECT current_setting('synchronous_commit')"
MAKE_DURABLE = b"SET LOCAL synchronous_commit = on"

NEXT_MARK = f"{KEEP}; {MARK}".encode()
"""One savepoint is over, the next one begins."""

REFUSALS = {
    "commit": "the handler called commit(): crossfoot commits after the handler returned",
    "rollback": "the handler called rollback(): raise an exception instead, crossfoot rolls back",
    "close": "the handler called close(): the connection is crossfoot's, which goes on to use it",
    "context": "the handler used the connection as a context, which commits and closes it at the end: use it as it is",
    "pipeline": "the handler began a pipeline, of which nobody counts what it changed: use execute() and executemany()",
    "set": "the handler changed how the connection's transactions begin and end: they are crossfoot's",
    "tpc": "the handler began a transaction of two phases: the connection's transaction is crossfoot's",
}


class Guarded:
    """What handlers' connections of either kind have in common."""

    info: psycopg.ConnectionInfo
    counter: ChangeCounter
    guarded = False
    """Whether a handler has it."""

    def admit(self) -> None:
        """See that a handler may use it.

        Raises:
            TransactionMisuse: it has returned; or the transaction is gone, and a write would be durable by itself.
        """
        if not self.guarded:
            raise TransactionMisuse(OVER)
        if self.info.transaction_status is pq.TransactionStatus.IDLE:
            raise TransactionMisuse(
                "the transaction that crossfoot owns was ended while the handler ran: leave commit and rollback to crossfoot"
            )

    def refuse(self, what: str) -> NoReturn:
        """Raises: TransactionMisuse: always; and once more at the end, should the handler catch it."""
        raise self.counter.refuse(TransactionMisuse(REFUSALS[what]))

    def changed(self) -> int:
        """Net rows that the handler changed; it must not use the connection any more."""
        self.guarded = False
        status = self.info.transaction_status
        return self.counter.changed(
            is_open=status is pq.TransactionStatus.INTRANS, is_broken=status is pq.TransactionStatus.INERROR
        )


def text_of(statement: Any, connection: Any) -> str:
    """A statement of the handler's, as it will be sent."""
    if isinstance(statement, bytes):
        return statement.decode(errors="replace")
    return statement.as_string(connection) if isinstance(statement, (sql.Composable)) else str(statement)


class HandlerCursor(psycopg.Cursor[Any]):
    """A cursor of a handler's, which counts what it changes."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        connection: Any = self.connection
        connection.admit()
        look = connection.counter.look(text_of(query, connection))
        try:
            super().execute(query, params, **options)
        except psycopg.Error as error:
            connection.failed(error)
            raise
        connection.counter.done(look, rows_told(self.statusmessage, self.rowcount))
        return self

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        connection: Any = self.connection
        connection.admit()
        look = connection.counter.look(text_of(query, connection))
        try:
            super().executemany(query, params_seq, **options)
        except psycopg.Error as error:
            connection.failed(error)
            raise
        connection.counter.done(look, rows_told(self.statusmessage, self.rowcount))

    def stream(self, query: Any, params: Any = None, **options: Any) -> Iterator[Any]:
        connection: Any = self.connection
        connection.admit()
        text, rows = text_of(query, connection), 0
        look = connection.counter.look(text)
        try:
            for row in super().stream(query, params, **options):
                rows += 1
                yield row
        except psycopg.Error as error:
            connection.failed(error)
            raise
        connection.counter.done(
            look, rows_told(" ".join(text.upper().split()), rows)
        )  # the driver keeps no status of it

    @contextmanager
    def copy(self, statement: Any, *arguments: Any, **options: Any) -> Iterator[psycopg.Copy]:
        connection: Any = self.connection
        connection.admit()
        into = is_copy_in(text_of(statement, connection))
        try:
            with super().copy(statement, *arguments, **options) as copy:
                yield copy
        except psycopg.Error as error:
            connection.failed(error)
            raise
        if into:
            connection.counter.done(PLAIN, max(self.rowcount, 0))


def is_copy_in(statement: str) -> bool:
    return "FROM STDIN" in " ".join(statement.upper().split())


class HandlerConnection(Guarded, psycopg.Connection[Any]):
    """A connection whose transaction belongs to crossfoot. Whatever would end it is refused before it happens."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.counter = ChangeCounter()
        self.cursor_factory = HandlerCursor

    def failed(self, error: psycopg.Error) -> None:
        """A statement of the handler's raised.

        Raises:
            DiskFull: the server's disk is full.
        """
        self.counter.failed(error)
        tell_full_disk(error, self)

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        self.admit()
        return super().cursor(*arguments, **options)

    @contextmanager
    def transaction(self, *arguments: Any, **options: Any) -> Iterator[psycopg.Transaction]:
        """A savepoint, because a transaction is open."""
        self.admit()
        mark = self.counter.mark()
        with super().transaction(*arguments, **options) as inner:
            try:
                yield inner
            except BaseException:
                self.counter.undone(mark)
                raise
            if inner.force_rollback:
                self.counter.undone(mark)

    def commit(self) -> None:
        self.refuse("commit")

    def rollback(self) -> None:
        self.refuse("rollback")

    def close(self) -> None:
        self.refuse("close")

    def pipeline(self) -> Any:
        self.refuse("pipeline")

    def __enter__(self) -> Self:
        self.refuse("context")

    def set_autocommit(self, value: bool) -> None:
        self.refuse("set")

    def tpc_begin(self, xid: Any) -> None:
        self.refuse("tpc")

    def leave(self) -> None:
        """Close, when the worker is done with it."""
        super().close()


class PsycopgSession:
    """One lane's connection."""

    handle: HandlerConnection
    _begun = False
    _marked = False

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._connect()

    def begin(self) -> None:
        self._over_a_living_one(lambda: self._own.execute(BEGIN))
        self._begun, self._marked = True, False

    def commit(self) -> None:
        self.handle.guarded = self._begun = False
        self._own.execute(COMMIT)

    def rollback(self) -> None:
        self.handle.guarded = self._begun = False
        if self.handle.info.transaction_status is not pq.TransactionStatus.IDLE:
            with suppress(psycopg.Error):  # a session that has ended took its transaction with it
                self._own.execute(ROLLBACK)

    def mark(self) -> None:
        self._own.execute(NEXT_MARK if self._marked else MARK.encode(), prepare=False)
        self._marked = True

    def undo(self) -> None:
        self.handle.guarded = False
        self._own.execute(UNDO.encode())

    def keep(self) -> None:
        """Left to the next `mark`, or to the commit: that saves a trip to the server."""

    def answer(self, ask: Ask) -> Any:
        if self._begun:
            return answer(self._own, ask)
        return self._over_a_living_one(lambda: answer(self._own, ask))

    def execute(self, sql: Any, parameters: Any = ()) -> psycopg.Cursor[Any]:
        return self.handle.cursor().execute(sql, parameters or None)  # type: ignore[no-any-return]  # of whatever rows the handler set

    def watch(self) -> None:
        self.handle.counter.watch()
        self.handle.guarded = True

    def changed(self) -> int:
        return self.handle.changed()

    def asks_again(self, error: BaseException) -> bool:
        return asks_again(error)

    def close(self) -> None:
        self.handle.leave()

    def _over_a_living_one(self, call: Callable[[], T]) -> T:
        """Execute what is not in a transaction yet; over a new connection, if the server ended this one while it was idle. That
        is no failure of the delivery's: with many lanes, it would be tried over one dead connection after the other, and die."""
        if not self.handle.closed:
            try:
                return call()
            except psycopg.OperationalError:
                if not self.handle.closed:
                    raise
        self._connect()
        return call()

    def _connect(self) -> None:
        database = self._database
        self.handle = connect_raw(HandlerConnection, database.path, synchronous=database.synchronous)
        self._own = own_cursor(self.handle)


class PostgresDatabase:
    """A PostgreSQL database reached through psycopg, synchronously or not.

    Args:
        url: `postgresql://USER:PASSWORD@HOST:5432/NAME`, with any of libpq's parameters.
        synchronous: `NORMAL` accepts a server that confirms commits before its disk has them.
    """

    lazy = True

    def __init__(self, url: str, *, synchronous: str = "FULL") -> None:
        self.path = url
        self.synchronous = synchronous

    def __repr__(self) -> str:
        return f"PostgresDatabase({shown(self.path)!r})"

    def connect(self) -> Session:
        return PsycopgSession(self)

    async def aconnect(self) -> AsyncSession:
        from crossfoot.effects.databases.psycopg_async import PsycopgAsyncSession

        return await PsycopgAsyncSession.connect(self)

    def close(self) -> None:
        """Nothing is kept open here."""


__all__ = ["PostgresDatabase", "PsycopgSession", "answer", "asks_again", "own_cursor", "tell_full_disk"]
