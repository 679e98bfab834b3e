"""How a transaction is ended on connections of asyncpg, psycopg and SQLAlchemy; none of them is imported here."""

from __future__ import annotations

from typing import Any, Protocol

from crossfoot.errors import UsageError

CLOSING_SECONDS = 1.0
"""How long it may take to part from a connection."""

XID = "SELECT pg_current_xact_id_if_assigned()::text"


class Driver(Protocol):
    """What is asked of a connection."""

    def begun(self) -> bool:
        """Whether it is in a transaction."""

    async def begin(self) -> None: ...
    async def commit(self) -> None: ...
    async def rollback(self) -> None: ...
    async def xid(self) -> str | None: ...
    async def close(self) -> None:
        """Soon, whatever state its transaction is in."""


def is_lost(error: BaseException) -> bool:
    """Whether an error of a driver's says that there was no answer, rather than what the answer was."""
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return str(state).startswith(("08", "57P"))
    cause = getattr(error, "orig", None)
    if isinstance(cause, BaseException):
        return is_lost(cause)
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ConnectionDoesNotExistError", "InterfaceError", "OperationalError"}) or isinstance(
        error, OSError
    )


class _Asyncpg:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._transaction = connection.transaction()

    def begun(self) -> bool:
        found: bool = self._connection.is_in_transaction()
        return found

    async def begin(self) -> None:
        await self._transaction.start()

    async def commit(self) -> None:
        await self._transaction.commit()

    async def rollback(self) -> None:
        await self._transaction.rollback()

    async def xid(self) -> str | None:
        found: str | None = await self._connection.fetchval(XID)
        return found

    async def close(self) -> None:
        try:
            await self._connection.close(
                timeout=CLOSING_SECONDS
            )  # it waits until its own request to cancel has arrived
        finally:
            self._connection.terminate()


class _Psycopg:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sent_by_hand = False

    def begun(self) -> bool:
        from psycopg.pq import TransactionStatus

        return self._connection.info.transaction_status in (
            TransactionStatus.ACTIVE,
            TransactionStatus.INTRANS,
            TransactionStatus.INERROR,
        )

    async def begin(self) -> None:
        self._sent_by_hand = self._connection.autocommit
        if self._sent_by_hand:
            await self._connection.execute("BEGIN")

    async def commit(self) -> None:
        await self._connection.execute("COMMIT") if self._sent_by_hand else await self._connection.commit()

    async def rollback(self) -> None:
        await self._connection.execute("ROLLBACK") if self._sent_by_hand else await self._connection.rollback()

    async def xid(self) -> str | None:
        row = await (await self._connection.execute(XID)).fetchone()
        return None if row is None else next(iter(row.values() if isinstance(row, dict) else row))

    async def close(self) -> None:
        await self._connection.close()


class _Sqlalchemy:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def begun(self) -> bool:
        found: bool = self._connection.in_transaction()
        return found

    async def begin(self) -> None:
        await self._connection.begin()

    async def commit(self) -> None:
        await self._connection.commit()

    async def rollback(self) -> None:
        await self._connection.rollback()

    async def xid(self) -> str | None:
        from sqlalchemy import text

        found: str | None = (await self._connection.execute(text(XID))).scalar()
        return found

    async def close(self) -> None:
        await self._connection.invalidate()


def driver_of(connection: Any) -> Driver:
    """How that connection is spoken to."""
    home = type(connection).__module__.partition(".")[0]
    if home == "asyncpg":
        return _Asyncpg(connection)
    if home == "psycopg" and hasattr(connection, "__aenter__"):
        return _Psycopg(connection)
    if home == "sqlalchemy" and hasattr(connection, "invalidate"):
        return _Sqlalchemy(connection)
    raise UsageError(
        f"{type(connection).__module__}.{type(connection).__qualname__}: give an asyncpg connection, a psycopg AsyncConnection, or a "
        "SQLAlchemy AsyncConnection or AsyncSession"
    )
