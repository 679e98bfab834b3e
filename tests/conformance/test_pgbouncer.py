"""Behind a real PgBouncer in transaction mode: every transaction may have another session of the server, and finds in it what others
left there. So nobody may leave anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from crossfoot import Crossfoot, Message
from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.books.stock import take_stock
from crossfoot.books.store import Book
from crossfoot.books.verify import verify
from crossfoot.effects.databases.session import Database
from crossfoot.effects.databases.sqlalchemy import SqlAlchemyDatabase
from crossfoot.effects.sequence import InOrder
from crossfoot.errors import DatabaseUnavailable, UsageError
from crossfoot.queues.postgres import PostgresQueue, ensure
from crossfoot.recover.lookup import look_up
from crossfoot.testing.queues import outgoing
from crossfoot.worker.retry import Retry
from tests.conformance.database_forms import POSTGRES_FORMS
from tests.conformance.database_rig import AsyncpgForm, Form, a_message, a_scene, bill
from tests.servers.pgbouncer import PgBouncer

pytest_plugins = [
    "tests.conformance.database_fixtures",
    "tests.servers.pgbouncer_fixtures",
    "tests.servers.postgres_fixtures",
]

pytestmark = [pytest.mark.anyio, pytest.mark.server, pytest.mark.xdist_group("postgres")]

LEFT_BEHIND = b"""
SELECT pg_backend_pid(), (SELECT count(*) FROM pg_prepared_statements WHERE name <> ''), (SELECT count(*) FROM pg_listening_channels()),
  (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
  (SELECT string_agg(name || '=' || setting, ' ') FROM pg_settings WHERE source = 'session' AND name <> 'application_name'
    AND name NOT IN ('client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings', 'extra_float_digits', 'IntervalStyle'))
"""
"""In a session: prepared statements, channels listened to, locks, and settings but for those that PgBouncer keeps for each client."""

CLEAN = (0, 0, 0, None)


class OnAsyncpgEngine(AsyncpgForm):
    """An engine that is told what the guide tells."""

    @asynccontextmanager
    async def database(self, place: str) -> AsyncIterator[Database]:
        engine = create_async_engine(
            self.engine_url(place),
            connect_args={
                "statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: "",
            },
        )  # fmt: skip
        yield SqlAlchemyDatabase(engine)
        await engine.dispose()


FORMS = (
    *(form for form in POSTGRES_FORMS if repr(form) != "sqlalchemy-asyncpg"),
    OnAsyncpgEngine("sqlalchemy-asyncpg", is_async=True, orm=True),
)


def sessions_of(pooler: PgBouncer, url: str) -> list[tuple[Any, ...]]:
    """What is left behind in the server's sessions of that database, each asked while all others are in use."""
    held: list[psycopg.Connection[Any]] = []
    found: dict[int, tuple[Any, ...]] = {}
    try:
        while len(held) < pooler.sessions:
            connection = psycopg.connect(pooler.through(url), prepare_threshold=None)
            held.append(connection)
            row = connection.execute(LEFT_BEHIND).fetchone()
            assert row is not None
            found[row[0]] = row[1:]
    finally:
        for connection in held:
            connection.close()
    assert len(found) == pooler.sessions
    return list(found.values())


@pytest.mark.parametrize("form", FORMS, ids=repr)
async def test_a_handlers_transactions_leave_nothing_in_a_session(
    form: Form, tmp_path: Path, url_for: Callable[[Form], str], pgbouncer: PgBouncer
) -> None:
    url = url_for(form)
    async with a_scene(form, tmp_path, pgbouncer.through(url)) as scene:
        handler = scene.handler(bill, in_order=InOrder())
        for number in range(12):
            work = scene.work(handler, a_message(id=str(number), sequence=number))
            assert await scene.perform(work) is Kind.COMMITTED
        results = await scene.perform_batch([scene.work(scene.handler(bill, name="batch")) for _ in range(60)])
        assert len(results) == 60
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM effects").fetchone() == (72,)
    assert sessions_of(pgbouncer, url) == [CLEAN] * pgbouncer.sessions


async def test_an_engine_that_would_keep_statements_prepared_is_refused_and_told_what_to_set(
    tmp_path: Path, url_for: Callable[[Form], str], pgbouncer: PgBouncer
) -> None:
    form = AsyncpgForm("sqlalchemy-asyncpg", is_async=True, orm=True)
    async with a_scene(form, tmp_path, pgbouncer.through(url_for(form))) as scene:
        with pytest.raises(UsageError, match="prepared_statement_name_func"):
            await scene.perform(scene.work(scene.handler(bill)))


def test_a_search_path_that_the_pooler_does_not_pass_on_is_an_error(postgres_url: str, pgbouncer: PgBouncer) -> None:
    """Told to ignore it, it would have the tables made in another schema: see the guide."""
    with pytest.raises(DatabaseUnavailable, match="unsupported startup parameter"):
        Book(f"{pgbouncer.through(postgres_url)}?options=-csearch_path%3Dbooks").open()


async def test_a_book_is_made_written_posted_and_read(postgres_url: str, pgbouncer: PgBouncer) -> None:
    through = pgbouncer.through(postgres_url)
    app = Crossfoot("billing", database=through)
    messages = [app.message("case.released", subject=f"case-{number}") for number in range(40)]
    await app.publish(*messages)
    app.book.close()
    book = Book(through).open()
    post_all(book)
    balance = take_stock(book.connection, book.clock.now(), depth_of=None)
    assert (balance.published, balance.balanced) == (40, True)
    assert look_up(book.connection, messages[7].id, book.clock.now()).count == 1
    assert verify(book.connection, book.clock.now()).clean
    book.close()
    assert sessions_of(pgbouncer, postgres_url) == [CLEAN] * pgbouncer.sessions


@pytest.mark.parametrize("is_async", [False, True], ids=["in threads", "in the loop"])
async def test_two_workers_share_few_sessions_and_every_message_is_carried_out_once(
    postgres_url: str, pgbouncer: PgBouncer, is_async: bool
) -> None:
    """More clients than the pooler has sessions, so each finds what others were at in its session."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE invoices (case_id text)")

    def service() -> Crossfoot:
        app = Crossfoot("billing", database=pgbouncer.through(postgres_url))
        statement = "INSERT INTO invoices VALUES (%s)"

        async def bill_later(message: Message, tx: Any) -> None:
            await tx.execute(statement, (message.subject,))

        def bill_now(message: Message, tx: Any) -> None:
            tx.execute(statement, (message.subject,))

        app.handler("case.released", operation="bill:{subject}")(bill_later if is_async else bill_now)
        return app

    first, second = service(), service()
    await first.publish(*(first.message("case.released", subject=f"case-{number}") for number in range(100)))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as workers:
            for app in (first, second):
                worker = app.worker(wait=0.05, grace=5.0, retry=Retry(attempts=3, base=0.01), concurrency=4)
                workers.start_soon(partial(worker.run, until_idle=True))
    for app in (first, second):
        app.book.close()
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT case_id) FROM invoices").fetchone() == (100, 100)
    book = Book(postgres_url).open()
    post_all(book)
    balance = take_stock(book.connection, book.clock.now(), depth_of=None)
    assert (balance.fates["settled"], balance.balanced) == (100, True), balance.problems
    book.close()
    assert sessions_of(pgbouncer, postgres_url) == [CLEAN] * pgbouncer.sessions


@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
async def test_a_queue_polls_where_nobody_can_be_told(postgres_url: str, pgbouncer: PgBouncer, ordered: bool) -> None:
    name = await ensure("orders", url=postgres_url)
    async with PostgresQueue(name, url=pgbouncer.through(postgres_url), ordered=ordered) as queue:
        async with anyio.create_task_group() as tasks:

            async def publish_later() -> None:
                await anyio.sleep(0.3)
                await queue.publish([outgoing(partition="a") for _ in range(5)])

            tasks.start_soon(publish_later)
            taken = await queue.receive(1, lease=30.0, wait=10.0)
        while taken:
            await queue.extend([delivery.receipt for delivery in taken], lease=60.0)
            await queue.ack([delivery.receipt for delivery in taken])
            taken = await queue.receive(10, lease=30.0)
        assert (await queue.depth()).held == 0
    assert sessions_of(pgbouncer, postgres_url) == [CLEAN] * pgbouncer.sessions


def test_what_is_left_behind_would_be_found(postgres_url: str, pgbouncer: PgBouncer) -> None:
    """The pooler resets nothing: this is why the tests above would notice."""
    with psycopg.connect(pgbouncer.through(postgres_url), autocommit=True, prepare_threshold=None) as careless:
        careless.execute("SET lock_timeout = '7s'")
        careless.execute("LISTEN somebody")
        careless.execute("SELECT pg_advisory_lock(7)")
        careless.execute("PREPARE left_behind AS SELECT 1")
    assert (1, 1, 1, "lock_timeout=7000") in sessions_of(pgbouncer, postgres_url)
