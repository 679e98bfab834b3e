"""How crossfoot talks to PostgreSQL (13 or newer): one policy for the book, a queue and the user's own transaction.

The counterpart of `sqlite`. There are many writers here: whoever relies on being the only one says so with `alone`.
Nothing is kept in a session but its prepared statements, so that a pooler may give each transaction another one; behind
a pooler nothing is prepared either.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, ParamSpec, TypeVar

import psycopg
from psycopg import pq
from psycopg.adapt import Dumper, Loader
from psycopg.rows import tuple_row

from crossfoot.connection import shown
from crossfoot.dialect import translate
from crossfoot.errors import DatabaseUnavailable, DiskFull, UsageError

CONNECT_SECONDS = 10
"""How long a server may take to answer a new connection, unless the URL says `connect_timeout`."""

MINIMUM_VERSION = 130_000
"""xid8 and pg_current_xact_id() came with PostgreSQL 13 (2020-09-24)."""

BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"
SNAPSHOT = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
COMMIT, ROLLBACK = b"COMMIT", b"ROLLBACK"

ALONE = b"""
SELECT pg_advisory_xact_lock(hashtextextended('crossfoot ' || %s::text, 0)), current_setting('transaction_isolation')
"""

AFTER_OTHERS = b"""
INSERT INTO crossfoot_facts (name, value) VALUES ('alone ' || %s::text, '')
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
"""Who waited for others does not see what they did if its snapshot is older (above READ COMMITTED). Then this fails, as what must
be done again, because they changed the same row."""

AGAIN = ("40001", "40P01")
"""What the database asks to be tried again: a serialization failure, a deadlock."""

OUTSIDE = ("08", "28", "3D000", "25006", "25P03", "25P04", "53", "55P03", "57", "58", "XX")
"""Beginnings of the states of errors that no other statement would avoid."""

_LOOK = b"""
SELECT current_setting('server_version_num')::int, pg_backend_pid(), current_setting('synchronous_commit')
"""


P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=psycopg.Connection[Any])
A = TypeVar("A", bound=psycopg.AsyncConnection[Any])

_streams = itertools.count()


class _Whole(Dumper):
    """An integer whose type is for the server to find: sent as the smallest that holds it, as psycopg does, each size
    would make another prepared statement."""

    oid = 0

    def dump(self, obj: Any) -> bytes:
        return b"%d" % int(obj)

    def quote(self, obj: Any) -> bytes:
        return b" %d" % int(obj)  # a sign must not meet the one before it


class _Sum(Loader):
    """The sums of integers are of type numeric, and whole all the same."""

    def load(self, data: Any) -> int:
        return int(bytes(data))


def adapt(context: psycopg.abc.AdaptContext) -> None:
    """Have integers sent and read as the book wants it, on a connection or a cursor of ours."""
    context.adapters.register_dumper(int, _Whole)
    context.adapters.register_loader("numeric", _Sum)


class Connection:
    """A connection of the book's. Outside of `writing` and `snapshot` each statement commits by itself.

    Args:
        raw: with autocommit.
        where: what it leads to, for people.
    """

    dialect: Literal["postgres"] = "postgres"

    def __init__(self, raw: psycopg.Connection[Any], where: str) -> None:
        self.raw = raw
        self.where = where
        adapt(raw)

    @property
    def broken(self) -> bool:
        return self.raw.closed

    @property
    def in_transaction(self) -> bool:
        return self.raw.info.transaction_status is not pq.TransactionStatus.IDLE

    def execute(self, sql: str, parameters: Any = (), /) -> psycopg.Cursor[Any]:
        return self._explained(self.raw.cursor(row_factory=tuple_row).execute, translate(sql), parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> psycopg.Cursor[Any]:
        cursor = self.raw.cursor(row_factory=tuple_row)
        self._explained(cursor.executemany, translate(sql), parameters)
        return cursor

    def stream(self, sql: str, parameters: Any = (), /) -> Iterator[Any]:
        """The rows of a large result, in portions. Within a transaction."""
        with self.raw.cursor(f"crossfoot_{next(_streams)}", row_factory=tuple_row) as cursor:
            cursor.itersize = 2_000
            yield from self._explained(cursor.execute, translate(sql), parameters)

    def alone(self, what: str) -> None:
        """Until the end of the transaction nobody else does `what`; waits for who does it."""
        self._explained(self.raw.execute, ALONE, (what,))

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One write transaction: committed at the end, rolled back on any exception.

        Raises:
            DiskFull: the server's disk is full; nothing of the transaction was kept.
            DatabaseUnavailable: the server has gone, only reads, or ended the session.
        """
        self.begin()
        try:
            yield self
        except BaseException:
            self.abandon()
            raise
        self.finish()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Everything read inside is of one moment. Nobody waits for anybody.

        Raises:
            DatabaseUnavailable: the server has gone, or ended the session.
        """
        self._explained(self.raw.execute, SNAPSHOT)
        try:
            yield self
        finally:
            self.abandon()

    def begin(self) -> None:
        """Begin a transaction whose every statement sees what is committed by then."""
        self._explained(self.raw.execute, BEGIN)

    def finish(self) -> None:
        """Commit. After an exception the outcome is unknown until it is read again."""
        try:
            self._explained(self.raw.execute, COMMIT)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Roll back, whatever state the transaction is in."""
        if self.in_transaction:
            with suppress(psycopg.Error):  # a session that has ended took its transaction with it
                self.raw.execute(ROLLBACK)

    def close(self) -> None:
        self.raw.close()

    def _explained(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return call(*arguments, **named)
        except psycopg.Error as error:
            if is_outside(error) or error.sqlstate in AGAIN:
                raise explain(error, self.where) from error
            raise


def connect(url: str, *, synchronous: str = "FULL") -> Connection:
    """Open `url`; a commit is on the server's disk when it returns, unless `synchronous` is NORMAL.

    Raises:
        DatabaseUnavailable: the server cannot be reached, refuses us, is too old or has no such database.
    """
    return Connection(connect_raw(psycopg.Connection, url, synchronous=synchronous), shown(url))


def connect_raw(kind: type[C], url: str, *, synchronous: str = "FULL") -> C:
    """A connection of psycopg's own, with autocommit, on the same terms."""
    where = shown(url)
    try:
        raw = kind.connect(url, **terms(url))
        try:
            own = psycopg.Cursor(raw)  # a handler's connection gives out none before it has a handler
            version, pid, durable = own.execute(_LOOK).fetchone() or (0, 0, "")
            settle(raw, version, pid, where)
            if needs_durability(durable, synchronous):
                own.execute(DURABLE)
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
            version, pid, durable = await (await own.execute(_LOOK)).fetchone() or (0, 0, "")
            settle(raw, version, pid, where)
            if needs_durability(durable, synchronous):
                await own.execute(DURABLE)
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
    except psycopg.ProgrammingError:
        raise UsageError(  # what the client says of it may hold the password
            f"the URL of {shown(url)} cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with special characters "
            "in USER and PASSWORD as %-escapes"
        ) from None
    wanted: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "crossfoot",
        "keepalives_idle": 30,
    }
    return {"autocommit": True, **{name: value for name, value in wanted.items() if name not in stated}}


