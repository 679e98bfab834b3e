"""Sending from somebody else's transaction: a web request or a script that has its own connection or session."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
from anyio import to_thread

from crossfoot.books import sql
from crossfoot.clock import Clock
from crossfoot.effects.awaited import Calls
from crossfoot.effects.databases.session import Ask, Many, One, Run, Steps
from crossfoot.effects.databases.sqlite import answer, own_cursor
from crossfoot.effects.letters import EntryRow, send
from crossfoot.effects.sending import Sending, sending
from crossfoot.errors import UsageError
from crossfoot.message import Message
from crossfoot.queues.queue import Queue


class Sender(msgspec.Struct, frozen=True):
    """The service on whose behalf messages are sent.

    Attributes:
        queue: where they go unless said otherwise.
        destinations: the queues it knows, by name.
        payloads: whether the book keeps what they carry.
        path: the file of its book.
    """

    name: str
    path: str
    queue: str
    destinations: Mapping[str, Queue]
    clock: Clock
    payloads: bool


class _Producing:
    def __init__(self, session: Any, service: Sender) -> None:
        self.session = session
        """The caller's own connection or session."""
        self._service = service

    def _steps(self, message: str | Message, to: str | None, attributes: dict[str, Any]) -> tuple[Message, Steps[None]]:
        if isinstance(message, str):
            attributes.setdefault("source", self._service.name)
            message = Message(type=message, **attributes)
        elif attributes:
            raise UsageError(f"send() was given a message and also {', '.join(attributes)}: set them on the message")
        service = self._service
        ready = sending(message, to or service.queue, service.destinations, service.clock.now())
        return message, _send_and_write(ready, service.clock, payloads=service.payloads)


class Producing(_Producing):
    """A transaction of the caller's, in which messages can be sent."""

    def send(self, message: str | Message, *, to: str | None = None, **attributes: Any) -> Message:
        """Send a message if, and only if, the caller's transaction commits. Durable with it; sent by the relay."""
        made, steps = self._steps(message, to, attributes)
        _run(steps, self.session)
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
        else:
            await self.session._execute(_run, steps, self.session._conn)
        return made


@contextmanager
def joined(session: Any, service: Sender) -> Iterator[Producing]:
    """Join the caller's transaction, or begin and commit one where there is none."""
    if isinstance(session, sqlite3.Connection):
        own = not session.in_transaction
        if own:
            session.execute("BEGIN IMMEDIATE")
    elif hasattr(session, "exec_driver_sql") or hasattr(session, "connection"):
        own = not session.in_transaction()
    else:
        raise UsageError(
            f"app.transaction({session!r}): give a sqlite3.Connection or a SQLAlchemy Session or Connection"
        )
    try:
        same_file(_main_file(session), service)
        yield Producing(session, service)
    except BaseException:
        if own:
            session.rollback()
        raise
    if own:
        session.commit()


@asynccontextmanager
async def joined_async(session: Any, service: Sender) -> AsyncIterator[AsyncProducing]:
    """The asynchronous twin."""
    if hasattr(session, "run_sync"):
        own = not session.in_transaction()
    elif hasattr(session, "in_transaction"):
        own = not session.in_transaction
        if own:
            await session.execute("BEGIN IMMEDIATE")
    else:
        raise UsageError(f"app.atransaction({session!r}): give an aiosqlite.Connection or a SQLAlchemy AsyncSession")
    producing = AsyncProducing(session, service)
    try:
        await _check_file(session, service)
        yield producing
        producing.check()
    except BaseException:
        if own:
            await session.rollback()
        raise
    if own:
        await session.commit()


def same_file(file: str, service: Sender) -> None:
    """See that a connection leads to the book of the service that sends.

    Raises:
        UsageError: it does not, so that what is sent would never be found; with both files.
    """
    if os.path.realpath(file) != os.path.realpath(service.path):
        raise UsageError(
            f"service {service.name} keeps its book in {service.path}, and this connection is to {file or 'a database in memory'}: "
            "give a connection to the service's own database"
        )


def _main_file(session: Any) -> str:
    """The file of a connection's main database; empty for one in memory."""
    row = _answer(session, One("SELECT file FROM pragma_database_list WHERE name = 'main'"))
    return str(row[0] or "") if row is not None else ""


async def _check_file(session: Any, service: Sender) -> None:
    if hasattr(session, "run_sync"):
        file = await session.run_sync(_main_file)
    else:
        file = await session._execute(_main_file, session._conn)
    await to_thread.run_sync(same_file, file, service)


def _send_and_write(ready: Sending, clock: Clock, *, payloads: bool) -> Steps[None]:
    rows: list[EntryRow] = []
    yield from send(ready, rows, 0, clock.now(), payloads=payloads)
    yield Many(sql.INSERT_ENTRY, rows)


def _run(steps: Steps[None], session: Any) -> None:
    reply: Any = None
    try:
        while True:
            reply = _answer(session, steps.send(reply))
    except StopIteration:
        return


def _answer(session: Any, ask: Ask) -> Any:
    if isinstance(session, sqlite3.Connection):
        theirs, session.text_factory = session.text_factory, str
        try:
            return answer(own_cursor(session), ask)
        finally:
            session.text_factory = theirs
    connection = (
        session.connection()
        if callable(getattr(session, "connection", None)) and hasattr(session, "flush")
        else session
    )
    if isinstance(ask, Many):
        return connection.exec_driver_sql(ask.sql, [tuple(row) for row in ask.rows])
    result = connection.exec_driver_sql(ask.sql, tuple(ask.parameters))
    if isinstance(ask, Run):
        return result.rowcount
    return result.fetchone() if isinstance(ask, One) else result.fetchall()
