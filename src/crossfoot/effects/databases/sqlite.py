"""The standard library's sqlite3: the handler gets a `sqlite3.Connection`."""

from __future__ import annotations

import sqlite3
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Self

from crossfoot.effects.databases.changes import LOST, ChangeCounter, chain
from crossfoot.effects.databases.frames import forget_variables
from crossfoot.effects.databases.session import KEEP, MARK, UNDO, All, Alone, Ask, AsyncSession, Many, One, Run, Session
from crossfoot.errors import DiskFull, QueueUnavailable, TransactionMisuse
from crossfoot.sqlite import Connection, connect_as, explain

_execute = sqlite3.Cursor.execute

OVER = (
    "the connection was used by something that a handler left running after it returned: wait for all threads and tasks before "
    "returning"
)

STILL = (
    "something of a handler that failed still has the connection of its batch (a thread that it left running, a variable of its module): "
    "wait for all threads before raising, and keep no connection"
)

MOST_CURSORS = 1_000
"""Cursors of one transaction that are remembered before those that are gone are forgotten."""


class HandlerCursor(sqlite3.Cursor):
    """A cursor of a handler's, which tells its connection of what must be watched."""

    connection: HandlerConnection

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        connection = self.connection
        connection.admit(sql)
        try:
            return super().execute(sql, parameters)
        except sqlite3.Error as error:
            connection.failed(error)
            raise

    def executemany(self, sql: str, parameters: Any, /) -> Self:
        self.connection.admit(sql)
        try:
            return super().executemany(sql, parameters)
        except sqlite3.Error as error:
            self.connection.failed(error)
            raise


