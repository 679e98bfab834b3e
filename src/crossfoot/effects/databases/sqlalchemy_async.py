"""SQLAlchemy 2's asyncio on SQLite: the handler gets an `AsyncSession`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.ext.asyncio import AsyncSession as OrmAsyncSession

from crossfoot.effects.databases import session as port
from crossfoot.effects.databases.changes import ChangeCounter
from crossfoot.effects.databases.sqlalchemy import OURS, HandlerSession, answer, end, lend, take_back
from crossfoot.sqlite import explain
from crossfoot.turnstile import TURN, Turnstile


class AsyncSession:
    """One delivery's transactions on the user's asynchronous engine.

    SQLAlchemy closes a connection in the middle of whose work it is cancelled, and if it is cancelled again meanwhile,
    as anyio does, that never ends. So no statement is cancelled: a cancellation waits for it, and comes between two.
    """

    handle: OrmAsyncSession
    by_columns = False

    def __init__(self, engine: AsyncEngine, path: str) -> None:
        self._engine = engine
        self._turnstile = Turnstile(path + TURN)
        self._line = anyio.CapacityLimiter(1)
        self._connection: AsyncConnection | None = None
        self._raw: Any = None
        self._counter: ChangeCounter | None = None

    async def begin(self) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._turnstile.enter, limiter=self._line)
            try:
                self._connection = await self._engine.connect()
                await self._connection.execution_options(**{OURS: True})
                self._raw = (await self._connection.get_raw_connection()).driver_connection
                self._raw._execute = shielded(self._raw._execute)
                await self._connection.begin()
                await self._execute("BEGIN IMMEDIATE")
            except DBAPIError as error:
                await self._let_go()
                raise explain(error.orig or error, self._engine.url.database or "") from error
            except BaseException:
                await self._let_go()
                raise

    async def commit(self) -> None:
        assert self._connection is not None
        try:
            await self._connection.commit()
        except DBAPIError as error:
            self._counter = None  # there is nothing to take off a connection that is closed
            await self._connection.invalidate(error)  # as its synchronous twin says
            if isinstance(error, IntegrityError):
                raise
            raise explain(error.orig or error, self._engine.url.database or "") from error
        finally:
            await self._let_go()

    async def rollback(self) -> None:
        if self._counter is not None:
            self._counter.watching = False
        try:
            if self._connection is not None:
                await self._connection.rollback()
        finally:
            await self._let_go()

    async def mark(self) -> None:
        await self._execute(port.MARK)

    async def undo(self) -> None:
        if self._counter is not None:
            self._counter.watching = False
        take_back(self)
        await self._execute(port.UNDO)

    async def keep(self) -> None:
        await self._execute(port.KEEP)

    async def answer(self, ask: port.Ask) -> Any:
        assert self._connection is not None
        return await self._connection.run_sync(answer, ask)

    async def execute(self, sql: Any, parameters: Any = ()) -> Any:
        return await self.handle.execute(text(sql) if isinstance(sql, str) else sql, parameters or None)

    async def watch(self) -> None:
        self._counter = ChangeCounter(self._raw)
        await self._raw.set_trace_callback(self._counter)
        await self._raw.set_authorizer(self._counter.authorize)
        self._counter.watch()
        assert self._connection is not None and self._connection.sync_connection is not None
        lend(self, self._connection.sync_connection)
        self.handle = AsyncHandlerSession(
            bind=self._connection, sync_session_class=HandlerSession, join_transaction_mode="rollback_only"
        )

    async def changed(self) -> int:
        assert self._counter is not None
        await self.handle.flush()
        end(self.handle)
        return self._counter.changed()

    def asks_again(self, error: BaseException) -> bool:
        return False  # SQLite's writers stand in line

    async def close(self) -> None:
        await self._let_go()
        self._turnstile.close()

    async def _execute(self, statement: str) -> None:
        assert self._connection is not None
        await self._connection.exec_driver_sql(statement)

    async def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        raw, self._raw = self._raw, None
        counter, self._counter = self._counter, None
        try:
            if counter is not None:
                with suppress(ValueError):  # SQLAlchemy has ended it: a task was cancelled in the middle of a statement
                    await raw.set_trace_callback(None)
                    await raw.set_authorizer(None)
            if connection is not None:
                await connection.close()
        finally:
            if raw is not None:
                del raw._execute
            self._turnstile.leave()


def shielded(execute: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        with anyio.CancelScope(shield=True):
            return await execute(*args, **kwargs)

    return call


class AsyncHandlerSession(OrmAsyncSession):
    """Where a cancellation that waited for a statement is heeded: before the next one begins."""


def _heeding(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def call(self: AsyncHandlerSession, *args: Any, **kwargs: Any) -> Any:
        await anyio.lowlevel.checkpoint_if_cancelled()
        return await method(self, *args, **kwargs)

    return call


_METHODS = "connection execute flush get get_one merge refresh run_sync scalar scalars stream"
for _name in _METHODS.split():
    setattr(AsyncHandlerSession, _name, _heeding(getattr(OrmAsyncSession, _name)))
