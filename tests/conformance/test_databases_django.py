"""What only Django does: models, atomic blocks, hooks that wait for the commit, a connection for each thread."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from django.db import DatabaseError, IntegrityError, close_old_connections, connections, transaction

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.effects.databases.django import DjangoDatabase
from crossfoot.errors import NoProof, TransactionMisuse, UsageError
from crossfoot.message import Message
from tests.conformance.database_forms import FORMS
from tests.conformance.database_rig import Call, Form, Lossy, Scene, Sql, a_scene, bill, insert
from tests.conformance.django_form import Effect, Taken, registered

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = pytest.mark.anyio


@pytest.fixture(params=[form for form in FORMS if form.django], ids=repr)
async def scene(request: pytest.FixtureRequest, tmp_path: Path, url_for: Callable[[Form], str]) -> AsyncIterator[Scene]:
    async with a_scene(request.param, tmp_path, url_for(request.param)) as made:
        yield made


def doing(act: Callable[[Any], Any]) -> Callable[[Message, Any], Generator[Call, Any, None]]:
    """A handler that only does this, with Django's connection."""

    def story(message: Message, tx: Any) -> Generator[Call, Any, None]:
        yield Call(act)

    return story


async def details_of(scene: Scene, act: Callable[[Any], Any]) -> str:
    await scene.perform(scene.work(scene.handler(doing(act))))
    (details,) = scene.rows("SELECT details FROM crossfoot_entries")
    return str(details)


def create(connection: Any, id_: str, note: str = "") -> None:
    Effect.objects.using(connection.alias).create(id=id_, note=note)


class TestModels:
    async def test_what_they_change_is_counted_and_committed_with_the_rest(self, scene: Scene) -> None:
        def act(connection: Any) -> None:
            effects = Effect.objects.using(connection.alias)
            effects.bulk_create([Effect(id=str(number), note="new") for number in range(4)])
            assert effects.filter(id__in=["0", "1"]).update(note="old") == 2
            effects.filter(id="3").delete()
            assert effects.count() == 3

        assert await details_of(scene, act) == '{"rows":7}'
        assert scene.rows("SELECT count(*) FROM effects") == [3]

    async def test_reading_is_no_proof(self, scene: Scene) -> None:
        with pytest.raises(NoProof):
            await details_of(scene, lambda connection: list(Effect.objects.using(connection.alias).iterator()))

    async def test_a_failed_save_that_is_swallowed_is_found_out(self, scene: Scene) -> None:
        """Django marks its block, and would roll back at its end without a word."""

        def act(connection: Any) -> None:
            create(connection, "a")
            try:
                Taken(number=1).save(using=connection.alias, force_insert=True)
            except IntegrityError:
                return

        with pytest.raises(NoProof, match=r"keeps nothing|nothing of it is kept"):
            await details_of(scene, act)
        assert scene.effects == []
        assert await scene.perform(scene.work(scene.handler(bill))) is Kind.COMMITTED


