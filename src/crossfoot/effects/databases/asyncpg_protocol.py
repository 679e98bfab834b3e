"""Where all that asyncpg says to the server passes: what a handler's statements do is seen and counted here.

A connection of asyncpg's has one protocol, through which its methods, its prepared statements, its cursors and its copies
go. `Watched` stands in the protocol's place, so that nothing a handler may use goes around the count. It knows statements of
crossfoot's own by `speaking`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import asyncpg

from crossfoot.effects.databases.postgres_changes import PLAIN, ChangeCounter, may_write, rows_told, writes
from crossfoot.effects.databases.sqlite import OVER
from crossfoot.effects.work import in_handler
from crossfoot.errors import DiskFull, TransactionMisuse
from crossfoot.postgres import explained, is_missing

_own: ContextVar[bool] = ContextVar("own", default=False)


@contextmanager
def speaking() -> Iterator[None]:
    """What is said to the server inside is crossfoot's own."""
    token = _own.set(True)
    try:
        yield
    finally:
        _own.reset(token)


def rows_in(status: str | bytes | None) -> int:
    """The rows that a command's status tells: `INSERT 0 3`, `COPY 3`."""
    told = status.decode() if isinstance(status, bytes) else status or ""
    count = told.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0


def _changed(status: str | bytes | None) -> int:
    told = status.decode() if isinstance(status, bytes) else status
    return rows_told(told, rows_in(told))


class Watched:
    """The protocol of a connection, watched.

    Attributes:
        inner: asyncpg's own.
        watching: whether a handler has the connection.
        lent_to: the work whose handler may use it; a task that another handler left running may not.
        suspect: whether a statement of the handler's failed, after which the transaction may be of no use.
        where: what it leads to, for people.
    """

    def __init__(self, inner: Any, where: str) -> None:
        self.inner = inner
        self.where = where
        self.counter = ChangeCounter()
        self.watching = False
        self.lent_to: object = None
        self.suspect = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def watch(self) -> None:
        """Start to count."""
        self.counter.watch()
        self.watching, self.suspect = True, False
        self.lent_to = in_handler.get()

    def leave(self) -> None:
        """The handler must not use it any more."""
        self.watching, self.lent_to = False, None

    def counts(self) -> bool:
        """Whether what is said now is a handler's."""
        return self.watching and not _own.get()

    # ---- what asyncpg calls ------------------------------------------------------------------------------------

    async def prepare(self, name: str, query: str, *arguments: Any, **options: Any) -> Any:
        counts = self.counts()
        if counts:
            self.counter.look(query)
        return await self._call(self.inner.prepare(name, query, *arguments, **options), counts=counts)

    async def query(self, query: str, *terms: Any) -> Any:
        if not self.counts():
            return await self._call(self.inner.query(query, *terms))
        look = self.counter.look(query)
        status = await self._call(self.inner.query(query, *terms), counts=True)
        self.counter.done(look, _changed(status))
        return status

    async def bind_execute(
        self, state: Any, args: Any, portal_name: str, limit: int, return_extra: bool, timeout: Any
    ) -> Any:
        if not self.counts():
            return await self._call(self.inner.bind_execute(state, args, portal_name, limit, return_extra, timeout))
        look = self.counter.look(state.query)
        # The server says how many rows it changed when it has given them all.
        whole = not portal_name and may_write(state.query)
        rows, status, done = await self._call(
            self.inner.bind_execute(state, args, portal_name, 0 if whole else limit, True, timeout), counts=True
        )
        self.counter.done(look, _portion(state.query, rows) if portal_name else _changed(status))
        if whole and limit:
            rows = rows[:limit]
        return (rows, status, done) if return_extra else rows

    async def bind_execute_many(
        self, state: Any, args: Iterable[Any], portal_name: str, timeout: Any, return_rows: bool
    ) -> Any:
        """One by one: asyncpg does not tell what the rows of many did."""
        if not self.counts():
            return await self._call(self.inner.bind_execute_many(state, args, portal_name, timeout, return_rows))
        found: list[Any] = []
        for one in args:
            found.extend(await self.bind_execute(state, one, portal_name, 0, False, timeout) or ())
        return found if return_rows else None

    async def bind(self, state: Any, args: Any, portal_name: str, timeout: Any) -> Any:
        counts = self.counts()
        if counts:
            self.counter.look(state.query)
        return await self._call(self.inner.bind(state, args, portal_name, timeout), counts=counts)

    async def execute(self, state: Any, portal_name: str, limit: int, return_extra: bool, timeout: Any) -> Any:
        if not self.counts():
            return await self._call(self.inner.execute(state, portal_name, limit, return_extra, timeout))
        rows, status, done = await self._call(self.inner.execute(state, portal_name, limit, True, timeout), counts=True)
        self.counter.done(PLAIN, _portion(state.query, rows))
        return (rows, status, done) if return_extra else rows

    async def copy_in(self, statement: str, *arguments: Any, **options: Any) -> Any:
        counts = self.counts()
        if counts:
            self.counter.look(statement)
        status = await self._call(self.inner.copy_in(statement, *arguments, **options), counts=counts)
        if counts:
            self.counter.done(PLAIN, rows_in(status))
        return status

    async def copy_out(self, statement: str, *arguments: Any, **options: Any) -> Any:
        counts = self.counts()
        if counts:
            self.counter.look(statement)
        status = await self._call(self.inner.copy_out(statement, *arguments, **options), counts=counts)
        if counts and writes(statement):
            self.counter.done(PLAIN, rows_in(status))
        return status

    # ---- parts -------------------------------------------------------------------------------------------------

    async def _call(self, said: Awaitable[Any], *, counts: bool = False) -> Any:
        try:
            return await self._answer(said)
        except BaseException as error:
            if counts:
                self.suspect = True
                self.counter.failed(error)
            tell_full_disk(error, self.where)
            raise

    async def _answer(self, said: Awaitable[Any]) -> Any:
        return await said


