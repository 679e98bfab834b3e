"""A book in a SQLite file."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

from crossfoot.books.asking import TOO_LONG, Found, NotAnswered, gathered
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.errors import DatabaseUnavailable
from crossfoot.sqlite import Connection as SqliteConnection
from crossfoot.sqlite import connect, explain, file_number, truncate_wal
from crossfoot.turnstile import Turnstile

if TYPE_CHECKING:
    from sqlalchemy import Connection as SharedConnection


_EVERY = 10_000
"""Instructions of SQLite's between two looks at the clock: a fraction of a millisecond."""


class SqliteFile:
    """One file."""

    def __init__(self, path: str, synchronous: str) -> None:
        self.name = path
        self._synchronous = synchronous

    def connect(self) -> SqliteConnection:
        return connect(self.name, synchronous=self._synchronous)

    def look_in(self) -> SqliteConnection:
        path = self.name
        if not os.path.exists(path):
            raise DatabaseUnavailable(
                f"there is no file {path}: name the book with --db, CROSSFOOT_DATABASE or `database` in crossfoot.toml; a worker "
                "or the first publish makes it"
            )
        if os.path.isdir(path):
            raise DatabaseUnavailable(f"{path} is a folder: name the file in it that holds the book")
        connection = connect(path, read_only=True)
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            connection.close()
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")) and not os.path.exists(f"{path}-wal"):
                return self._unchanging()
            raise explain(error, path) from error
        return connection

    def ask(self, statement: str, seconds: float) -> Found:
        connection = self.look_in()
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.set_authorizer(_only_reading)
            until = time.monotonic() + seconds
            connection.set_progress_handler(lambda: time.monotonic() > until, _EVERY)
            cursor = connection.execute(statement)
            if cursor.description is None:
                raise NotAnswered("it is no question: write a SELECT that finds what is wrong")
            return gathered([column[0] for column in cursor.description], cursor, until)
        except (sqlite3.Error, sqlite3.Warning) as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
                raise NotAnswered(TOO_LONG) from error
            if getattr(error, "sqlite_errorname", "") == "SQLITE_AUTH":
                raise NotAnswered(f"it does more than read ({error})") from error
            raise NotAnswered(str(error)) from error
        finally:
            connection.close()

    @contextmanager
    def migrating(self) -> Iterator[_Migration]:
        migrator = connect(self.name)
        try:
            migration = _Migration(migrator)
            migrator.begin()
            try:
                yield migration
            finally:
                migrator.abandon()
        except sqlite3.Error as error:
            raise explain(error, self.name) from error
        finally:
            migrator.close()

    def tidy(self, connection: Connection, now: Micros) -> bool:
        """Shrink the write-ahead log when a reader has let it grow.

        Raises:
            DatabaseUnavailable: the file is another one than was opened, or gone: nobody would see what is written.
        """
        assert isinstance(connection, SqliteConnection)
        if connection.file != file_number(self.name):
            raise DatabaseUnavailable(
                f"{self.name} was removed or replaced while it was in use: start again, and stop whoever uses a database before "
                "moving its file"
            )
        return truncate_wal(connection, self.name)

    def _unchanging(self) -> SqliteConnection:
        """A book in a folder where nothing can be written: SQLite must be told that nobody else writes either."""
        target = f"file:{quote(os.path.abspath(self.name))}?immutable=1"
        connection = sqlite3.connect(target, uri=True, isolation_level=None, factory=SqliteConnection)
        connection.turnstile = Turnstile("")
        return connection


_READING = frozenset((sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE))


def _only_reading(action: int, *_: str | None) -> int:
    """An authorizer: neither writes, nor attaches other files, nor settings."""
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


class _Migration:
    def __init__(self, connection: SqliteConnection) -> None:
        """To be made before the transaction: see below."""
        from sqlalchemy import create_engine
        from sqlalchemy.pool import StaticPool

        self.connection = connection
        self._engine = create_engine(
            "sqlite://", creator=lambda: connection, poolclass=StaticPool, pool_reset_on_return=None
        )
        with self._engine.connect():
            pass  # on its first connection SQLAlchemy looks around, and rolls back; later that would end our transaction

    @contextmanager
    def shared(self) -> Iterator[SharedConnection]:
        from sqlalchemy.exc import DBAPIError

        try:
            # `begin` tells SQLAlchemy of the transaction that is open already. Else Alembic would make its version table in
            # one of its own, whose commit ends ours, and every further statement would be durable at once.
            with self._engine.begin() as shared:
                yield shared
        except DBAPIError as error:
            if isinstance(error.orig, sqlite3.Error):  # which can be explained
                raise error.orig from error
            raise
