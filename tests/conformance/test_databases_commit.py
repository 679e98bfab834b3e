"""The commit: shielded from cancellation, and when its answer is lost, resolved by reading the operation key again."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Generator
from typing import Any

import anyio
import asyncpg
import psycopg
import pytest
from django.db import DatabaseError
from django.db import IntegrityError as DjangoIntegrityError
from django.db.backends.base.base import BaseDatabaseWrapper
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError

from crossfoot.books.entry import Kind
from crossfoot.effects.databases.session import Database
from crossfoot.effects.databases.sqlite import disk_full
from crossfoot.errors import CommitInDoubt, DatabaseUnavailable
from crossfoot.message import Message
from tests.conformance.database_rig import Lossy, Scene, Sql, bill, insert

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = pytest.mark.anyio

REFUSED = (DjangoIntegrityError, IntegrityError, psycopg.IntegrityError, asyncpg.IntegrityConstraintViolationError)
"""By a constraint."""


class Unreadable:
    """The database as it is while the machine it is on cannot be reached."""

    lazy = True

    def __init__(self, inner: Database) -> None:
        self.path = inner.path

    def connect(self) -> Any:
        raise DatabaseUnavailable(f"{self.path} cannot be opened")

    async def aconnect(self) -> Any:
        self.connect()

    def close(self) -> None:
        """Nothing is open."""


def break_commit(scene: Scene, monkeypatch: pytest.MonkeyPatch, *, done: bool) -> None:
    """Have the driver itself raise at the next commit of the scene's session: after it (`done`) or before it."""
    if scene.form.postgres and not (scene.form.orm or scene.form.django):
        from crossfoot.effects.databases import asyncpg as other
        from crossfoot.effects.databases import psycopg as driver
        from crossfoot.effects.databases import psycopg_async

        monkeypatch.setattr(other, "COMMIT", "COMMIT; SELECT 1/0" if done else "SELECT 1/0")
        for module in (driver, psycopg_async):  # an error that the server answers, after the commit or instead of it
            monkeypatch.setattr(module, "ENDING", (b"COMMIT", b"SELECT 1/0") if done else (b"SELECT 1/0",))
        return
    error: Exception = sqlite3.OperationalError("disk I/O error")
    if scene.form.postgres:
        error = psycopg.OperationalError("server closed the connection unexpectedly")
    if scene.form.django:
        leave = BaseDatabaseWrapper._commit

        def lose(connection: Any) -> None:
            monkeypatch.undo()
            if done:
                leave(connection)
            with connection.wrap_database_errors:
                raise error

        monkeypatch.setattr(BaseDatabaseWrapper, "_commit", lose)
        return
    engine = getattr(scene.database, "engine", None)
    if engine is None:
        inner = scene.session._inner if scene.form.is_async else scene.session.handle
        it = weakref.ref(inner)  # one that somebody else holds is given up before the next delivery

        def lose_answer() -> None:
            connection = it()
            assert connection is not None
            if done:
                sqlite3.Connection.execute(connection, "COMMIT")
            raise error

        sqlite3.Connection.create_function(inner, "lose_answer", 0, lose_answer)
        monkeypatch.setattr("crossfoot.sqlite.COMMIT", "SELECT lose_answer()")
        return
    dialect = getattr(engine, "sync_engine", engine).dialect
    commit = dialect.do_commit

    def raise_once(connection: Any) -> None:
        monkeypatch.undo()
        if done:
            commit(connection)
        raise error

    monkeypatch.setattr(dialect, "do_commit", raise_once)


