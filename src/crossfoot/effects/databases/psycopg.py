"""psycopg 3: the handler gets a `psycopg.Connection`, inside the transaction."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self, TypeVar

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer

from crossfoot.connection import shown
from crossfoot.effects.databases.postgres_changes import PLAIN, ChangeCounter, rows_told
from crossfoot.effects.databases.psycopg_giving_up import cancel
from crossfoot.effects.databases.psycopg_guarded import BUSY, REFUSALS, Guarded, is_copy_in, text_of
from crossfoot.effects.databases.psycopg_later import KeepsWrites, Later
from crossfoot.effects.databases.psycopg_steps import (
    LAST,
    answer,
    asks_again,
    is_forgotten,
    own_cursor,
    read,
    take,
    take_ack,
    tell_for_all,
    tell_full_disk,
    tell_lost_lease,
)
from crossfoot.effects.databases.session import KEEP, MARK, UNDO, Alone, Ask, AsyncSession, Run, Session
from crossfoot.errors import TransactionMisuse
from crossfoot.postgres import COMMIT, ROLLBACK, Trips, connect_raw, rows_changed

T = TypeVar("T")

BEGIN = b"BEGIN"
"""With the isolation that the user, the database or the URL set."""

NEXT_MARK = f"{KEEP}; {MARK}".encode()
"""One savepoint is over, the next one begins."""

SET_MARK, DROP_MARK, BACK_TO_MARK = MARK.encode(), KEEP.encode(), UNDO.encode()

ENDING = (COMMIT,)


class HandlerCursor(psycopg.Cursor[Any]):
    """A cursor of a handler's, which counts what it changes."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        connection: Any = self.connection
        connection.admit()
        look = connection.counter.look(text_of(query, connection))
        try:
            super().execute(query, params, **options)
        except psycopg.Error as error:
            connection.failed(error)
            raise
        connection.counter.done(look, rows_told(self.statusmessage, self.rowcount))
        return self

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        connection: Any = self.connection
        connection.admit()
        look = connection.counter.look(text_of(query, connection))
        try:
            super().executemany(query, params_seq, **options)
        except psycopg.Error as error:
            connection.failed(error)
            raise
        connection.counter.done(look, rows_told(self.statusmessage, self.rowcount))

    def stream(self, query: Any, params: Any = None, **options: Any) -> Iterator[Any]:
        connection: Any = self.connection
        connection.admit()
        text, rows = text_of(query, connection), 0
        look = connection.counter.look(text)
        try:
            for row in super().stream(query, params, **options):
                rows += 1
                yield row
        except psycopg.Error as error:
            connection.failed(error)
            raise
        connection.counter.done(
            look, rows_told(" ".join(text.upper().split()), rows)
        )  # the driver keeps no status of it

    @contextmanager
    def copy(self, statement: Any, *arguments: Any, **options: Any) -> Iterator[psycopg.Copy]:
        connection: Any = self.connection
        connection.admit()
        into = is_copy_in(text_of(statement, connection))
        try:
            with super().copy(statement, *arguments, **options) as copy:
                yield copy
        except psycopg.Error as error:
            connection.failed(error)
            raise
        if into:
            connection.counter.done(PLAIN, max(self.rowcount, 0))


