"""What keeps a handler's psycopg connection, of either kind, from ending the transaction that it is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGconn

from crossfoot.effects.databases.postgres_changes import ChangeCounter, Count
from crossfoot.effects.databases.psycopg_giving_up import cut
from crossfoot.effects.databases.sqlite import OVER
from crossfoot.errors import TransactionMisuse
from crossfoot.postgres import Speaking

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


IDLE, INTRANS, INERROR = (
    int(status) for status in (TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR)
)
"""As libpq says them: the driver would make a member of an enumeration of each answer, three times a message."""


class Guarded(Speaking):
    """What handlers' connections of either kind have in common."""

    fileno: Callable[[], int]
    lock: Any
    pgconn: PGconn
    counter: ChangeCounter
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
        if self.pgconn.transaction_status == IDLE:
            raise TransactionMisuse(
                "the transaction that crossfoot owns was ended while the handler ran: leave commit and rollback to crossfoot"
            )

    @property
    def busy(self) -> bool:
        """Whether something that a handler left running is using it: a statement, a stream or a copy that nobody may ever end, and
        whose lock whoever wants to say anything would wait for."""
        return bool(self.lock.locked())

    def abandon(self) -> None:
        """Cut the line; the next transaction needs another one."""
        self.abandoned = True
        cut(self)

    def __del__(self, *rest: Any) -> None:
        if self.abandoned:
            self.pgconn.finish()
        super().__del__(*rest)  # type: ignore[misc]  # as above

    def refuse(self, what: str) -> NoReturn:
        """Raises: TransactionMisuse: always; and once more at the end, should the handler catch it."""
        raise self.counter.refuse(TransactionMisuse(REFUSALS[what]))

    def changed(self) -> int:
        """Net rows that the handler changed; it must not use the connection any more."""
        return self.counted().rows

    def counted(self) -> Count:
        """The same, where some of its statements may still be to be sent."""
        self.guarded = False
        status = self.pgconn.transaction_status
        return self.counter.counted(is_open=status == INTRANS, is_broken=status == INERROR)


def text_of(statement: Any, connection: Any) -> str:
    """A statement of the handler's, as it will be sent."""
    if isinstance(statement, bytes):
        return statement.decode(errors="replace")
    return statement.as_string(connection) if isinstance(statement, (sql.Composable)) else str(statement)


def is_copy_in(statement: str) -> bool:
    return "FROM STDIN" in " ".join(statement.upper().split())
