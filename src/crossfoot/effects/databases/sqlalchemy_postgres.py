"""SQLAlchemy 2 on PostgreSQL, by psycopg: the handler gets a `Session`; and what its asynchronous forms have in common with it.

Crossfoot's own statements go to the driver's connection beneath; what the handler does is seen by the engine's events, on
connections that bear a counter of ours and on no others.
"""

from __future__ import annotations

from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, ExceptionContext, event, text
from sqlalchemy.exc import DBAPIError

from crossfoot.effects.databases import psycopg as driver
from crossfoot.effects.databases import session as port
from crossfoot.effects.databases.postgres_changes import ChangeCounter, Look, rows_told
from crossfoot.effects.databases.postgres_terms import LOOK, saying, terms_of
from crossfoot.effects.databases.psycopg_giving_up import give_up
from crossfoot.effects.databases.psycopg_guarded import BUSY
from crossfoot.effects.databases.sqlalchemy import OURS, HandlerSession, end, lend, take_back
from crossfoot.effects.databases.sqlite import OVER
from crossfoot.effects.work import in_handler
from crossfoot.errors import TransactionMisuse, UsageError

_LOOK = "crossfoot look"
"""In an execution context: what its statement does to savepoints."""


class Watch:
    """The counter of one connection, and whether a handler has it.

    Attributes:
        lent_to: in an event loop, the work whose handler it is; a task that another handler left running may not use it.
    """

    def __init__(self) -> None:
        self.counter = ChangeCounter()
        self.watching = False
        self.lent_to: object = None


def prepare(engine: Engine) -> str:
    """See that an engine will do, and listen to it. Returns the URL by which the book reaches the same database.

    Raises:
        UsageError: it uses another driver, or commits every statement by itself.
    """
    if engine.dialect.driver not in ("psycopg", "asyncpg"):
        raise UsageError(
            f"the engine reaches PostgreSQL by {engine.dialect.driver}, and crossfoot works with psycopg and asyncpg: use "
            "create_engine('postgresql+psycopg://...') or create_async_engine('postgresql+psycopg://...'), or asyncpg"
        )
    if (
        engine.get_execution_options().get("isolation_level", engine.dialect._on_connect_isolation_level)
        == "AUTOCOMMIT"
    ):
        raise UsageError(
            "the engine's isolation level is AUTOCOMMIT, with which nothing is one transaction: take it off"
        )
    for name, listener in _LISTENERS.items():
        # Statements of asyncpg's are seen beneath, see `asyncpg_protocol`.
        if (engine.dialect.driver == "psycopg" or name in _ENDINGS) and not event.contains(engine, name, listener):
            event.listen(engine, name, listener)
    url = engine.url.set(drivername="postgresql")
    if engine.dialect.driver == "asyncpg":
        url = _as_libpq_has_it(url)
    return url.render_as_string(hide_password=False)


def _as_libpq_has_it(url: URL) -> URL:
    """The same, without what asyncpg alone understands."""
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    query = {"sslmode" if name == "ssl" else name: value for name, value in url.query.items()}
    return url.set(query={name: value for name, value in query.items() if name in known})


def _watch_on(connection: Connection | None) -> Watch | None:
    watch = connection.get_execution_options().get(OURS) if connection is not None else None
    return watch if isinstance(watch, Watch) and watch.watching else None


