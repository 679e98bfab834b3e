"""What a handler leaves behind on its connection reaches no later delivery: threads, tasks, streams, options and savepoints."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from sqlalchemy import text

from crossfoot.books.entry import Kind
from crossfoot.effects.handler import Handler
from crossfoot.effects.operation import operation_key
from crossfoot.errors import TransactionMisuse
from crossfoot.message import Message
from tests.conformance.database_forms import FILE_FORMS, POSTGRES_FORMS
from tests.conformance.database_rig import Call, Form, Scene, Sql, a_scene, bill, insert

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.server]

PSYCOPG = [form for form in POSTGRES_FORMS if form.name in ("psycopg", "psycopg-async")]
(SQLITE3,) = (form for form in FILE_FORMS if form.name == "sqlite3")
ORM = [form for form in POSTGRES_FORMS if form.orm]
BATCHES = pytest.mark.parametrize("batch", [False, True], ids=["plain", "batch"])
SERIES = "SELECT * FROM generate_series(1, 100000)"
PATIENCE = 20.0


@pytest.fixture
async def scene(request: pytest.FixtureRequest, tmp_path: Any, url_for: Any) -> Any:
    form: Form = request.param
    async with a_scene(form, tmp_path, url_for(form)) as made:
        yield made


def of(*forms: Form) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scene", forms, ids=repr, indirect=True)


async def ends(scene: Scene, batch: bool, *stories: Any) -> list[Any]:
    """How each delivery ended: in one transaction, or one after the other, as a lane does it when a batch has failed as a whole."""
    works = [scene.work(scene.handler(story)) for story in stories]
    with anyio.fail_after(PATIENCE):
        if batch:
            with suppress(TransactionMisuse):
                return await scene.perform_batch(works)
            works = [work.again() for work in works]
        found: list[Any] = []
        for work in works:
            try:
                found.append(await scene.perform(work))
            except Exception as error:  # noqa: BLE001 - how it ended is what is asked for
                found.append(error)
        return found


def plain(function: Any) -> Handler:
    """A handler as users write them."""
    return Handler(
        name="bill", service="billing", type="*", function=function, operation=operation_key(None, handler="bill")
    )


@pytest.mark.parametrize(
    ("scene", "batch"), [(PSYCOPG[0], False), (PSYCOPG[0], True), (SQLITE3, False)], ids=repr, indirect=["scene"]
)
async def test_a_thread_writes_nothing_by_the_connection_that_its_handler_had(scene: Scene, batch: bool) -> None:
    go_on, told = threading.Event(), []

    def leave(message: Message, tx: Any) -> None:
        connection = tx.connection
        cursor = connection.cursor()

        def late() -> None:
            go_on.wait(PATIENCE)
            for write in (connection.execute, cursor.execute):
                try:
                    write("INSERT INTO effects VALUES ('late', '')")
                except TransactionMisuse as error:
                    told.append(str(error))

        left = threading.Thread(target=late)
        left.start()
        threads.append(left)
        raise ConnectionError("pricing is down")

    def next_one(message: Message, tx: Any) -> None:
        tx.execute(f"INSERT INTO effects VALUES ('{message.id}', '')")
        go_on.set()
        threads[0].join(PATIENCE)

    threads: list[threading.Thread] = []
    works = [scene.work(plain(function)) for function in (leave, next_one)]
    if batch:
        results = await scene.perform_batch(works)
        assert isinstance(results[0], ConnectionError)
        assert results[1] is Kind.COMMITTED
    else:
        with pytest.raises(ConnectionError):
            await scene.perform(works[0])
        assert await scene.perform(works[1]) is Kind.COMMITTED
    assert len(told) == 2, "what was left running was let through"
    assert scene.effects == [works[1].message.id]


@BATCHES
@of(*PSYCOPG)
async def test_a_stream_that_nobody_ends_fails_its_delivery_and_the_lane_goes_on(scene: Scene, batch: bool) -> None:
    """It holds the connection's lock, for which the rollback would wait for ever."""
    kept: list[Any] = []

    def stream(message: Message, tx: Any) -> Generator[Any, Any, None]:
        yield insert(message)

        def begin(connection: Any) -> Any:
            kept.append(connection.cursor().stream(SERIES))
            return anext(kept[-1]) if scene.form.is_async else next(kept[-1])

        yield Call(begin)

    first, second = await ends(scene, batch, stream, bill)
    assert isinstance(first, TransactionMisuse)
    assert second is Kind.COMMITTED
    assert len(scene.effects) == 1
    for one in kept:
        with suppress(Exception):
            if scene.form.is_async:
                await one.aclose()
            else:
                one.close()


