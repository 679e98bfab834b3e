"""Transactions under a deadline, on a real PostgreSQL, through every asynchronous driver. Labels are compared with the rows."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from crossfoot import flow
from crossfoot.errors import UsageError
from crossfoot.flow.commits import Commit, State, resolve, transaction
from crossfoot.flow.statements import bound_asyncpg, bound_engine, bound_psycopg
from tests.flow.connections import DRIVERS, Open, Opened

pytest_plugins = ["tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


each = pytest.mark.parametrize("opened", DRIVERS, ids=lambda one: one.__name__)

SLOW_TO_COMMIT = """
CREATE TABLE orders (id int);
CREATE FUNCTION wait_for_it() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION wait_for_it();
"""
"""Commits wait while somebody else holds lock 42."""


@pytest.fixture
def admin(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(SLOW_TO_COMMIT)
        yield connection


def rows(admin: psycopg.Connection[Any]) -> set[int]:
    return {number for (number,) in admin.execute("SELECT id FROM orders")}


def asks(admin: psycopg.Connection[Any]) -> Callable[[str], Awaitable[str | None]]:
    async def ask(query: str) -> str | None:
        found = admin.execute(query).fetchone()
        return None if found is None else found[0]

    return ask


async def waits_for_the_lock(admin: psycopg.Connection[Any]) -> None:
    """Wait until a commit stands before the lock."""
    while not admin.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone():  # noqa: ASYNC110 - the server gives no other sign
        await asyncio.sleep(0)


@each
async def test_a_transaction_in_time_is_committed_and_one_that_fails_is_not(
    opened: Open, postgres_url: str, admin: psycopg.Connection[Any]
) -> None:
    async with opened(postgres_url) as (connection, execute):
        with flow.deadline(60):
            async with transaction(connection) as good:
                await execute("INSERT INTO orders VALUES (1)")
            with pytest.raises(ZeroDivisionError):
                async with transaction(connection) as bad:
                    await execute("INSERT INTO orders VALUES (2)")
                    raise ZeroDivisionError
            async with transaction(connection) as empty:
                await execute("SELECT 1")

    assert (good.state, bad.state, empty.state) == (State.COMMITTED, State.NOT_COMMITTED, State.COMMITTED)
    assert good.xid is not None
    assert empty.xid is None
    assert rows(admin) == {1}


@each
async def test_a_deadline_that_has_passed_commits_nothing(
    opened: Open, postgres_url: str, admin: psycopg.Connection[Any]
) -> None:
    async with opened(postgres_url) as (connection, execute):
        with pytest.raises(flow.Expired), flow.deadline(60) as held:
            async with transaction(connection) as commit:
                await execute("INSERT INTO orders VALUES (1)")
                held.at = held.clock()  # a minute later

    assert commit.state is State.NOT_COMMITTED
    assert rows(admin) == set()


@each
@pytest.mark.parametrize("how", ["anyio", "asyncio"])
async def test_a_commit_that_was_asked_for_is_not_cut_off_whoever_cancels(
    how: str, opened: Open, postgres_url: str, admin: psycopg.Connection[Any]
) -> None:
    commits: list[Commit] = []
    deadlines: list[flow.Deadline] = []
    with contextlib.ExitStack() as held:
        held.enter_context(admin.transaction())
        admin.execute("SELECT pg_advisory_xact_lock(42)")

        async def work() -> None:
            async with opened(postgres_url) as (connection, execute):
                with flow.deadline(60) as deadline:
                    deadlines.append(deadline)
                    async with transaction(connection, grace=60) as commit:
                        commits.append(commit)
                        await execute("INSERT INTO orders VALUES (1)")

        task = asyncio.create_task(work())
        with psycopg.connect(postgres_url, autocommit=True) as other:
            await waits_for_the_lock(other)
        if how == "asyncio":
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
        else:
            deadlines[0]._expire()
        await asyncio.sleep(0)
        assert not task.done(), "it waits for the answer"

    await asyncio.wait([task])
    assert commits[0].state is State.COMMITTED
    assert task.cancelled() == (how == "asyncio"), "and the cancellation is not lost"
    assert rows(admin) == {1}


@each
async def test_a_commit_without_an_answer_is_in_doubt_and_looked_up(
    opened: Open, postgres_url: str, admin: psycopg.Connection[Any]
) -> None:
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(42)")
        async with opened(postgres_url) as (connection, execute):
            with pytest.raises(flow.InDoubt, match="look it up"):
                async with transaction(connection, grace=0.05) as commit:
                    await execute("INSERT INTO orders VALUES (1)")
        states = [commit.state]

    with flow.deadline(60):
        state = await resolve(commit, asks(admin), pause=0.01)
    assert [*states, commit.state] == [State.IN_DOUBT, state]
    assert rows(admin) == ({1} if state is State.COMMITTED else set())


@each
async def test_a_server_that_ends_the_session_at_the_commit_leaves_it_in_doubt(
    opened: Open, postgres_url: str, admin: psycopg.Connection[Any]
) -> None:
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(42)")

        async def kill() -> None:
            await waits_for_the_lock(admin)
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")

        async with opened(postgres_url) as (connection, execute):
            killer = asyncio.create_task(kill())
            with pytest.raises(flow.InDoubt, match="the connection was lost"):
                async with transaction(connection, grace=60) as commit:
                    await execute("INSERT INTO orders VALUES (1)")
            await killer

    with flow.deadline(60):
        assert await resolve(commit, asks(admin), pause=0.01) is State.NOT_COMMITTED
    assert rows(admin) == set()


async def test_a_violation_at_the_commit_is_no_doubt(postgres_url: str, admin: psycopg.Connection[Any]) -> None:
    admin.execute("CREATE TABLE single (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    for opened in DRIVERS:
        async with opened(postgres_url) as (connection, execute):
            with pytest.raises(Exception, match="duplicate key"):
                async with transaction(connection) as commit:
                    await execute("INSERT INTO single VALUES (1), (1)")
        assert commit.state is State.NOT_COMMITTED


@pytest.mark.parametrize("how", ["a deadline", "a deadline without grace", "wait_for"])
@pytest.mark.parametrize("opened", DRIVERS[:2], ids=lambda one: one.__name__)
async def test_of_commits_with_deadlines_swept_around_them_none_is_unlabelled(
    how: str, opened: Open, postgres_url: str, admin: psycopg.Connection[Any]
) -> None:
    """Six hundred in all, where a third of the moments is before, in and after the commit; how many, the machine decides."""
    commits: dict[int, Commit] = {}

    async def one(number: int, opened_one: Opened, seconds: float, grace: float) -> None:
        async def work() -> None:
            async with transaction(connection, grace=grace) as commit:
                commits[number] = commit
                await execute(f"INSERT INTO orders VALUES ({number})")

        connection, execute = opened_one
        if how == "wait_for":
            await asyncio.wait_for(work(), seconds)
        else:
            with flow.deadline(seconds):
                await work()

    async with opened(postgres_url) as warm:
        await one(0, warm, 60, 30)
        began = time.monotonic()
        await one(1, warm, 60, 30)
        took = time.monotonic() - began
    for number in range(2, 102):
        async with opened(postgres_url) as connected:
            with contextlib.suppress(flow.Expired, flow.InDoubt, TimeoutError):
                await one(number, connected, 2 * took * number / 100, 0 if how.endswith("without grace") else 30)

    doubtful = {number for number, commit in commits.items() if commit.state is State.IN_DOUBT}
    with flow.deadline(60):
        for number in doubtful:
            await resolve(commits[number], asks(admin), pause=0.01)
    states = Counter(commit.state for commit in commits.values())
    assert set(states) <= {State.COMMITTED, State.NOT_COMMITTED}, f"each has a label: {states}"
    assert {number for number, commit in commits.items() if commit.state is State.COMMITTED} == rows(admin)


async def test_a_connection_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="give an asyncpg connection"):
        async with transaction(object()):
            pytest.fail("it is not known how to commit")


# ---- statements -------------------------------------------------------------------------------------------------------


def timeout_of(connection: Any) -> float:
    """Milliseconds."""
    (text,) = connection.execute("SELECT setting FROM pg_settings WHERE name = 'statement_timeout'").fetchone()
    return float(text)


def test_each_statement_has_what_is_left(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        bound_psycopg(connection)
        with flow.deadline(600) as held:
            first = timeout_of(connection)
            held.at -= 300  # five minutes later
            second = timeout_of(connection)
        connection.rollback()
        without = timeout_of(connection)

    assert 0 < second <= 300_000 < first <= 600_000
    assert without == 0


def test_a_statement_in_a_thread_is_ended_by_the_server(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection, flow.deadline(0.2):
        bound_psycopg(connection)
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(60)")


def copied(cursor: Any) -> Any:
    with cursor.copy("COPY (SELECT pg_sleep(60)) TO STDOUT") as copying:
        return list(copying)


WAYS: dict[str, Callable[[Any], Any]] = {
    "executemany": lambda cursor: cursor.executemany("SELECT pg_sleep(%s)", [(60,)]),
    "stream": lambda cursor: list(cursor.stream("SELECT pg_sleep(60)")),
    "copy": copied,
}


@pytest.mark.parametrize("way", WAYS)
def test_rows_by_the_many_are_ended_by_the_server_too(way: str, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection, flow.deadline(0.2):
        bound_psycopg(connection)
        with pytest.raises(psycopg.errors.QueryCanceled):
            WAYS[way](connection.cursor())


@pytest.mark.parametrize("way", WAYS)
async def test_an_asynchronous_cursor_has_what_is_left_for_rows_by_the_many(way: str, postgres_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
        bound_psycopg(connection)
        cursor = connection.cursor()
        with flow.deadline(600):
            if way == "executemany":
                await cursor.executemany("SELECT %s::int", [(1,), (2,)])
            elif way == "stream":
                assert [row async for row in cursor.stream("SELECT 1 UNION ALL SELECT 2")] == [(1,), (2,)]
            else:
                async with cursor.copy("COPY (SELECT 1) TO STDOUT") as copying:
                    assert [bytes(one) async for one in copying] == [b"1\n"]
        row = await (await connection.execute(READ)).fetchone()
        assert row is not None
        assert 0 < int(row[0]) <= 600_000, "what was said holds until the transaction ends"


def test_an_expired_deadline_asks_nothing(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection, flow.deadline(60) as held:
        bound_psycopg(connection)
        held.at = held.clock()
        with pytest.raises(flow.Expired):
            connection.execute("SELECT 1")


READ = "SELECT setting FROM pg_settings WHERE name = 'statement_timeout'"


async def test_each_statement_of_an_asynchronous_driver_has_what_is_left_too(postgres_url: str) -> None:
    import asyncpg

    async def with_psycopg() -> AsyncIterator[Any]:
        async with await psycopg.AsyncConnection.connect(postgres_url) as opened:
            connection = bound_psycopg(opened)
            with flow.deadline(600) as held:
                yield (await (await connection.execute(READ)).fetchone())[0]
                held.at -= 300
                yield (await (await connection.execute(READ)).fetchone())[0]
            await connection.rollback()
            yield (await (await connection.execute(READ)).fetchone())[0]

    async def with_asyncpg() -> AsyncIterator[Any]:
        connection = await asyncpg.connect(postgres_url, connection_class=bound_asyncpg())
        with flow.deadline(600) as held:
            async with connection.transaction():
                yield await connection.fetchval(READ)
                held.at -= 300
                yield (await connection.fetchrow(READ))[0]
            yield (await connection.fetch(READ))[0][0]
        await connection.close()

    async def with_sqlalchemy(driver: str) -> AsyncIterator[Any]:
        engine = create_async_engine(postgres_url.replace("postgresql://", f"postgresql+{driver}://"))
        bound_engine(engine)
        async with engine.connect() as connection:
            with flow.deadline(600) as held:
                yield (await connection.execute(sqlalchemy.text(READ))).scalar_one()
                held.at -= 300
                yield (await connection.execute(sqlalchemy.text(READ))).scalar_one()
            await connection.rollback()
            yield (await connection.execute(sqlalchemy.text(READ))).scalar_one()
        await engine.dispose()

    for told in (with_psycopg(), with_asyncpg(), with_sqlalchemy("psycopg"), with_sqlalchemy("asyncpg")):
        first, second, without = [int(each) async for each in told]
        assert 0 < second <= 300_000 < first <= 600_000
        assert without == 0


@pytest.mark.parametrize("how", ["execute", "a block of its own"])
def test_outside_a_transaction_nothing_is_said_that_would_stay_behind(how: str, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        bound_psycopg(connection)
        with flow.deadline(600):
            if how == "execute":
                assert timeout_of(connection) == 0
            else:
                with connection.transaction():
                    assert 0 < timeout_of(connection) <= 600_000
        assert timeout_of(connection) == 0


def test_an_engine_of_sqlalchemy_s_bounds_its_statements(postgres_url: str) -> None:
    engine = sqlalchemy.create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    bound_engine(engine)
    with engine.connect() as connection, flow.deadline(600):
        left = connection.execute(sqlalchemy.text("SHOW statement_timeout")).scalar_one()
        five = [connection.execute(sqlalchemy.text("SELECT 1")).scalar_one() for _ in range(5)]
    engine.dispose()

    assert left not in ("0", "")
    assert five == [1] * 5
