"""Sending from somebody else's transaction: a web request or a script that has its own connection or session."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast

import msgspec
from anyio import to_thread

from crossfoot.books import sql
from crossfoot.books.payloads import Keeping
from crossfoot.clock import Clock
from crossfoot.connection import shown
from crossfoot.dialect import numbered, translate
from crossfoot.effects.awaited import Calls
from crossfoot.effects.committing import (
    autocommits,
    commits_here,
    ends_by_statement,
    is_deliberate,
    reaches_no_commit,
)
from crossfoot.effects.databases.session import Alone, Ask, Many, One, Run, Steps
from crossfoot.effects.databases.sqlite import answer, own_cursor
from crossfoot.effects.letters import EntryRow, send
from crossfoot.effects.sending import Sending, sending
from crossfoot.errors import TransactionMisuse, UsageError
from crossfoot.message import Message
from crossfoot.queues.queue import Queue

T = TypeVar("T")


class Sender(msgspec.Struct, frozen=True):
    """The service on whose behalf messages are sent.

    Attributes:
        queue: where they go unless said otherwise.
        destinations: the queues it knows, by name.
        payloads: whether the book keeps what they carry, or how.
        path: the file or the URL of its book.
        book: its book's own id, where that is in PostgreSQL.
    """

    name: str
    path: str
    queue: str
    destinations: Mapping[str, Queue]
    clock: Clock
    payloads: Keeping
    book: str = ""


class _Producing:
    def __init__(self, session: Any, service: Sender, raw: Any = None) -> None:
        self.session = session
        """The caller's own connection or session."""
        self._raw = raw or session
        self._service = service
        self._over = False

    def close(self) -> None:
        """The block is over: what is sent from now on would be sent by nobody's commit."""
        self._over = True

    def _steps(self, message: str | Message, to: str | None, attributes: dict[str, Any]) -> tuple[Message, Steps[None]]:
        if self._over:
            raise TransactionMisuse(
                f"tx.send({message if isinstance(message, str) else message.id}): the block of app.transaction() is over, and with it "
                "the transaction: nothing was sent. Send within the block, or open another one"
            )
        if isinstance(message, str):
            attributes.setdefault("source", self._service.name)
            message = Message(type=message, **attributes)
        elif attributes:
            raise UsageError(f"send() was given a message and also {', '.join(attributes)}: set them on the message")
        service = self._service
        ready = sending(message, to or service.queue, service.destinations, service.clock.now(), path=service.path)
        return ready.message, _send_and_write(ready, service.clock, payloads=service.payloads)


class Producing(_Producing):
    """A transaction of the caller's, in which messages can be sent."""

    def send(self, message: str | Message, *, to: str | None = None, **attributes: Any) -> Message:
        """Send a message if, and only if, the caller's transaction commits. Durable with it; sent by the relay."""
        made, steps = self._steps(message, to, attributes)
        _run(steps, self._raw)
        return made


class AsyncProducing(_Producing):
    """The same, for event loops: here `send` writes at once, and must be awaited."""

    def __init__(self, session: Any, service: Sender) -> None:
        super().__init__(session, service)
        self._calls = Calls()

    def send(self, message: str | Message, *, to: str | None = None, **attributes: Any) -> Coroutine[Any, Any, Message]:
        """Send a message if, and only if, the caller's transaction commits. Durable with it; sent by the relay."""
        made, steps = self._steps(message, to, attributes)
        return self._calls.note("tx.send", self._send(made, steps))

    def check(self) -> None:
        """See that every message was really sent.

        Raises:
            TransactionMisuse: a `send` was not awaited.
        """
        self._calls.check("app.atransaction()")

    async def _send(self, made: Message, steps: Steps[None]) -> Message:
        if hasattr(self.session, "run_sync"):
            await self.session.run_sync(lambda session: _run(steps, session))
        elif _is_psycopg(self.session) or _is_asyncpg(self.session):
            await _run_async(steps, self.session)
        else:
            await self.session._execute(_run, steps, self.session._conn)
        return made


