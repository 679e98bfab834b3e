"""Connecting to PostgreSQL, for the book, a queue and the user's own transaction alike.

Nothing is kept in a session but prepared statements and two settings, so that a pooler may give each transaction another
session; behind a pooler, neither.
"""

from __future__ import annotations

from typing import Any, TypeVar

import psycopg

from crossfoot.connection import shown
from crossfoot.errors import DatabaseUnavailable, UsageError
from crossfoot.postgres.errors import explain

CONNECT_SECONDS = 10
"""How long a server may take to answer a new connection, unless the URL says `connect_timeout`."""

VANISHED_SECONDS = 60
"""How long a server that says nothing at all, as one whose machine or network is gone, is waited for: without this a connection
that waits for an answer hangs for eleven minutes, and one that has sent a request for fifteen. Not counted while the other end's
kernel confirms what arrives: a server may take as long for a statement as it needs."""

MINIMUM_VERSION = 130_000
"""xid8 and pg_current_xact_id() came with PostgreSQL 13 (2020-09-24)."""

PREPARED_AFTER = 2
"""Executions after which a statement is prepared: the book says the same again and again."""

PATIENCE = b"SET lock_timeout = '30s'"
"""How long a statement waits for a lock, unless the server or the role says otherwise: as long as in SQLite."""

BY_INDEX = """
SELECT set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false), set_config('jit', 'off', false),
  set_config('plan_cache_mode', 'force_generic_plan', false)
"""
"""Said on connections that nobody else's statements use, where statements are prepared. A new book is empty, and of empty tables
the server plans to read all, or to sort all that lies behind a cursor for the first of it; it keeps to that plan of a prepared
statement until somebody analyzes the table, however it grows meanwhile. The plan is one for all parameters, or some statements would be
planned at every execution. (JIT, because it is chosen by the cost of a plan, and what is avoided has an absurd one.)"""

BOUNDS = """
SELECT set_config(name, bound, false)
FROM (VALUES ('statement_timeout', '5min'), ('idle_in_transaction_session_timeout', '1min')) AS own (name, bound)
WHERE current_setting(name) = '0'
"""
"""Said on connections by which the book is written, where the server or the role says nothing else. No statement of the book's takes
minutes, and no transaction of its stands still while the process runs: one that was frozen in the midst of it must not hold the rows that
others write."""

LOOK = b"""
SELECT current_setting('server_version_num')::int, pg_backend_pid(), current_setting('synchronous_commit'),
  current_setting('lock_timeout')
"""
"""What is asked of a new connection, for `standing`."""

C = TypeVar("C", bound=psycopg.Connection[Any])
A = TypeVar("A", bound=psycopg.AsyncConnection[Any])


def connect_raw(kind: type[C], url: str, *, synchronous: str = "FULL") -> C:
    """A connection of psycopg's own, with autocommit, on the same terms."""
    where = shown(url)
    try:
        raw = kind.connect(url, **terms(url))
        try:
            own = psycopg.Cursor(raw)  # a handler's connection gives out none before it has a handler
            for statement in settle(raw, own.execute(LOOK).fetchone(), where, synchronous):
                own.execute(statement)
        except BaseException:
            psycopg.Connection.close(raw)
            raise
    except psycopg.Error as error:
        raise explain(error, where) from error
    return raw


async def connect_async(kind: type[A], url: str, *, synchronous: str = "FULL") -> A:
    """The asynchronous twin of `connect_raw`."""
    where = shown(url)
    try:
        raw = await kind.connect(url, **terms(url))
        try:
            own = psycopg.AsyncCursor(raw)
            for statement in settle(raw, await (await own.execute(LOOK)).fetchone(), where, synchronous):
                await own.execute(statement)
        except BaseException:
            await psycopg.AsyncConnection.close(raw)
            raise
    except psycopg.Error as error:
        raise explain(error, where) from error
    return raw


DURABLE = b"SET synchronous_commit = on"


def needs_durability(server: str, synchronous: str) -> bool:
    """Whether the server would confirm commits that it may still lose, and we must not."""
    return server == "off" and synchronous != "NORMAL"


def terms(url: str) -> dict[str, Any]:
    """How psycopg is asked to connect.

    Raises:
        UsageError: the URL cannot be read.
    """
    try:
        stated = psycopg.conninfo.conninfo_to_dict(url)
        place = url.partition("://")[2].partition("?")[0]
        if place.count("@") > 1 or "@" in place.partition("/")[2]:
            raise psycopg.ProgrammingError(
                "an @ or a / in the password, of which the client makes a host, and tells of it"
            )
    except psycopg.ProgrammingError:
        raise UsageError(  # what the client says of it may hold the password
            f"the URL of {shown(url)} cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with special characters "
            "in USER and PASSWORD as %-escapes"
        ) from None
    wanted: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "crossfoot",
        "keepalives_idle": VANISHED_SECONDS // 2,
        "keepalives_interval": VANISHED_SECONDS // 6,
        "keepalives_count": 3,
        "tcp_user_timeout": VANISHED_SECONDS * 1000,
    }
    return {"autocommit": True, **{name: value for name, value in wanted.items() if name not in stated}}


def settle(
    raw: psycopg.Connection[Any] | psycopg.AsyncConnection[Any],
    look: tuple[Any, ...] | None,
    where: str,
    synchronous: str,
) -> list[bytes]:
    """Suit a new connection to what it leads to. Returns what must be said to the server.

    Raises:
        DatabaseUnavailable: the server is too old, or may lose what it confirmed.
    """
    said = standing(look, raw.info.backend_pid, where, synchronous)
    raw.prepare_threshold = PREPARED_AFTER if said is not None else None
    return said or []


def standing(look: tuple[Any, ...] | None, pid_told: int, where: str, synchronous: str) -> list[bytes] | None:
    """What must be said to the server by what a new connection found, or `None` behind a pooler, where nothing may be.

    Args:
        look: the answer to `LOOK`.
        pid_told: the process id that the connection was told at its beginning.

    Raises:
        DatabaseUnavailable: the server is too old, or may lose what it confirmed.
    """
    version, pid, durable, patience = look or (0, 0, "", "")
    if version < MINIMUM_VERSION:
        raise DatabaseUnavailable(f"{where} is PostgreSQL {version // 10_000}; crossfoot needs 13 or newer: upgrade it")
    # A pooler makes up the process id that it tells at the beginning. It may give each transaction another session: what was
    # prepared or set in one is not there in the next.
    if pid != pid_told:
        if needs_durability(durable, synchronous):
            raise DatabaseUnavailable(
                f"{where} confirms commits before they are on its disk (synchronous_commit = off), and behind a pooler that cannot be "
                "changed for a session: ALTER ROLE ... SET synchronous_commit = on"
            )
        return None
    return [*([DURABLE] if needs_durability(durable, synchronous) else []), *([PATIENCE] if patience == "0" else [])]
