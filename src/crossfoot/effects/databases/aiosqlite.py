"""aiosqlite: the handler gets an `aiosqlite.Connection`; every statement runs in that connection's own thread."""

from __future__ import annotations

from typing import Any

import aiosqlite

from crossfoot.effects.databases.changes import ChangeCounter
from crossfoot.effects.databases.session import Ask
from crossfoot.effects.databases.sqlite import HandlerConnection, answer
from crossfoot.sqlite import connect_as


class AioSqliteSession:
    """One connection, for one delivery at a time."""

    def __init__(self, connection: aiosqlite.Connection, inner: HandlerConnection) -> None:
        self.handle = connection
        self._inner = inner
        self._counter = ChangeCounter(inner)

    async def prepare(self) -> None:
        """Install the watch once: switching it per transaction would cost a thread hop each time."""
        await self.handle.set_trace_callback(self._counter)

    async def begin(self) -> None:
        await self._call(self._inner.begin)

    async def commit(self) -> None:
        await self._call(self._inner.finish)

    async def rollback(self) -> None:
        self._counter.watching = False
        await self._call(self._inner.abandon)

    async def answer(self, ask: Ask) -> Any:
        return await self._call(answer, self._inner, ask)

    async def execute(self, sql: str, parameters: Any = ()) -> aiosqlite.Cursor:
        return await self.handle.execute(sql, parameters)

    async def watch(self) -> None:
        self._counter.watch()

    async def changed(self) -> int:
        return self._counter.changed()

    async def close(self) -> None:
        await self.handle.close()

    async def _call(self, function: Any, *arguments: Any) -> Any:
        """Run in the connection's thread, in line with the handler's own statements."""
        execute: Any = self.handle._execute  # aiosqlite has no public way into its thread
        return await execute(function, *arguments)


async def open_session(path: str, synchronous: str) -> AioSqliteSession:
    """Connect."""
    opened: list[HandlerConnection] = []

    def connector() -> HandlerConnection:
        opened.append(connect_as(HandlerConnection, path, synchronous=synchronous))
        return opened[0]

    connection = await aiosqlite.Connection(connector, iter_chunk_size=64)
    session = AioSqliteSession(connection, opened[0])
    await session.prepare()
    return session
