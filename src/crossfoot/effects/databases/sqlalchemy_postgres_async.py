"""SQLAlchemy 2's asyncio on PostgreSQL, by psycopg: the handler gets an `AsyncSession`."""

from __future__ import annotations

from typing import Any

import anyio
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from crossfoot.effects.databases import psycopg as driver
from crossfoot.effects.databases import psycopg_async
from crossfoot.effects.databases import session as port
from crossfoot.effects.databases.postgres_terms import LOOK, saying, terms_of
from crossfoot.effects.databases.psycopg_giving_up import agive_up
from crossfoot.effects.databases.psycopg_guarded import BUSY
from crossfoot.effects.databases.sqlalchemy import OURS, HandlerSession, end, lend, take_back
from crossfoot.effects.databases.sqlalchemy_async import AsyncHandlerSession, shielded
from crossfoot.effects.databases.sqlalchemy_postgres import Watch, counted
from crossfoot.effects.work import in_handler
from crossfoot.errors import TransactionMisuse


class AsyncPostgresSession:
    """One delivery's transactions on the user's asynchronous engine. No statement is cancelled, see `sqlalchemy_async`."""

    handle: AsyncHandlerSession
    by_columns = True
    _marked = False

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None
        self._raw: Any = None
        self._own: Any = None
        self._watch = Watch()

    async def begin(self) -> None:
        with anyio.CancelScope(shield=True):
            try:
                self._connection = await self._engine.connect()
                await self._connection.execution_options(**{OURS: self._watch})
                self._raw = (await self._connection.get_raw_connection()).driver_connection
                self._raw.wait = shielded(self._raw.wait)
                self._own = psycopg_async.own_cursor(self._raw)
                await self._connection.begin()
                self._marked = False
                await self._say_terms()
            except BaseException:
                await self._let_go()
                raise

    async def commit(self) -> None:
        self._watch.watching = False
        assert self._connection is not None
        try:
            await self._connection.commit()
        except DBAPIError as error:
            await self._connection.invalidate(error)  # nobody knows what state it is in
            raise
        finally:
            await self._let_go()

    async def rollback(self) -> None:
        self._watch.watching = False
        try:
            if self._connection is not None and self._busy:
                await agive_up(self._raw)
                await self._connection.invalidate()
            elif self._connection is not None:
                await self._connection.rollback()
        except DBAPIError as error:  # a session that has ended took its transaction with it
            assert self._connection is not None
            await self._connection.invalidate(error)
        finally:
            await self._let_go()

    async def mark(self) -> None:
        await self._own.execute(driver.NEXT_MARK if self._marked else port.MARK, prepare=False)
        self._marked = True

    async def undo(self) -> None:
        self._watch.watching = False
        take_back(self)
        if self._busy:
            raise TransactionMisuse(BUSY)
        await self._own.execute(port.UNDO)
        assert self._connection is not None
        if not self._connection.in_transaction():  # SQLAlchemy believes in the rollback that was refused
            await self._connection.begin()

    async def keep(self) -> None:
        """As the driver's own session does."""

    async def answer(self, ask: port.Ask) -> Any:
        return await psycopg_async.answer(self._own, ask)

    async def execute(self, sql: Any, parameters: Any = ()) -> Any:
        return await self.handle.execute(text(sql) if isinstance(sql, str) else sql, parameters or None)

    async def watch(self) -> None:
        self._watch.counter.watch()
        self._watch.watching = True
        self._watch.lent_to = in_handler.get()
        assert self._connection is not None and self._connection.sync_connection is not None
        lend(self, self._connection.sync_connection)
        self.handle = AsyncHandlerSession(
            bind=self._connection, sync_session_class=HandlerSession, join_transaction_mode="rollback_only"
        )

    async def changed(self) -> int:
        await self.handle.flush()
        self._watch.watching = False
        end(self.handle)
        return counted(self._watch.counter, self._own)

    def asks_again(self, error: BaseException) -> bool:
        return driver.asks_again(error)

    async def close(self) -> None:
        await self._let_go()

    async def _say_terms(self) -> None:
        assert self._connection is not None and self._connection.sync_connection is not None
        info = self._connection.sync_connection.info
        if OURS not in info:  # of the driver's connection: asked once in its life
            info[OURS] = terms_of(self._own.connection, await (await self._own.execute(LOOK)).fetchone())
        if info[OURS]:
            async with self._raw.lock:
                await self._raw.wait(saying(self._raw, info[OURS]))

    @property
    def _busy(self) -> bool:
        """As its synchronous twin."""
        return self._raw is not None and self._raw.lock.locked()

    async def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        raw, self._raw, self._own = self._raw, None, None
        try:
            if connection is not None:
                await connection.close()
        finally:
            if raw is not None:
                vars(raw).pop("wait", None)
