"""A handler that ends crossfoot's transaction is told so, its work is not passed off as done, and its lane goes on."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from crossfoot.books.entry import Kind
from crossfoot.errors import TransactionMisuse
from crossfoot.message import Message
from tests.conformance.database_forms import FILE_FORMS
from tests.conformance.database_rig import Call, Scene, Sql, Story, a_scene, bill, insert

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = pytest.mark.anyio


def then(act: Callable[[Any], Any]) -> Story:
    """Bill, and do `act` to the connection or session."""

    def story(message: Message, tx: Any) -> Generator[Sql | Call, Any, None]:
        yield insert(message)
        yield Call(act)

    return story


async def a_cursor(connection: Any) -> Any:
    if isinstance(connection, asyncpg.Connection):
        return connection  # its cursors are for reading
    made = connection.cursor()
    return await made if inspect.isawaitable(made) else made


async def assert_goes_on(scene: Scene) -> None:
    """The lane is as good as new."""
    work = scene.work(scene.handler(bill, name="next"))
    assert await scene.perform(work) is Kind.COMMITTED
    assert scene.effects[-1] == work.message.id
    scene.write("INSERT INTO scratch VALUES (1)")


class TestByMethod:
    """Calls that are refused before anything happens."""

    async def test_commit_is_refused_and_nothing_is_kept(self, scene: Scene) -> None:
        work = scene.work(scene.handler(then(scene.form.commit)))
        with pytest.raises(TransactionMisuse, match=r"called (for COMMIT|(session\.)?commit\(\))"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)

    async def test_rollback_is_refused_and_nothing_is_kept(self, scene: Scene) -> None:
        work = scene.work(scene.handler(then(scene.form.rollback)))
        with pytest.raises(TransactionMisuse, match=r"rollback|ROLLBACK|rolled back"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)

    @pytest.mark.parametrize(
        "act",
        [
            *(lambda c: c.set_progress_handler(lambda: 1, 1), lambda c: c.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 1)),
            lambda c: c.deserialize(b""),
        ],
    )  # fmt: skip
    async def test_what_would_outlast_the_handler_is_refused(self, tmp_path: Path, act: Callable[[Any], Any]) -> None:
        async with a_scene(FILE_FORMS[0], tmp_path) as scene:  # sqlite3 by itself
            work = scene.work(scene.handler(then(act)))
            with pytest.raises(TransactionMisuse, match=r"the handler (set|called)"):
                await scene.perform(work)
            scene.assert_nothing_was_kept(of=work)
            await assert_goes_on(scene)

    async def test_a_driver_connection_cannot_be_closed_by_a_handler(self, driver_scene: Scene) -> None:
        scene = driver_scene
        work = scene.work(scene.handler(then(lambda connection: connection.close())))
        with pytest.raises(TransactionMisuse, match=r"close\(\)"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)

    async def test_a_script_is_refused_because_it_would_commit_first(self, file_driver_scene: Scene) -> None:
        scene = file_driver_scene
        script = "INSERT INTO scratch VALUES (1); INSERT INTO scratch VALUES (2)"
        work = scene.work(scene.handler(then(lambda connection: connection.executescript(script))))
        with pytest.raises(TransactionMisuse, match="executescript"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)

    async def test_a_connection_as_a_context_is_refused_because_it_would_commit_at_the_end(
        self, driver_scene: Scene
    ) -> None:
        scene = driver_scene
        if scene.form.django or not hasattr(await scene.handle(), "__aexit__" if scene.form.is_async else "__exit__"):
            return  # asyncpg's is none

        def sync(connection: Any) -> None:
            with connection:
                connection.execute("INSERT INTO scratch VALUES (7)")

        async def asynchronous(connection: Any) -> None:
            async with connection:
                await connection.execute("INSERT INTO scratch VALUES (7)")

        work = scene.work(scene.handler(then(asynchronous if scene.form.is_async else sync)))
        with pytest.raises(TransactionMisuse, match="context"):
            await scene.perform(work)
        assert scene.rows("SELECT number FROM scratch WHERE number = 7") == []
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)

    async def test_closing_an_orm_session_is_harmless(self, orm_scene: Scene) -> None:
        scene = orm_scene
        work = scene.work(scene.handler(then(lambda session: session.close())))
        assert await scene.perform(work) is Kind.COMMITTED
        assert scene.effects == [work.message.id]
        await assert_goes_on(scene)


class TestByStatement:
    """SQL that ends the transaction."""

    @pytest.mark.parametrize("statement", ["COMMIT", "end transaction", " -- done\nCommit", "ROLLBACK", "BEGIN"])
    async def test_a_transaction_statement_is_refused(self, scene: Scene, statement: str) -> None:
        def story(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            yield Sql(statement)

        work = scene.work(scene.handler(story))
        with pytest.raises(TransactionMisuse):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)

    @pytest.mark.parametrize("used_before", [False, True])
    async def test_a_commit_behind_crossfoots_back_is_found_out_and_done_only_once(
        self, driver_scene: Scene, used_before: bool
    ) -> None:
        """Where the driver still has crossfoot's own COMMIT prepared, SQLite is not asked again. Then the key is durable with
        the effect, so the effect stays one, and the handler is told."""
        scene = driver_scene
        if used_before:
            await scene.perform(scene.work(scene.handler(bill)))
            scene.write("DELETE FROM effects")

        def sync(connection: Any) -> None:
            connection.cursor().execute("COMMIT")

        async def asynchronous(connection: Any) -> None:
            await (await a_cursor(connection)).execute("COMMIT")

        handler = scene.handler(then(asynchronous if scene.form.is_async else sync))
        work = scene.work(handler)
        with pytest.raises(TransactionMisuse):
            await scene.perform(work)
        if scene.effects:
            assert await scene.perform(scene.work(handler, work.message)) is Kind.SUPPRESSED
            assert scene.effects == [work.message.id]
        else:
            scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)

    async def test_a_handler_that_catches_the_refusal_does_not_keep_what_it_meant_to_roll_back(
        self, driver_scene: Scene
    ) -> None:
        scene = driver_scene

        def sync(connection: Any) -> None:
            with suppress(Exception):
                connection.cursor().execute("ROLLBACK")

        async def asynchronous(connection: Any) -> None:
            with suppress(Exception):
                await (await a_cursor(connection)).execute("ROLLBACK")

        work = scene.work(scene.handler(then(asynchronous if scene.form.is_async else sync)))
        with pytest.raises(TransactionMisuse):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)

    async def test_nor_one_that_catches_what_tx_execute_says(self, driver_scene: Scene) -> None:
        def story(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            with suppress(Exception):
                yield Sql("ROLLBACK")

        work = driver_scene.work(driver_scene.handler(story))
        with pytest.raises(TransactionMisuse):
            await driver_scene.perform(work)
        driver_scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(driver_scene)

    async def test_savepoints_by_a_cursor_made_around_the_connection_are_found_out(
        self, file_driver_scene: Scene
    ) -> None:
        """What they undid was not counted, so what was counted proves nothing."""
        scene = file_driver_scene
        if scene.form.is_async:
            return  # an aiosqlite connection gives out no cursor but its own

        def around(connection: Any) -> None:
            sqlite3.Cursor(connection).execute("SAVEPOINT mine")

        work = scene.work(scene.handler(then(around)))
        with pytest.raises(TransactionMisuse, match="savepoints"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)

    @pytest.mark.parametrize(
        "setting",
        [
            *(
                "query_only = 1",
                "locking_mode = exclusive",
                "busy_timeout = 0",
                "max_page_count = 1",
                "writable_schema = 1",
            ),
            *("main.query_only(1)", "Query_Only = ON", "journal_size_limit = 0", "temp_store = 1"),
        ],
    )
    async def test_a_setting_that_would_outlast_the_handler_is_refused(self, file_scene: Scene, setting: str) -> None:
        scene = file_scene

        def set_it(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            with suppress(Exception):
                yield Sql(f"PRAGMA {setting}")

        work = scene.work(scene.handler(set_it))
        with pytest.raises(TransactionMisuse, match="PRAGMA"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)

    @pytest.mark.parametrize(
        "setting",
        [
            "query_only",
            "table_info(effects)",
            "main.table_info('effects')",
            "defer_foreign_keys = ON",
            "user_version = 7",
        ],
    )
    async def test_a_setting_that_is_read_or_undone_with_the_rest_is_the_handler_s(
        self, file_scene: Scene, setting: str
    ) -> None:
        scene = file_scene

        def set_it(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            yield Sql(f"PRAGMA {setting}")

        assert await scene.perform(scene.work(scene.handler(set_it))) is Kind.COMMITTED
        await assert_goes_on(scene)


class TestByTheDatabase:
    """SQLite itself may roll back; a handler that catches the error must not look as if it had worked."""

    async def test_a_swallowed_insert_or_rollback_is_found_out(self, file_scene: Scene) -> None:
        scene = file_scene

        def swallow(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            try:
                yield Sql("INSERT OR ROLLBACK INTO taken VALUES (1)")
            except Exception:  # noqa: BLE001 - what the test is about
                return

        work = scene.work(scene.handler(swallow))
        with pytest.raises(TransactionMisuse, match="rolled back while the handler ran"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)

    async def test_what_is_written_after_such_a_rollback_is_not_kept_either(self, file_scene: Scene) -> None:
        scene = file_scene

        def go_on(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            try:
                yield Sql("INSERT OR ROLLBACK INTO taken VALUES (1)")
            except Exception:  # noqa: BLE001 - what the test is about
                yield insert(message)

        work = scene.work(scene.handler(go_on))
        with pytest.raises(Exception, match=r"rolled back|roll back|interrupted"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)

    async def test_one_that_raises_is_an_ordinary_failure(self, file_scene: Scene) -> None:
        scene = file_scene

        def let_out(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            yield Sql("INSERT OR ROLLBACK INTO taken VALUES (1)")

        work = scene.work(scene.handler(let_out))
        with pytest.raises(Exception, match="UNIQUE constraint failed"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)


class Base(DeclarativeBase):
    pass


class Effect(Base):
    __tablename__ = "effects"
    id: Mapped[str] = mapped_column(primary_key=True)
    note: Mapped[str]


class Taken(Base):
    __tablename__ = "taken"
    number: Mapped[int] = mapped_column(primary_key=True)


class TestTheOrm:
    """What only a SQLAlchemy session can do."""

    async def test_objects_added_and_never_flushed_are_the_effect(self, orm_scene: Scene) -> None:
        scene = orm_scene

        def add(message: Message, tx: Any) -> Generator[Call, Any, None]:
            yield Call(lambda session: session.add(Effect(id=message.id, note="orm")))

        work = scene.work(scene.handler(add))
        assert await scene.perform(work) is Kind.COMMITTED
        assert scene.effects == [work.message.id]

    async def test_a_swallowed_failure_of_a_flush_is_found_out(self, orm_scene: Scene) -> None:
        scene = orm_scene

        def swallow(message: Message, tx: Any) -> Generator[Sql | Call, Any, None]:
            yield insert(message, "audit")
            yield Call(lambda session: session.add(Taken(number=1)))
            try:
                yield Call(lambda session: session.flush())
            except Exception:  # noqa: BLE001 - what the test is about
                return

        work = scene.work(scene.handler(swallow))
        with pytest.raises(TransactionMisuse):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)

    async def test_a_nested_transaction_that_failed_takes_only_its_own_work_along(self, orm_scene: Scene) -> None:
        scene = orm_scene

        def sync(session: Any) -> None:
            try:
                with session.begin_nested():
                    session.execute(text("INSERT INTO effects (id, note) VALUES ('x', 'undone')"))
                    session.execute(text("INSERT INTO taken VALUES (1)"))
            except Exception:  # noqa: BLE001 - what the test is about
                return

        async def asynchronous(session: Any) -> None:
            await session.run_sync(sync)

        act = asynchronous if scene.form.is_async else sync

        def only_that(message: Message, tx: Any) -> Generator[Call, Any, None]:
            yield Call(act)

        work = scene.work(scene.handler(only_that, name="only-that"))
        with pytest.raises(Exception, match="look for an exception that it caught"):
            await scene.perform(work)

        work = scene.work(scene.handler(then(act), name="and-more"))
        assert await scene.perform(work) is Kind.COMMITTED
        assert scene.rows("SELECT details FROM crossfoot_entries") == ['{"rows":1}']
        assert scene.effects == [work.message.id]

    async def test_a_session_begun_by_the_handler_may_not_commit_by_leaving_its_block(self, orm_scene: Scene) -> None:
        scene = orm_scene

        def sync(session: Any) -> None:
            session.close()
            with session.begin():
                session.execute(text("INSERT INTO effects (id, note) VALUES ('x', '')"))

        async def asynchronous(session: Any) -> None:
            await session.run_sync(sync)

        work = scene.work(scene.handler(then(asynchronous if scene.form.is_async else sync)))
        with pytest.raises(TransactionMisuse):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        await assert_goes_on(scene)