@contextmanager
def joined(session: Any, service: Sender, commit: bool | None = None) -> Iterator[Producing]:
    """Join the caller's transaction, or begin and commit one where there is none.

    Args:
        commit: whether to commit at the end; told by how the transaction was begun, unless stated.
    """
    if hasattr(session, "settings_dict"):
        from crossfoot.effects.databases.django import joined_block

        if commit is not None:
            raise UsageError("app.transaction(): Django's atomic() blocks say who commits; leave commit= out")
        with joined_block(session) as raw:
            check_place(_place_of(raw, service), service)
            with closing(Producing(session, service, raw)) as producing:
                yield producing
        return
    begin: str | None = None
    if isinstance(session, sqlite3.Connection):
        is_open, begin = session.in_transaction, "BEGIN IMMEDIATE"
    elif _is_psycopg(session) and not _is_async(session):
        is_open = not _is_idle(session)
        begin = "BEGIN" if session.autocommit else None  # else its first statement begins one
    elif (hasattr(session, "exec_driver_sql") or hasattr(session, "connection")) and not _is_async(session):
        is_open = session.in_transaction()
        if commit is not False and (why := reaches_no_commit(session)):
            raise UsageError(f"app.transaction({type(session).__name__}): {why}")
    else:
        raise UsageError(
            f"app.transaction({session!r}): give a sqlite3.Connection, a psycopg.Connection, a SQLAlchemy Session or Connection, or a "
            "connection of Django's"
            + ("; this one is asynchronous: async with app.atransaction(...)" if _is_async(session) else "")
        )
    own = commits_here(
        session, "app.transaction", commit, is_open=is_open, is_deliberate=is_open and is_deliberate(session)
    )
    if begin and not is_open:
        session.execute(begin)
    undone = own or (begin is not None and not is_open)  # until the block runs, who commits it knows of nothing to undo
    try:
        check_place(_place_of(session, service), service)
        with closing(Producing(session, service)) as producing:
            undone = own
            yield producing
    except BaseException:
        if undone:
            _end(session, "rollback")
        raise
    if own:
        _end(session, "commit")


@asynccontextmanager
async def joined_async(session: Any, service: Sender, commit: bool | None = None) -> AsyncIterator[AsyncProducing]:
    """The asynchronous twin."""
    begin: str | None = None
    if hasattr(session, "run_sync"):
        is_open = session.in_transaction()
        if commit is not False and (why := reaches_no_commit(session)):
            raise UsageError(f"app.atransaction({type(session).__name__}): {why}")
    elif _is_asyncpg(session):
        async with _joined_asyncpg(session, service, commit) as producing:
            yield producing
        return
    elif _is_psycopg(session) and _is_async(session):
        is_open = not _is_idle(session)
        begin = "BEGIN" if session.autocommit else None
    elif hasattr(session, "in_transaction") and _is_async(session):
        is_open, begin = session.in_transaction, "BEGIN IMMEDIATE"
    else:
        raise UsageError(
            f"app.atransaction({session!r}): give an aiosqlite.Connection, a psycopg.AsyncConnection, an asyncpg.Connection or a "
            "SQLAlchemy AsyncSession"
            + ("" if _is_async(session) else "; for a synchronous one there is: with app.transaction(...)")
        )
    own = commits_here(
        session, "app.atransaction", commit, is_open=is_open, is_deliberate=is_open and is_deliberate(session)
    )
    if begin and not is_open:
        await session.execute(begin)
    undone = own or (begin is not None and not is_open)
    try:
        async with _producing(session, service) as producing:
            undone = own
            yield producing
    except BaseException:
        if undone:
            await _aend(session, "rollback")
        raise
    if own:
        await _aend(session, "commit")


def _end(session: Any, how: str) -> None:
    if isinstance(session, sqlite3.Connection) and ends_by_statement(session):
        session.execute(how)
    else:
        getattr(session, how)()


async def _aend(session: Any, how: str) -> None:
    if ends_by_statement(getattr(session, "_conn", None)):
        await session.execute(how)
    else:
        await getattr(session, how)()


@asynccontextmanager
async def _joined_asyncpg(session: Any, service: Sender, commit: bool | None) -> AsyncIterator[AsyncProducing]:
    """asyncpg begins nothing by itself: what is open was begun, and is ended, by a block of its own."""
    if commit is not None:
        raise UsageError("app.atransaction(): asyncpg's transaction() blocks say who commits; leave commit= out")
    if session.is_in_transaction():
        async with _producing(session, service) as producing:
            yield producing
        return
    async with session.transaction(), _producing(session, service) as producing:
        yield producing


@asynccontextmanager
async def _producing(session: Any, service: Sender) -> AsyncIterator[AsyncProducing]:
    with closing(AsyncProducing(session, service)) as producing:
        await _check_place(session, service)
        yield producing
        producing.check()


def check_place(place: str, service: Sender) -> None:
    """See that a connection leads to the book of the service that sends: its file, or the id of the book in its database.

    Raises:
        UsageError: it does not, so that what is sent would never be found.
    """
    if service.book:
        if place != service.book:
            raise UsageError(
                f"service {service.name} keeps its book in {shown(service.path)}, and this connection is to another database or "
                "schema: give a connection to the service's own"
            )
    elif os.path.realpath(place) != os.path.realpath(service.path):
        raise UsageError(
            f"service {service.name} keeps its book in {service.path}, and this connection is to {place or 'a database in memory'}: "
            "give a connection to the service's own database"
        )


