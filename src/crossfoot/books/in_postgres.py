"""A book in a PostgreSQL database, in the first schema of the search path."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from crossfoot.books import cutting
from crossfoot.books.asking import TOO_LONG, Found, NotAnswered, gathered
from crossfoot.clock import Micros
from crossfoot.connection import Connection, shown
from crossfoot.postgres import Connection as PostgresConnection
from crossfoot.postgres import Raw, connect, connect_raw, explain, first_line, is_outside

if TYPE_CHECKING:
    from sqlalchemy import Connection as SharedConnection


class PostgresDatabase:
    """One database."""

    def __init__(self, url: str, synchronous: str) -> None:
        self.name = shown(url)
        self._url = url
        self._synchronous = synchronous
        self._told = ""

    def connect(self) -> PostgresConnection:
        return connect(self._url, synchronous=self._synchronous, by_index=True)

    def look_in(self) -> PostgresConnection:
        return connect(self._url, synchronous=self._synchronous)

    def ask(self, statement: str, seconds: float) -> Found:
        with closing(connect_raw(psycopg.Connection[Any], self._url)) as raw:
            until, limit = time.monotonic() + seconds, f"{max(1, round(seconds * 1000))}ms"
            try:
                raw.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                for bound in ("statement_timeout", "lock_timeout"):
                    raw.execute("SELECT set_config(%s, %s, true)", (bound, limit))
                with raw.cursor("crossfoot_question") as cursor:
                    cursor.execute(statement.encode())
                    return gathered([column.name for column in cursor.description or ()], cursor, until)
            except psycopg.Error as error:
                if error.sqlstate in ("57014", "55P03"):
                    raise NotAnswered(TOO_LONG) from error
                if error.sqlstate == "25006":
                    raise NotAnswered(f"it does more than read ({first_line(error)})") from error
                if _is_gone(error):
                    raise explain(error, self.name) from error
                # Also what it may not read, or is too large for the server's memory: the book itself can be used.
                raise NotAnswered(first_line(error)) from error

    @contextmanager
    def migrating(self) -> Iterator[_Migration]:
        try:
            with connect_raw(Raw, self._url) as raw:
                migration = _Migration(raw, self.name)
                migration.connection.begin()  # who waited for another one sees what that one made, at any default level
                migration.connection.alone("migration")
                yield migration
                raw.rollback()
        except psycopg.Error as error:
            if error.sqlstate or is_outside(error):
                raise explain(error, self.name) from error
            raise

    def tidy(self, connection: Connection, now: Micros) -> bool:
        """Look after the ranges of keys, by the server's clock, which is one for all. What is deleted the server sees to: autovacuum."""
        return cutting.tend(connection, self.look_in, cutting.server_time, self._complain)

    def _complain(self, text: str) -> None:
        """Once, and not every few seconds."""
        if text != self._told:
            cutting.logger.warning("%s: %s", self.name, text)
        self._told = text


def _is_gone(error: psycopg.Error) -> bool:
    """Whether the connection or the server is the matter: it began the transaction of the question, and answers no more."""
    state = error.sqlstate
    return state.startswith(("08", "57P")) if state else isinstance(error, psycopg.OperationalError)


class _Migration:
    def __init__(self, raw: Raw, name: str) -> None:
        """To be made before the transaction: see below."""
        from sqlalchemy import create_engine
        from sqlalchemy.pool import StaticPool

        self.connection = PostgresConnection(raw, name)
        self._engine = create_engine(
            "postgresql+psycopg://", creator=lambda: raw, poolclass=StaticPool, pool_reset_on_return=None
        )
        with _as_the_driver_says(), self._engine.connect():
            pass  # on its first connection SQLAlchemy looks around, and rolls back; later that would end our transaction

    @contextmanager
    def shared(self) -> Iterator[SharedConnection]:
        with _as_the_driver_says(), self._engine.begin() as shared:
            yield shared


@contextmanager
def _as_the_driver_says() -> Iterator[None]:
    """The driver's error, which can be explained, and not SQLAlchemy's around it."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from error
        raise
