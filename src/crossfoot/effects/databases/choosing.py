"""Which way to the database a service has, by what it was given; and whether a handler can work with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from crossfoot.books.place import place_of
from crossfoot.connection import driver_of, is_postgres, located, without_driver
from crossfoot.effects.databases.session import Database
from crossfoot.effects.databases.sqlite import SqliteDatabase
from crossfoot.errors import UsageError, missing_extra


def database_of(given: Any, address: str, *, synchronous: str) -> Database:
    """The database of a service.

    Args:
        given: a SQLAlchemy engine, a connection of Django's, or a `Database`; where it is neither, `address` says it all.
        address: the name of a SQLite file, or the URL of a PostgreSQL database.
        synchronous: how careful commits are, where crossfoot makes the connections.

    Raises:
        UsageError: it is nothing of that, or its driver is not installed.
    """
    if given is None or isinstance(given, (str, Path)):
        if is_postgres(address):
            return _postgres(address, synchronous)
        return SqliteDatabase(located(address), synchronous=synchronous)
    if hasattr(given, "aconnect"):
        return cast(Database, given)
    if hasattr(given, "dialect"):
        from crossfoot.effects.databases.sqlalchemy import SqlAlchemyDatabase

        return SqlAlchemyDatabase(given)
    if hasattr(given, "settings_dict"):
        from crossfoot.effects.databases.django import DjangoDatabase

        return DjangoDatabase(given.alias)
    raise UsageError(
        f"database={given!r}: give the path of a SQLite file, the URL of a PostgreSQL database, a SQLAlchemy engine or a "
        "connection of Django's"
    )


def _postgres(url: str, synchronous: str) -> Database:
    place_of(url)  # says what to install
    if driver_of(url) == "asyncpg":
        try:
            from crossfoot.effects.databases.asyncpg import AsyncpgDatabase
        except ModuleNotFoundError as error:
            if error.name != "asyncpg":
                raise
            raise missing_extra("a database whose URL names asyncpg", "asyncpg") from error
        return AsyncpgDatabase(url, synchronous=synchronous)
    from crossfoot.effects.databases.psycopg import PostgresDatabase

    return PostgresDatabase(without_driver(url), synchronous=synchronous)


def fits(database: Database, function: Callable[..., Any], name: str) -> None:
    """See that the database can serve a handler of this kind.

    Raises:
        UsageError: it serves only those of the other kind, synchronous or not.
    """
    is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
    kind = "asynchronous" if is_async else "synchronous"
    if (other := getattr(database, "serves_only", kind)) != kind:
        instead = getattr(database, "instead", "")
        raise UsageError(f"handler {name} is {kind}, and {database!r} serves {other} handlers only: {instead}")
    engine = getattr(database, "engine", None)
    if engine is not None and is_async is not hasattr(engine, "sync_engine"):
        wanted = "create_async_engine(...)" if is_async else "create_engine(...)"
        raise UsageError(
            f"handler {name} is {kind}, and the service's database is a {type(engine).__name__}: use {wanted}"
        )
