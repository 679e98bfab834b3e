"""aiosqlite: the handler gets an `aiosqlite.Connection`; every statement runs in that connection's own thread."""

from __future__ import annotations

from typing import Any, Self

import aiosqlite

from crossfoot.effects.databases import sqlite as plain
from crossfoot.effects.databases.session import KEEP, MARK, UNDO, Ask
from crossfoot.effects.databases.sqlite import answer, own_cursor
from crossfoot.effects.work import in_handler
from crossfoot.errors import TransactionMisuse
from crossfoot.sqlite import connect_as


class HandlerConnection(aiosqlite.Connection):
    """What a handler gets; commit, rollback and scripts are refused by the connection beneath.

    Attributes:
        lent_to: the work whose handler may use it; a task that another handler left running may not.
    """

    lent_to: object = None

    async def _execute(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        if self.lent_to is not None and in_handler.get() is not self.lent_to:
            raise TransactionMisuse(plain.OVER)
        execute: Any = super()._execute
        return await execute(fn, *args, **kwargs)

    async def __aenter__(self) -> Self:
        raise TransactionMisuse(
            "the handler used the connection as a context, which closes it at the end: use it as it is"
        )

    async def close(self) -> None:
        raise TransactionMisuse("the handler called close(): the connection is crossfoot's, which goes on to use it")

    async def leave(self, inner: InnerConnection) -> None:
        """Close, when the worker is done with it."""
        inner.leaving = True
        await super().close()


class InnerConnection(plain.HandlerConnection):
    """The connection in the thread, which aiosqlite closes by its `close`."""

    leaving = False

    def close(self) -> None:
        if self.leaving:
            self.leave()
        else:
            super().close()


class AioSqliteSession:
    """One connection, for one delivery at a time."""

    by_columns = False

    def __init__(self, connection: HandlerConnection, inner: InnerConnection) -> None:
        self.handle = connection
        self._inner = inner
        self._counter = inner.counter
        self._own = own_cursor(inner)

    async def begin(self) -> None:
        await self._call(self._inner.begin)

    async def commit(self) -> None:
        await self._call(self._inner.finish)

    async def rollback(self) -> None:
        self._unwatch()
        await self._call(self._inner.abandon)

    async def mark(self) -> None:
        await self._call(self._own.execute, MARK)

    async def undo(self) -> None:
        self._unwatch()
        await self._call(self._own.execute, UNDO)

    async def keep(self) -> None:
        await self._call(self._own.execute, KEEP)

    async def answer(self, ask: Ask) -> Any:
        return await self._call(answer, self._own, ask)

    async def execute(self, sql: str, parameters: Any = ()) -> aiosqlite.Cursor:
        return await self.handle.execute(sql, parameters)

    async def watch(self) -> None:
        self._counter.watch()
        self._inner.guarded = True
        self.handle.lent_to = in_handler.get()

    async def changed(self) -> int:
        self._unwatch()
        return self._counter.changed()

    def asks_again(self, error: BaseException) -> bool:
        return False  # its writers stand in line

    async def close(self) -> None:
        await self.handle.leave(self._inner)

    def _unwatch(self) -> None:
        self.handle.lent_to = None
        self._inner.guarded = False
        self._inner.text_factory = str  # what the handler made of it is not for our statements
        self._counter.watching = False

    async def _call(self, function: Any, *arguments: Any) -> Any:
        """Run in the connection's thread, in line with the handler's own statements."""
        execute: Any = aiosqlite.Connection._execute  # it has no public way into its thread
        return await execute(self.handle, function, *arguments)


async def open_session(path: str, synchronous: str) -> AioSqliteSession:
    """Connect."""
    opened: list[InnerConnection] = []

    def connector() -> InnerConnection:
        opened.append(connect_as(InnerConnection, path, synchronous=synchronous))
        return opened[0]

    connection = HandlerConnection(connector, iter_chunk_size=64)
    await connection
    return AioSqliteSession(connection, opened[0])
