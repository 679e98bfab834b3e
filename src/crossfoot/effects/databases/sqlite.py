"""The standard library's sqlite3: the handler gets a `sqlite3.Connection`."""

from __future__ import annotations

import sqlite3
from typing import Any

from crossfoot.effects.databases.changes import ChangeCounter
from crossfoot.effects.databases.session import All, Ask, AsyncSession, Many, One, Run, Session
from crossfoot.errors import TransactionMisuse
from crossfoot.sqlite import Connection, connect_as, explain


class HandlerConnection(Connection):
    """A connection whose transaction belongs to crossfoot."""

    def commit(self) -> None:
        raise TransactionMisuse("the handler called commit(): crossfoot commits after the handler returned")

    def rollback(self) -> None:
        raise TransactionMisuse("the handler called rollback(): raise an exception instead, crossfoot rolls back")


class SqliteSession:
    """One connection of one lane."""

    def __init__(self, connection: HandlerConnection) -> None:
        self.handle = connection
        self._counter = ChangeCounter(connection)

    def begin(self) -> None:
        self.handle.begin()

    def commit(self) -> None:
        self.handle.finish()

    def rollback(self) -> None:
        self.handle.set_trace_callback(None)
        self.handle.abandon()

    def answer(self, ask: Ask) -> Any:
        return answer(self.handle, ask)

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        return self.handle.execute(sql, parameters)

    def watch(self) -> None:
        self._counter.watch()
        self.handle.set_trace_callback(self._counter)

    def changed(self) -> int:
        self.handle.set_trace_callback(None)
        return self._counter.changed()

    def close(self) -> None:
        self.handle.close()


def answer(connection: sqlite3.Connection, ask: Ask) -> Any:
    """Carry out one request of crossfoot's own."""
    try:
        if isinstance(ask, Run):
            return connection.execute(ask.sql, ask.parameters).rowcount
        if isinstance(ask, Many):
            return connection.executemany(ask.sql, ask.rows).rowcount
        cursor = connection.cursor()
        cursor.row_factory = None  # the connection's own may be the handler's
        cursor.execute(ask.sql, ask.parameters)
        return cursor.fetchone() if isinstance(ask, One) else cursor.fetchall()
    except sqlite3.OperationalError as error:
        raise explain(error, connection) from error


class SqliteDatabase:
    """A SQLite file reached through the standard library, and through aiosqlite for asynchronous handlers."""

    lazy = True

    def __init__(self, path: str, *, synchronous: str = "FULL") -> None:
        self.path = path
        self._synchronous = synchronous

    def connect(self) -> Session:
        return SqliteSession(connect_as(HandlerConnection, self.path, synchronous=self._synchronous))

    async def aconnect(self) -> AsyncSession:
        from crossfoot.effects.databases.aiosqlite import open_session

        return await open_session(self.path, self._synchronous)

    def close(self) -> None:
        """Nothing is kept open here."""


__all__ = ["All", "SqliteDatabase", "SqliteSession"]