class Uncancelled(Watched):
    """Where nothing that was said to the server is cancelled, as SQLAlchemy wants it, see `sqlalchemy_async`."""

    def counts(self) -> bool:
        """Whether what is said now is the handler's.

        Raises:
            TransactionMisuse: it is another one's, which has returned.
        """
        counts = super().counts()
        if counts and in_handler.get() is not self.lent_to:
            raise TransactionMisuse(OVER)
        return counts

    async def _answer(self, said: Awaitable[Any]) -> Any:
        with anyio.CancelScope(shield=True):
            return await said


class Lent(Watched):
    """Where whoever has no right to the connection is refused."""

    def counts(self) -> bool:
        """See that a handler may use it.

        Raises:
            TransactionMisuse: it has returned; or the transaction is gone, and a write would be durable by itself.
        """
        if _own.get():
            return False
        if not self.watching or in_handler.get() is not self.lent_to:
            raise TransactionMisuse(OVER)
        if self.inner.is_connected() and not self.inner.is_in_transaction():
            raise TransactionMisuse(
                "the transaction that crossfoot owns was ended while the handler ran: leave commit and rollback to crossfoot"
            )
        return True


def _portion(statement: str, rows: list[Any]) -> int:
    """The rows that a cursor changed, of which it tells one by one."""
    return len(rows) if writes(statement) else 0


def tell_full_disk(error: BaseException, where: str) -> None:
    """Tell that it is *our* disk which is full.

    Raises:
        DiskFull: it is.
    """
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate == "53100":
        raise DiskFull(str(explained("53100", first_line(error), where))) from error


def tell_for_all(error: BaseException, where: str) -> None:
    """Tell of a statement of crossfoot's own what is no matter of one delivery.

    Raises:
        DiskFull: the disk is full.
        SchemaMismatch: a table of the book's is gone.
    """
    tell_full_disk(error, where)
    if isinstance(error, asyncpg.PostgresError) and is_missing(error.sqlstate, first_line(error)):
        raise explained(error.sqlstate, first_line(error), where) from error


def first_line(error: BaseException) -> str:
    """What it said, without its detail, which may hold values."""
    return (str(error.args[0]) if error.args else "").strip().partition("\n")[0] or type(error).__name__
