"""The port: what crossfoot needs of a user's database connection, synchronous or asynchronous.

What crossfoot itself does in a transaction is written once, as generators that *ask* for statements (`Run`, `One`,
...) and are answered; `drive` answers them over a synchronous session and `adrive` over an asynchronous one.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

T = TypeVar("T")
Row = Sequence[Any]


class Run(NamedTuple):
    """Execute; answered with the number of rows changed."""

    sql: str
    parameters: Row = ()
    must: int = 0
    """Rows that it must change. Then a session that sees to it at the commit, which raises `LeaseLost`, may answer with `None`: a
    question less to ask the server."""


class Many(NamedTuple):
    """Execute once per row; answered with the number of rows changed."""

    sql: str
    rows: Sequence[Row]


class Acks(Many):
    """A `Many` each of whose rows must change one; as `Run.must`."""

    __slots__ = ()


class One(NamedTuple):
    """Query; answered with the first row or `None`."""

    sql: str
    parameters: Row = ()


class All(NamedTuple):
    """Query; answered with all rows."""

    sql: str
    parameters: Row = ()


class Alone(NamedTuple):
    """Until the transaction ends nobody else does `what`, and who does it is waited for; answered with nothing.

    Where one transaction writes at a time, as in SQLite, it is so anyway.
    """

    what: str


SAVEPOINT = f"crossfoot_{secrets.token_hex(8)}"
"""The savepoint that each work of a batch has. Nobody can guess its name: what fails is undone to the latest savepoint of that name,
and were that a handler's own, what it did before would stay."""

MARK, UNDO, KEEP = (f"{verb} {SAVEPOINT}" for verb in ("SAVEPOINT", "ROLLBACK TO", "RELEASE"))

Ask = Run | Many | One | All | Alone
Steps = Generator[Ask, Any, T]


class Session(Protocol):
    """One synchronous connection, used for one transaction after another."""

    handle: Any
    """What a handler works with: the connection, or the SQLAlchemy session."""
    by_columns: bool
    """Whether it takes a column of many values as one parameter, a list: PostgreSQL, by psycopg."""

    def begin(self) -> None: ...
    def commit(self) -> None: ...
    def commit_and_begin(self, ask: Run) -> int | None:
        """Commit, and begin the next transaction with that request; its answer.

        Returns:
            `None` if the next one was not begun, because this session does not do that, or it could not be. What is raised is of
            the commit, always.
        """
        ...

    def rollback(self) -> None: ...
    def mark(self) -> None:
        """Set a savepoint: the work that follows can be undone by itself."""
        ...

    def undo(self) -> None:
        """Undo what was done since `mark`; `keep` follows. Raises what the driver raises when it is too late for that."""
        ...

    def keep(self) -> None:
        """Forget the savepoint."""
        ...

    def answer(self, ask: Ask) -> Any: ...
    def execute(self, sql: Any, parameters: Any = ()) -> Any:
        """What `tx.execute` calls: the driver's own cursor or result."""
        ...

    def watch(self) -> None:
        """From here on, count the rows that the handler changes."""
        ...

    def changed(self) -> int:
        """Rows changed since `watch`, less those undone by rolling back to a savepoint.

        Raises:
            TransactionMisuse: the handler ended the transaction itself.
        """
        ...

    def asks_again(self, error: BaseException) -> bool:
        """Whether the database undid the transaction for the sake of others, and asks for all of it again."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class LateSession(Session, Protocol):
    """A session that may keep handlers' writes, and send them together."""

    def watch_later(self) -> None:
        """As `watch`; what was kept of handlers before this one stays so."""
        ...

    def execute_later(self, writer: Any, sql: Any, parameters: Any = ()) -> Any:
        """What `tx.execute` calls. A write of which nobody needs to know more than its rows is kept.

        Args:
            writer: the transaction that it belongs to.
        """
        ...

    def settle(self) -> None:
        """Send what is kept. Raises what the driver raises for the first of these that cannot be done."""
        ...

    def lend(self) -> Any:
        """The handle, for a handler that wants it: it finds all done that was kept."""
        ...

    def counted(self) -> Any:
        """As `changed`, but as an object, whose `rows` are all there only when everything is settled."""
        ...


class AsyncSession(Protocol):
    """The same, for event loops."""

    handle: Any
    by_columns: bool

    async def begin(self) -> None: ...
    async def commit(self) -> None: ...
    async def rollback(self) -> None: ...
    async def mark(self) -> None: ...
    async def undo(self) -> None: ...
    async def keep(self) -> None: ...
    async def answer(self, ask: Ask) -> Any: ...
    async def execute(self, sql: Any, parameters: Any = ()) -> Any: ...
    async def watch(self) -> None: ...
    async def changed(self) -> int: ...
    def asks_again(self, error: BaseException) -> bool: ...
    async def close(self) -> None: ...


class Database(Protocol):
    """Where a service's business tables and its book live."""

    path: str
    """The SQLite file, or the URL of the PostgreSQL database."""
    lazy: bool
    """Whether a transaction may begin at the handler's first statement (otherwise: before the handler)."""

    def connect(self) -> Session: ...

    async def aconnect(self) -> AsyncSession: ...

    def close(self) -> None: ...


def drive(steps: Steps[T], session: Session) -> T:
    """Run the steps over a synchronous session."""
    try:
        ask = next(steps)
        while True:
            try:
                answer = session.answer(ask)
            except BaseException as error:  # noqa: BLE001 - the steps raise it on, or answer it
                ask = steps.throw(error)
            else:
                ask = steps.send(answer)
    except StopIteration as end:
        return cast(T, end.value)


async def adrive(steps: Steps[T], session: AsyncSession) -> T:
    """Run the steps over an asynchronous session."""
    try:
        ask = next(steps)
        while True:
            try:
                answer = await session.answer(ask)
            except BaseException as error:  # noqa: BLE001 - the steps raise it on, or answer it
                ask = steps.throw(error)
            else:
                ask = steps.send(answer)
    except StopIteration as end:
        return cast(T, end.value)
