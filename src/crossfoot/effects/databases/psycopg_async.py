"""psycopg 3, asynchronous: the handler gets a `psycopg.AsyncConnection`, inside the transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from crossfoot.dialect import translate
from crossfoot.effects.databases.postgres_changes import PLAIN, ChangeCounter, rows_told
from crossfoot.effects.databases.psycopg import (
    BACK_TO_MARK,
    BEGIN,
    DROP_MARK,
    ENDING,
    SET_MARK,
    asks_again,
    tell_full_disk,
)
from crossfoot.effects.databases.psycopg_giving_up import acancel
from crossfoot.effects.databases.psycopg_guarded import BUSY, Guarded, is_copy_in, text_of
from crossfoot.effects.databases.psycopg_steps import (
    LAST,
    is_forgotten,
    read,
    take,
    take_ack,
    tell_for_all,
    tell_lost_lease,
)
from crossfoot.effects.databases.session import Alone, Ask, Many, One, Run
from crossfoot.effects.databases.sqlite import OVER
from crossfoot.effects.work import in_handler
from crossfoot.errors import TransactionMisuse
from crossfoot.postgres import AFTER_OTHERS, ALONE, ROLLBACK, Trips, adapt, connect_async

if TYPE_CHECKING:
    from crossfoot.effects.databases.psycopg import PostgresDatabase

T = TypeVar("T")


class HandlerCursor(psycopg.AsyncCursor[Any]):
    """A cursor of a handler's, which counts what it changes."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        connection: Any = self.connection
        connection.admit()
        look = connection.counter.look(text_of(query, connection))
        try:
            await super().execute(query, params, **options)
        except psycopg.Error as error:
            connection.failed(error)
            raise
        connection.counter.done(look, rows_told(self.statusmessage, self.rowcount))
        return self

    async def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        connection: Any = self.connection
        connection.admit()
        look = connection.counter.look(text_of(query, connection))
        try:
            await super().executemany(query, params_seq, **options)
        except psycopg.Error as error:
            connection.failed(error)
            raise
        connection.counter.done(look, rows_told(self.statusmessage, self.rowcount))

    async def stream(self, query: Any, params: Any = None, **options: Any) -> AsyncIterator[Any]:
        connection: Any = self.connection
        connection.admit()
        text, rows = text_of(query, connection), 0
        look = connection.counter.look(text)
        try:
            async for row in super().stream(query, params, **options):
                rows += 1
                yield row
        except psycopg.Error as error:
            connection.failed(error)
            raise
        connection.counter.done(
            look, rows_told(" ".join(text.upper().split()), rows)
        )  # the driver keeps no status of it

    @asynccontextmanager
    async def copy(self, statement: Any, *arguments: Any, **options: Any) -> AsyncIterator[psycopg.AsyncCopy]:
        connection: Any = self.connection
        connection.admit()
        into = is_copy_in(text_of(statement, connection))
        try:
            async with super().copy(statement, *arguments, **options) as copy:
                yield copy
        except psycopg.Error as error:
            connection.failed(error)
            raise
        if into:
            connection.counter.done(PLAIN, max(self.rowcount, 0))


class HandlerConnection(Guarded, psycopg.AsyncConnection[Any]):
    """A connection whose transaction belongs to crossfoot. Whatever would end it is refused before it happens.

    Attributes:
        lent_to: the work whose handler may use it; a task that another handler left running may not.
    """

    lent_to: object = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.counter = ChangeCounter()
        self.cursor_factory = HandlerCursor

    def admit(self) -> None:
        if in_handler.get() is not self.lent_to:
            raise TransactionMisuse(OVER)
        super().admit()

    def failed(self, error: psycopg.Error) -> None:
        """A statement of the handler's raised.

        Raises:
            DiskFull: the server's disk is full.
        """
        self.counter.failed(error)
        tell_full_disk(error, self)

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        self.admit()
        return super().cursor(*arguments, **options)

    @asynccontextmanager
    async def transaction(self, *arguments: Any, **options: Any) -> AsyncIterator[psycopg.AsyncTransaction]:
        """A savepoint, because a transaction is open."""
        self.admit()
        mark = self.counter.mark()
        async with super().transaction(*arguments, **options) as inner:
            try:
                yield inner
            except BaseException:
                self.counter.undone(mark)
                raise
            if inner.force_rollback:
                self.counter.undone(mark)

    async def commit(self) -> None:
        self.refuse("commit")

    async def rollback(self) -> None:
        self.refuse("rollback")

    async def close(self) -> None:
        self.refuse("close")

    def pipeline(self) -> Any:
        self.refuse("pipeline")

    async def __aenter__(self) -> Self:
        self.refuse("context")

    async def set_autocommit(self, value: bool) -> None:
        self.refuse("set")

    async def tpc_begin(self, xid: Any) -> None:
        self.refuse("tpc")

    async def leave(self) -> None:
        """Close, when the worker is done with it."""
        await super().close()


