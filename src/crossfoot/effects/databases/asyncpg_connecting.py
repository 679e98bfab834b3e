"""Connecting by asyncpg, on the terms of `crossfoot.postgres.connecting`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import asyncpg

from crossfoot.connection import shown
from crossfoot.effects.databases.asyncpg_protocol import first_line, speaking
from crossfoot.errors import UsageError
from crossfoot.postgres import explained
from crossfoot.postgres.connecting import CONNECT_SECONDS, LOOK, standing

CACHED = 100
"""Prepared statements that a connection keeps, unless there is a pooler: asyncpg's own figure."""

_NOT_KNOWN = ("connect_timeout", "gssencmode", "channel_binding", "client_encoding", "tcp_user_timeout")
"""Parameters of libpq's that asyncpg would take for settings of the server; and all that begin with `keepalives`."""

_LOOK = " ".join(LOOK.decode().split())


async def connect(
    kind: type[Any], url: str, *, synchronous: str = "FULL", init: Callable[[Any], Awaitable[Any]] | None = None
) -> Any:
    """A connection of asyncpg's own, outside any transaction.

    Raises:
        DatabaseUnavailable: the server cannot be reached, refuses us, is too old or has no such database.
        UsageError: the URL cannot be read.
    """
    where = shown(url)
    address, seconds = terms(url)
    try:
        connection = await asyncpg.connect(address, connection_class=kind, timeout=seconds, statement_cache_size=0)
    except (asyncpg.ClientConfigurationError, ValueError) as error:
        raise UsageError(f"the URL of {where} cannot be read by asyncpg: {first_line(error)}") from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise explained(getattr(error, "sqlstate", None) or "", first_line(error), where) from error
    try:
        with speaking():
            await _settle(connection, where, synchronous)
            if init is not None:
                await init(connection)
    except BaseException as error:
        connection.terminate()
        if isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            raise explained(getattr(error, "sqlstate", None) or "", first_line(error), where) from error
        raise
    return connection


async def _settle(connection: Any, where: str, synchronous: str) -> None:
    async with connection.transaction():  # a pooler may give each transaction another session
        look = await connection.fetchrow(_LOOK)
    said = standing(tuple(look), connection.get_server_pid(), where, synchronous)
    if said is None:
        return
    connection._stmt_cache_enabled = True
    connection._stmt_cache.set_max_size(CACHED)
    for statement in said:
        await connection.execute(statement.decode())


def terms(url: str) -> tuple[str, float]:
    """The URL as asyncpg takes it, and how long a server may take to answer, in seconds."""
    bare, _, query = url.partition("?")
    stated = dict(parse_qsl(query, keep_blank_values=True))
    seconds = stated.get("connect_timeout", "")
    kept = {
        name: value for name, value in stated.items() if name not in _NOT_KNOWN and not name.startswith("keepalives")
    }
    kept.setdefault("application_name", "crossfoot")
    return f"{bare}?{urlencode(kept, quote_via=quote)}", float(seconds) if seconds.isdigit() else CONNECT_SECONDS