def _place(service: Sender) -> Steps[str]:
    """What the connection leads to: the id of the book there, or the file; empty for none, and for one in memory."""
    if not service.book:
        row = yield One("SELECT file FROM pragma_database_list WHERE name = 'main'")
    elif (yield One("SELECT 1 WHERE to_regclass('crossfoot_facts') IS NOT NULL")):
        row = yield One("SELECT value FROM crossfoot_facts WHERE name = 'book'")
    else:
        row = None
    return str(row[0] or "") if row is not None else ""


def _place_of(session: Any, service: Sender) -> str:
    is_driver_s = isinstance(session, sqlite3.Connection) or _is_psycopg(session)
    if not is_driver_s and autocommits(_connection_of(session)):
        raise UsageError(
            f"{type(session).__name__} commits each statement by itself (isolation_level AUTOCOMMIT), so that what is sent could not be "
            "taken back with the rest: give one that has transactions"
        )
    if _is_postgres(session) is not bool(service.book):
        return ""
    return _run(_place(service), session)


async def _check_place(session: Any, service: Sender) -> None:
    if hasattr(session, "run_sync"):
        place = await session.run_sync(_place_of, service)
    elif _is_psycopg(session) or _is_asyncpg(session):
        place = await _run_async(_place(service), session) if service.book else ""
    else:
        place = await session._execute(_place_of, session._conn, service)
    await to_thread.run_sync(check_place, place, service)


def _is_psycopg(session: Any) -> bool:
    return hasattr(session, "pgconn")


def _is_async(session: Any) -> bool:
    return hasattr(session, "run_sync") or iscoroutinefunction(getattr(session, "commit", None))


def _is_asyncpg(session: Any) -> bool:
    """Whether it is a connection of asyncpg's, perhaps out of a pool."""
    return hasattr(session, "is_in_transaction")


def _is_idle(connection: Any) -> bool:
    return int(connection.info.transaction_status) == 0


def _is_postgres(session: Any) -> bool:
    if isinstance(session, sqlite3.Connection):
        return False
    return _is_psycopg(session) or _connection_of(session).dialect.name == "postgresql"


def _send_and_write(ready: Sending, clock: Clock, *, payloads: Keeping) -> Steps[None]:
    rows: list[EntryRow] = []
    yield from send(ready, rows, 0, clock.now(), payloads=payloads)
    yield Many(sql.INSERT_ENTRY, rows)


def _run(steps: Steps[T], session: Any) -> T:
    reply: Any = None
    try:
        while True:
            reply = _answer(session, steps.send(reply))
    except StopIteration as end:
        return cast(T, end.value)


async def _run_async(steps: Steps[T], session: Any) -> T:
    """Over a `psycopg.AsyncConnection`, or an `asyncpg.Connection`."""
    answers: Callable[[Ask], Awaitable[Any]]
    if _is_asyncpg(session):
        from crossfoot.effects.databases import asyncpg_steps

        answers = partial(asyncpg_steps.answer, getattr(session, "_con", session))
    else:
        from crossfoot.effects.databases import psycopg_async

        answers = partial(psycopg_async.answer, psycopg_async.own_cursor(session))
    reply: Any = None
    try:
        while True:
            reply = await answers(steps.send(reply))
    except StopIteration as end:
        return cast(T, end.value)


def _answer(session: Any, ask: Ask) -> Any:
    if isinstance(session, sqlite3.Connection):
        theirs, session.text_factory = session.text_factory, str
        try:
            return answer(own_cursor(session), ask)
        finally:
            session.text_factory = theirs
    if _is_psycopg(session):
        from crossfoot.effects.databases import psycopg

        return psycopg.answer(psycopg.own_cursor(session), ask)
    connection = _connection_of(session)
    assert not isinstance(ask, Alone), "whoever only sends keeps no order"
    text = _spelt(ask.sql, connection.dialect)
    if isinstance(ask, Many):
        return connection.exec_driver_sql(text, [tuple(row) for row in ask.rows])
    result = connection.exec_driver_sql(text, tuple(ask.parameters))
    if isinstance(ask, Run):
        return result.rowcount
    return result.fetchone() if isinstance(ask, One) else result.fetchall()


def _spelt(statement: str, dialect: Any) -> str:
    if dialect.name == "sqlite":
        return statement
    return numbered(statement) if dialect.driver == "asyncpg" else translate(statement).decode()


def _connection_of(session: Any) -> Any:
    """SQLAlchemy's connection beneath a session, or the connection itself."""
    is_session = callable(getattr(session, "connection", None)) and hasattr(session, "flush")
    return session.connection() if is_session else session
