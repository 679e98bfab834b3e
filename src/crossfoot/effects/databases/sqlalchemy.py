"""SQLAlchemy 2: the handler gets a `Session`. On SQLite, and what its asynchronous form has in common with it; for PostgreSQL
see `sqlalchemy_postgres`.

The transaction begins before the handler runs (`lazy = False`): an ORM session may emit its first statement anywhere,
also inside a flush, and there is no good place there to find out that the operation is already complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, ExceptionContext, TextClause, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import ORMExecuteState
from sqlalchemy.orm import Session as OrmSession
from sqlalchemy.util import immutabledict

from crossfoot.connection import located
from crossfoot.effects.databases import session as port
from crossfoot.effects.databases.changes import ChangeCounter, refuse_ending
from crossfoot.effects.databases.sqlite import OVER, tell_full_disk
from crossfoot.errors import TransactionMisuse, UsageError
from crossfoot.sqlite import explain, is_missing
from crossfoot.turnstile import TURN, Turnstile

if TYPE_CHECKING:  # needs greenlet, which a synchronous engine does not
    from sqlalchemy.ext.asyncio import AsyncEngine


ENDED = "crossfoot: its handler has returned"
"""In a session's `info`."""

REFUSED = "crossfoot: what its handler was refused"
"""The same."""

OURS = "crossfoot"
"""The execution option of connections whose transaction is crossfoot's: the engine is the user's, who may have others."""


class SqlAlchemyDatabase:
    """The file or database behind a user's engine.

    Args:
        engine: a SQLAlchemy `Engine` or `AsyncEngine` on a SQLite file, or on PostgreSQL by psycopg or asyncpg.

    Raises:
        UsageError: the engine is of another kind, or in memory.
    """

    lazy = False

    def __init__(self, engine: Engine | AsyncEngine) -> None:
        self.engine = engine
        plain = engine if isinstance(engine, Engine) else engine.sync_engine
        self._postgres = engine.dialect.name == "postgresql"
        if self._postgres:
            from crossfoot.effects.databases import sqlalchemy_postgres

            self.path = sqlalchemy_postgres.prepare(plain)
            return
        if engine.dialect.name != "sqlite":
            raise UsageError(
                f"the engine is {engine.dialect.name}; the book is kept in SQLite or PostgreSQL: use a sqlite:/// or a "
                "postgresql+psycopg:// engine"
            )
        if not engine.url.database or engine.url.database == ":memory:":
            raise UsageError(
                "the engine's database is in memory, where no book survives: name a file, sqlite:///app.db"
            )
        self.path = located(engine.url.database)
        if not event.contains(plain, "handle_error", _tell_full_disk):
            event.listen(plain, "handle_error", _tell_full_disk)

    def connect(self) -> port.Session:
        if not isinstance(self.engine, Engine):
            raise UsageError("a synchronous handler needs create_engine(...); this service has an AsyncEngine")
        if self._postgres:
            from crossfoot.effects.databases.sqlalchemy_postgres import PostgresSession

            return PostgresSession(self.engine)
        return SyncSession(self.engine, self.path)

    async def aconnect(self) -> port.AsyncSession:
        if isinstance(self.engine, Engine):
            raise UsageError("an asynchronous handler needs create_async_engine(...); this service has an Engine")
        if self.engine.dialect.driver == "asyncpg":
            from crossfoot.effects.databases.sqlalchemy_asyncpg import AsyncpgEngineSession

            return AsyncpgEngineSession(self.engine)
        if self._postgres:
            from crossfoot.effects.databases.sqlalchemy_postgres_async import AsyncPostgresSession

            return AsyncPostgresSession(self.engine)
        from crossfoot.effects.databases.sqlalchemy_async import AsyncSession

        return AsyncSession(self.engine, self.path)

    def close(self) -> None:
        """The engine is the user's; it is left open."""


def _tell_full_disk(context: ExceptionContext) -> None:
    if context.connection is not None and context.connection.get_execution_options().get(OURS):
        tell_full_disk(context.original_exception, context.engine.url.database or "" if context.engine else "")