class PsycopgAsyncSession:
    """One connection, for one delivery at a time."""

    handle: HandlerConnection
    by_columns = True
    _begun = _open = False
    _marked = False

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    @classmethod
    async def connect(cls, database: PostgresDatabase) -> PsycopgAsyncSession:
        session = cls(database)
        await session._connect()
        return session

    async def begin(self) -> None:
        if self.handle.closed or self.handle.abandoned:
            await self._connect()
        self._begun, self._open, self._marked = True, False, False
        await self._say(BEGIN)

    async def commit(self) -> None:
        self._take_back()
        self._open = True  # said once, and not over another connection
        try:
            await self._say(*ENDING)
            await self._send()
        finally:
            self._begun = self._open = False

    async def rollback(self) -> None:
        self._take_back()
        self._begun = self._open = False
        self.handle.trips.forget()
        if self.handle.busy:
            await acancel(self.handle)
            self.handle.abandon()
        elif self.handle.info.transaction_status is not pq.TransactionStatus.IDLE:
            with suppress(psycopg.Error):  # a session that has ended took its transaction with it
                await self._own.execute(ROLLBACK)

    async def mark(self) -> None:
        await self._say(*((DROP_MARK,) if self._marked else ()), SET_MARK)
        self._marked = True

    async def undo(self) -> None:
        self._take_back()
        if self.handle.busy:
            raise TransactionMisuse(BUSY)
        await self._say(BACK_TO_MARK)

    async def keep(self) -> None:
        """As its synchronous twin."""

    async def answer(self, ask: Ask) -> Any:
        if not self._begun and self.handle.closed:
            await self._connect()
        # Behind a savepoint it is asked at once: whose ack it was must be known, to undo that one's work only.
        if not self._marked and take_ack(self.handle.trips, ask):
            return None
        if not take(self.handle.trips, ask):
            await self._send()
            return await self._over_a_living_one(lambda: answer(self._own, ask))
        if not isinstance(ask, Alone) and ask.sql in LAST:
            return 0
        return read(ask, await self._send(), self._own)

    async def execute(self, sql: Any, parameters: Any = ()) -> psycopg.AsyncCursor[Any]:
        return await self.handle.cursor().execute(sql, parameters or None)  # type: ignore[no-any-return]  # of whatever rows the handler set

    async def watch(self) -> None:
        await self._send()
        self.handle.counter.watch()
        self.handle.guarded = True
        self.handle.lent_to = in_handler.get()

    async def changed(self) -> int:
        self.handle.lent_to = None
        return self.handle.changed()

    def asks_again(self, error: BaseException) -> bool:
        return asks_again(error) or is_forgotten(error)

    async def close(self) -> None:
        await self.handle.leave()

    def _take_back(self) -> None:
        self.handle.guarded, self.handle.lent_to = False, None

    async def _over_a_living_one(self, call: Callable[[], Awaitable[T]]) -> T:
        """As its synchronous twin."""
        if self._open:
            return await call()
        waiting = self.handle.trips.waiting
        try:
            result = await call()
        except psycopg.OperationalError:
            if not self.handle.closed:
                self._open = self._begun
                raise
            await self._connect()
            self.handle.trips.waiting = waiting
            result = await call()
        self._open = self._begun
        return result

    async def _connect(self) -> None:
        database = self._database
        made: Any = await connect_async(HandlerConnection, database.path, synchronous=database.synchronous)
        self.handle = made
        self._own = own_cursor(made)
        made.trips = Trips(made)

    async def _say(self, *statements: bytes) -> None:
        """As its synchronous twin."""
        for statement in statements:
            if not self.handle.trips.say(statement):
                await self._send()
                await self._over_a_living_one(partial(self._say_alone, statement))

    async def _say_alone(self, statement: bytes) -> None:
        await self._own.execute(statement, prepare=False)

    async def _send(self) -> list[Any]:
        """As its synchronous twin."""
        if not self.handle.trips.waiting:
            return []
        return await self._over_a_living_one(self._trip)

    async def _trip(self) -> list[Any]:
        try:
            async with self.handle.lock:
                return await self.handle.wait(self.handle.trips.send())
        except psycopg.Error as error:
            tell_lost_lease(error)
            tell_for_all(error, self.handle)
            raise


def own_cursor(connection: psycopg.AsyncConnection[Any]) -> psycopg.AsyncCursor[Any]:
    """A cursor for crossfoot's statements, on a connection that is a handler's, or a user's."""
    cursor = psycopg.AsyncCursor(connection, row_factory=tuple_row)
    adapt(cursor)
    return cursor


async def answer(cursor: psycopg.AsyncCursor[Any], ask: Ask) -> Any:
    """Carry out one request of crossfoot's own. Raises what its synchronous twin raises."""
    try:
        return await _answer(cursor, ask)
    except psycopg.Error as error:
        tell_for_all(error, cursor.connection)
        raise


async def _answer(cursor: psycopg.AsyncCursor[Any], ask: Ask) -> Any:
    if isinstance(ask, Alone):
        _, level = await (await cursor.execute(ALONE, (ask.what,))).fetchone() or ("", "")
        if level != "read committed":
            await cursor.execute(AFTER_OTHERS, (ask.what,))
        return None
    if isinstance(ask, Many):
        await cursor.executemany(translate(ask.sql), ask.rows)
        return cursor.rowcount
    await cursor.execute(translate(ask.sql), ask.parameters)
    if isinstance(ask, Run):
        return cursor.rowcount
    return await cursor.fetchone() if isinstance(ask, One) else await cursor.fetchall()
