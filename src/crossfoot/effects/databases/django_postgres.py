"""Django on PostgreSQL, by psycopg 3: what the server says of each statement is counted by a wrapper of Django's."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import psycopg
from django.db import Error

from crossfoot.connection import shown
from crossfoot.effects.databases import psycopg as driver
from crossfoot.effects.databases import session as port
from crossfoot.effects.databases.changes import chain
from crossfoot.effects.databases.django_session import DjangoSession, Executor
from crossfoot.effects.databases.postgres_changes import ChangeCounter, rows_told
from crossfoot.effects.databases.postgres_terms import LOOK, saying, terms_of
from crossfoot.effects.databases.psycopg_giving_up import give_up
from crossfoot.effects.databases.psycopg_guarded import BUSY, text_of
from crossfoot.errors import TransactionMisuse
from crossfoot.postgres import explain

_terms: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()
"""What is said in each transaction on a driver's connection; asked once in its life."""


class PostgresSession(DjangoSession):
    """One lane's transactions."""

    by_columns = True
    _marked = False
    _own: Any = None

    def __init__(self, database: Any) -> None:
        super().__init__(database)
        self._counter = ChangeCounter()

    def _enter(self) -> None:
        try:
            self.handle.ensure_connection()
        except Error as error:
            if isinstance(error.__cause__, psycopg.Error):
                raise explain(error.__cause__, shown(self._database.path)) from error
            raise
        self._begin_block()
        self._marked = False
        raw = self.handle.connection
        self._own = driver.own_cursor(raw)
        if raw not in _terms:
            _terms[raw] = terms_of(self._own.connection, self._own.execute(LOOK).fetchone())
        if _terms[raw]:
            with raw.lock:
                raw.wait(saying(raw, _terms[raw]))

    def _say_mark(self) -> None:
        self._own.execute(driver.NEXT_MARK if self._marked else port.MARK, prepare=False)
        self._marked = True

    def keep(self) -> None:
        """As the driver's own session does."""

    def answer(self, ask: port.Ask) -> Any:
        return driver.answer(self._own, ask)

    def watch(self) -> None:
        self._counter.watch()
        super().watch()

    def rollback(self) -> None:
        if self._busy:
            give_up(self._own.connection)
        super().rollback()

    def undo(self) -> None:
        if self._busy:
            raise TransactionMisuse(BUSY)
        super().undo()

    @property
    def _busy(self) -> bool:
        """Whether something that the handler left running is using the driver's connection."""
        return self._block is not None and self._own is not None and self._own.connection.lock.locked()

    def asks_again(self, error: BaseException) -> bool:
        return driver.asks_again(error)

    def _to_guard(self) -> Sequence[Any]:
        return (self.handle, self.handle.connection)

    def _say(self, statement: str) -> None:
        self._own.execute(statement)

    def _see(self, execute: Executor, sql: Any, params: Any, many: bool, context: Any) -> Any:
        raw = self.handle.connection
        look = self._counter.look(text_of(sql, raw))
        try:
            result = execute(sql, params, many, context)
        except Exception as error:
            self._counter.failed(error)
            for one in chain(error):
                if isinstance(one, psycopg.Error):
                    driver.tell_full_disk(one, raw)
            raise
        cursor = context["cursor"].cursor
        self._counter.done(look, rows_told(cursor.statusmessage, cursor.rowcount))
        return result

    def _refused(self, error: TransactionMisuse) -> TransactionMisuse:
        return self._counter.refuse(error)

    def _counted(self) -> int:
        status = self._own.connection.info.transaction_status
        return self._counter.changed(
            is_open=status is psycopg.pq.TransactionStatus.INTRANS,
            is_broken=status is psycopg.pq.TransactionStatus.INERROR,
        )
