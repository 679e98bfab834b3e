"""Crossfoot's own statements on a psycopg connection, whoever's that is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.pq.abc import PGresult
from psycopg.rows import tuple_row

from crossfoot.books import sql
from crossfoot.dialect import translate
from crossfoot.effects.databases.changes import chain
from crossfoot.effects.databases.session import Acks, All, Alone, Ask, Many, One, Run
from crossfoot.errors import DiskFull, LeaseLost
from crossfoot.postgres import (
    AFTER_OTHERS,
    ALONE,
    Trips,
    adapt,
    explain,
    first_line,
    is_missing,
    is_transient,
    rows_changed,
    rows_of,
)

LOST = b"crossfoot: the lease is lost"

LAST = frozenset((
    sql.INSERT_ENTRY, sql.INSERT_CLOSING, sql.INSERT_CLOSINGS, sql.INSERT_CLOSING_AND_ACK, sql.INSERT_CLOSINGS_AND_ACKS,
))  # fmt: skip
"""What is written last before a commit, and whose answer nobody reads: it travels with the commit."""


def own_cursor(connection: psycopg.Connection[Any]) -> psycopg.Cursor[Any]:
    """A cursor for crossfoot's statements, on a connection that is a handler's, or a user's."""
    cursor = psycopg.Cursor(connection, row_factory=tuple_row)
    adapt(cursor)
    return cursor


def answer(cursor: psycopg.Cursor[Any], ask: Ask) -> Any:
    """Carry out one request of crossfoot's own.

    Raises:
        DiskFull, SchemaMismatch: the server's disk is full; a table of the book's is gone.
        psycopg.Error: as it comes; a session that ended is one delivery's failure, and not the worker's.
    """
    try:
        return _answer(cursor, ask)
    except psycopg.Error as error:
        tell_for_all(error, cursor.connection)
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


def take(trips: Trips, ask: Ask) -> bool:
    """Have a request carried out with the next trip. False where it needs a cursor."""
    if isinstance(ask, Alone):
        return False
    return trips.say(translate(ask.sql), ask.rows if isinstance(ask, Many) else (ask.parameters,))


def take_ack(trips: Trips, ask: Ask) -> bool:
    """Have an ack carried out with the next trip, which fails if it does not change its rows. False where it needs a cursor."""
    if isinstance(ask, Acks):
        rows = [(*row, 1) for row in ask.rows]
    elif isinstance(ask, Run) and ask.must:
        rows = [(*ask.parameters, ask.must)]
    else:
        return False
    return trips.say(_must_change(translate(ask.sql)), rows)


@lru_cache(maxsize=64)
def _must_change(statement: bytes) -> bytes:
    """The statement with one more parameter: where it does not change so many rows, it raises by a number that cannot be read."""
    return (
        b"WITH acked AS (" + statement.strip() + b" RETURNING 1) "
        b"SELECT CAST(CASE WHEN count(*) = %s::bigint THEN '1' ELSE '" + LOST + b"' END AS integer) FROM acked"
    )


def tell_lost_lease(error: psycopg.Error) -> None:
    """Tell that it was an ack which failed the trip.

    Raises:
        LeaseLost: it was.
    """
    if error.sqlstate == "22P02" and LOST.decode() in str(error):
        raise LeaseLost("the ack found that somebody else holds the message by now") from error


def read(ask: Ask, results: Sequence[PGresult], context: Any) -> Any:
    """The answer to the request that was the last of a trip."""
    if isinstance(ask, Many):
        return rows_changed(results[len(results) - len(ask.rows) :])
    if isinstance(ask, Run):
        return rows_changed(results[-1:])
    rows = rows_of(results[-1], context)
    return rows if isinstance(ask, All) else rows[0] if rows else None


def asks_again(error: BaseException) -> bool:
    """Whether PostgreSQL asks for the whole transaction again, in whatever wrapping it said so."""
    return any(is_transient(one) for one in chain(error))


def is_forgotten(error: BaseException) -> bool:
    """Whether the server has forgotten what was prepared, behind our back; it is prepared anew."""
    return isinstance(error, psycopg.errors.InvalidSqlStatementName)


def tell_for_all(error: psycopg.Error, connection: Any) -> None:
    """Tell of a statement of crossfoot's own what is no matter of one delivery.

    Raises:
        DiskFull: the disk is full.
        SchemaMismatch: a table of the book's is gone.
    """
    tell_full_disk(error, connection)
    if is_missing(error.sqlstate, first_line(error)):
        raise explain(error, _where(connection)) from error


def tell_full_disk(error: psycopg.Error, connection: Any) -> None:
    """Tell that it is *our* disk which is full, and not that of another database that a handler writes to.

    Raises:
        DiskFull: it is.
    """
    if error.sqlstate == "53100":
        raise DiskFull(str(explain(error, _where(connection)))) from error


def _where(connection: Any) -> str:
    return f"postgresql://{connection.info.host}/{connection.info.dbname}"
