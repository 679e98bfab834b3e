"""Django's ORM: the handler's models work within the transaction, on the connection that Django keeps for its thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, urlencode

from django.db import Error, connections, transaction

from crossfoot.effects.databases.session import AsyncSession, Session
from crossfoot.errors import UsageError


class DjangoDatabase:
    """One of the databases of a Django project, `django.setup()` done.

    Args:
        alias: its name in `DATABASES`.

    Raises:
        UsageError: it is none of PostgreSQL by psycopg 3 or SQLite in a file, or commits nothing by itself.
    """

    lazy = False
    serves_only = "synchronous"
    instead = "Django's ORM is synchronous: write `def`, and call what is asynchronous with asgiref's async_to_sync"

    def __init__(self, alias: str = "default") -> None:
        self.alias = alias
        connection = connections[alias]
        self.name = connection.settings_dict["NAME"]
        if not connection.settings_dict["AUTOCOMMIT"]:  # the end of an outermost atomic block is no commit then
            raise UsageError(
                f"Django's database {alias!r} has AUTOCOMMIT = False, with which an atomic block commits nothing: take it out of "
                "DATABASES, or give crossfoot another alias of the same database"
            )
        self._postgres = connection.vendor == "postgresql"
        self.path = _url(connection) if self._postgres else _file(connection)
        self._lock = threading.Lock()
        self._sessions = 0
        self._used: dict[int, Any] = {}

    def __repr__(self) -> str:
        return f"DjangoDatabase({self.alias!r})"

    def connect(self) -> Session:
        with self._lock:
            self._sessions += 1
        if self._postgres:
            from crossfoot.effects.databases.django_postgres import PostgresSession

            return PostgresSession(self)
        from crossfoot.effects.databases.django_sqlite import SqliteSession

        return SqliteSession(self)

    async def aconnect(self) -> AsyncSession:
        raise UsageError(f"an asynchronous handler cannot work with {self!r}: {self.instead}")

    def of_this_thread(self) -> Any:
        """The connection that Django keeps for this thread, which is in no transaction.

        Raises:
            UsageError: it leads elsewhere than the book, or somebody has begun a transaction on it.
        """
        connection = connections[self.alias]
        if connection.settings_dict["NAME"] != self.name:
            raise UsageError(
                f"Django's database {self.alias!r} was {self.name!r} when the service was made, and is "
                f"{connection.settings_dict['NAME']!r} now: make the Crossfoot when Django's test databases are set up"
            )
        if connection.in_atomic_block:
            raise UsageError(
                f"Django's connection {self.alias!r} is in an atomic block already, and a handler's transaction is crossfoot's: "
                "work outside of it"
            )
        with self._lock:
            self._used[id(connection)] = connection
        return connection

    def left(self) -> None:
        """A session is over. With the last one the connections are closed that Django would have kept for the threads."""
        with self._lock:
            self._sessions -= 1
            used = list(self._used.values()) if not self._sessions else []
            self._used = {} if used else self._used
        for connection in used:
            if connection.connection is not None and not connection.in_atomic_block:
                connection.inc_thread_sharing()
                with suppress(Error):
                    connection.close()
                connection.dec_thread_sharing()

    def close(self) -> None:
        """The connections are Django's."""


def _file(connection: Any) -> str:
    if connection.vendor != "sqlite":
        raise UsageError(
            f"Django's database {connection.alias!r} is {connection.display_name}; the book is kept in SQLite or PostgreSQL"
        )
    if connection.is_in_memory_db():
        raise UsageError(f"Django's database {connection.alias!r} is in memory, where no book survives: give it a file")
    return str(connection.settings_dict["NAME"])


def _url(connection: Any) -> str:
    """The URL by which the book reaches the same database."""
    import psycopg

    if connection.Database is not psycopg:
        raise UsageError(
            "Django reaches PostgreSQL by psycopg2, and crossfoot works with psycopg 3: pip install psycopg"
        )
    settings = connection.settings_dict
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    stated = {name: str(value) for name, value in settings["OPTIONS"].items() if name in known}
    where = {"host": settings["HOST"], "port": settings["PORT"], "dbname": settings["NAME"]}
    stated |= {name: str(value) for name, value in where.items() if value}
    user = quote(settings["USER"] or "", safe="")
    secret = f":{quote(settings['PASSWORD'], safe='')}" if settings["PASSWORD"] else ""
    at = f"{user}{secret}@" if user or secret else ""
    host, port, name = stated.pop("host", ""), stated.pop("port", ""), stated.pop("dbname", "")
    if host.startswith("/") or "," in host:  # a socket, or several servers
        stated |= {"host": host, **({"port": port} if port else {})}
        host = port = ""
    query = f"?{urlencode(stated, quote_via=quote)}" if stated else ""
    return f"postgresql://{at}{host}{f':{port}' if port else ''}/{quote(name, safe='')}{query}"


@contextmanager
def joined_block(connection: Any) -> Iterator[Any]:
    """The caller's atomic block, or one of our own where there is none. Gives the driver's connection."""
    if connection.in_atomic_block or not connection.get_autocommit():
        yield connection.connection
        return
    with transaction.atomic(using=connection.alias):
        yield connection.connection
