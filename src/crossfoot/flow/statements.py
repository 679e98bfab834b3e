"""Statements that end with the deadline, on PostgreSQL.

A statement's own time limit is per statement: five of a quarter of a second pass a limit of 0.3 s. So each is given what is left. It
matters most in threads, where nothing else stops it: a synchronous driver goes on until the server ends the statement. An asynchronous
one is cancelled at the deadline, and asks the server to stop; this is for the case that the server does not hear it.

It is said with `SET LOCAL`, and so within transactions only: outside of one it would stay behind for whoever has the connection next.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import wraps
from typing import Any

from crossfoot.flow.deadlines import current


def limit_text(*, margin: float = 0.0) -> str | None:
    """What to say before a statement; nothing without a deadline. It holds until the transaction ends, or something else is said.

    Args:
        margin: seconds kept back, for the rollback.

    Raises:
        Expired: no time is left: do not ask.
    """
    held = current()
    if held is None or held.at == math.inf:
        return None
    left = held.remaining() - margin
    if left <= 0:
        raise held.expired()
    return f"SET LOCAL statement_timeout = {max(1, math.floor(left * 1000))}"  # 0 would be no limit at all


def bound_engine(engine: Any, *, margin: float = 0.0) -> None:
    """Have every statement of a SQLAlchemy engine, synchronous or not, end with the deadline that holds where it is executed.

    Args:
        engine: an Engine or an AsyncEngine, of PostgreSQL.
    """
    from sqlalchemy import event

    def before(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        text = limit_text(margin=margin)
        if text is not None:
            cursor.execute(text)

    event.listen(getattr(engine, "sync_engine", engine), "before_cursor_execute", before)


def bound_psycopg(connection: Any, *, margin: float = 0.0) -> Any:
    """Have the statements of a psycopg connection, synchronous or not, end with the deadline; returns the connection.

    Its `cursor_factory` is exchanged for one that says first what is left: before `execute`, each `executemany`, `stream` and `copy`.
    """

    def said(cursor: Any) -> str | None:
        text = limit_text(margin=margin)
        alone = cursor.connection.autocommit and cursor.connection.info.transaction_status.name == "IDLE"
        return None if alone else text

    kind = _bounded_async_cursor if hasattr(connection, "__aenter__") else _bounded_cursor
    connection.cursor_factory = kind(connection.cursor_factory, said)
    return connection


def _bounded_cursor(kind: Any, said: Callable[[Any], str | None]) -> Any:
    class Cursor(kind):  # type: ignore[misc] # the connection's own kind of cursor
        def _say(self) -> None:
            if (text := said(self)) is not None:
                super().execute(text)

        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            self._say()
            return super().execute(query, params, **options)

        def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
            self._say()
            super().executemany(query, params_seq, **options)

        def stream(self, query: Any, params: Any = None, **options: Any) -> Iterator[Any]:
            self._say()
            yield from super().stream(query, params, **options)

        @contextmanager
        def copy(self, statement: Any, params: Any = None, **options: Any) -> Iterator[Any]:
            self._say()
            with super().copy(statement, params, **options) as copying:
                yield copying

    return Cursor


def _bounded_async_cursor(kind: Any, said: Callable[[Any], str | None]) -> Any:
    class AsyncCursor(kind):  # type: ignore[misc] # the connection's own kind of cursor
        async def _say(self) -> None:
            if (text := said(self)) is not None:
                await super().execute(text)

        async def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            await self._say()
            return await super().execute(query, params, **options)

        async def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
            await self._say()
            await super().executemany(query, params_seq, **options)

        async def stream(self, query: Any, params: Any = None, **options: Any) -> AsyncIterator[Any]:
            await self._say()
            async with aclosing(super().stream(query, params, **options)) as rows:
                async for row in rows:
                    yield row

        @asynccontextmanager
        async def copy(self, statement: Any, params: Any = None, **options: Any) -> AsyncIterator[Any]:
            await self._say()
            async with super().copy(statement, params, **options) as copying:
                yield copying

    return AsyncCursor


def bound_asyncpg(*, margin: float = 0.0) -> Any:
    """A `connection_class` for asyncpg's `connect` and `create_pool` whose statements end with the deadline.

    Statements that were prepared, and cursors, say nothing themselves: what was said before them in their transaction holds.
    """
    import asyncpg

    def bounded(name: str) -> Any:
        method = getattr(asyncpg.Connection, name)

        @wraps(method)
        async def call(self: Any, *args: Any, **options: Any) -> Any:
            text = limit_text(margin=margin)
            if text is not None and self.is_in_transaction():
                await asyncpg.Connection.execute(self, text)
            return await method(self, *args, **options)

        return call

    names = ("execute", "executemany", "fetch", "fetchrow", "fetchval")
    return type("Connection", (asyncpg.Connection,), {"__slots__": (), **{name: bounded(name) for name in names}})
