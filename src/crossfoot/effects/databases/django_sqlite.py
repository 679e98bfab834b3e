"""Django on a SQLite file: what the statements of a handler do is watched beneath, as with SQLAlchemy."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import Any

from django.db import DatabaseError, IntegrityError

from crossfoot.effects.databases import session as port
from crossfoot.effects.databases.changes import ChangeCounter, chain, refuse_ending
from crossfoot.effects.databases.django_session import DjangoSession, Executor
from crossfoot.effects.databases.sqlite import answer, own_cursor, tell_full_disk
from crossfoot.errors import TransactionMisuse
from crossfoot.sqlite import explain
from crossfoot.turnstile import TURN, Turnstile


class SqliteSession(DjangoSession):
    """One lane's transactions."""

    def __init__(self, database: Any) -> None:
        super().__init__(database)
        self._turnstile = Turnstile(database.path + TURN)
        self._counter: ChangeCounter | None = None
        self._refusal_told: TransactionMisuse | None = None
        self._own: Any = None

    def commit(self) -> None:
        try:
            super().commit()
        except IntegrityError:  # a deferred constraint: the handler's doing, not the file's
            raise
        except DatabaseError as error:
            raise _explained(error, self._database.path) from error

    def _say_mark(self) -> None:
        self._say(port.MARK)

    def keep(self) -> None:
        self._say(port.KEEP)

    def answer(self, ask: port.Ask) -> Any:
        return answer(self._own, ask)

    def watch(self) -> None:
        self._refusal_told = None
        raw = self.handle.connection
        self._counter = ChangeCounter(raw)
        raw.set_trace_callback(self._counter)
        raw.set_authorizer(self._counter.authorize)
        self._counter.watch()
        super().watch()

    def close(self) -> None:
        self._turnstile.close()
        super().close()

    def _enter(self) -> None:
        self._turnstile.enter()
        try:
            self._begin_writing()
        except DatabaseError as error:
            if "SQLITE_BUSY_SNAPSHOT" not in [getattr(one, "sqlite_errorname", "") for one in chain(error)]:
                raise _explained(error, self._database.path) from error
            self.handle.close()  # a result that nobody read to its end ties it to an old snapshot
            self._begin_writing()
        self._own = own_cursor(self.handle.connection)

    def _begin_writing(self) -> None:
        connection = self.handle
        connection.ensure_connection()
        theirs, connection.transaction_mode = connection.transaction_mode, "IMMEDIATE"
        try:
            self._begin_block()
        finally:
            connection.transaction_mode = theirs

    def _say(self, statement: str) -> None:
        self._own.execute(statement)

    def _see(self, execute: Executor, sql: Any, params: Any, many: bool, context: Any) -> Any:
        try:
            refuse_ending(str(sql))
        except TransactionMisuse as error:
            raise self._refused(error) from None
        try:
            return execute(sql, params, many, context)
        except DatabaseError as error:
            for one in chain(error):
                tell_full_disk(one, self._database.path)
            raise

    def _refused(self, error: TransactionMisuse) -> TransactionMisuse:
        self._refusal_told = error
        return error

    def _counted(self) -> int:
        counter, self._counter = self._counter, None
        assert counter is not None
        if self._refusal_told is not None:
            raise TransactionMisuse(str(self._refusal_told)) from self._refusal_told
        return counter.changed()

    def _unwatch(self) -> None:
        super()._unwatch()
        raw = self.handle.connection if self.handle is not None else None
        if raw is not None:
            with suppress(sqlite3.ProgrammingError):  # the handler closed it
                raw.set_trace_callback(None)
                raw.set_authorizer(None)

    def _let_go(self) -> None:
        try:
            super()._let_go()
        finally:
            self._own = None
            self._turnstile.leave()


def _explained(error: Exception, path: str) -> Exception:
    found = next((one for one in chain(error) if isinstance(one, sqlite3.Error)), None)
    return explain(found, path) if found is not None else error
