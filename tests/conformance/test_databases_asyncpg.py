"""What asyncpg offers beside `tx.execute`: each way to change a row is counted, and none goes around the transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.effects.databases.asyncpg import AsyncpgDatabase
from crossfoot.effects.databases.asyncpg_connecting import terms
from crossfoot.effects.databases.asyncpg_protocol import Lent, Uncancelled
from crossfoot.effects.databases.sqlalchemy import SqlAlchemyDatabase
from crossfoot.effects.sequence import InOrder
from crossfoot.errors import DatabaseUnavailable, NoProof, TransactionMisuse, UsageError
from crossfoot.message import Message
from tests.conformance.database_forms import POSTGRES_FORMS
from tests.conformance.database_rig import AsyncpgForm, Call, Form, Scene, Sql, a_message, a_scene, bill, insert
from tests.servers.cable import Pooler
from tests.servers.postgres import Postgres

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.server]

ASYNCPG_FORMS = [form for form in POSTGRES_FORMS if isinstance(form, AsyncpgForm)]
PLAIN, ORM = ASYNCPG_FORMS

Act = Callable[[asyncpg.Connection], Awaitable[Any]]


@pytest.fixture
async def plain(tmp_path: Path, url_for: Callable[[Form], str]) -> AsyncIterator[Scene]:
    async with a_scene(PLAIN, tmp_path, url_for(PLAIN)) as made:
        yield made


@pytest.fixture
async def orm(tmp_path: Path, url_for: Callable[[Form], str]) -> AsyncIterator[Scene]:
    async with a_scene(ORM, tmp_path, url_for(ORM)) as made:
        yield made


async def details_of(scene: Scene, act: Act) -> str:
    """What the entry says of a handler that does only this."""

    def story(message: Message, tx: Any) -> Generator[Call, Any, None]:
        yield Call(act)

    await scene.perform(scene.work(scene.handler(story)))
    (details,) = scene.rows("SELECT details FROM crossfoot_entries")
    return str(details)


async def execute(connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO scratch SELECT generate_series(1, 7)")


async def execute_with_arguments(connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO scratch SELECT generate_series(1, $1::int)", 7)


async def executemany(connection: asyncpg.Connection) -> None:
    await connection.executemany("INSERT INTO scratch VALUES ($1)", [(number,) for number in range(7)])


async def executemany_of_updates(connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO scratch VALUES (1), (1), (2)")
    await connection.executemany("UPDATE scratch SET number = number WHERE number = $1", [(1,), (2,), (3,), (2,)])


async def fetchmany(connection: asyncpg.Connection) -> None:
    rows = await connection.fetchmany("INSERT INTO scratch VALUES ($1) RETURNING number", [(n,) for n in range(7)])
    assert [row["number"] for row in rows] == list(range(7))


async def fetchval_of_the_first(connection: asyncpg.Connection) -> None:
    """The server changes all of them, and is asked for one."""
    assert await connection.fetchval("INSERT INTO scratch SELECT generate_series(1, 7) RETURNING number") == 1


async def fetchrow_behind_a_with(connection: asyncpg.Connection) -> None:
    rows = "WITH rows AS (SELECT generate_series(1, 7) AS n) INSERT INTO scratch SELECT n FROM rows RETURNING number"
    assert (await connection.fetchrow(rows))["number"] == 1


async def prepared(connection: asyncpg.Connection) -> None:
    statement = await connection.prepare("INSERT INTO scratch SELECT generate_series(1, $1::int)")
    await statement.fetch(3)
    await statement.executemany([(2,), (2,)])


async def cursor(connection: asyncpg.Connection) -> None:
    found = connection.cursor("INSERT INTO scratch SELECT generate_series(1, 7) RETURNING number", prefetch=2)
    assert [row["number"] async for row in found] == list(range(1, 8))


async def copy_records(connection: asyncpg.Connection) -> None:
    await connection.copy_records_to_table("scratch", records=[(number,) for number in range(7)])


async def copy_text(connection: asyncpg.Connection) -> None:
    async def source() -> AsyncIterator[bytes]:
        for number in range(7):
            yield f"{number}\n".encode()

    await connection.copy_to_table("scratch", source=source())


async def copy_of_what_it_writes(connection: asyncpg.Connection) -> None:
    rows = "/* all */ INSERT INTO scratch SELECT generate_series(1, 7) RETURNING number"
    await connection.copy_from_query(rows, output=_forget)


async def in_a_nested_transaction(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        await execute(connection)


class TestWhatCounts:
    @pytest.mark.parametrize(
        "act",
        [
            execute, execute_with_arguments, executemany, fetchmany, fetchval_of_the_first, fetchrow_behind_a_with, prepared, cursor,
            copy_records, copy_text, copy_of_what_it_writes, in_a_nested_transaction,
        ],
        ids=lambda act: act.__name__,
    )  # fmt: skip
    async def test_seven_rows_are_seven_whatever_way_they_went(self, plain: Scene, act: Act) -> None:
        assert await details_of(plain, act) == '{"rows":7}'
        assert plain.rows("SELECT count(*) FROM scratch") == [7]

    async def test_of_many_updates_those_that_found_nothing_do_not_count(self, plain: Scene) -> None:
        assert await details_of(plain, executemany_of_updates) == '{"rows":7}'  # 3 inserted, 2 + 1 + 0 + 1 updated

    async def test_reading_does_not(self, plain: Scene) -> None:
        async def read(connection: asyncpg.Connection) -> None:
            await connection.fetch("SELECT * FROM generate_series(1, 3)")
            await connection.fetchmany("SELECT $1::int", [(1,), (2,)])
            assert [row async for row in connection.cursor("SELECT 'INSERT'")]
            await connection.copy_from_query("SELECT 1", output=_forget)

        with pytest.raises(NoProof):
            await details_of(plain, read)

    async def test_a_row_that_is_fetched_for_update_locks_no_other(self, plain: Scene) -> None:
        """What only reads is not read to its end."""
        plain.write("INSERT INTO scratch SELECT generate_series(1, 5)")
        locked: list[int] = []

        async def act(connection: asyncpg.Connection) -> None:
            await connection.fetchrow("SELECT number FROM scratch ORDER BY number FOR UPDATE")
            await connection.execute("INSERT INTO effects VALUES ('a', 'b')")
            rows = plain.rows("SELECT count(*) FROM (SELECT 1 FROM scratch FOR UPDATE SKIP LOCKED) AS free")
            locked.append(5 - rows[0])

        await details_of(plain, act)
        assert locked == [1]

    async def test_a_nested_transaction_that_failed_takes_only_its_own_work_along(self, plain: Scene) -> None:
        async def act(connection: asyncpg.Connection) -> None:
            await connection.execute("INSERT INTO scratch VALUES (1)")
            with suppress(asyncpg.UniqueViolationError):
                async with connection.transaction():
                    await connection.execute("INSERT INTO scratch VALUES (2)")
                    await connection.execute("INSERT INTO taken VALUES (1)")
            by_hand = connection.transaction()
            await by_hand.start()
            await connection.execute("INSERT INTO scratch VALUES (3)")
            await by_hand.rollback()

        assert await details_of(plain, act) == '{"rows":1}'
        assert plain.rows("SELECT number FROM scratch") == [1]

    async def test_a_query_that_is_cancelled_at_its_deadline_and_swallowed_is_found_out(self, plain: Scene) -> None:
        async def act(connection: asyncpg.Connection) -> None:
            await connection.execute("INSERT INTO scratch VALUES (1)")
            with anyio.move_on_after(0.05):
                await connection.execute("SELECT pg_sleep(30)")

        with pytest.raises(NoProof, match="PostgreSQL keeps nothing"):
            await details_of(plain, act)
        assert plain.rows("SELECT number FROM scratch") == []
        assert await plain.perform(plain.work(plain.handler(bill))) is Kind.COMMITTED


async def _forget(_: bytes) -> None: ...


class TestWhatIsRefused:
    @pytest.mark.parametrize("call", ["close", "reset", "add_listener"])
    async def test_what_would_end_or_outlive_the_transaction(self, plain: Scene, call: str) -> None:
        async def act(connection: asyncpg.Connection) -> None:
            await execute(connection)
            await getattr(connection, call)(*(("news", print) if call == "add_listener" else ()))

        with pytest.raises(TransactionMisuse, match=call):
            await details_of(plain, act)
        assert plain.rows("SELECT 1 FROM scratch") == []
        assert await plain.perform(plain.work(plain.handler(bill))) is Kind.COMMITTED

    @pytest.mark.parametrize(
        ("call", "arguments"),
        [
            ("add_query_logger", (print,)),
            ("add_log_listener", (print,)),
            ("add_termination_listener", (print,)),
            ("set_type_codec", ("int4",)),
            ("reset_type_codec", ("int4",)),
            ("set_builtin_type_codec", ("int4",)),
        ],
    )
    async def test_what_later_deliveries_would_find_on_the_connection(
        self, plain: Scene, call: str, arguments: tuple[Any, ...]
    ) -> None:
        """A logger of statements would be told what the next message carries."""

        async def act(connection: asyncpg.Connection) -> None:
            await execute(connection)
            done = getattr(connection, call)(*arguments)
            if done is not None:
                await done

        with pytest.raises(TransactionMisuse, match=rf"{call}\(\).*init="):
            await details_of(plain, act)
        assert plain.rows("SELECT 1 FROM scratch") == []

    async def test_a_commit_within_a_copy(self, plain: Scene) -> None:
        async def act(connection: asyncpg.Connection) -> None:
            await execute(connection)
            await connection.copy_from_query("SELECT 1) TO STDOUT; COMMIT; COPY (SELECT 1", output=_forget)

        with pytest.raises(TransactionMisuse, match="several statements"):
            await details_of(plain, act)
        assert plain.rows("SELECT 1 FROM scratch") == []

    @pytest.mark.parametrize("ends", ["raises", "returns"])
    async def test_a_statement_that_is_left_running_takes_nothing_along_to_the_next_delivery(
        self, plain: Scene, ends: str
    ) -> None:
        """As when one of several that were gathered fails: no rollback can be said on a connection that is busy."""
        left: list[asyncio.Task[Any]] = []

        def story(message: Message, tx: Any) -> Generator[Sql | Call, Any, None]:
            yield insert(message)

            async def act(connection: asyncpg.Connection) -> None:
                left.append(asyncio.create_task(connection.fetch("SELECT pg_sleep(0.2)")))
                await asyncio.sleep(0)

            yield Call(act)
            if ends == "raises":
                raise RuntimeError("the printer is on fire")

        work = plain.work(plain.handler(story))
        with pytest.raises(RuntimeError if ends == "raises" else asyncpg.InterfaceError):
            await plain.perform(work)
        await asyncio.wait(left)
        left[0].exception()

        assert await plain.perform(plain.work(plain.handler(bill, name="next"))) is Kind.COMMITTED
        plain.assert_nothing_was_kept(of=work)

    @pytest.mark.parametrize("way", ["prepare", "simple", "fetch", "cursor"])
    async def test_a_commit_by_whatever_way(self, plain: Scene, way: str) -> None:
        async def act(connection: asyncpg.Connection) -> None:
            await execute(connection)
            if way == "prepare":
                await connection.prepare("COMMIT")
            elif way == "cursor":
                await connection.cursor("COMMIT")
            else:
                await (connection.execute if way == "simple" else connection.fetch)("COMMIT")

        with pytest.raises(TransactionMisuse, match="COMMIT"):
            await details_of(plain, act)
        assert plain.rows("SELECT 1 FROM scratch") == []

    async def test_a_connection_that_the_handler_tears_down_fails_its_delivery_and_the_lane_goes_on(
        self, plain: Scene
    ) -> None:
        async def act(connection: asyncpg.Connection) -> None:
            await execute(connection)
            connection.terminate()

        with pytest.raises(TransactionMisuse, match="was ended while the handler ran"):
            await details_of(plain, act)
        assert plain.rows("SELECT 1 FROM scratch") == []
        assert await plain.perform(plain.work(plain.handler(bill))) is Kind.COMMITTED

    async def test_a_statement_that_a_handler_kept_is_of_no_use_to_anybody_afterwards(self, plain: Scene) -> None:
        kept: list[Any] = []

        async def act(connection: asyncpg.Connection) -> None:
            await execute(connection)
            kept.append(await connection.prepare("INSERT INTO scratch VALUES (8)"))

        await details_of(plain, act)
        with pytest.raises(TransactionMisuse, match="left running after it returned"):
            await kept[0].fetch()
        assert plain.rows("SELECT count(*) FROM scratch") == [7]

    async def test_parameters_by_name_are_told_what_they_should_be(self, plain: Scene) -> None:
        def story(message: Message, tx: Any) -> Generator[Sql | Call, Any, None]:
            yield Call(lambda _: tx.execute("SELECT :a", {"a": 1}))

        with pytest.raises(UsageError, match=r"write \$1"):
            await plain.perform(plain.work(plain.handler(story)))

    def test_a_synchronous_handler(self) -> None:
        app = Crossfoot("billing", database="postgresql+asyncpg://localhost/billing", queue="redis:billing")
        with pytest.raises(UsageError, match=r"handler bill is synchronous, and AsyncpgDatabase\(.*async def"):

            @app.handler("case.released", name="bill")
            def bill(message: Message, tx: Any) -> None: ...

    def test_a_driver_that_nobody_knows(self) -> None:
        with pytest.raises(UsageError, match="psycopg and asyncpg") as raised:
            Crossfoot("billing", database="postgresql+pg8000://ada:secret@localhost/billing")
        assert "secret" not in str(raised.value)


class TestTheUsersOwnTypes:
    async def test_a_codec_that_a_user_sets_does_not_touch_the_books_statements(
        self, tmp_path: Path, url_for: Callable[[Form], str]
    ) -> None:
        async def init(connection: asyncpg.Connection) -> None:
            for name in ("text", "int8", "int4"):
                await connection.set_type_codec(name, schema="pg_catalog", encoder=_shout, decoder=_shout)

        url = url_for(PLAIN)
        async with a_scene(PLAIN, tmp_path, url) as scene:
            scene.database = AsyncpgDatabase(url, init=init)
            seen: list[Any] = []

            def story(message: Message, tx: Any) -> Generator[Call | Sql, Any, None]:
                seen.append((yield Call(lambda connection: connection.fetchval("SELECT 'x'::text"))))
                yield Call(lambda connection: connection.execute("INSERT INTO effects VALUES ('a', 'b')"))
                tx.send("invoice.issued", subject=message.subject)

            handler = scene.handler(story, in_order=InOrder(contiguous=True))
            for number in (2, 1):
                await scene.perform(scene.work(handler, a_message(id=str(number), sequence=number)))
            assert seen == ["X!"]
            assert scene.rows("SELECT identity FROM crossfoot_outbox WHERE identity = ?", "billing|2") == ["billing|2"]


def _shout(value: Any) -> str:
    return f"{value}!".upper()


class TestItsConnections:
    def test_what_libpq_knows_and_asyncpg_does_not_is_not_sent_to_the_server(self) -> None:
        url, seconds = terms("postgresql://host/a?connect_timeout=3&keepalives_idle=9&sslmode=require&options=-cx%3D1")
        assert url == "postgresql://host/a?sslmode=require&options=-cx%3D1&application_name=crossfoot"
        assert seconds == 3

    async def test_a_server_that_is_not_there_is_told_without_the_password(self) -> None:
        database = AsyncpgDatabase("postgresql+asyncpg://ada:secret@127.0.0.1:1/billing")
        with pytest.raises(DatabaseUnavailable, match="does not answer") as raised:
            await database.aconnect()
        assert "secret" not in f"{raised.value} {database!r}"

    async def test_a_database_that_is_not_there(self, postgres: Postgres) -> None:
        with pytest.raises(DatabaseUnavailable, match="CREATE DATABASE"):
            await AsyncpgDatabase(postgres.url().rpartition("/")[0] + "/nowhere").aconnect()

    async def test_a_server_that_may_lose_what_it_confirmed_is_made_to_keep_it(
        self, plain: Scene, orm: Scene, postgres: Postgres
    ) -> None:
        for scene in (plain, orm):
            name = str(scene.path).rpartition("/")[2]
            postgres.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
            found: list[Any] = []

            def story(message: Message, tx: Any, found: list[Any] = found) -> Generator[Sql, Any, None]:
                yield insert(message)
                rows = yield Sql("SELECT current_setting('synchronous_commit')")
                found.extend(list(row) for row in rows)

            try:
                assert await scene.perform(scene.work(scene.handler(story))) is Kind.COMMITTED
            finally:
                postgres.run(f"ALTER DATABASE {name} RESET synchronous_commit")  # which goes to the next test
            assert found == [["on"]]

    def test_asyncpg_still_has_what_the_watch_stands_in_for(self) -> None:
        """Its protocol's methods are not public: a version that changed them must not pass unwatched."""
        inner = asyncpg.protocol.Protocol
        said = {name for name in vars(Uncancelled.__mro__[1]) if not name.startswith("_")} & set(dir(inner))
        assert said == {
            "prepare",
            "query",
            "bind_execute",
            "bind_execute_many",
            "bind",
            "execute",
            "copy_in",
            "copy_out",
        }
        network = {"close", "close_portal", "close_statement", "abort"}  # what ends things, and changes no row
        public = {name for name in dir(inner) if not name.startswith("_")} - set(dir(object))
        others = {name for name in public if callable(getattr(inner, name)) and name not in said | network}
        assert not {
            name for name in others if name.split("_")[0] in ("bind", "execute", "copy", "query", "fetch", "simple")
        }
        assert issubclass(Lent, Uncancelled.__mro__[1])