@of(*[form for form in ORM if form.is_async])
async def test_a_task_writes_nothing_by_the_session_that_its_handler_had(scene: Scene) -> None:
    go_on = asyncio.Event()
    tasks: list[asyncio.Task[Any]] = []
    statement = text("INSERT INTO effects VALUES ('late', '')")

    async def leave(message: Message, tx: Any) -> None:
        session = tx.session
        connection = await session.connection()

        async def late(execute: Any) -> None:
            await go_on.wait()
            await execute(statement)

        tasks.extend(asyncio.create_task(late(execute)) for execute in (session.execute, connection.execute))
        raise ConnectionError("pricing is down")

    async def next_one(message: Message, tx: Any) -> None:
        await tx.execute("INSERT INTO effects VALUES (:id, '')", {"id": message.id})
        go_on.set()
        await asyncio.wait(tasks, timeout=PATIENCE)

    works = [scene.work(plain(function)) for function in (leave, next_one)]
    results = await scene.perform_batch(works)
    assert isinstance(results[0], ConnectionError)
    assert results[1] is Kind.COMMITTED
    assert all(isinstance(task.exception(), TransactionMisuse) for task in tasks), "a late write was let through"
    assert scene.effects == [works[1].message.id]


@of(*ORM)
async def test_options_of_a_connection_are_not_those_of_the_next_message(scene: Scene) -> None:
    """SQLAlchemy sets them in place, and what is done by a cursor of the server's cannot insert."""

    def options(message: Message, tx: Any) -> Generator[Any, Any, None]:
        async def change(session: Any) -> None:
            await (await session.connection()).execution_options(stream_results=True)

        yield Call(
            change
            if scene.form.is_async
            else lambda session: session.connection().execution_options(stream_results=True)
        )
        raise ConnectionError("pricing is down")

    first, second = await ends(scene, True, options, bill)
    assert isinstance(first, ConnectionError)
    assert second is Kind.COMMITTED


@of(*ORM)
@pytest.mark.parametrize("call", ["commit", "rollback"])
async def test_a_refused_call_of_a_session_s_that_is_caught_is_told_again(scene: Scene, call: str) -> None:
    """Otherwise what the handler meant to undo would be kept, and prove it."""

    def swallow(message: Message, tx: Any) -> Generator[Any, Any, None]:
        yield insert(message)
        with suppress(TransactionMisuse):
            yield Call(lambda session: getattr(session, call)())

    (end,) = await ends(scene, False, swallow)
    assert isinstance(end, TransactionMisuse)
    assert scene.effects == []


