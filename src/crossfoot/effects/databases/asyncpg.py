"""asyncpg: the handler gets an `asyncpg.Connection`, inside the transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import asyncpg
from asyncpg.transaction import Transaction

from crossfoot.connection import shown, without_driver
from crossfoot.effects.databases import asyncpg_steps as steps
from crossfoot.effects.databases.asyncpg_connecting import connect
from crossfoot.effects.databases.asyncpg_protocol import Lent
from crossfoot.effects.databases.psycopg_steps import asks_again
from crossfoot.effects.databases.session import KEEP, MARK, UNDO, Ask, AsyncSession, Session
from crossfoot.errors import TransactionMisuse, UsageError

BEGIN, COMMIT, ROLLBACK = "BEGIN", "COMMIT", "ROLLBACK"
"""With the isolation that the user, the database or the URL set."""

REFUSALS = {
    "close": "the handler called close(): the connection is crossfoot's, which goes on to use it",
    "reset": "the handler called reset(), which rolls back: raise an exception instead, crossfoot rolls back",
    "listen": "the handler called {name}(): what listens would outlive the delivery, on a connection that goes to another one: use a "
              "connection of your own, or AsyncpgDatabase(url, init=...) for what all deliveries are to have",
    "codec": "the handler called {name}(), which would change what later deliveries read and write on this connection: set codecs by "
             "AsyncpgDatabase(url, init=...)",
}  # fmt: skip

CLOSE_SECONDS = 5.0
"""How long the server may take to say goodbye."""


T = TypeVar("T")


class HandlerConnection(asyncpg.Connection):  # type: ignore[misc]  # it ships no types
    """A connection whose transaction belongs to crossfoot. Whatever would end it is refused before it happens."""

    def __init__(self, protocol: Any, transport: Any, loop: Any, addr: Any, *rest: Any) -> None:
        self.watched = Lent(protocol, "")
        super().__init__(self.watched, transport, loop, addr, *rest)

    async def close(self, *, timeout: float | None = None) -> None:
        self._refuse("close")

    async def reset(self, *, timeout: float | None = None) -> None:
        self._refuse("reset")

    async def add_listener(self, channel: str, callback: Any) -> None:
        self._refuse("listen", "add_listener")

    def add_log_listener(self, callback: Any) -> None:
        self._refuse_handlers("listen", "add_log_listener")
        super().add_log_listener(callback)

    def add_termination_listener(self, callback: Any) -> None:
        self._refuse_handlers("listen", "add_termination_listener")
        super().add_termination_listener(callback)

    def add_query_logger(self, callback: Any) -> None:
        self._refuse_handlers("listen", "add_query_logger")
        super().add_query_logger(callback)

    async def set_type_codec(self, typename: str, **options: Any) -> None:
        self._refuse_handlers("codec", "set_type_codec")
        await super().set_type_codec(typename, **options)

    async def reset_type_codec(self, typename: str, **options: Any) -> None:
        self._refuse_handlers("codec", "reset_type_codec")
        await super().reset_type_codec(typename, **options)

    async def set_builtin_type_codec(self, typename: str, **options: Any) -> None:
        self._refuse_handlers("codec", "set_builtin_type_codec")
        await super().set_builtin_type_codec(typename, **options)

    async def leave(self) -> None:
        """Close, when the worker is done with it."""
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await super().close(timeout=CLOSE_SECONDS)

    def is_lost(self) -> bool:
        """Whether it is of no use any more, because its server has gone, or the handler ended it."""
        return self.is_closed() or not self.watched.inner.is_connected()

    def belong(self, outer: Transaction | None) -> None:
        """Have `transaction()` make savepoints, since a transaction is open; or take that back."""
        self._top_xact = outer

    def _refuse(self, what: str, name: str = "") -> NoReturn:
        raise self.watched.counter.refuse(TransactionMisuse(REFUSALS[what].format(name=name)))

    def _refuse_handlers(self, what: str, name: str) -> None:
        """Refuse what `init` may do, which is called when the connection is made."""
        if self.watched.counts():
            self._refuse(what, name)


class AsyncpgSession:
    """One connection, for one delivery at a time."""

    handle: HandlerConnection
    by_columns = False  # to write a list asyncpg asks the server about its type, and leaves a setting in the session
    _marked = False
    _begun = False

    def __init__(self, database: AsyncpgDatabase) -> None:
        self._database = database
        self._where = shown(database.path)

    @classmethod
    async def connect(cls, database: AsyncpgDatabase) -> AsyncpgSession:
        session = cls(database)
        await session._connect()
        return session

    async def begin(self) -> None:
        await self._over_a_living_one(lambda: steps.say(self.handle, BEGIN))
        self._marked, self._begun = False, True
        self.handle.belong(Transaction(self.handle, None, False, False))

    async def commit(self) -> None:
        self._take_back()
        await steps.say(self.handle, COMMIT)
        self._begun = False

    async def rollback(self) -> None:
        self._take_back()
        begun, self._begun = self._begun, False
        if not begun or self.handle.is_lost():
            return
        try:
            await steps.say(self.handle, ROLLBACK)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            # Its session has ended; or it is busy with a statement that the handler left running, and would take the open
            # transaction along to the next delivery, which would commit it.
            if isinstance(error, asyncpg.InterfaceError):
                await steps.cancel(self.handle)
            self.handle.terminate()

    async def mark(self) -> None:
        await steps.say(self.handle, f"{KEEP}; {MARK}" if self._marked else MARK)
        self._marked = True

    async def undo(self) -> None:
        self.handle.watched.leave()
        await steps.say(self.handle, UNDO)

    async def keep(self) -> None:
        """Left to the next `mark`, or to the commit: that saves a trip to the server."""

    async def answer(self, ask: Ask) -> Any:
        if self._begun:
            return await steps.answer(self.handle, ask, self._where)
        return await self._over_a_living_one(lambda: steps.answer(self.handle, ask, self._where))

    async def execute(self, sql: Any, parameters: Any = ()) -> Any:
        """What `connection.fetch` gives: records, where there are any."""
        if isinstance(parameters, dict):
            raise UsageError(
                "asyncpg's parameters are numbered: write $1 in the statement, and give their values as a list"
            )
        return await self.handle.fetch(sql, *parameters)

    async def watch(self) -> None:
        self.handle.watched.watch()

    async def changed(self) -> int:
        return await steps.changed(self.handle, self.handle.watched)

    def asks_again(self, error: BaseException) -> bool:
        return asks_again(error)

    async def close(self) -> None:
        await self.handle.leave()

    def _take_back(self) -> None:
        self.handle.watched.leave()
        self.handle.belong(None)

    async def _over_a_living_one(self, call: Callable[[], Awaitable[T]]) -> T:
        """Execute what is not in a transaction yet; over a new connection, if the server ended this one while it was idle."""
        try:
            return await call()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            if not self.handle.is_lost():
                raise
        await self._connect()
        return await call()

    async def _connect(self) -> None:
        database = self._database
        self.handle = await connect(
            HandlerConnection, database.path, synchronous=database.synchronous, init=database.init
        )
        self.handle.watched.where = self._where


class AsyncpgDatabase:
    """A PostgreSQL database whose handlers work through asyncpg; its book is reached by psycopg.

    Args:
        url: `postgresql+asyncpg://USER:PASSWORD@HOST:5432/NAME`, with any of libpq's parameters that asyncpg knows.
        synchronous: `NORMAL` accepts a server that confirms commits before its disk has them.
        init: called with each new connection, as asyncpg's pools do: the place to set codecs.
    """

    lazy = True
    serves_only = "asynchronous"
    instead = "write `async def`, or postgresql:// instead of postgresql+asyncpg://"

    def __init__(
        self,
        url: str,
        *,
        synchronous: str = "FULL",
        init: Callable[[asyncpg.Connection], Awaitable[Any]] | None = None,
    ) -> None:
        self.path = without_driver(url)
        self.synchronous = synchronous
        self.init = init

    def __repr__(self) -> str:
        return f"AsyncpgDatabase({shown(self.path)!r})"

    def connect(self) -> Session:
        raise UsageError("a synchronous handler needs psycopg: write postgresql:// instead of postgresql+asyncpg://")

    async def aconnect(self) -> AsyncSession:
        return await AsyncpgSession.connect(self)

    def close(self) -> None:
        """Nothing is kept open here."""


__all__ = ["AsyncpgDatabase", "AsyncpgSession", "HandlerConnection"]
