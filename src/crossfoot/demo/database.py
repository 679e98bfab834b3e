"""A database of the demo's own on somebody's PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from uuid import uuid4

from crossfoot.connection import is_postgres
from crossfoot.errors import UsageError, missing_extra


@contextmanager
def fresh_database(server: str) -> Iterator[str]:
    """An empty database beside the one that `server` names; dropped on leaving. Its URL.

    Raises:
        UsageError: it is no such URL, or the client is not installed.
        psycopg.Error: the server cannot be reached, or we may not make a database there.
    """
    if not is_postgres(server):
        raise UsageError(
            "--database wants the URL of a PostgreSQL server: postgresql://USER@HOST/DATABASE; a file is --db"
        )
    try:
        import psycopg
    except ImportError:
        raise missing_extra("--database", "postgres") from None
    name = f"crossfoot_demo_{uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
