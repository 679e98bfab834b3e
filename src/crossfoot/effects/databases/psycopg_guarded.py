"""What keeps a handler's psycopg connection, of either kind, from ending the transaction that it is in."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import psycopg
from psycopg import pq, sql

from crossfoot.effects.databases.postgres_changes import ChangeCounter
from crossfoot.effects.databases.sqlite import OVER
from crossfoot.errors import TransactionMisuse
from crossfoot.postgres import Trips

BUSY = (
    "something that the handler left running is still using its connection (a stream or a copy that was not read to its end, a "
    "statement in a thread or a task): close it, or wait for it, before returning"
)

REFUSALS = {
    "commit": "the handler called commit(): crossfoot commits after the handler returned",
    "rollback": "the handler called rollback(): raise an exception instead, crossfoot rolls back",
    "close": "the handler called close(): the connection is crossfoot's, which goes on to use it",
    "context": "the handler used the connection as a context, which commits and closes it at the end: use it as it is",
    "pipeline": "the handler began a pipeline, of which nobody counts what it changed: use execute() and executemany()",
    "set": "the handler changed how the connection's transactions begin and end: they are crossfoot's",
    "tpc": "the handler began a transaction of two phases: the connection's transaction is crossfoot's",
}


class Guarded:
    """What handlers' connections of either kind have in common."""

    info: psycopg.ConnectionInfo
    fileno: Callable[[], int]
    lock: Any
    pgconn: Any
    counter: ChangeCounter
    trips: Trips
    """How crossfoot itself speaks to the server."""
    guarded = False
    """Whether a handler has it."""
    abandoned = False
    """Whether the next transaction needs another one."""

    def admit(self) -> None:
        """See that a handler may use it.

        Raises:
            TransactionMisuse: it has returned; or the transaction is gone, and a write would be durable by itself.
        """
        if not self.guarded:
            raise TransactionMisuse(OVER)
        if self.info.transaction_status is pq.TransactionStatus.IDLE:
            raise TransactionMisuse(
                "the transaction that crossfoot owns was ended while the handler ran: leave commit and rollback to crossfoot"
            )

    def _deallocate(self, name: bytes | None) -> Any:
        """What psycopg calls, after a rollback for instance: with `None` it has the server forget ours, too."""
        if name is None:
            self.trips.prepare_anew()
        return super()._deallocate(name)  # type: ignore[misc]  # of the connection that this is mixed into

    @property
    def busy(self) -> bool:
        """Whether something that a handler left running is using it: a statement, a stream or a copy that nobody may ever end, and
        whose lock whoever wants to say anything would wait for."""
        return bool(self.lock.locked())

    def abandon(self) -> None:
        """Cut the line, which has the server undo what is open, and whoever uses it is told."""
        self.abandoned = True
        with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(self.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    def __del__(self, *rest: Any) -> None:
        if self.abandoned:
            self.pgconn.finish()
        super().__del__(*rest)  # type: ignore[misc]  # as above

    def refuse(self, what: str) -> NoReturn:
        """Raises: TransactionMisuse: always; and once more at the end, should the handler catch it."""
        raise self.counter.refuse(TransactionMisuse(REFUSALS[what]))

    def changed(self) -> int:
        """Net rows that the handler changed; it must not use the connection any more."""
        self.guarded = False
        status = self.info.transaction_status
        return self.counter.changed(
            is_open=status is pq.TransactionStatus.INTRANS, is_broken=status is pq.TransactionStatus.INERROR
        )


def text_of(statement: Any, connection: Any) -> str:
    """A statement of the handler's, as it will be sent."""
    if isinstance(statement, bytes):
        return statement.decode(errors="replace")
    return statement.as_string(connection) if isinstance(statement, (sql.Composable)) else str(statement)


def is_copy_in(statement: str) -> bool:
    return "FROM STDIN" in " ".join(statement.upper().split())
