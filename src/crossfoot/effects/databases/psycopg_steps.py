"""Crossfoot's own statements on a psycopg connection, whoever's that is."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import tuple_row

from crossfoot.dialect import translate
from crossfoot.effects.databases.changes import chain
from crossfoot.effects.databases.session import Alone, Ask, Many, One, Run
from crossfoot.errors import DiskFull
from crossfoot.postgres import AFTER_OTHERS, ALONE, adapt, explain, is_transient


def own_cursor(connection: psycopg.Connection[Any]) -> psycopg.Cursor[Any]:
    """A cursor for crossfoot's statements, on a connection that is a handler's, or a user's."""
    cursor = psycopg.Cursor(connection, row_factory=tuple_row)
    adapt(cursor)
    return cursor


def answer(cursor: psycopg.Cursor[Any], ask: Ask) -> Any:
    """Carry out one request of crossfoot's own.

    Raises:
        DiskFull: the server's disk is full.
        psycopg.Error: as it comes; a session that ended is one delivery's failure, and not the worker's.
    """
    try:
        return _answer(cursor, ask)
    except psycopg.Error as error:
        tell_full_disk(error, cursor.connection)
        raise


def _answer(cursor: psycopg.Cursor[Any], ask: Ask) -> Any:
    if isinstance(ask, Alone):
        _, level = cursor.execute(ALONE, (ask.what,)).fetchone() or ("", "")
        if level != "read committed":
            cursor.execute(AFTER_OTHERS, (ask.what,))
        return None
    if isinstance(ask, Many):
        cursor.executemany(translate(ask.sql), ask.rows)
        return cursor.rowcount
    cursor.execute(translate(ask.sql), ask.parameters)
    if isinstance(ask, Run):
        return cursor.rowcount
    return cursor.fetchone() if isinstance(ask, One) else cursor.fetchall()


def asks_again(error: BaseException) -> bool:
    """Whether PostgreSQL asks for the whole transaction again, in whatever wrapping it said so."""
    return any(is_transient(one) for one in chain(error))


def tell_full_disk(error: psycopg.Error, connection: Any) -> None:
    """Tell that it is *our* disk which is full, and not that of another database that a handler writes to.

    Raises:
        DiskFull: it is.
    """
    if error.sqlstate == "53100":
        raise DiskFull(str(explain(error, f"postgresql://{connection.info.host}/{connection.info.dbname}"))) from error