class SyncSession:
    """One lane's transactions on the user's engine."""

    handle: OrmSession
    by_columns = False

    def __init__(self, engine: Engine, path: str) -> None:
        self._engine = engine
        self._turnstile = Turnstile(path + TURN)
        self._connection: Connection | None = None
        self._counter: ChangeCounter | None = None

    def begin(self) -> None:
        self._turnstile.enter()
        try:
            self._connect()
            try:
                self._execute("BEGIN IMMEDIATE")
            except DBAPIError as error:
                if getattr(error.orig, "sqlite_errorname", "") != "SQLITE_BUSY_SNAPSHOT":
                    raise
                self._give_up(error)
                self._connect()
                self._execute("BEGIN IMMEDIATE")
        except DBAPIError as error:
            self._let_go()
            raise explain(error.orig or error, self._engine.url.database or "") from error
        except BaseException:
            self._let_go()
            raise

    def commit_and_begin(self, ask: port.Run) -> None:
        self.commit()

    def commit(self) -> None:
        assert self._connection is not None
        try:
            self._connection.commit()
        except DBAPIError as error:
            self._connection.invalidate(error)  # the pool would take it back with its transaction, and its lock, open
            if isinstance(error, IntegrityError):  # a deferred constraint: the handler's doing, not the file's
                raise
            raise explain(error.orig or error, self._engine.url.database or "") from error
        finally:
            self._let_go()

    def rollback(self) -> None:
        if self._counter is not None:
            self._counter.watching = False
        try:
            if self._connection is not None:
                self._connection.rollback()
        finally:
            self._let_go()

    def mark(self) -> None:
        self._execute(port.MARK)

    def undo(self) -> None:
        if self._counter is not None:
            self._counter.watching = False
        take_back(self)
        self._execute(port.UNDO)

    def keep(self) -> None:
        self._execute(port.KEEP)

    def answer(self, ask: port.Ask) -> Any:
        assert self._connection is not None
        return answer(self._connection, ask)

    def execute(self, sql: Any, parameters: Any = ()) -> Any:
        return self.handle.execute(text(sql) if isinstance(sql, str) else sql, parameters or None)

    def watch(self) -> None:
        assert self._connection is not None
        raw = self._connection.connection.driver_connection
        assert raw is not None
        self._counter = ChangeCounter(raw)
        raw.set_trace_callback(self._counter)
        raw.set_authorizer(self._counter.authorize)
        self._counter.watch()
        lend(self, self._connection)
        # Every work of a batch has a session of its own: what a failed one had pending must not come with the next.
        self.handle = HandlerSession(bind=self._connection, join_transaction_mode="rollback_only")

    def changed(self) -> int:
        assert self._connection is not None and self._counter is not None
        self.handle.flush()
        raw = self._connection.connection.driver_connection
        assert raw is not None
        raw.set_trace_callback(None)
        raw.set_authorizer(None)
        end(self.handle)
        return self._counter.changed()

    def asks_again(self, error: BaseException) -> bool:
        return False  # SQLite's writers stand in line

    def close(self) -> None:
        self._let_go()
        self._turnstile.close()

    def _connect(self) -> None:
        self._connection = self._engine.connect().execution_options(**{OURS: True})
        self._connection.begin()

    def _give_up(self, error: DBAPIError) -> None:
        """A result that nobody read to its end (an exception's traceback keeps it alive) ties the connection to an old
        snapshot, on which SQLite begins no write transaction: leave it, and take another."""
        assert self._connection is not None
        self._connection.invalidate(error)
        self._connection.close()

    def _execute(self, statement: str) -> None:
        assert self._connection is not None
        self._connection.exec_driver_sql(statement)

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        self._counter = None
        try:
            if connection is not None:
                _untrace(connection)
                connection.close()
        finally:
            self._turnstile.leave()


def _untrace(connection: Connection) -> None:
    if not connection.closed and not connection.invalidated:
        raw = connection.connection.driver_connection
        if raw is not None:
            raw.set_trace_callback(None)
            raw.set_authorizer(None)


def answer(connection: Connection, ask: port.Ask) -> Any:
    """Carry out one request of crossfoot's own, beneath the ORM.

    Raises:
        SchemaMismatch: a table of the book's is gone.
    """
    try:
        return _answer(connection, ask)
    except DBAPIError as error:
        if error.orig is not None and is_missing(error.orig):
            raise explain(error.orig, connection.engine.url.database or "") from error
        raise


def _answer(connection: Connection, ask: port.Ask) -> Any:
    if isinstance(ask, port.Alone):
        return None
    if isinstance(ask, port.Many):
        return connection.exec_driver_sql(ask.sql, [tuple(row) for row in ask.rows]).rowcount if ask.rows else 0
    result = connection.exec_driver_sql(ask.sql, tuple(ask.parameters))
    if isinstance(ask, port.Run):
        return result.rowcount
    return result.fetchone() if isinstance(ask, port.One) else result.fetchall()


class HandlerSession(OrmSession):
    """A session whose transaction belongs to crossfoot. Whatever would end it is refused before it happens."""

    def commit(self) -> None:
        raise self.refuse(
            "the handler called session.commit(): crossfoot commits after the handler returned; use flush(), or "
            "begin_nested() for what may fail"
        )

    def rollback(self) -> None:
        raise self.refuse(
            "the handler called session.rollback(): raise an exception instead, crossfoot rolls back; use begin_nested() "
            "for what may fail"
        )

    def refuse(self, what: str) -> TransactionMisuse:
        """A handler that catches what it is told is told again at the end, by `end`."""
        self.info[REFUSED] = error = TransactionMisuse(what)
        return error


def end(handle: Any) -> None:
    """The handler has returned, and all is flushed.

    Args:
        handle: its session, synchronous or not.

    Raises:
        TransactionMisuse: it called for an end of the transaction, and caught what it was told.
    """
    handle.info[ENDED] = True
    refused = handle.info.get(REFUSED)
    if refused is not None:
        raise TransactionMisuse(str(refused)) from refused


def lend(lane: Any, connection: Connection) -> None:
    """See that the next handler of a lane begins with nothing of the last one's: in a batch they share a connection.

    Args:
        lane: bears the last handler's session, if there was one.
    """
    take_back(lane)
    options = connection.engine.get_execution_options()
    wanted = {**options, OURS: connection.get_execution_options()[OURS]}
    if connection.get_execution_options() != wanted:  # `execution_options()` changes them in place, for everybody after
        connection._execution_options = immutabledict(wanted)


def take_back(lane: Any) -> None:
    """What the last handler of a lane left running may not use its session any more."""
    handle = vars(lane).get("handle")
    if handle is not None:
        handle.info[ENDED] = True


@event.listens_for(HandlerSession, "before_commit")
def _refuse_commit(session: OrmSession) -> None:
    """Also at the end of `with session.begin()`."""
    if not session.in_nested_transaction():
        session.commit()  # says why not


@event.listens_for(HandlerSession, "before_flush")
def _refuse_late_flush(session: OrmSession, *_: Any) -> None:
    if session.info.get(ENDED):
        raise TransactionMisuse(OVER)


@event.listens_for(HandlerSession, "do_orm_execute")
def _refuse_ending(state: ORMExecuteState) -> None:
    if state.session.info.get(ENDED):
        raise TransactionMisuse(OVER)
    if isinstance(state.statement, TextClause):
        refuse_ending(state.statement.text)
