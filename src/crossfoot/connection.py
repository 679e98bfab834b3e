"""What the book needs of a connection, whichever database it is kept in; `sqlite` and `postgres` have it.

Statements are SQLite's, see `dialect`. A transaction is begun by `writing` or `snapshot`; outside of them each statement
is one by itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl, quote, urlencode

_POSTGRES = re.compile(r"postgres(?:ql)?(\+\w+)?://")

Dialect = Literal["sqlite", "postgres"]


class Cursor(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """Rows changed."""
        ...

    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """One connection, for one thread at a time."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def broken(self) -> bool:
        """Whether it is of no use any more, because its server has gone."""
        ...

    def execute(self, sql: str, parameters: Any = ..., /) -> Cursor: ...

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Cursor: ...

    def stream(self, sql: str, parameters: Any = ..., /) -> Iterable[Any]:
        """The rows of a large result, without holding all of them. Within a snapshot."""
        ...

    def alone(self, what: str) -> None:
        """Until the end of the transaction nobody else does `what`; waits for who does it."""
        ...

    def writing(self) -> AbstractContextManager[Connection]:
        """One write transaction: committed at the end, rolled back on any exception.

        Raises:
            DiskFull: the disk is full; nothing of the transaction was kept.
            DatabaseUnavailable: the database cannot be used.
        """
        ...

    def snapshot(self) -> AbstractContextManager[Connection]:
        """Everything read inside is of one moment.

        Raises:
            DatabaseUnavailable: the database cannot be used.
        """
        ...

    def close(self) -> None: ...


def is_postgres(place: str) -> bool:
    """Whether it is the URL of a PostgreSQL database, and not the name of a file."""
    return _POSTGRES.match(place) is not None


def located(place: str) -> str:
    """The same place wherever the process goes: a handler may change the working folder, and connections are made at any time."""
    elsewhere = is_postgres(place) or place.startswith("file:") or place == ":memory:"
    return place if elsewhere else os.path.abspath(place)


def driver_of(place: str) -> str:
    """The driver that the URL of a PostgreSQL database names, as in `postgresql+asyncpg://`; empty for none."""
    found = _POSTGRES.match(place)
    return (found[1] or "").removeprefix("+") if found else ""


def without_driver(place: str) -> str:
    """The URL as PostgreSQL itself knows it."""
    return _POSTGRES.sub("postgresql://", place, count=1)


_URL = re.compile(r"postgres(?:ql)?://(?:(?P<user>[^/?]*)@)?(?P<place>[^@?]*)(?:\?(?P<query>[^@]*))?")
"""Where `@` and `?` stand where they should, so that what is secret can be told from what is not."""


_WHERE = ("host", "hostaddr", "port", "dbname", "service")
"""Parameters of libpq that say which database is meant."""


def has_password(place: str) -> bool:
    """Whether whoever sees it can get in."""
    if not is_postgres(place):
        return False
    url = _URL.fullmatch(place)
    return url is None or ":" in (url["user"] or "") or "password" in (url["query"] or "")


def shown(place: str) -> str:
    """A file's name, or a URL, as people may see it: without user and password, and of its parameters those that say where it is."""
    if not is_postgres(place):
        return place
    url = _URL.fullmatch(place)
    if url is None:
        return "postgresql://..."
    where = [(name, value) for name, value in parse_qsl(url["query"] or "") if name in _WHERE]
    return f"postgresql://{url['place']}{'?' if where else ''}{urlencode(where, quote_via=quote, safe='/:,')}"