class HandlerConnection(Guarded, psycopg.Connection[Any]):
    """A connection whose transaction belongs to crossfoot. Whatever would end it is refused before it happens."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.counter = ChangeCounter()
        self.cursor_factory = HandlerCursor

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

    @contextmanager
    def transaction(self, *arguments: Any, **options: Any) -> Iterator[psycopg.Transaction]:
        """A savepoint, because a transaction is open."""
        self.admit()
        mark = self.counter.mark()
        with super().transaction(*arguments, **options) as inner:
            try:
                yield inner
            except BaseException:
                self.counter.undone(mark)
                raise
            if inner.force_rollback:
                self.counter.undone(mark)

    def commit(self) -> None:
        self.refuse("commit")

    def rollback(self) -> None:
        self.refuse("rollback")

    def close(self) -> None:
        self.refuse("close")

    def pipeline(self) -> Any:
        self.refuse("pipeline")

    def __enter__(self) -> Self:
        self.refuse("context")

    def set_autocommit(self, value: bool) -> None:
        self.refuse("set")

    def tpc_begin(self, xid: Any) -> None:
        self.refuse("tpc")

    def disowned(self) -> HandlerConnection:
        """The same line to the server, for the next handler: something of the last one's still knows this one by which it was lent,
        a thread perhaps that goes on, and may not reach what the next one does."""
        fresh = HandlerConnection(self.pgconn)
        counter = fresh.counter
        vars(fresh).update(vars(self))
        fresh.counter, fresh.guarded = counter, False
        self.pgconn = pq.PGconn()  # never connected
        return fresh

    def leave(self) -> None:
        """Close, when the worker is done with it."""
        super().close()


class PsycopgSession(KeepsWrites):
    """One lane's connection."""

    handle: HandlerConnection
    by_columns = True
    _begun = False
    _open = False
    """Whether the server has answered anything of the transaction that was begun."""
    _marked = False

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._connect()

    def begin(self) -> None:
        if self.handle.closed or self.handle.abandoned:
            self._connect()
        self._begun, self._open, self._marked = True, False, False
        self._say(BEGIN)

    def commit(self) -> None:
        self._end(None)

    def commit_and_begin(self, ask: Run) -> int | None:
        return self._end(ask)

    def _end(self, ask: Run | None) -> int | None:
        """Commit; and if that is asked for and can be sent along, begin the next transaction."""
        trips = self.handle.trips
        self.handle.guarded = self._marked = False
        self._open = True  # said once, and not over another connection
        following: list[Any] = []
        try:
            self._say(*ENDING)
            own = len(trips.waiting)
            if ask is not None and own and trips.say(BEGIN) and not take(trips, ask):
                trips.waiting.pop()
            following = self._send(must=own)[own:]
        finally:
            self._begun = self._open = False
        if not following:
            return None
        self._begun = self._open = True
        if any(answer.status == pq.ExecStatus.FATAL_ERROR for answer in following):
            self.rollback()  # whoever is next begins by itself, and is told why that cannot be
            return None
        return rows_changed(following[-1:])

    def rollback(self) -> None:
        self.handle.guarded = self._begun = self._open = False
        self.handle.trips.forget()
        self._later.forget()
        if self.handle.busy:
            cancel(self.handle)
            self.handle.abandon()
        elif self.handle.info.transaction_status is not pq.TransactionStatus.IDLE:
            with suppress(psycopg.Error):  # a session that has ended took its transaction with it
                self._own.execute(ROLLBACK)

    def mark(self) -> None:
        self._say(*((DROP_MARK,) if self._marked else ()), SET_MARK)
        self._marked = True

    def undo(self) -> None:
        self.handle.guarded = False
        if self.handle.busy:
            raise TransactionMisuse(BUSY)
        self._say(BACK_TO_MARK)

    def keep(self) -> None:
        """Left to the next `mark`, or to the commit: that saves a trip to the server."""

    def answer(self, ask: Ask) -> Any:
        if not self._begun and self.handle.closed:
            self._connect()
        # Behind a savepoint it is asked at once: whose ack it was must be known, to undo that one's work only.
        if not self._marked and take_ack(self.handle.trips, ask):
            return None
        if not take(self.handle.trips, ask):
            self._send()
            return self._over_a_living_one(lambda: answer(self._own, ask))
        if not isinstance(ask, Alone) and ask.sql in LAST:
            return 0
        return read(ask, self._send(), self._own)

    def execute(self, sql: Any, parameters: Any = ()) -> psycopg.Cursor[Any]:
        return self.handle.cursor().execute(sql, parameters or None)  # type: ignore[no-any-return]  # of whatever rows the handler set

    def watch(self) -> None:
        self._send()
        self.watch_later()
        self._lent = True

    def changed(self) -> int:
        return self.handle.changed()

    def watch_later(self) -> None:
        if (
            sys.getrefcount(self.handle) > self._references
        ):  # a variable of the last handler's, in a thread it left or a traceback
            self.handle = self.handle.disowned()
            self._make_its_own()
        self.handle.counter.watch()
        self.handle.guarded = True

    def asks_again(self, error: BaseException) -> bool:
        return asks_again(error) or is_forgotten(error)

    def close(self) -> None:
        self.handle.leave()

    def _over_a_living_one(self, call: Callable[[], T]) -> T:
        """Execute what is not in a transaction yet; over a new connection, if the server ended this one while it was idle. That
        is no failure of the delivery's: with many lanes, it would be tried over one dead connection after the other, and die."""
        if self._open:
            return call()
        waiting = self.handle.trips.waiting
        try:
            result = call()
        except psycopg.OperationalError:
            if not self.handle.closed:
                self._open = self._begun
                raise
            self._connect()
            self.handle.trips.waiting = waiting
            result = call()
        self._open = self._begun
        return result

    def _connect(self) -> None:
        database = self._database
        self.handle = connect_raw(HandlerConnection, database.path, synchronous=database.synchronous)
        self.handle.trips = Trips(self.handle)
        self._later = Later(self.handle.trips)
        self._make_its_own()

    def _make_its_own(self) -> None:
        """As nobody knows it yet but this."""
        self._own = own_cursor(self.handle)
        self._converter = Transformer(self.handle)
        self._references = sys.getrefcount(self.handle)

    def _say(self, *statements: bytes) -> None:
        """To be done before whatever comes next, and sent with it where that can be."""
        for statement in statements:
            if not self.handle.trips.say(statement):
                self._send()
                self._over_a_living_one(partial(self._say_alone, statement))

    def _say_alone(self, statement: bytes) -> None:
        self._own.execute(statement, prepare=False)

    def _send(self, must: int | None = None) -> list[Any]:
        """Send what waits to be said; the answers."""
        if not self.handle.trips.waiting:
            return []
        answers = self._over_a_living_one(partial(self._trip, must))
        self._later.answered(answers)
        return answers

    def _trip(self, must: int | None) -> list[Any]:
        try:
            with self.handle.lock:
                return self.handle.wait(self.handle.trips.send(must))
        except psycopg.Error as error:
            tell_lost_lease(error)
            tell_for_all(error, self.handle)
            raise


class PostgresDatabase:
    """A PostgreSQL database reached through psycopg, synchronously or not.

    Args:
        url: `postgresql://USER:PASSWORD@HOST:5432/NAME`, with any of libpq's parameters.
        synchronous: `NORMAL` accepts a server that confirms commits before its disk has them.
    """

    lazy = True

    def __init__(self, url: str, *, synchronous: str = "FULL") -> None:
        self.path = url
        self.synchronous = synchronous

    def __repr__(self) -> str:
        return f"PostgresDatabase({shown(self.path)!r})"

    def connect(self) -> Session:
        return PsycopgSession(self)

    async def aconnect(self) -> AsyncSession:
        from crossfoot.effects.databases.psycopg_async import PsycopgAsyncSession

        return await PsycopgAsyncSession.connect(self)

    def close(self) -> None:
        """Nothing is kept open here."""


__all__ = ["REFUSALS", "PostgresDatabase", "PsycopgSession", "answer", "asks_again", "own_cursor", "tell_full_disk"]
