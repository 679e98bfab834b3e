"""Publishing when something is in the way: the intention is durable before anybody is asked."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest
from boto3.session import Session
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession as AsyncOrmSession
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session as OrmSession

from crossfoot import Crossfoot
from crossfoot.errors import MessageTooLarge, QueueUnavailable, TransactionMisuse, UsageError
from crossfoot.message import Message
from crossfoot.queues.sqs import SqsQueue, ensure
from tests.servers.processes import Server

pytest_plugins = ["tests.servers.fixtures"]

pytestmark = pytest.mark.anyio


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.server
@pytest.mark.xdist_group("ministack")
@pytest.mark.usefixtures("no_blocking_calls")
async def test_what_is_published_to_a_queue_that_cannot_be_reached_is_sent_when_it_can(
    tmp_path: Path, ministack: Server, aws: Session
) -> None:
    path = tmp_path / "billing.db"
    nobody = Crossfoot(
        "billing", database=path, queue=SqsQueue("orders-late", endpoint_url="http://127.0.0.1:9", session=aws)
    )
    with pytest.raises(QueueUnavailable, match="orders-late"):
        await nobody.publish("case.released", subject="case-1")
    await nobody.aclose()
    assert rows(path, "SELECT subject FROM crossfoot_messages") == [("case-1",)]
    assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(1,)]

    await ensure("orders-late", endpoint_url=ministack.url, session=aws)
    app = Crossfoot(
        "billing", database=path, wait=0.1, queue=SqsQueue("orders-late", endpoint_url=ministack.url, session=aws)
    )
    handled = []

    @app.handler("case.released")
    def bill(message: Message, tx: object) -> None:
        handled.append(message.subject)
        tx.outcome("invoice.issued")  # type: ignore[attr-defined] # a transaction, whichever

    with closing(sqlite3.connect(path)) as connection:  # the pause after a failed send, cut short
        connection.execute("UPDATE crossfoot_outbox SET due = 0")
        connection.commit()
    with anyio.fail_after(60):
        await app.worker().run(until_idle=True)
    await app.aclose()
    assert handled == ["case-1"]
    assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(0,)]


def test_a_book_that_was_open_when_the_process_was_forked_is_not_used_by_the_child(tmp_path: Path) -> None:
    app = Crossfoot("billing", database=tmp_path / "billing.db")
    app.book.open()
    child = os.fork()
    if child == 0:
        try:
            app.book.start_worker("child", "billing")
        except UsageError as error:
            os._exit(0 if "forked" in str(error) else 2)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    app.book.close()
    assert os.waitstatus_to_exitcode(status) == 0


# ---- within somebody else's transaction ------------------------------------------------------------------------------


@asynccontextmanager
async def a_producer(kind: str, path: Path) -> AsyncIterator[tuple[Crossfoot, Any]]:
    """The service, and a connection or session as a web request would have it."""
    app = Crossfoot("billing", database=path)
    app.book.open()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS cases (id TEXT)")
        connection.commit()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(app.aclose)
        if kind == "sqlite3":
            yield app, stack.enter_context(closing(sqlite3.connect(path)))
        elif kind == "aiosqlite":
            yield app, await stack.enter_async_context(aiosqlite.connect(path))
        elif kind == "sqlalchemy":
            engine = create_engine(f"sqlite:///{path}")
            stack.callback(engine.dispose)
            yield app, stack.enter_context(OrmSession(engine))
        else:
            async_engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
            stack.push_async_callback(async_engine.dispose)
            yield app, await stack.enter_async_context(AsyncOrmSession(async_engine))


async def _produce(app: Crossfoot, session: Any, *, fail: bool = False) -> None:
    """A business row and a message, in one transaction."""
    insert: Any = "INSERT INTO cases VALUES ('case-1')"
    if isinstance(session, (OrmSession, AsyncOrmSession)):
        insert = text(insert)
    if isinstance(session, (aiosqlite.Connection, AsyncOrmSession)):
        async with app.atransaction(session) as atx:
            await session.execute(insert)
            await atx.send("case.released", subject="case-1")
            if fail:
                raise RuntimeError("after the send")
    else:
        with app.transaction(session) as tx:
            session.execute(insert)
            tx.send("case.released", subject="case-1")
            if fail:
                raise RuntimeError("after the send")


KINDS = pytest.mark.parametrize("kind", ["sqlite3", "aiosqlite", "sqlalchemy", "sqlalchemy-async"])


@KINDS
async def test_what_a_request_sends_commits_with_its_rows_and_reaches_a_handler(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "billing.db"
    handled: list[str | None] = []
    async with a_producer(kind, path) as (app, session):
        await _produce(app, session)
        assert rows(path, "SELECT id FROM cases") == [("case-1",)]
        assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(1,)]

        @app.handler("case.released")
        def bill(message: Message, tx: Any) -> None:
            handled.append(message.subject)
            tx.outcome("invoice.issued")

        with anyio.fail_after(30):
            await app.worker(wait=0.05).run(until_idle=True)
    assert handled == ["case-1"]


@KINDS
async def test_what_a_request_sends_is_undone_with_its_rows(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "billing.db"
    async with a_producer(kind, path) as (app, session):
        with pytest.raises(RuntimeError, match="after the send"):
            await _produce(app, session, fail=True)
    for table in ("cases", "crossfoot_outbox", "crossfoot_messages", "crossfoot_entries"):
        assert rows(path, f"SELECT count(*) FROM {table}") == [(0,)], table


@KINDS
async def test_a_connection_to_another_file_is_refused_before_anything_is_written(tmp_path: Path, kind: str) -> None:
    async with (
        a_producer(kind, tmp_path / "shop.db") as (_, session),
        a_producer(kind, tmp_path / "billing.db") as (app, _),
    ):
        with pytest.raises(UsageError, match=r"billing\.db.*shop\.db"):
            await _produce(app, session)
    assert rows(tmp_path / "shop.db", "SELECT count(*) FROM cases") == [(0,)]


async def test_a_request_is_refused_what_its_queue_would_never_take(tmp_path: Path) -> None:
    path = tmp_path / "billing.db"
    async with a_producer("sqlite3", path) as (app, session):

        def request() -> None:
            with app.transaction(session) as tx:
                session.execute("INSERT INTO cases VALUES ('case-1')")
                tx.send("case.released", data="x" * app.settings.max_bytes)

        with pytest.raises(MessageTooLarge, match=r"case\.released .* takes at most 1,048,576"):
            request()
    for table in ("cases", "crossfoot_outbox", "crossfoot_messages"):
        assert rows(path, f"SELECT count(*) FROM {table}") == [(0,)], table


async def test_the_limit_of_a_queue_that_was_not_asked_refuses_nothing(tmp_path: Path, aws: Session) -> None:
    queue = SqsQueue("orders", endpoint_url="http://127.0.0.1:9", session=aws)
    app = Crossfoot("billing", database=tmp_path / "billing.db", queue=queue)
    with closing(sqlite3.connect(tmp_path / "billing.db")) as connection, app.transaction(connection) as tx:
        tx.send("case.released", data="x" * 500_000)
    await app.aclose()
    assert rows(tmp_path / "billing.db", "SELECT count(*) FROM crossfoot_outbox") == [(1,)]


async def test_a_send_that_was_not_awaited_is_found_out_and_nothing_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "billing.db"
    async with a_producer("aiosqlite", path) as (app, session):

        async def forget() -> None:
            async with app.atransaction(session) as tx:
                await session.execute("INSERT INTO cases VALUES ('case-1')")
                tx.send("case.released", subject="case-1")  # type: ignore[unused-coroutine] # the mistake

        with pytest.raises(TransactionMisuse, match=r"tx\.send\(\) was called and not awaited"):
            await forget()
    assert rows(path, "SELECT count(*) FROM cases") == [(0,)]


async def test_a_callers_own_transaction_is_left_to_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "billing.db"
    async with a_producer("sqlite3", path) as (app, connection):
        connection.isolation_level = None
        connection.execute("BEGIN")
        with app.transaction(connection) as tx:
            tx.send("case.released", subject="case-1")
        assert connection.in_transaction
        connection.rollback()
        assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(0,)]


# ---- who commits -----------------------------------------------------------------------------------------------------


async def _touch(session: Any) -> None:
    """The statement that begins a transaction by itself, before anybody thinks of sending."""
    statement: Any = "INSERT INTO cases VALUES ('earlier')"
    if isinstance(session, (OrmSession, AsyncOrmSession)):
        statement = text(statement)
    done = session.execute(statement)
    if isinstance(session, (aiosqlite.Connection, AsyncOrmSession)):
        await done


async def _send(app: Crossfoot, session: Any, commit: bool | None) -> None:
    if isinstance(session, (aiosqlite.Connection, AsyncOrmSession)):
        async with app.atransaction(session, commit=commit) as atx:
            await atx.send("case.released", subject="case-1")
    else:
        with app.transaction(session, commit=commit) as tx:
            tx.send("case.released", subject="case-1")


async def _end(session: Any, name: str) -> None:
    done = getattr(session, name)()
    if isinstance(session, (aiosqlite.Connection, AsyncOrmSession)):
        await done


@KINDS
async def test_a_transaction_that_began_by_itself_is_not_sent_in_until_somebody_says_who_commits(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "billing.db"
    async with a_producer(kind, path) as (app, session):
        await _touch(session)
        with pytest.raises(UsageError, match=r"commit=True.*commit=False"):
            await _send(app, session, None)
        await _end(session, "rollback")
    assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(0,)]


@KINDS
async def test_a_block_that_is_told_to_commit_commits_what_was_there_before_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "billing.db"
    async with a_producer(kind, path) as (app, session):
        await _touch(session)
        await _send(app, session, commit=True)
    assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(1,)]
    assert rows(path, "SELECT id FROM cases") == [("earlier",)]


@KINDS
@pytest.mark.parametrize("touched", [True, False])
@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_caller_who_commits_decides_about_both(tmp_path: Path, kind: str, touched: bool, ending: str) -> None:
    path = tmp_path / "billing.db"
    async with a_producer(kind, path) as (app, session):
        if touched:
            await _touch(session)
        await _send(app, session, commit=False)
        assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(0,)], "nobody has committed yet"
        await _end(session, ending)
    assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(int(ending == "commit"),)]


async def test_a_block_of_the_sessions_own_is_joined_and_commits(tmp_path: Path) -> None:
    path = tmp_path / "billing.db"
    async with a_producer("sqlalchemy", path) as (app, session):
        with session.begin(), app.transaction(session) as tx:
            tx.send("case.released", subject="case-1")
        session.begin()
        with app.transaction(session) as tx:
            tx.send("case.released", subject="case-2")
        assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(1,)]
        session.commit()
        with session.bind.begin() as connection, app.transaction(connection) as tx:
            tx.send("case.released", subject="case-3")
    async with a_producer("sqlalchemy-async", path) as (app, session), session.begin(), app.atransaction(session) as tx:
        await tx.send("case.released", subject="case-4")
    assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(4,)]


@KINDS
async def test_what_is_sent_when_the_block_is_over_is_refused(tmp_path: Path, kind: str) -> None:
    async with a_producer(kind, tmp_path / "billing.db") as (app, session):
        if kind in {"aiosqlite", "sqlalchemy-async"}:
            async with app.atransaction(session) as atx:
                pass
            with pytest.raises(TransactionMisuse, match=r"case\.released.* is over.*nothing was sent"):
                await atx.send("case.released", subject="case-1")
        else:
            with app.transaction(session) as tx:
                pass
            with pytest.raises(TransactionMisuse, match=r"case\.released.* is over.*nothing was sent"):
                tx.send("case.released", subject="case-1")


async def test_a_synchronous_session_is_refused_with_what_to_give(tmp_path: Path) -> None:
    async with a_producer("sqlalchemy", tmp_path / "billing.db") as (app, session):
        with pytest.raises(UsageError, match="give an aiosqlite"):
            async with app.atransaction(session):
                pass


# ---- whose commit would not be one -----------------------------------------------------------------------------------


async def test_a_session_whose_commit_does_not_reach_its_connection_s_transaction_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "billing.db"
    async with a_producer("sqlite3", path) as (app, _):
        engine = create_engine(f"sqlite:///{path}")
        with engine.connect() as connection, OrmSession(connection) as session:
            connection.execute(text("SELECT 1"))
            for commit in (None, True):
                with pytest.raises(UsageError, match="does not reach"), app.transaction(session, commit=commit):
                    pass
            with app.transaction(session, commit=False) as tx:
                tx.send("case.released", subject="case-1")
            connection.commit()
        engine.dispose()
    assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(1,)]


@pytest.mark.parametrize("kind", ["sqlalchemy", "sqlalchemy-async"])
async def test_a_session_whose_every_statement_commits_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "billing.db"
    async with a_producer(kind, path) as (app, session):
        session.bind = session.bind.execution_options(isolation_level="AUTOCOMMIT")
        if kind == "sqlalchemy-async":
            session.sync_session.bind = session.bind.sync_engine
        with pytest.raises(UsageError, match="AUTOCOMMIT"):
            await _produce(app, session)
    for table in ("cases", "crossfoot_outbox", "crossfoot_messages"):
        assert rows(path, f"SELECT count(*) FROM {table}") == [(0,)], table


async def test_a_transaction_that_was_begun_on_the_wrong_file_is_not_left_open(tmp_path: Path) -> None:
    async with (
        a_producer("sqlite3", tmp_path / "shop.db") as (_, session),
        a_producer("sqlite3", tmp_path / "billing.db") as (app, _),
    ):
        with pytest.raises(UsageError, match=r"shop\.db"), app.transaction(session, commit=False):
            pass
        assert not session.in_transaction


class Autocommitting(sqlite3.Connection):
    """What `sqlite3.connect(path, autocommit=True)` gives from Python 3.12 on."""

    autocommit = True

    def commit(self) -> None:
        """Nothing."""

    def rollback(self) -> None:
        """Nothing."""


async def test_a_connection_whose_commit_does_nothing_is_committed_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "billing.db"
    async with a_producer("sqlite3", path) as (app, _):
        with closing(sqlite3.connect(path, isolation_level=None, factory=Autocommitting)) as session:
            with pytest.raises(RuntimeError, match="after the send"):
                await _produce(app, session, fail=True)
            assert not session.in_transaction
            await _produce(app, session)
            assert not session.in_transaction
    assert rows(path, "SELECT count(*) FROM crossfoot_outbox") == [(1,)]
