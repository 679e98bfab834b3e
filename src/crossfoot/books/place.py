"""Where a book is kept: a SQLite file or a PostgreSQL database. What differs between them is asked here."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from crossfoot.books.asking import Found
from crossfoot.clock import Micros
from crossfoot.connection import Connection, driver_of, is_postgres, without_driver
from crossfoot.errors import missing_extra

if TYPE_CHECKING:  # a book that is up to date must not pay for it
    from sqlalchemy import Connection as SharedConnection


class Place(Protocol):
    """A place for one book."""

    @property
    def name(self) -> str:
        """What people call it: a file's path, or a URL without its secrets."""
        ...

    def connect(self) -> Connection:
        """A connection that writes.

        Raises:
            DatabaseUnavailable: the place cannot be reached or used.
        """
        ...

    def look_in(self) -> Connection:
        """A connection for reading only, where there is a book.

        Raises:
            DatabaseUnavailable: there is nothing to read.
        """
        ...

    def ask(self, statement: str, seconds: float) -> Found:
        """Ask a question in the user's own SQL, over a connection of its own that can only read.

        Raises:
            NotAnswered: the statement is wrong, does more than read, or takes longer.
            DatabaseUnavailable: the place cannot be reached.
        """
        ...

    def migrating(self) -> AbstractContextManager[Migration]:
        """A connection for one migration, of which nothing is kept unless it comes to its end.

        Raises:
            DatabaseUnavailable: the place cannot be written.
        """
        ...

    def tidy(self, connection: Connection, now: Micros) -> bool:
        """Give back what is not needed any more, and have ready what will be. True when there was something."""
        ...


class Migration(Protocol):
    """The tables, while nobody else migrates them."""

    @property
    def connection(self) -> Connection: ...

    def shared(self) -> AbstractContextManager[SharedConnection]:
        """The same connection as SQLAlchemy knows it. What was done with it is committed at the end."""
        ...


def place_of(address: str, *, synchronous: str = "FULL") -> Place:
    """The place that a file's name or a URL leads to. Nothing is opened yet.

    Raises:
        UsageError: PostgreSQL is wanted, and its client is not installed.
    """
    if not is_postgres(address):
        from crossfoot.books.in_sqlite import SqliteFile

        return SqliteFile(address, synchronous)
    try:
        from crossfoot.books.in_postgres import PostgresDatabase
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        driver = "asyncpg" if driver_of(address) == "asyncpg" else "postgres"
        raise missing_extra("a book in PostgreSQL", driver) from error
    return PostgresDatabase(without_driver(address), synchronous)
