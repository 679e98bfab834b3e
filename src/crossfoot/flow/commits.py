"""Transactions under a deadline: statements end in time, and a commit is never cut off without a word.

    async with flow.commits.transaction(connection) as commit:
        await connection.execute("insert into orders ...")
    assert commit.state is flow.commits.State.COMMITTED

A deadline that passes before the commit is asked for rolls back, and nothing has happened. Once it is asked for, it is not cancelled any
more: the block waits for its answer, `grace` seconds beyond the deadline at most, whoever else cancels, and in whatever way. Without an
answer it is in doubt, its connection is closed rather than used again, and `resolve` looks up what became of it.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import Any

import anyio

from crossfoot.errors import InDoubt, UsageError
from crossfoot.flow.deadlines import check, remaining
from crossfoot.flow.drivers import CLOSING_SECONDS, Driver, driver_of, is_lost
from crossfoot.flow.unhurried import unhurried

GRACE = 5.0
"""Seconds a commit is waited for beyond the deadline."""

STATUS = "SELECT pg_xact_status('%d'::xid8)"


class State(StrEnum):
    """What became of a transaction."""

    OPEN = "open"
    COMMITTED = "committed"
    NOT_COMMITTED = "not committed"
    IN_DOUBT = "in doubt"


class Commit:
    """A transaction, and what became of it.

    Attributes:
        xid: PostgreSQL's name of the transaction, if it has changed anything; `resolve` asks by it.
    """

    def __init__(self) -> None:
        self.state = State.OPEN
        self.xid: str | None = None


@asynccontextmanager
async def transaction(connection: Any, *, grace: float = GRACE) -> AsyncIterator[Commit]:
    """A transaction of an asyncpg connection, a psycopg AsyncConnection, or a SQLAlchemy AsyncConnection or AsyncSession.

    Args:
        connection: not in a transaction yet. Where it is stopped while it begins, and that cannot be undone, it is closed.
        grace: seconds a commit is waited for beyond the deadline.

    Raises:
        UsageError: a connection of another kind, or one that is in a transaction already.
        Expired: the deadline passed before the commit was asked for: not committed.
        InDoubt: the commit gave no answer.
        Exception: what the block, or the database, raised: not committed.
    """
    driver, commit = driver_of(connection), Commit()
    check()
    if driver.begun():
        raise UsageError(
            "this connection is in a transaction already, which whoever began it could still undo: commit it or roll it back "
            "first (a SELECT begins one, too, where the connection is not in autocommit), or give a connection of its own"
        )
    try:
        await driver.begin()
        yield commit
        commit.xid = await driver.xid()
        check()
    except BaseException:
        commit.state = State.NOT_COMMITTED  # nobody has asked for it
        await _undo(driver, grace)
        raise
    await _commit(driver, commit, grace)


async def _commit(driver: Driver, commit: Commit, grace: float) -> None:
    left = remaining()
    try:
        ended = await unhurried(driver.commit, (0 if left == math.inf else max(0.0, left)) + grace)
    except Exception as error:
        if not is_lost(error):
            commit.state = State.NOT_COMMITTED  # the database said so
            raise
        commit.state = State.IN_DOUBT
        raise InDoubt(f"the connection was lost at the commit of transaction {commit.xid}: look it up") from error
    if ended.answered:
        commit.state = State.COMMITTED
    else:
        commit.state = State.IN_DOUBT
        with suppress(Exception):
            await unhurried(driver.close, 2 * CLOSING_SECONDS)
    if ended.cancelled is not None:
        raise ended.cancelled
    if not ended.answered:
        raise InDoubt(f"the commit of transaction {commit.xid} gave no answer within {grace:g} s of grace: look it up")


async def _undo(driver: Driver, grace: float) -> None:
    """Roll back; a connection on which that does not work is closed, which rolls back as well."""
    cancelled = None
    try:
        ended = await unhurried(driver.rollback, grace)
        answered, cancelled = ended.answered, ended.cancelled
    except Exception:  # noqa: BLE001 - the transaction's own error is the one that is told
        answered = False
    if not answered:
        with suppress(Exception):
            await unhurried(driver.close, 2 * CLOSING_SECONDS)
    if cancelled is not None:
        raise cancelled


async def resolve(commit: Commit, ask: Callable[[str], Awaitable[str | None]], *, pause: float = 0.1) -> State:
    """Look up what became of a commit in doubt, until the database knows or the deadline passes.

    Args:
        ask: runs a query on *another* connection, and returns the single value of its single row.
        pause: seconds between two looks.

    Raises:
        UsageError: the transaction has no name, or the server has forgotten it.
        Expired: the deadline passed, and the server is still at it.
    """
    if commit.state is not State.IN_DOUBT:
        return commit.state
    if commit.xid is None:
        commit.state = State.NOT_COMMITTED  # it had changed nothing
        return commit.state
    while True:
        check()
        status = await ask(STATUS % int(commit.xid))
        if status == "committed":
            commit.state = State.COMMITTED
        elif status == "aborted":
            commit.state = State.NOT_COMMITTED
        elif status is None:
            raise UsageError(f"transaction {commit.xid} is too old for the server to know: look for its rows")
        if commit.state is not State.IN_DOUBT:
            return commit.state
        await anyio.sleep(pause)