class HandlerConnection(Connection):
    """A connection whose transaction belongs to crossfoot. Whatever would end it is refused before it happens."""

    guarded = False
    """Whether a handler has it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cursors: list[weakref.ref[sqlite3.Cursor]] = []
        self.counter = ChangeCounter(self)
        self.counter.tracing = False
        sqlite3.Connection.set_authorizer(self, self.counter.authorize)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self.admit(sql)
        cursor = self._lent(super().cursor(HandlerCursor))
        try:
            return _execute(cursor, sql, parameters)
        except sqlite3.Error as error:
            self.failed(error)
            raise

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        cursor: HandlerCursor = self.cursor()
        return cursor.executemany(sql, parameters)

    def cursor(self, factory: Any = HandlerCursor) -> Any:
        if not self.guarded:
            raise TransactionMisuse(OVER)
        if factory is not HandlerCursor:
            self.trace()
        return self._lent(super().cursor(factory))

    def set_trace_callback(self, *_: Any, **__: Any) -> None:
        raise TransactionMisuse("the handler set a trace callback: the connection's own is crossfoot's")

    def set_authorizer(self, *_: Any, **__: Any) -> None:
        raise TransactionMisuse("the handler set an authorizer: the connection's own is crossfoot's")

    def set_progress_handler(self, *_: Any, **__: Any) -> None:
        raise TransactionMisuse("the handler set a progress handler, which could stop statements of crossfoot's")

    def setlimit(self, *_: Any, **__: Any) -> int:
        raise TransactionMisuse(
            "the handler set a limit of its connection, which holds for statements of crossfoot's, too"
        )

    def deserialize(self, *_: Any, **__: Any) -> None:
        raise TransactionMisuse(
            "the handler called deserialize(), which puts another database in the place of this one"
        )

    def trace(self) -> None:
        """Have every statement watched from now on, see `changes`."""
        if not self.counter.tracing:
            self.counter.tracing = True
            sqlite3.Connection.set_trace_callback(self, self.counter)

    def failed(self, error: sqlite3.Error) -> None:
        """A statement of the handler's raised.

        Raises:
            DiskFull: see `tell_full_disk`.
        """
        self.trace()
        tell_full_disk(error, self)

    def finish(self) -> None:
        self._take_back()
        super().finish()

    def abandon(self) -> None:
        self._take_back()
        super().abandon()

    def admit(self, sql: str) -> None:
        """Let a statement of the handler's pass, and see that it is watched if it must be.

        Raises:
            TransactionMisuse: the handler has returned; or the transaction is gone, and a write would be durable by itself.
        """
        if not self.guarded:
            raise TransactionMisuse(OVER)
        if not self.in_transaction:
            raise TransactionMisuse(LOST)
        if self.counter.look(sql):
            self.trace()

    def _lent(self, cursor: sqlite3.Cursor) -> sqlite3.Cursor:
        if len(self._cursors) > MOST_CURSORS:
            self._cursors = [reference for reference in self._cursors if reference() is not None]
        self._cursors.append(weakref.ref(cursor))
        return cursor

    def _take_back(self) -> None:
        """Close the handler's cursors. One that was not read to its end (an exception's traceback keeps it alive) would
        hold on to its snapshot, and SQLite refuses to begin a write transaction on an old one."""
        for reference in self._cursors:
            cursor = reference()
            if cursor is not None:
                with suppress(sqlite3.Error):  # a thread that the handler left behind is using it just now
                    cursor.close()
        self._cursors.clear()

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        raise TransactionMisuse(
            "the handler called executescript(), which commits before it begins: execute the statements one by one"
        )

    def commit(self) -> None:
        raise TransactionMisuse("the handler called commit(): crossfoot commits after the handler returned")

    def rollback(self) -> None:
        raise TransactionMisuse("the handler called rollback(): raise an exception instead, crossfoot rolls back")

    def __enter__(self) -> Self:
        raise TransactionMisuse(
            "the handler used the connection as a context, which commits at the end: use it as it is, crossfoot commits"
        )

    def close(self) -> None:
        raise TransactionMisuse("the handler called close(): the connection is crossfoot's, which goes on to use it")

    def leave(self) -> None:
        """Close, when the worker is done with it."""
        with suppress(sqlite3.ProgrammingError):  # a handler went around us and has closed it
            sqlite3.Connection.set_authorizer(self, None)
        super().close()


class SqliteSession:
    """One connection of one lane."""

    by_columns = False

    handle: HandlerConnection
    _failed: BaseException | None = None
    """Why the last work of a batch was undone."""

    def __init__(self, connect: Callable[[], HandlerConnection]) -> None:
        self._connect = connect
        self._take(connect())

    def begin(self) -> None:
        if sys.getrefcount(self.handle) > self._references:
            # A variable of the last handler's, in a thread it left or a traceback: what it leads to ends here.
            self.handle.leave()
            self._take(self._connect())
        self.handle.begin()

    def commit(self) -> None:
        self._failed = None
        self.handle.finish()

    def commit_and_begin(self, ask: Run) -> None:
        self.commit()  # who writes next stands in line, and should have something to write by then

    def rollback(self) -> None:
        self._failed = None
        self._unwatch()
        self.handle.abandon()

    def mark(self) -> None:
        self._see_that_it_is_free()
        self._own.execute(MARK)

    def undo(self) -> None:
        self._unwatch()
        self._own.execute(UNDO)
        self._failed = sys.exc_info()[1]

    def keep(self) -> None:
        self._own.execute(KEEP)

    def answer(self, ask: Ask) -> Any:
        return answer(self._own, ask)

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        return self.handle.execute(sql, parameters)

    def watch(self) -> None:
        self._counter.watch()
        self.handle.guarded = True

    def changed(self) -> int:
        self.handle.guarded = False
        self.handle.text_factory = str  # what the handler made of it is not for our statements
        return self._counter.changed()

    def asks_again(self, error: BaseException) -> bool:
        return False  # its writers stand in line

    def close(self) -> None:
        self.handle.leave()

    def _take(self, connection: HandlerConnection) -> None:
        """As nobody knows it yet but this."""
        self.handle = connection
        self._counter = connection.counter
        self._own = own_cursor(connection)
        del connection
        self._references = sys.getrefcount(self.handle)

    def _see_that_it_is_free(self) -> None:
        """See, before the next handler of a batch is given it, that nothing of one that failed has the connection still.

        Raises:
            TransactionMisuse: a thread perhaps that it left running, which could write into what its neighbours do. Begun anew one by
                one, each transaction has a connection that nobody knows, see `begin`.
        """
        failed, self._failed = self._failed, None
        if failed is None or sys.getrefcount(self.handle) <= self._references:
            return
        forget_variables(failed)
        if sys.getrefcount(self.handle) > self._references:
            raise TransactionMisuse(STILL)

    def _unwatch(self) -> None:
        self.handle.guarded = False
        self.handle.text_factory = str
        self._counter.watching = False


def own_cursor(connection: sqlite3.Connection) -> sqlite3.Cursor:
    """A cursor for crossfoot's own statements, which is not what a handler makes of its connection's."""
    cursor = sqlite3.Connection.cursor(connection)
    cursor.row_factory = None
    return cursor


def answer(cursor: sqlite3.Cursor, ask: Ask) -> Any:
    """Carry out one request of crossfoot's own. Whatever it finds is read to its end: a statement that is not would keep its
    snapshot."""
    try:
        if isinstance(ask, Alone):
            return None
        if isinstance(ask, Many):
            return cursor.executemany(ask.sql, ask.rows).rowcount
        cursor.execute(ask.sql, ask.parameters)
        if isinstance(ask, Run):
            return cursor.rowcount
        rows = cursor.fetchall()
    except sqlite3.OperationalError as error:
        raise explain(error, cursor.connection) from error
    if isinstance(ask, One):
        return rows[0] if rows else None
    return rows


def tell_full_disk(error: BaseException, where: sqlite3.Connection | str) -> None:
    """Tell that it is *our* disk which is full. SQLite's own error does not say whose, and a handler may write to other
    databases.

    Raises:
        DiskFull: it is.
    """
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "").startswith("SQLITE_FULL"):
        raise explain(error, where) from error


def disk_full(error: BaseException | None) -> DiskFull | None:
    """The error to stop for when our disk is full, in whatever wrapping a driver or a handler gave it. A queue that a handler
    writes to may be another one than ours, which is seen when we use it."""
    return next(
        (one for one in chain(error) if isinstance(one, DiskFull) and not isinstance(one, QueueUnavailable)), None
    )


class SqliteDatabase:
    """A SQLite file reached through the standard library, and through aiosqlite for asynchronous handlers."""

    lazy = True

    def __init__(self, path: str, *, synchronous: str = "FULL") -> None:
        self.path = path
        self._synchronous = synchronous

    def connect(self) -> Session:
        return SqliteSession(partial(connect_as, HandlerConnection, self.path, synchronous=self._synchronous))

    async def aconnect(self) -> AsyncSession:
        from crossfoot.effects.databases.aiosqlite import open_session

        return await open_session(self.path, self._synchronous)

    def close(self) -> None:
        """Nothing is kept open here."""


__all__ = ["All", "SqliteDatabase", "SqliteSession"]