def _before(connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    if watch := _watch_on(connection):
        if watch.lent_to is not None and in_handler.get() is not watch.lent_to:
            raise TransactionMisuse(OVER)
        setattr(context, _LOOK, watch.counter.look(statement))


def _after(connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    if watch := _watch_on(connection):
        look: Look = getattr(context, _LOOK)
        plain = getattr(cursor, "_cursor", cursor)  # within what SQLAlchemy makes of an asynchronous one
        watch.counter.done(look, rows_told(plain.statusmessage, plain.rowcount))


def _refuse_rollback(connection: Connection) -> None:
    """A session rolls back when a flush fails, and would take the work of its neighbours along."""
    if watch := _watch_on(connection):
        raise watch.counter.refuse(
            TransactionMisuse(
                "the handler's session wanted to roll back the transaction that crossfoot owns (it does when a flush fails), which was "
                "refused: let the error out, and use session.begin_nested() for what may fail"
            )
        )


def _refuse_commit(connection: Connection) -> None:
    if watch := _watch_on(connection):
        raise watch.counter.refuse(TransactionMisuse(driver.REFUSALS["commit"]))


def _failed(context: ExceptionContext) -> None:
    if (watch := _watch_on(context.connection)) and isinstance(context.original_exception, psycopg.Error):
        watch.counter.failed(context.original_exception)
        assert context.connection is not None
        driver.tell_full_disk(context.original_exception, context.connection.connection.driver_connection)


_LISTENERS: dict[str, Any] = {
    "before_cursor_execute": _before,
    "after_cursor_execute": _after,
    "rollback": _refuse_rollback,
    "commit": _refuse_commit,
    "handle_error": _failed,
}
_ENDINGS = ("rollback", "commit")


class PostgresSession:
    """One lane's transactions on the user's engine."""

    handle: HandlerSession
    by_columns = True
    _marked = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._watch = Watch()
        self._own: Any = None

    def begin(self) -> None:
        self._connection = self._engine.connect().execution_options(**{OURS: self._watch})
        self._connection.begin()
        self._marked = False
        raw: Any = self._connection.connection.driver_connection
        self._own = driver.own_cursor(raw)
        if OURS not in self._connection.info:  # of the driver's connection: asked once in its life
            self._connection.info[OURS] = terms_of(self._own.connection, self._own.execute(LOOK).fetchone())
        if terms := self._connection.info[OURS]:
            with raw.lock:
                raw.wait(saying(raw, terms))

    def commit_and_begin(self, ask: port.Run) -> None:
        self.commit()

    def commit(self) -> None:
        self._watch.watching = False
        assert self._connection is not None
        try:
            self._connection.commit()
        except DBAPIError as error:
            self._connection.invalidate(error)  # nobody knows what state it is in
            raise
        finally:
            self._let_go()

    def rollback(self) -> None:
        self._watch.watching = False
        try:
            if self._connection is not None and self._busy:
                give_up(self._own.connection)
                self._connection.invalidate()
            elif self._connection is not None:
                self._connection.rollback()
        except DBAPIError as error:  # a session that has ended took its transaction with it
            assert self._connection is not None
            self._connection.invalidate(error)
        finally:
            self._let_go()

    def mark(self) -> None:
        self._own.execute(driver.NEXT_MARK if self._marked else port.MARK, prepare=False)
        self._marked = True

    def undo(self) -> None:
        self._watch.watching = False
        take_back(self)
        if self._busy:
            raise TransactionMisuse(BUSY)
        self._own.execute(port.UNDO)
        assert self._connection is not None
        if not self._connection.in_transaction():  # SQLAlchemy believes in the rollback that was refused
            self._connection.begin()

    def keep(self) -> None:
        """As the driver's own session does."""

    def answer(self, ask: port.Ask) -> Any:
        return driver.answer(self._own, ask)

    def execute(self, sql: Any, parameters: Any = ()) -> Any:
        return self.handle.execute(text(sql) if isinstance(sql, str) else sql, parameters or None)

    def watch(self) -> None:
        self._watch.counter.watch()
        self._watch.watching = True
        assert self._connection is not None
        lend(self, self._connection)
        # Every work of a batch has a session of its own: what a failed one had pending must not come with the next.
        self.handle = HandlerSession(bind=self._connection, join_transaction_mode="rollback_only")

    def changed(self) -> int:
        self.handle.flush()
        self._watch.watching = False
        end(self.handle)
        return counted(self._watch.counter, self._own)

    def asks_again(self, error: BaseException) -> bool:
        return driver.asks_again(error)

    def close(self) -> None:
        self._let_go()

    @property
    def _busy(self) -> bool:
        """Whether something that the handler left running is using it: to say anything would be to wait for that."""
        return self._own is not None and self._own.connection.lock.locked()

    def _let_go(self) -> None:
        connection, self._connection, self._own = self._connection, None, None
        if connection is not None:
            connection.close()


def counted(counter: ChangeCounter, own: Any) -> int:
    """Net rows changed, by the counter and the state of the transaction."""
    status = own.connection.info.transaction_status
    return counter.changed(
        is_open=status is psycopg.pq.TransactionStatus.INTRANS, is_broken=status is psycopg.pq.TransactionStatus.INERROR
    )
