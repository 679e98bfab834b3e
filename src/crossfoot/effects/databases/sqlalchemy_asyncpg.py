"""SQLAlchemy 2's asyncio on PostgreSQL, by asyncpg: the handler gets an `AsyncSession`."""

from __future__ import annotations

import logging
from typing import Any

import anyio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from crossfoot.connection import shown
from crossfoot.effects.databases import asyncpg_steps as steps
from crossfoot.effects.databases import session as port
from crossfoot.effects.databases.asyncpg_protocol import Uncancelled
from crossfoot.effects.databases.postgres_terms import LOOK, said_in_each
from crossfoot.effects.databases.psycopg_steps import asks_again
from crossfoot.effects.databases.sqlalchemy import OURS, HandlerSession, end, lend, take_back
from crossfoot.effects.databases.sqlalchemy_async import AsyncHandlerSession
from crossfoot.effects.databases.sqlalchemy_postgres import Watch
from crossfoot.errors import UsageError

logger = logging.getLogger("crossfoot.effects")


class AsyncpgEngineSession:
    """One delivery's transactions on the user's asynchronous engine. No statement is cancelled, see `sqlalchemy_async`."""

    handle: AsyncHandlerSession
    by_columns = False  # to write a list asyncpg asks the server about its type, and leaves a setting in the session
    _marked = False

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._where = shown(engine.url.set(drivername="postgresql").render_as_string())
        self._connection: AsyncConnection | None = None
        self._raw: Any = None
        self._watched: Any = None
        self._watch = Watch()

    async def begin(self) -> None:
        with anyio.CancelScope(shield=True):
            self._connection = await self._engine.connect()
            try:
                await self._connection.execution_options(**{OURS: self._watch})
                adapted: Any = (await self._connection.get_raw_connection()).dbapi_connection
                self._raw = adapted.driver_connection
                self._watched = Uncancelled(self._raw._protocol, self._where)
                self._watched.counter = self._watch.counter
                self._raw._protocol = self._watched
                await self._connection.begin()
                await adapted._start_transaction()  # which SQLAlchemy leaves to the first statement of its own
                self._marked = False
                await self._say_terms(adapted)
            except BaseException:
                await self._connection.invalidate()  # nobody knows what state it is in
                await self._let_go()
                raise

    async def commit(self) -> None:
        self._take_back()
        assert self._connection is not None
        try:
            await self._connection.commit()
        except BaseException:
            await self._connection.invalidate()  # as above
            raise
        finally:
            await self._let_go()

    async def rollback(self) -> None:
        self._take_back()
        try:
            if self._connection is not None:
                await self._connection.rollback()
        except Exception as error:  # noqa: BLE001 - a session that has ended took its transaction with it, and one that is given up does
            logger.info(
                "a connection to %s is given up: it could not roll back (%s)", self._where, type(error).__name__
            )
            assert self._connection is not None
            if self._raw is not None and not self._raw.is_closed():
                await steps.cancel(self._raw)
            await self._connection.invalidate()
        finally:
            await self._let_go()

    async def mark(self) -> None:
        await steps.say(self._raw, f"{port.KEEP}; {port.MARK}" if self._marked else port.MARK)
        self._marked = True

    async def undo(self) -> None:
        self._take_back()
        take_back(self)
        await steps.say(self._raw, port.UNDO)
        assert self._connection is not None
        if not self._connection.in_transaction():  # SQLAlchemy believes in the rollback that was refused
            await self._connection.begin()

    async def keep(self) -> None:
        """As the driver's own session does."""

    async def answer(self, ask: port.Ask) -> Any:
        return await steps.answer(self._raw, ask, self._where)

    async def execute(self, sql: Any, parameters: Any = ()) -> Any:
        return await self.handle.execute(text(sql) if isinstance(sql, str) else sql, parameters or None)

    async def watch(self) -> None:
        self._watched.watch()
        self._watch.watching = True
        assert self._connection is not None and self._connection.sync_connection is not None
        lend(self, self._connection.sync_connection)
        self.handle = AsyncHandlerSession(
            bind=self._connection, sync_session_class=HandlerSession, join_transaction_mode="rollback_only"
        )

    async def changed(self) -> int:
        await self.handle.flush()
        self._watch.watching = False
        end(self.handle)
        return await steps.changed(self._raw, self._watched)

    def asks_again(self, error: BaseException) -> bool:
        return asks_again(error)

    async def close(self) -> None:
        await self._let_go()

    def _take_back(self) -> None:
        self._watch.watching = False
        if self._watched is not None:
            self._watched.leave()

    async def _say_terms(self, adapted: Any) -> None:
        assert self._connection is not None and self._connection.sync_connection is not None
        info = self._connection.sync_connection.info
        if OURS not in info:  # of the driver's connection: asked once in its life
            durable, patience, pid = await self.answer(port.One(LOOK))
            if pid != self._raw.get_server_pid() and adapted._prepared_statement_name_func() != "":
                raise UsageError(
                    f"the engine for {self._where} keeps statements prepared, and a pooler in between gives each transaction another "
                    'session: create_async_engine(..., connect_args={"statement_cache_size": 0, "prepared_statement_cache_size": 0, '
                    '"prepared_statement_name_func": lambda: ""})'
                )
            info[OURS] = said_in_each(durable, patience).decode()
        if info[OURS]:
            await steps.say(self._raw, info[OURS])

    async def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        raw, self._raw = self._raw, None
        watched, self._watched = self._watched, None
        try:
            if connection is not None:
                await connection.close()
        finally:
            if raw is not None and raw._protocol is watched:  # a connection that was given up has none
                raw._protocol = watched.inner