class TestAtomic:
    async def test_a_block_is_a_savepoint(self, scene: Scene) -> None:
        def act(connection: Any) -> None:
            create(connection, "a")
            try:
                with transaction.atomic(using=connection.alias):
                    create(connection, "b")
                    Taken(number=1).save(using=connection.alias, force_insert=True)
            except IntegrityError:
                pass
            with transaction.atomic(using=connection.alias):
                create(connection, "c")

        assert await details_of(scene, act) == '{"rows":2}'
        assert scene.effects == ["a", "c"]

    async def test_one_that_must_be_durable_is_refused(self, scene: Scene) -> None:
        def act(connection: Any) -> None:
            with transaction.atomic(using=connection.alias, durable=True):
                create(connection, "a")

        with pytest.raises(RuntimeError, match="durable"):
            await details_of(scene, act)
        assert scene.effects == []

    async def test_one_that_is_marked_for_rollback_does_not_pass_for_done(self, scene: Scene) -> None:
        def act(connection: Any) -> None:
            create(connection, "a")
            transaction.set_rollback(True, using=connection.alias)

        with pytest.raises(NoProof, match="set_rollback"):
            await details_of(scene, act)
        assert scene.effects == []

    async def test_one_that_is_left_open_is_found_out(self, scene: Scene) -> None:
        def act(connection: Any) -> None:
            create(connection, "a")
            transaction.atomic(using=connection.alias).__enter__()

        with pytest.raises(TransactionMisuse, match="leave it before"):
            await details_of(scene, act)
        assert scene.effects == []
        assert await scene.perform(scene.work(scene.handler(bill))) is Kind.COMMITTED

    @pytest.mark.parametrize(
        "end",
        [
            lambda connection: connection.set_autocommit(True),
            lambda connection: transaction.commit(using=connection.alias),
            lambda connection: connection.close(),
            lambda connection: connection.connect(),
            lambda _: close_old_connections(),
            lambda connection: connection.connection.commit(),
            lambda connection: connection._commit(),
            lambda connection: connection.execute_wrappers.clear(),
        ],
        ids=[
            "set_autocommit",
            "commit",
            "close",
            "connect",
            "close_old_connections",
            "the driver's commit",
            "Django's own commit",
            "its wrapper",
        ],
    )
    async def test_what_would_end_the_transaction_is_refused_even_when_it_is_swallowed(
        self, scene: Scene, end: Callable[[Any], Any]
    ) -> None:
        def act(connection: Any) -> None:
            create(connection, "a")
            try:
                end(connection)
            except (TransactionMisuse, DatabaseError, sqlite3.DatabaseError):
                return

        with pytest.raises(TransactionMisuse):
            await details_of(scene, act)
        assert scene.effects == []
        assert await scene.perform(scene.work(scene.handler(bill))) is Kind.COMMITTED

    async def test_one_whose_connection_the_driver_closed_is_nobody_elses_failure(self, scene: Scene) -> None:
        def act(connection: Any) -> None:
            create(connection, "a")
            raw = connection.connection
            type(raw).close(raw)

        with pytest.raises((TransactionMisuse, sqlite3.ProgrammingError)):
            await details_of(scene, act)
        assert scene.effects == []
        assert await scene.perform(scene.work(scene.handler(bill))) is Kind.COMMITTED

    async def test_a_failed_work_of_a_batch_leaves_nothing_to_its_neighbours(self, scene: Scene) -> None:
        told: list[str] = []

        def swallow(message: Message, tx: Any) -> Generator[Call | Sql, Any, None]:
            yield insert(message)

            def act(connection: Any) -> None:
                transaction.on_commit(lambda: told.append("undone"), using=connection.alias)
                try:
                    Taken(number=1).save(using=connection.alias, force_insert=True)
                except IntegrityError:
                    return

            yield Call(act)

        def tell(message: Message, tx: Any) -> Generator[Call | Sql, Any, None]:
            yield insert(message)
            yield Call(lambda c: transaction.on_commit(lambda: told.append(message.id), using=c.alias))

        works = [scene.work(scene.handler(story, name=story.__name__)) for story in (tell, swallow, tell)]
        first, bad, last = await scene.perform_batch(works)
        assert (first, last) == (Kind.COMMITTED, Kind.COMMITTED)
        assert isinstance(bad, NoProof)
        assert scene.effects == [works[0].message.id, works[2].message.id] == told


