"""Crossfoot's own statements on an asyncpg connection, whoever's that is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio
import asyncpg

from crossfoot.dialect import numbered
from crossfoot.effects.databases.asyncpg_protocol import Watched, rows_in, speaking, tell_for_all
from crossfoot.effects.databases.session import Alone, Ask, Many, One, Row, Run
from crossfoot.postgres import AFTER_OTHERS, ALONE

CANCEL_SECONDS = 5.0
"""How long the server may take to hear of it."""

_ALONE, _AFTER_OTHERS = (text.decode().replace("%s", "$1") for text in (ALONE, AFTER_OTHERS))


async def answer(connection: Any, ask: Ask, where: str = "PostgreSQL") -> Any:
    """Carry out one request of crossfoot's own.

    Raises:
        DiskFull, SchemaMismatch: the server's disk is full; a table of the book's is gone.
        asyncpg.PostgresError: as it comes; a session that ended is one delivery's failure, and not the worker's.
    """
    try:
        with speaking():
            return await _answer(connection, ask)
    except asyncpg.PostgresError as error:
        tell_for_all(error, where)
        raise


async def _answer(connection: Any, ask: Ask) -> Any:
    if isinstance(ask, Alone):
        ((_, level),) = await _rows(connection, _ALONE, (ask.what,))
        if level != "read committed":
            await _rows(connection, _AFTER_OTHERS, (ask.what,))
        return None
    if isinstance(ask, Many):
        return await _many(connection, numbered(ask.sql), ask.rows)
    if isinstance(ask, Run):
        return rows_in(await _status(connection, numbered(ask.sql), ask.parameters))
    rows = await _rows(connection, numbered(ask.sql), ask.parameters)
    return rows if not isinstance(ask, One) else rows[0] if rows else None


async def say(connection: Any, statement: str) -> None:
    """Execute a statement of crossfoot's own that has no parameters and gives nothing."""
    with speaking():
        await connection.execute(statement)


async def cancel(connection: Any) -> None:
    """Have the server cancel what something that a handler left running does, before the line is cut: it would hear of that when it next
    writes. asyncpg does it by itself only where who waits for a statement is cancelled."""
    with anyio.move_on_after(CANCEL_SECONDS, shield=True), suppress(asyncpg.PostgresError, OSError):
        await connection._cancel(asyncio.get_running_loop().create_future())


async def changed(connection: Any, watched: Watched) -> int:
    """Net rows that the handler changed; it must not use the connection any more."""
    watched.leave()
    is_open = watched.inner.is_connected() and watched.inner.is_in_transaction()
    is_broken = is_open and watched.suspect and await _is_broken(connection)
    return watched.counter.changed(is_open=is_open, is_broken=is_broken)


async def _is_broken(connection: Any) -> bool:
    """Whether an error has made the transaction useless: asyncpg knows, and does not tell."""
    try:
        await say(connection, "SELECT 1")
    except asyncpg.InFailedSQLTransactionError:
        return True
    return False


async def _many(connection: Any, statement: str, rows: Sequence[Row]) -> int:
    """asyncpg tells of many what they return, and nothing else."""
    if not rows:
        return 0
    prepared = await connection._get_statement(f"{statement} RETURNING 1", None, ignore_custom_codec=True)
    return len(await connection._protocol.bind_execute_many(prepared, rows, "", None, True))


async def _rows(connection: Any, statement: str, parameters: Any) -> Any:
    """Without the codecs that a user may have set: the book's types are its own."""
    return await connection._execute(statement, parameters, 0, None, ignore_custom_codec=True)


async def _status(connection: Any, statement: str, parameters: Any) -> Any:
    _, status, _ = await connection._execute(
        statement, parameters, 0, None, return_status=True, ignore_custom_codec=True
    )
    return status