@of(*POSTGRES_FORMS)
@pytest.mark.parametrize(
    "statement",
    [
        "SET default_transaction_read_only = on",
        "set /* all */ session statement_timeout = '1s'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET LOCAL synchronous_commit = off",
        "SELECT set_config('synchronous_commit', 'off', false)",
        "SELECT pg_catalog.set_config('synchronous_commit', 'off', true)",
        "SELECT set_config('statement_timeout', '1s', false)",
    ],
)
async def test_a_setting_that_would_outlast_the_handler_or_lose_its_commit_is_refused(
    scene: Scene, statement: str
) -> None:
    def change(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        yield insert(message)
        yield Sql(statement)

    def bounded(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        yield Sql("SET LOCAL statement_timeout = '60s'")
        yield Sql("SET CONSTRAINTS ALL DEFERRED")
        yield Sql("SELECT set_config('billing.tenant', 'anna', true)")
        yield insert(message)

    first, second = await ends(scene, False, change, bounded)
    assert isinstance(first, TransactionMisuse)
    assert second is Kind.COMMITTED
    assert len(scene.effects) == 1


@of(*POSTGRES_FORMS)
async def test_a_savepoint_of_the_name_that_crossfoot_s_might_have_holds_nothing_back(scene: Scene) -> None:
    def name(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        yield insert(message)
        yield Sql("SAVEPOINT crossfoot_one")
        raise ConnectionError("pricing is down")

    first, second = await ends(scene, True, name, bill)
    assert isinstance(first, ConnectionError)
    assert second is Kind.COMMITTED
    assert len(scene.effects) == 1


@of(*FILE_FORMS, *POSTGRES_FORMS)
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TEMP TABLE crossfoot_operations (operation TEXT)",
        "CREATE TEMPORARY TABLE IF NOT EXISTS crossfoot_entries (id INTEGER)",
    ],
)
async def test_a_temporary_table_that_would_be_taken_for_one_of_the_book_s_is_refused(
    scene: Scene, statement: str
) -> None:
    """Whatever was written to it would be lost with the session, and the message's operation be claimed twice."""

    def shadow(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        yield insert(message)
        yield Sql(statement)

    def of_its_own(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        yield Sql("CREATE TEMP TABLE mine_and_not_crossfoot_s (id TEXT)")
        yield insert(message)

    first, second = await ends(scene, False, shadow, of_its_own)
    assert isinstance(first, TransactionMisuse)
    assert "temporary table" in str(first)
    assert second is Kind.COMMITTED
    assert len(scene.effects) == 1
    (operations,) = scene.rows("SELECT count(*) FROM crossfoot_operations")
    assert operations == 1


@of(SQLITE3)
async def test_a_thread_that_was_left_in_a_batch_writes_nothing_there_either(scene: Scene) -> None:
    """The batch is done again one by one, where each transaction has a connection that no thread knows."""
    go_on, refused = threading.Event(), []
    threads: list[threading.Thread] = []

    def leave(message: Message, tx: Any) -> None:
        connection = tx.connection
        cursor = connection.cursor()

        def late() -> None:
            go_on.wait(PATIENCE)
            for write in (connection.execute, cursor.execute):
                try:
                    write("INSERT INTO effects VALUES ('late', '')")
                except Exception as error:  # noqa: BLE001 - counted below
                    refused.append(error)

        threads.append(threading.Thread(target=late))
        threads[-1].start()
        raise ConnectionError("pricing is down")

    def next_one(message: Message, tx: Any) -> None:
        tx.execute(f"INSERT INTO effects VALUES ('{message.id}', '')")
        go_on.set()
        for thread in threads:
            thread.join(PATIENCE)

    works = [scene.work(plain(function)) for function in (leave, next_one)]
    with pytest.raises(TransactionMisuse, match="still has the connection"):
        await scene.perform_batch(works)
    assert scene.effects == []
    works = [work.again() for work in works]
    with pytest.raises(ConnectionError):
        await scene.perform(works[0])
    assert await scene.perform(works[1]) is Kind.COMMITTED
    assert scene.effects == [works[1].message.id]
    assert len(refused) == 2 * len(threads) == 4


@of(SQLITE3)
async def test_a_failed_handler_whose_variables_had_the_connection_leaves_its_batch_alone(scene: Scene) -> None:
    """Its traceback keeps them alive, which is nobody's fault."""

    def fails(message: Message, tx: Any) -> None:
        connection = tx.connection
        rows = connection.execute("SELECT 1 UNION SELECT 2")
        try:
            raise KeyError(next(rows))
        except KeyError as error:
            raise ConnectionError("pricing is down") from error

    calls: list[str] = []

    def next_one(message: Message, tx: Any) -> None:
        calls.append(message.id)
        tx.execute(f"INSERT INTO effects VALUES ('{message.id}', '')")

    works = [scene.work(plain(function)) for function in (fails, next_one, fails, next_one)]
    first, second, third, fourth = await scene.perform_batch(works)
    assert isinstance(first, ConnectionError)
    assert isinstance(third, ConnectionError)
    assert (second, fourth) == (Kind.COMMITTED, Kind.COMMITTED)
    assert scene.effects == calls == [works[1].message.id, works[3].message.id]