@pytest.mark.proves("law 5")
class TestAnAnswerThatIsLost:
    """Neither believed nor disbelieved."""

    async def test_the_commit_happened_and_is_found_by_its_key(
        self, scene: Scene, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene.session = Lossy(await scene.another_session(), done=True)
        work = scene.work(scene.handler(bill))
        assert await scene.perform(work) is Kind.COMMITTED
        assert scene.effects == [work.message.id]
        assert scene.kinds(work) == [Kind.COMMITTED]
        (told,) = (record.getMessage() for record in caplog.records if record.name == "crossfoot.effects")
        assert told.endswith(
            "its commit gave no answer (ConnectionResetError), and its operation is complete: it was committed"
        )
        assert work.message.id in told

    async def test_the_commit_did_not_happen_and_the_failure_is_reported(self, scene: Scene) -> None:
        scene.session = Lossy(await scene.another_session(), done=False)
        work = scene.work(scene.handler(bill))
        with pytest.raises(ConnectionResetError):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)

    async def test_a_key_that_another_message_completed_is_no_answer_to_this_one(self, scene: Scene) -> None:
        handler = scene.handler(bill, operation="bill:{subject}")
        await scene.perform(scene.work(handler))
        inner = scene.session
        scene.session = Lossy(inner, done=False)
        with pytest.raises(ConnectionResetError):
            await scene.perform(scene.work(handler))

    @pytest.mark.parametrize("done", [True, False])
    async def test_when_the_key_cannot_be_read_either_it_is_in_doubt_until_the_next_delivery(
        self, scene: Scene, done: bool
    ) -> None:
        scene.session = Lossy(await scene.another_session(), done=done)
        handler = scene.handler(bill)
        work = scene.work(handler)
        real, scene.database = scene.database, Unreadable(scene.database)
        with pytest.raises(CommitInDoubt, match="its next delivery will find out"):
            await scene.perform(work)

        scene.database = real
        await scene.close_session(scene.session)
        scene.session = None
        again = await scene.perform(scene.work(handler, work.message))
        assert again is (Kind.SUPPRESSED if done else Kind.COMMITTED)
        assert scene.effects == [work.message.id]

    @pytest.mark.parametrize("done", [True, False])
    async def test_a_drivers_own_error_at_the_commit_is_resolved_by_the_key(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch, done: bool
    ) -> None:
        await scene.open_session()
        work = scene.work(scene.handler(bill))
        break_commit(scene, monkeypatch, done=done)
        if done:
            assert await scene.perform(work) is Kind.COMMITTED
            assert scene.effects == [work.message.id]
            assert scene.kinds(work) == [Kind.COMMITTED]
        else:
            # A file that cannot be written stops the worker; a session that ended is one delivery's failure.
            refused = (
                (psycopg.Error, asyncpg.PostgresError, DBAPIError, DatabaseError)
                if scene.form.postgres
                else DatabaseUnavailable
            )
            with pytest.raises(refused):
                await scene.perform(work)
            scene.assert_nothing_was_kept(of=work)

    @pytest.mark.parametrize("batch", [False, True], ids=["plain", "batch"])
    async def test_a_constraint_that_refuses_the_commit_is_the_deliverys_failure_and_leaves_no_lock(
        self, scene: Scene, batch: bool
    ) -> None:
        if not (scene.form.orm or scene.form.django or scene.form.postgres):
            return  # their connections do not check foreign keys
        if scene.form.orm and not scene.form.postgres:
            engine: Any = scene.database.engine  # type: ignore[attr-defined] # an engine's database has one

            @event.listens_for(getattr(engine, "sync_engine", engine), "connect")
            def check_foreign_keys(connection: Any, _: Any) -> None:
                connection.execute("PRAGMA foreign_keys = ON")

        scene.write("CREATE TABLE bills (number INTEGER REFERENCES taken DEFERRABLE INITIALLY DEFERRED)")

        def bill_nobody(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield Sql("INSERT INTO bills VALUES (99)")

        work = scene.work(scene.handler(bill_nobody))
        with pytest.raises(REFUSED, match=r"(?i)foreign key"):
            await (scene.perform_batch([work]) if batch else scene.perform(work))
        scene.assert_nothing_was_kept(of=work)
        assert await scene.perform(scene.work(scene.handler(bill))) is Kind.COMMITTED

    @pytest.mark.usefixtures("page_limits")
    async def test_a_disk_that_fills_up_under_the_handler_undoes_everything(self, file_scene: Scene) -> None:
        scene = file_scene

        def fill(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            yield Sql("PRAGMA max_page_count = 1")  # SQLite takes the file's present size instead: the disk is full now
            yield insert(message, "x" * 200_000)

        work = scene.work(scene.handler(fill))
        with pytest.raises(Exception, match="database or disk is full") as raised:
            await scene.perform(work)
        assert disk_full(raised.value) is not None
        scene.assert_nothing_was_kept(of=work)

    @pytest.mark.usefixtures("page_limits")
    async def test_a_handler_that_swallows_the_full_disk_does_not_pass_for_done(self, file_scene: Scene) -> None:
        scene = file_scene

        def swallow(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            yield Sql("PRAGMA max_page_count = 1")
            try:
                yield insert(message, "x" * 200_000)
            except Exception:  # noqa: BLE001 - what the test is about
                return

        work = scene.work(scene.handler(swallow, proves=["invoice.issued"]))
        with pytest.raises(Exception, match=r"rolled back|proves it"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)


class TestCancellation:
    """At any moment: all of it or nothing, and no lock is left behind."""

    @pytest.mark.parametrize("batch", [False, True], ids=["plain", "batch"])
    async def test_wherever_a_delivery_is_cancelled_it_is_whole_or_nothing(
        self, async_scene: Scene, batch: bool
    ) -> None:
        scene = async_scene

        def slowly(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message, "first")
            yield Sql("SELECT count(*) FROM effects")
            yield insert(message, "second")
            tx.send("invoice.issued", subject=message.subject)

        handler = scene.handler(slowly)
        finished, cut = 0, 0
        for steps in range(200):
            works = [scene.work(handler) for _ in range(2 if batch else 1)]
            done = await cancelled_after(steps, scene, works, batch=batch)
            for work in works:
                notes = scene.rows("SELECT note FROM effects WHERE id = ?", work.message.id)
                assert notes in ([], ["first", "second"]), f"half of it was kept after {steps} steps: {notes}"
                assert len(scene.kinds(work)) == len(notes) // 2
                keys = scene.rows("SELECT 1 FROM crossfoot_operations WHERE message = ?", work.hold.key)
                assert len(keys) == len(notes) // 2
                assert notes or not done, "reported as done, and is not"
            scene.write("INSERT INTO scratch VALUES (1)")
            finished, cut = finished + done, cut + (not done)
            if finished >= 5:
                break
        assert cut >= 5, "the sweep never cut anything short"
        assert finished >= 5, "the sweep never reached the end"

    async def test_the_lane_goes_on_after_a_cancelled_delivery(self, async_scene: Scene) -> None:
        scene = async_scene
        for steps in (1, 5, 9, 13):
            await cancelled_after(steps, scene, [scene.work(scene.handler(bill))], batch=False)
            work = scene.work(scene.handler(bill))
            with anyio.fail_after(5):
                assert await scene.perform(work) is Kind.COMMITTED

    async def test_cancelled_while_it_waits_for_another_writer_it_leaves_the_line(
        self, file_async_scene: Scene
    ) -> None:
        scene = file_async_scene
        await scene.open_session()
        work = scene.work(scene.handler(bill))
        other = sqlite3.connect(scene.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        async def let_go_later() -> None:
            await anyio.sleep(0.3)
            other.execute("ROLLBACK")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(let_go_later)
            with anyio.move_on_after(0.05):
                await scene.perform(work)
        other.close()
        assert scene.effects == []
        scene.write("INSERT INTO scratch VALUES (1)")


async def cancelled_after(steps: int, scene: Scene, works: list[Any], *, batch: bool) -> bool:
    """Perform, and cancel after so many rounds of the event loop. Whether it was done all the same."""
    done = False

    async def perform() -> None:
        nonlocal done
        if batch:
            await scene.perform_batch(works)
        else:
            await scene.perform(works[0])
        done = True

    await scene.open_session()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(perform)
        for _ in range(steps):
            await anyio.sleep(0.0005 if steps % 2 else 0)
            if done:
                break
        tasks.cancel_scope.cancel()
    return done