class TestHooks:
    async def test_they_run_after_the_commit_and_see_it(self, scene: Scene) -> None:
        seen: list[Any] = []

        def look() -> None:
            seen.append((scene.effects, len(scene.rows("SELECT 1 FROM crossfoot_entries"))))

        def act(connection: Any) -> None:
            create(connection, "a")
            transaction.on_commit(
                lambda: seen.append((list(scene.effects), len(scene.rows("SELECT 1 FROM crossfoot_entries")))),
                connection.alias,
            )
            assert seen == []

        await details_of(scene, act)
        assert seen == [(["a"], 1)]

    async def test_they_do_not_run_after_a_failure(self, scene: Scene) -> None:
        seen: list[str] = []

        def act(connection: Any) -> None:
            create(connection, "a")
            transaction.on_commit(lambda: seen.append("ran"), connection.alias)
            raise RuntimeError("the printer is on fire")

        with pytest.raises(RuntimeError):
            await details_of(scene, act)
        await scene.perform(scene.work(scene.handler(bill)))
        assert seen == []

    async def test_nor_when_the_commit_did_not_happen(self, scene: Scene) -> None:
        seen: list[str] = []

        def act(connection: Any) -> None:
            create(connection, "a")
            transaction.on_commit(lambda: seen.append("ran"), connection.alias)

        scene.session = Lossy(await scene.another_session(), done=False)
        with pytest.raises(ConnectionResetError):
            await details_of(scene, act)
        await scene.perform(scene.work(scene.handler(bill)))
        assert seen == []

    @pytest.mark.parametrize(("robust", "then"), [(False, []), (True, ["after"])])
    @pytest.mark.parametrize("kind", [ConnectionError, SystemExit, asyncio.CancelledError])
    async def test_what_one_raises_is_logged_and_changes_no_fate(
        self, scene: Scene, caplog: pytest.LogCaptureFixture, robust: bool, then: list[str], kind: type[BaseException]
    ) -> None:
        seen: list[str] = []

        def fail() -> None:
            raise kind("the cache of Ada is gone")

        def act(connection: Any) -> None:
            create(connection, "a")
            transaction.on_commit(fail, connection.alias, robust)
            transaction.on_commit(lambda: seen.append("after"), connection.alias)

        work = scene.work(scene.handler(doing(act)))
        with caplog.at_level(logging.ERROR, logger="crossfoot.effects.django"):
            assert await scene.perform(work) is Kind.COMMITTED
        assert scene.kinds(work) == [Kind.COMMITTED]
        assert seen == then
        assert f"which stands ({kind.__name__})" in caplog.text
        assert "Ada" not in caplog.text, "what it says may hold a payload"

    async def test_a_block_that_one_leaves_open_is_no_bar_to_the_next_delivery(self, scene: Scene) -> None:
        def act(connection: Any) -> None:
            create(connection, "a")
            transaction.on_commit(lambda: transaction.atomic(using=connection.alias).__enter__(), connection.alias)

        await details_of(scene, act)
        assert await scene.perform(scene.work(scene.handler(bill, name="next"))) is Kind.COMMITTED
        assert len(scene.effects) == 2


class TestConnections:
    async def test_by_djangos_default_each_transaction_has_one_of_its_own(self, scene: Scene) -> None:
        scene.database = DjangoDatabase(registered(str(scene.path), CONN_MAX_AGE=0))
        seen: list[Any] = []

        def act(connection: Any) -> None:
            create(connection, str(len(seen)))
            seen.append(connection.connection)

        for name in ("one", "two"):
            await scene.perform(scene.work(scene.handler(doing(act), name=name)))
        assert seen[0] is not seen[1]
        assert len(scene.effects) == 2

    async def test_it_is_djangos_own_of_that_thread_and_in_order_afterwards(self, scene: Scene) -> None:
        seen: list[Any] = []

        def act(connection: Any) -> None:
            seen.extend([connection is connections[connection.alias], threading.get_ident() != main])
            create(connection, "a")
            seen.append(connection)

        main = threading.get_ident()
        await details_of(scene, act)
        assert seen[:2] == [True, True]
        left = seen[2]
        assert (left.in_atomic_block, left.autocommit, left.execute_wrappers, left.run_on_commit) == (
            False,
            True,
            [],
            [],
        )
        assert not {"commit", "rollback", "close", "set_autocommit"} & set(vars(left))

    async def test_one_that_is_in_a_block_already_is_refused(self, scene: Scene) -> None:
        def inside() -> None:
            session = scene.database.connect()
            with transaction.atomic(using=scene.database.alias):  # type: ignore[attr-defined]  # Django's has one
                try:
                    session.begin()
                finally:
                    session.rollback()
                    session.close()

        def inside_and_close() -> None:
            try:
                inside()
            finally:
                connections[scene.database.alias].close()  # type: ignore[attr-defined]  # as above

        with pytest.raises(UsageError, match="in an atomic block already"):
            await anyio.to_thread.run_sync(inside_and_close)

    async def test_one_that_leads_elsewhere_than_the_book_is_refused(self, scene: Scene) -> None:
        def move() -> None:
            session = scene.database.connect()
            connection = connections[scene.database.alias]  # type: ignore[attr-defined]  # as above
            theirs, connection.settings_dict["NAME"] = connection.settings_dict["NAME"], "test_billing"
            try:
                session.begin()
            finally:
                connection.settings_dict["NAME"] = theirs
                session.close()

        with pytest.raises(UsageError, match="test databases"):
            await anyio.to_thread.run_sync(move)


