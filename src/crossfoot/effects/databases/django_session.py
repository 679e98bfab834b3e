"""One lane's transactions through Django, on either database.

The transaction is an atomic block of Django's own, begun before the handler and left after it, so that `atomic()` in a handler is
a savepoint, as within any atomic block, and hooks of `on_commit` wait for the real commit. All of it happens in one thread, whose
connection it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from django.db import Error, transaction

from crossfoot.effects.databases.session import UNDO, Ask, Run
from crossfoot.errors import NoProof, TransactionMisuse

if TYPE_CHECKING:
    from crossfoot.effects.databases.django import DjangoDatabase

_log = logging.getLogger("crossfoot.effects.django")

REFUSALS = {
    "commit": "the handler called commit(): crossfoot commits after the handler returned; use transaction.atomic() for what may fail",
    "rollback": "the handler called rollback(): raise an exception instead, crossfoot rolls back; use transaction.atomic() for what "
                "may fail",
    "set_autocommit": "the handler called set_autocommit(): how the connection's transactions begin and end is crossfoot's matter",
    "connect": "the handler called connect(): the connection that it has is in the transaction that crossfoot owns",
    "close": "the handler called close() on the connection, or close_old_connections(), which would end the transaction that "
             "crossfoot owns",
}  # fmt: skip
"""Of the connection, and of the driver's where that can be told, while a handler has it."""

Executor = Callable[[Any, Any, bool, Any], Any]


class DjangoSession:
    """What both databases have in common."""

    handle: Any = None
    """Django's connection of the thread that began."""
    by_columns = False

    def __init__(self, database: DjangoDatabase) -> None:
        self._database = database
        self._block: Any = None
        self._watching = self._closed = False
        self._depth = (0, 0)
        self._hooks = 0
        self._theirs: list[Any] = []
        self._guarded: Sequence[Any] = ()

    # ---- of the database -----------------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Begin, on `handle`."""
        raise NotImplementedError

    def _counted(self) -> int:
        """Net rows changed."""
        raise NotImplementedError

    def _refused(self, error: TransactionMisuse) -> TransactionMisuse:
        """Remember it, for `_counted`."""
        raise NotImplementedError

    def _see(self, execute: Executor, sql: Any, params: Any, many: bool, context: Any) -> Any:
        """A statement of the handler's passes, by a wrapper of Django's."""
        raise NotImplementedError

    def _to_guard(self) -> Sequence[Any]:
        """What ends transactions, and can be made to refuse it."""
        return (self.handle,)

    def _say(self, statement: str) -> None:
        raise NotImplementedError

    def _say_mark(self) -> None:
        raise NotImplementedError

    def answer(self, ask: Ask) -> Any:
        raise NotImplementedError

    # ---- the port ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.handle = self._database.of_this_thread()
        with suppress(Error):
            self.handle.close_if_unusable_or_obsolete()  # as at the beginning of a request
        try:
            self._enter()
        except BaseException:
            self._let_go()
            raise

    def commit_and_begin(self, ask: Run) -> None:
        self.commit()

    def commit(self) -> None:
        self._unwatch()
        connection, block, self._block = self.handle, self._block, None
        if connection.needs_rollback:  # leaving the block would roll back, and say nothing
            self._block = block
            raise TransactionMisuse("Django's atomic block is marked for rollback: nothing can be committed")
        hooks, connection.run_on_commit = connection.run_on_commit, []
        try:
            block.__exit__(None, None, None)
        finally:
            self._let_go()
        _run(hooks)
        if connection.in_atomic_block:  # a hook left a block open, in which no delivery can begin
            connection.in_atomic_block = False
            connection.close()

    def rollback(self) -> None:
        self._unwatch()
        block, self._block = self._block, None
        if block is None:
            return
        connection = self.handle
        connection.savepoint_ids, connection.atomic_blocks = [], [block]
        try:
            with suppress(Error):  # a session that has ended took its transaction with it
                block.__exit__(Exception, Exception(), None)
        finally:
            self._let_go()

    def mark(self) -> None:
        self._say_mark()
        self._note_place()

    def undo(self) -> None:
        self._unwatch()
        connection = self.handle
        self._say(UNDO)
        del connection.savepoint_ids[self._depth[0] :], connection.atomic_blocks[self._depth[1] :]
        del connection.run_on_commit[self._hooks :]
        connection.needs_rollback = False

    def execute(self, sql: Any, parameters: Any = ()) -> Any:
        cursor = self.handle.cursor()
        cursor.execute(sql, parameters or None)
        return cursor

    def watch(self) -> None:
        connection = self.handle
        self._note_place()
        self._watching = True
        self._theirs = connection.execute_wrappers
        connection.execute_wrappers = [*self._theirs, self._see]
        self._guarded = self._to_guard()
        for one in self._guarded:
            for name in REFUSALS:
                setattr(one, name, self._refusal(name))

    def changed(self) -> int:
        connection = self.handle
        self._unwatch()
        if connection.needs_rollback:
            raise NoProof(
                "the handler caught an error of the database within an atomic block of Django's (or called set_rollback()), after which "
                "nothing of it is kept: let the error out, and use transaction.atomic() for what may fail"
            ) from connection.rollback_exc
        rows = self._counted()
        if (len(connection.savepoint_ids), len(connection.atomic_blocks)) != self._depth:
            raise TransactionMisuse("the handler returned from within an atomic block of Django's: leave it before")
        return rows

    def asks_again(self, error: BaseException) -> bool:
        return False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._database.left()

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _note_place(self) -> None:
        """Where Django's stacks stand at the beginning of one work."""
        connection = self.handle
        self._depth = (len(connection.savepoint_ids), len(connection.atomic_blocks))
        self._hooks = len(connection.run_on_commit)

    def _begin_block(self) -> None:
        block = transaction.atomic(using=self._database.alias)
        block.__enter__()
        self._block = block

    def _refusal(self, name: str) -> Callable[..., NoReturn]:
        def refuse(*_: Any, **__: Any) -> NoReturn:
            raise self._refused(TransactionMisuse(REFUSALS[name]))

        return refuse

    def _unwatch(self) -> None:
        if not self._watching:
            return
        self._watching = False
        sees = self._see in self.handle.execute_wrappers
        self.handle.execute_wrappers = self._theirs
        for one in self._guarded:
            for name in REFUSALS:
                vars(one).pop(name, None)
        if not sees:
            self._refused(
                TransactionMisuse("the handler took crossfoot's wrapper out of the connection's execute_wrappers")
            )

    def _let_go(self) -> None:
        with suppress(Error):
            self.handle.close_if_unusable_or_obsolete()  # as at the end of a request


def _run(hooks: list[tuple[Any, Callable[[], Any], bool]]) -> None:
    """Run what waited for the commit. What has happened stays: a hook that fails is told, and ends the others, as in Django,
    unless it is robust."""
    for place, (_, hook, robust) in enumerate(hooks, 1):
        try:
            hook()
        except BaseException as error:  # noqa: BLE001 - the commit stands, whatever a hook of the user's raises
            left = 0 if robust else len(hooks) - place
            _log.error(
                "on_commit: %s failed after the commit, which stands (%s)%s",
                getattr(hook, "__qualname__", hook), type(error).__name__, f"; {left} more did not run" if left else "",
            )  # fmt: skip
            if not robust:
                return
