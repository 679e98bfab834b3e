"""A transaction that is stopped while it begins leaves nothing open behind it, and none is begun within another; on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import psycopg
import pytest

from crossfoot.errors import UsageError
from crossfoot.flow.commits import State, transaction
from tests.flow.connections import DRIVERS, Open, Opened

pytest_plugins = ["tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def psycopg_autocommit(url: str) -> AsyncIterator[Opened]:
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    try:
        yield connection, connection.execute
    finally:
        await connection.close()


each = pytest.mark.parametrize("opened", [*DRIVERS, psycopg_autocommit], ids=lambda one: one.__name__)


@pytest.fixture
def admin(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int)")
        yield connection


class CancelledAt:
    """A coroutine whose task is cancelled when it waits for the `at`th time, or in the tick in which what it waits for is there."""

    def __init__(self, work: Coroutine[Any, Any, None], at: int, *, with_the_answer: bool) -> None:
        self.waited = 0
        self._work, self._at, self._with_the_answer = work, at, with_the_answer

    def __await__(self) -> Generator[Any, Any, None]:
        task = asyncio.current_task()
        assert task is not None
        steps = self._work.__await__()
        failed: BaseException | None = None
        while True:
            try:
                awaited = next(steps) if failed is None else steps.throw(failed)
            except StopIteration:
                return
            if self.waited == self._at:
                if awaited is not None and self._with_the_answer:
                    awaited.add_done_callback(lambda _: task.cancel())
                else:
                    task.cancel()
            self.waited += 1
            failed = None
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001 - it is handed on to whoever waits
                failed = error


@each
@pytest.mark.parametrize("with_the_answer", [False, True], ids=["before", "with the answer"])
async def test_whenever_it_is_cancelled_what_is_written_afterwards_is_not_lost(
    with_the_answer: bool, opened: Open, postgres_url: str, admin: psycopg.Connection[Any]
) -> None:
    for at in count():
        async with opened(postgres_url) as (connection, execute):

            async def work() -> None:
                async with transaction(connection, grace=30) as commit:
                    await execute(f"INSERT INTO orders VALUES ({at})")  # noqa: B023 - awaited in the same turn
                assert commit.state is State.COMMITTED

            stopped = CancelledAt(work(), at, with_the_answer=with_the_answer)

            async def run() -> None:
                await stopped  # noqa: B023 - as above

            task = asyncio.create_task(run())
            await asyncio.wait([task])
            if stopped.waited <= at:
                task.result()
                break
            assert task.cancelled(), f"the cancellation at {at} is not lost"
            refused: Exception | None = None
            try:
                await execute(f"INSERT INTO orders VALUES ({-at - 1})")
                if opened not in (DRIVERS[0], psycopg_autocommit):
                    await connection.commit()
            except Exception as error:  # noqa: BLE001 - a connection that was closed says so, whatever its driver calls that
                refused = error
            if refused is not None:
                assert is_closed(connection), f"stopped at {at}: {refused!r}"
                continue
            assert (-at - 1,) in admin.execute("SELECT id FROM orders").fetchall(), f"stopped at {at}"
            assert open_transactions(admin) == 0, f"stopped at {at}"
    assert at > 2, "it was stopped at the beginning, at the statement and at the commit"


def is_closed(connection: Any) -> bool:
    closed = getattr(connection, "is_closed", None)
    return bool(closed()) if closed is not None else bool(getattr(connection, "closed", False))


def open_transactions(admin: psycopg.Connection[Any]) -> int:
    found = admin.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    ).fetchone()
    assert found is not None
    return int(found[0])


@each
async def test_a_connection_that_is_in_a_transaction_already_is_refused(
    opened: Open, postgres_url: str, admin: psycopg.Connection[Any]
) -> None:
    async with opened(postgres_url) as (connection, execute):
        if opened in (DRIVERS[0], psycopg_autocommit):
            await execute("BEGIN")
        await execute("SELECT 1")
        with pytest.raises(UsageError, match=r"in a transaction already.*roll it back first"):
            async with transaction(connection):
                pytest.fail("whoever began the one around it could still undo this one")
        await execute("INSERT INTO orders VALUES (1)")
        await (execute("COMMIT") if opened in (DRIVERS[0], psycopg_autocommit) else connection.commit())
        async with transaction(connection) as commit:
            await execute("INSERT INTO orders VALUES (2)")

    assert commit.state is State.COMMITTED
    assert admin.execute("SELECT id FROM orders ORDER BY id").fetchall() == [(1,), (2,)]