def settle(raw: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], version: int, pid: int, where: str) -> None:
    """Suit a new connection to what it leads to.

    Raises:
        DatabaseUnavailable: the server is too old.
    """
    if version < MINIMUM_VERSION:
        raise DatabaseUnavailable(f"{where} is PostgreSQL {version // 10_000}; crossfoot needs 13 or newer: upgrade it")
    # A pooler makes up the process id that it tells at the beginning. It may give each transaction another session, and a
    # statement that was prepared in one is not there in the next.
    raw.prepare_threshold = 2 if pid == raw.info.backend_pid else None


def is_outside(error: psycopg.Error) -> bool:
    """Whether the server, its disk or its rules are the matter, and not the statement."""
    state = error.sqlstate
    return state.startswith(OUTSIDE) if state else isinstance(error, psycopg.OperationalError)


def is_transient(error: BaseException) -> bool:
    """Whether the database asks for the whole transaction again."""
    return isinstance(error, psycopg.Error) and error.sqlstate in AGAIN


def explain(error: psycopg.Error, where: str) -> DatabaseUnavailable:
    """The error a person can act on, for one that PostgreSQL or its client raised."""
    state, text = error.sqlstate or "", _first_line(error)
    if state == "53100":
        return DiskFull(
            f"the disk of {where} is full ({text}): free some space, then start again; nothing more is acked"
        )
    for states, remedy in _REMEDIES:
        if state.startswith(states):
            return DatabaseUnavailable(f"{where}: {text}: {remedy}")
    if not state:
        return DatabaseUnavailable(_without_server(text, where))
    return DatabaseUnavailable(f"{where}: {text} ({state})")


_REMEDIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("25006",), "it is a standby, or read-only: connect to the primary (target_session_attrs=read-write in the URL)"),
    (("25P03", "25P04", "57P05"), "the server ended a session that stood still or took too long: raise its timeout, or look for "
                                  "the handler that holds a transaction open while it waits"),
    (("28", "42501"), "check the user, its password and its rights (GRANT), and pg_hba.conf"),
    (("3D000",), "create it (CREATE DATABASE), or name another one"),
    (("40001", "40P01"), "another transaction was in the way, nothing was kept: try again"),
    (("53300",), "lower `concurrency` or the number of workers, raise max_connections, or put a pooler in between"),
    (("53",), "the server lacks memory or other resources: look at its log"),
    (("55P03",), "somebody holds a lock for too long: find the long transaction in pg_stat_activity and end it"),
    (("57014",), "it was cancelled, by a person or by statement_timeout: raise that for this user, or find what it waited for"),
    (("57P", "08"), "the server stopped, restarts or was failed over: start again when it answers"),
    (("XX",), "the database may be damaged: stop its workers, look at its log, and at its backup"),
)  # fmt: skip


def _without_server(text: str, where: str) -> str:
    """For what the client says by itself: it has no state, and only its words tell what happened."""
    if "too many clients" in text or "remaining connection slots" in text:
        return f"{where}: {text}: {_remedy('53300')}"
    if "does not exist" in text:
        return f"{where}: {text}: create it, or name another one"
    if "authentication" in text or "pg_hba" in text or "password" in text:
        return f"{where}: {text}: {_remedy('28')}"
    if "read-only" in text or "standby" in text:
        return f"{where}: {text}: {_remedy('25006')}"
    return (
        f"{where} does not answer ({text}): check that the server runs, its address and the network, then start again"
    )


def _remedy(state: str) -> str:
    return next(remedy for states, remedy in _REMEDIES if state.startswith(states))


def _first_line(error: psycopg.Error) -> str:
    """What it said, without its detail, which may hold values."""
    if error.diag.message_primary:
        return error.diag.message_primary
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