class TestBehindAPooler:
    """PgBouncer's transaction mode: each transaction may have another session."""

    @pytest.fixture
    def pooler(self, postgres: Postgres) -> Iterator[Pooler]:
        made = Pooler(postgres.port)
        yield made
        made.close()

    async def test_no_statement_stays_prepared(
        self, tmp_path: Path, url_for: Callable[[Form], str], pooler: Pooler, postgres: Postgres
    ) -> None:
        through = url_for(PLAIN).replace(f":{postgres.port}/", f":{pooler.port}/")
        async with a_scene(PLAIN, tmp_path, through) as scene:
            handler = scene.handler(bill, in_order=InOrder())
            for number in range(4):
                assert (
                    await scene.perform(scene.work(handler, a_message(id=str(number), sequence=number)))
                    is Kind.COMMITTED
                )
            await scene.perform_batch([scene.work(scene.handler(bill, name="batch")) for _ in range(60)])
            found: list[Any] = []

            async def look(connection: asyncpg.Connection) -> None:
                found.append(await connection.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"))
                found.append(await connection.fetchval("SELECT current_setting('lock_timeout')"))
                await execute(connection)

            def story(message: Message, tx: Any) -> Generator[Call, Any, None]:
                yield Call(look)

            await scene.perform(scene.work(scene.handler(story, name="look")))
            assert found == [0, "0"]

    async def test_without_one_they_do(self, plain: Scene) -> None:
        found: list[Any] = []

        async def look(connection: asyncpg.Connection) -> None:
            found.append(await connection.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"))
            await execute(connection)

        await details_of(plain, look)
        assert found[0] > 0


class TestTheEngine:
    """SQLAlchemy over asyncpg."""

    async def test_what_goes_to_the_driver_itself_is_counted_too(self, orm: Scene) -> None:
        async def act(session: AsyncSession) -> None:
            raw = await (await session.connection()).get_raw_connection()
            driver: Any = raw.driver_connection
            await driver.copy_records_to_table("scratch", records=[(number,) for number in range(7)])

        assert await details_of(orm, act) == '{"rows":7}'

    async def test_many_parameters_are_counted_one_by_one(self, orm: Scene) -> None:
        async def act(session: AsyncSession) -> None:
            await session.execute(text("INSERT INTO scratch VALUES (:n)"), [{"n": number} for number in range(7)])

        assert await details_of(orm, act) == '{"rows":7}'

    async def test_a_result_that_is_streamed_is_read_within_the_transaction(self, orm: Scene) -> None:
        async def act(session: AsyncSession) -> None:
            rows = await session.stream(text("SELECT generate_series(1, 120)"))
            assert len([row async for row in rows]) == 120
            await session.execute(text("INSERT INTO scratch VALUES (1)"))

        assert await details_of(orm, act) == '{"rows":1}'

    async def test_other_connections_of_the_users_engine_are_left_alone(self, orm: Scene) -> None:
        engine = orm.database.engine  # type: ignore[attr-defined]  # an engine's database has one

        async def act(session: AsyncSession) -> None:
            await session.execute(text("INSERT INTO scratch VALUES (1)"))
            async with engine.begin() as other:
                await other.execute(text("INSERT INTO scratch VALUES (2)"))

        assert await details_of(orm, act) == '{"rows":1}'
        async with engine.connect() as other:
            raw: Any = (await other.get_raw_connection()).driver_connection
            assert not isinstance(raw._protocol, Uncancelled), "the watch is taken off"

    def test_its_books_url_has_what_libpq_knows(self) -> None:
        engine = create_async_engine("postgresql+asyncpg://ada@host/a?ssl=require&prepared_statement_cache_size=0")
        assert SqlAlchemyDatabase(engine).path == "postgresql://ada@host/a?sslmode=require"