class TestTheApp:
    def test_an_asynchronous_handler_is_refused(self, tmp_path: Path) -> None:
        app = Crossfoot("billing", database=connections[registered(str(tmp_path / "a.db"))])
        with pytest.raises(UsageError, match=r"handler bill is asynchronous.*Django's ORM is synchronous"):

            @app.handler("case.released", name="bill")
            async def bill(message: Message, tx: Any) -> None: ...

    def test_one_whose_blocks_commit_nothing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="AUTOCOMMIT = False"):
            DjangoDatabase(registered(str(tmp_path / "a.db"), AUTOCOMMIT=False))

    def test_a_database_in_memory_is_refused(self) -> None:
        with pytest.raises(UsageError, match="in memory"):
            Crossfoot("billing", database=connections[registered(":memory:")])

    @pytest.mark.parametrize(
        ("settings", "url"),
        [
            (
                {"HOST": "db", "PORT": "6432", "USER": "ada", "PASSWORD": "a/b@c"},
                "postgresql://ada:a%2Fb%40c@db:6432/billing",
            ),
            ({"HOST": "/run/pg", "USER": "ada"}, "postgresql://ada@/billing?host=%2Frun%2Fpg"),
            (
                {"OPTIONS": {"sslmode": "require", "isolation_level": 4, "pool": True}},
                "postgresql:///billing?sslmode=require",
            ),
        ],
    )
    def test_the_book_is_reached_by_what_django_is_told(self, settings: dict[str, Any], url: str) -> None:
        alias = registered("unused")
        stated = {"ENGINE": "django.db.backends.postgresql", "NAME": "billing"} | settings
        connections.databases[alias] = connections.configure_settings({"default": stated})["default"]
        database = DjangoDatabase(alias)
        assert database.path == url
        assert "a/b@c" not in repr(database)

    async def test_a_view_sends_with_its_own_block_and_a_worker_handles_it(self, scene: Scene) -> None:
        def connection_of() -> Any:
            """Of the thread."""
            return connections[scene.database.alias]  # type: ignore[attr-defined]  # Django's has one

        app = Crossfoot("billing", database=connection_of(), queue=scene.queue)

        def view(subject: str, *, fails: bool = False) -> None:
            connection = connection_of()
            with transaction.atomic(using=connection.alias), app.transaction(connection) as tx:
                create(connection, subject)
                tx.send("case.released", subject=subject)
                if fails:
                    raise DatabaseError("no")

        def alone(subject: str) -> None:
            with app.transaction(connection_of()) as tx:
                tx.send("case.released", subject=subject)

        def all_of_them() -> None:
            view("case-1")
            with pytest.raises(DatabaseError):
                view("case-2", fails=True)
            alone("case-3")
            connection_of().close()

        @app.handler("case.released")
        def handle(message: Message, tx: Any) -> None:
            create(tx.connection, f"{message.subject}-billed")

        await anyio.to_thread.run_sync(all_of_them)
        assert scene.rows("SELECT subject FROM crossfoot_messages ORDER BY key") == ["case-1", "case-3"]
        await app.worker(wait=0.05).run(until_idle=True)
        assert sorted(scene.effects) == ["case-1", "case-1-billed", "case-3-billed"]
        await anyio.to_thread.run_sync(app.book.close)
