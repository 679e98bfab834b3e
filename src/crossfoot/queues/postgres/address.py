"""Where a queue is: the database, and the queue's name in it. Pure."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec
import psycopg

from crossfoot.connection import is_postgres, shown
from crossfoot.errors import UsageError

LOCAL = "postgresql:///"
"""The database of a queue that only has a name: libpq finds it, by PGHOST and its other variables."""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """One queue's address."""

    url: str
    """The database, credentials included: never to be shown."""
    name: str

    @property
    def place(self) -> str:
        """The database without credentials, for errors."""
        return shown(self.url)

    def is_in(self, url: str) -> bool:
        """Whether `url` leads to this database, in the same way; another name of the same server is not recognized."""
        return is_postgres(url) and _way(self.url) == _way(url)


def address_of(queue: str, url: str | None = None) -> Address:
    """Read an address.

    Args:
        queue: its name; or a URL with it, as `postgresql://host/database?queue=billing`.
        url: the database, if `queue` does not say. A queue that it names goes before `queue`.

    Raises:
        UsageError: it names no queue, or the URL is none of a PostgreSQL database.
    """
    name = queue
    if "://" in queue:
        url, name = queue, ""
    url = url or LOCAL
    if not is_postgres(url):
        raise UsageError(f"{shown_safely(url)} is no PostgreSQL database: it begins with postgresql://")
    try:
        bare, _, query = url.partition("?")
        options = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        query = urlencode([one for one in options if one[0] != "queue"], quote_via=quote)
        url = f"{bare}?{query}" if query else bare
        psycopg.conninfo.conninfo_to_dict(url)
    except (ValueError, psycopg.Error) as error:
        raise UsageError(f"{shown_safely(url)} cannot be read as the URL of a database: {_reason(error)}") from None
    name = dict(options).get("queue", "") or name
    if not name:
        where = shown(url)
        raise UsageError(
            f"queue at {where} has no name: write it behind the database, as in {where}{'&' if '?' in where else '?'}queue=billing"
        )
    if "\x00" in name or len(name.encode()) > 200:
        raise UsageError(
            f"queue {name[:40]!r} cannot be called so: a name has 200 bytes at most, and none of them is zero"
        )
    return Address(url=url, name=name)


def shown_safely(url: str) -> str:
    """A URL for people, as far as it can be read at all."""
    if is_postgres(url):
        return shown(url)
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return "the URL"


def _reason(error: Exception) -> str:
    """Without its words, which may hold a part of the password."""
    return "its parameters are no NAME=VALUE" if isinstance(error, ValueError) else type(error).__name__


def _way(url: str) -> tuple[object, ...]:
    """What decides which tables a connection sees."""
    told = psycopg.conninfo.conninfo_to_dict(url)
    return tuple(told.get(name) for name in ("host", "hostaddr", "port", "dbname", "user", "options", "service"))
