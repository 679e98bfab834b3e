"""What only a server with many writers does: conflicts that it resolves by undoing one, and sessions that end by themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest
from sqlalchemy import create_engine

from crossfoot.books.entry import Kind
from crossfoot.effects.databases.psycopg import PostgresDatabase
from crossfoot.effects.databases.sqlalchemy import SqlAlchemyDatabase
from crossfoot.effects.databases.sqlite import disk_full
from crossfoot.effects.perform import AGAIN
from crossfoot.effects.sequence import InOrder
from crossfoot.errors import CommitInDoubt, DatabaseUnavailable, NoProof, TransactionMisuse, UsageError
from crossfoot.message import Message
from crossfoot.postgres import connect
from tests.conformance.database_forms import POSTGRES_FORMS
from tests.conformance.database_rig import Call, Form, Scene, Sql, a_message, a_scene, bill, insert
from tests.servers.cable import Cable, Pooler, cable_to
from tests.servers.postgres import Postgres, postgres_running

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.server]

LEVELS = ("read committed", "repeatable read", "serializable")


@pytest.fixture(params=POSTGRES_FORMS, ids=repr)
def form(request: pytest.FixtureRequest) -> Form:
    found: Form = request.param
    return found


@pytest.fixture(params=LEVELS)
async def scene_at(
    request: pytest.FixtureRequest, form: Form, tmp_path: Path, url_for: Callable[[Form], str]
) -> AsyncIterator[Scene]:
    """Where transactions have each of the levels of isolation."""
    level = request.param.replace(" ", "%5C%20")
    async with a_scene(form, tmp_path, f"{url_for(form)}?options=-cdefault_transaction_isolation%3D{level}") as made:
        yield made


@pytest.fixture
def cable(postgres: Postgres) -> Iterator[Cable]:
    with cable_to(postgres.port) as made:
        yield made


async def together(scene: Scene, *works: Any) -> list[Kind]:
    """Perform at the same time, each over a session of its own."""
    ends: list[Kind | None] = [None] * len(works)

    async def one(place: int) -> None:
        alone = Scene(scene.form, scene.path, scene.database, scene.book, scene.queue)
        ends[place] = await alone.perform(works[place])
        await alone.close_session(alone.session)

    async with anyio.create_task_group() as tasks:
        for place in range(len(works)):
            tasks.start_soon(one, place)
    assert None not in ends
    return [end for end in ends if end is not None]


COMMITTED_IN_ORDER = f"""
SELECT m.id FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message WHERE e.kind = {Kind.COMMITTED.value} ORDER BY e.id
"""


class TestConflicts:
    async def test_of_many_who_count_up_none_is_lost_and_none_fails(self, scene_at: Scene) -> None:
        """Read, think, write: under the stricter levels the server undoes all but one, and they are begun anew."""
        scene = scene_at
        scene.write("INSERT INTO scratch VALUES (0)")
        serial = "read%5C%20committed" not in str(scene.path)

        def count_up(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield Sql("SELECT number FROM scratch" + ("" if serial else " FOR UPDATE"))
            yield Sql("UPDATE scratch SET number = number + 1")
            yield insert(message)

        works = [scene.work(scene.handler(count_up)) for _ in range(4)]
        assert await together(scene, *works) == [Kind.COMMITTED] * 4
        assert scene.rows("SELECT number FROM scratch") == [4]
        assert len(scene.effects) == 4
        for work in works:
            assert scene.kinds(work) == [Kind.COMMITTED]

    async def test_of_two_who_ask_for_one_operation_one_does_it(self, scene_at: Scene) -> None:
        handler = scene_at.handler(bill, operation="bill:{subject}")
        ends = await together(scene_at, *(scene_at.work(handler) for _ in range(4)))
        assert sorted(ends) == [Kind.SUPPRESSED] * 3 + [Kind.COMMITTED]
        assert len(scene_at.effects) == 1

    async def test_events_that_come_at_once_are_applied_in_order_or_superseded(self, scene_at: Scene) -> None:
        handler = scene_at.handler(bill, in_order=InOrder())
        works = [scene_at.work(handler, a_message(id=str(number), sequence=number)) for number in range(1, 6)]
        ends = await together(scene_at, *works)
        # Not by the rows' places in their table: writers at the same time may be given pages out of order.
        applied = [int(id_) for id_ in scene_at.rows(COMMITTED_IN_ORDER)]
        assert applied == sorted(applied), "a later one never comes before an earlier one"
        assert sorted(scene_at.effects) == sorted(map(str, applied))
        assert ends.count(Kind.COMMITTED) == len(applied)
        assert scene_at.rows("SELECT last FROM crossfoot_sequences") == [5]

    async def test_an_early_event_and_its_predecessor_at_once_leave_nobody_waiting(self, scene_at: Scene) -> None:
        handler = scene_at.handler(bill, in_order=InOrder(contiguous=True))
        for round_ in range(5):
            subject = f"case-{round_}"
            works = [
                scene_at.work(handler, a_message(id=f"{subject}-{n}", subject=subject, sequence=n)) for n in (1, 2)
            ]
            ends = await together(scene_at, *works)
            assert ends[0] is Kind.COMMITTED
            parked = scene_at.rows("SELECT 1 FROM crossfoot_parked WHERE subject = ?", subject)
            sent = scene_at.rows("SELECT 1 FROM crossfoot_outbox WHERE identity = ?", f"billing|{subject}-2")
            assert (ends[1], bool(sent)) in ((Kind.COMMITTED, False), (Kind.PARKED, True))
            assert parked == []

    async def test_a_deadlock_undoes_one_of_two_and_both_are_done(self, postgres_scene: Scene) -> None:
        scene = postgres_scene
        scene.write("INSERT INTO scratch VALUES (1), (2)")
        met = threading.Barrier(2, timeout=30)
        begun: list[str] = []

        def lock(*order: int) -> Any:
            def story(message: Message, tx: Any) -> Generator[Sql | Call, Any, None]:
                yield Sql("UPDATE scratch SET number = number WHERE number = :n", {"n": order[0]})
                begun.append(message.id)
                if len(begun) <= 2:  # both hold one, and want the other's
                    yield Call(meet)
                yield Sql("UPDATE scratch SET number = number WHERE number = :n", {"n": order[1]})
                yield insert(message)

            return story

        def meet(_: Any) -> Any:
            if scene.form.is_async:
                return anyio.to_thread.run_sync(met.wait)
            return met.wait()

        works = [scene.work(scene.handler(lock(*order), name=f"lock-{order}")) for order in ((1, 2), (2, 1))]
        assert await together(scene, *works) == [Kind.COMMITTED, Kind.COMMITTED]
        # Whoever was undone may lock its first row again before the other one, who waits for it, has woken up; and lose again.
        assert len(begun) > 2, "one of them was begun again"
        assert sorted(scene.effects) == sorted(work.message.id for work in works)

    async def test_what_is_asked_for_again_and_again_fails_in_the_end(self, postgres_scene: Scene) -> None:
        begun: list[int] = []

        def conflict(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            begun.append(1)
            yield insert(message)
            yield Sql("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")

        work = postgres_scene.work(postgres_scene.handler(conflict))
        with pytest.raises(Exception, match="conflict"):
            await postgres_scene.perform(work)
        assert len(begun) == AGAIN + 1
        postgres_scene.assert_nothing_was_kept(of=work)

    async def test_one_that_is_swallowed_is_done_again_all_the_same(self, postgres_scene: Scene) -> None:
        begun: list[int] = []

        def conflict(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            begun.append(1)
            yield insert(message)
            if len(begun) == 1:
                try:
                    yield Sql("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")
                except Exception:  # noqa: BLE001 - what the test is about
                    return

        work = postgres_scene.work(postgres_scene.handler(conflict))
        assert await postgres_scene.perform(work) is Kind.COMMITTED
        assert len(begun) == 2
        assert postgres_scene.effects == [work.message.id]

    async def test_in_a_batch_it_is_for_the_whole_transaction(self, postgres_scene: Scene) -> None:
        def conflict(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield Sql("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")

        works = [postgres_scene.work(postgres_scene.handler(story)) for story in (bill, conflict, bill)]
        with pytest.raises(Exception, match="conflict"):
            await postgres_scene.perform_batch(works)
        for work in works:
            postgres_scene.assert_nothing_was_kept(of=work)


class TestAFullDisk:
    @pytest.mark.parametrize("where", ["a handler's statement", "crossfoot's own"])
    async def test_is_told_as_such_so_that_the_worker_stops(self, postgres_scene: Scene, where: str) -> None:
        scene = postgres_scene
        full = "RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100';"
        scene.write(f"CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {full} END $$")
        table = "effects" if where == "a handler's statement" else "crossfoot_outcomes"
        scene.write(f"CREATE TRIGGER fill BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fill()")

        def story(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            tx.outcome("invoice.issued")
            yield insert(message)

        work = scene.work(scene.handler(story))
        with pytest.raises(Exception, match="free some space") as raised:
            await scene.perform(work)
        assert disk_full(raised.value) is not None
        scene.write(f"DROP TRIGGER fill ON {table}")
        scene.write("DROP FUNCTION fill")
        scene.assert_nothing_was_kept(of=work)


class TestProof:
    async def test_rows_are_counted_whatever_way_they_were_written(self, postgres_scene: Scene) -> None:
        scene = postgres_scene

        def several(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield Sql("INSERT INTO scratch SELECT * FROM generate_series(1, 5)")
            yield Sql("UPDATE scratch SET number = 0 WHERE number < 3")
            yield Sql("DELETE FROM scratch WHERE number = 5")
            yield Sql("INSERT INTO scratch VALUES (9) RETURNING number")
            yield Sql("SELECT number FROM scratch")
            yield Sql("CREATE TABLE IF NOT EXISTS other (n INTEGER)")

        assert await scene.perform(scene.work(scene.handler(several))) is Kind.COMMITTED
        assert scene.rows("SELECT details FROM crossfoot_entries") == ['{"rows":9}']

    async def test_savepoints_are_told_apart_as_postgres_names_them(self, postgres_scene: Scene) -> None:
        scene = postgres_scene

        def half(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message, "kept")
            yield Sql('SAVEPOINT "Attempt 1"')
            yield Sql("savepoint ATTEMPT")
            yield insert(message, "undone")
            yield Sql("/* not /* this */ time */ rollback transaction to savepoint attempt -- no")
            yield Sql('RELEASE SAVEPOINT "Attempt 1"')

        assert await scene.perform(scene.work(scene.handler(half))) is Kind.COMMITTED
        assert scene.rows("SELECT note FROM effects") == ["kept"]
        assert scene.rows("SELECT details FROM crossfoot_entries") == ['{"rows":1}']

    async def test_a_swallowed_error_is_found_out_even_where_an_outcome_is_declared(
        self, postgres_scene: Scene
    ) -> None:
        def swallow(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            tx.outcome("invoice.issued")
            yield insert(message)
            try:
                yield Sql("INSERT INTO taken VALUES (1)")
            except Exception:  # noqa: BLE001 - what the test is about
                return

        work = postgres_scene.work(postgres_scene.handler(swallow, proves=["invoice.issued"]))
        with pytest.raises(NoProof, match="PostgreSQL keeps nothing"):
            await postgres_scene.perform(work)
        postgres_scene.assert_nothing_was_kept(of=work)

    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO scratch VALUES (1); COMMIT",
            "START TRANSACTION",
            "abort",
            "PREPARE TRANSACTION 'x'",
            "/* /* */ */ end",
        ],
    )
    async def test_what_would_end_the_transaction_is_refused(self, postgres_scene: Scene, statement: str) -> None:
        def story(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            yield Sql(statement)

        work = postgres_scene.work(postgres_scene.handler(story))
        with pytest.raises(TransactionMisuse):
            await postgres_scene.perform(work)
        postgres_scene.assert_nothing_was_kept(of=work)

    @pytest.mark.parametrize(
        "statement",
        [
            "SET search_path TO elsewhere, public",
            "set /* for this one */ local search_path = elsewhere",
            "SET SESSION SCHEMA 'elsewhere'",
            "SELECT set_config( 'search_path', 'elsewhere', true)",
        ],
    )
    async def test_nor_may_a_handler_lead_crossfoot_to_other_tables(
        self, postgres_scene: Scene, statement: str
    ) -> None:
        """Another service's book may be there: the entries would be in that one."""

        def story(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            yield Sql(statement)

        work = postgres_scene.work(postgres_scene.handler(story))
        with pytest.raises(TransactionMisuse, match="write the schema before the table's name"):
            await postgres_scene.perform(work)
        postgres_scene.assert_nothing_was_kept(of=work)

    async def test_other_settings_are_the_handlers(self, postgres_scene: Scene) -> None:
        def story(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield Sql("SET LOCAL statement_timeout = '5s'")
            yield Sql("SELECT current_setting('search_path')")
            yield insert(message, "set search_path")

        assert await postgres_scene.perform(postgres_scene.work(postgres_scene.handler(story))) is Kind.COMMITTED

    async def test_a_function_that_is_quoted_may_hold_anything(self, postgres_scene: Scene) -> None:
        def story(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            yield Sql("DO $x$ BEGIN PERFORM 1; /* COMMIT; */ END $x$;")
            yield Sql("SELECT 'a;b', E'it\\'s; COMMIT'")

        assert await postgres_scene.perform(postgres_scene.work(postgres_scene.handler(story))) is Kind.COMMITTED


class TestThroughTheDriver:
    """What psycopg offers beside `execute`."""

    @pytest.fixture
    async def plain(self, tmp_path: Path, url_for: Callable[[Form], str]) -> AsyncIterator[Scene]:
        async with a_scene(POSTGRES_FORMS[0], tmp_path, url_for(POSTGRES_FORMS[0])) as made:
            yield made

    async def rows_of(self, scene: Scene, act: Callable[[Any], Any]) -> list[str]:
        def story(message: Message, tx: Any) -> Generator[Call, Any, None]:
            yield Call(act)

        await scene.perform(scene.work(scene.handler(story)))
        return scene.rows("SELECT details FROM crossfoot_entries")

    async def test_copy_counts(self, plain: Scene) -> None:
        def act(connection: psycopg.Connection[Any]) -> None:
            with connection.cursor().copy("COPY scratch FROM STDIN") as copy:
                for number in range(7):
                    copy.write_row((number,))

        assert await self.rows_of(plain, act) == ['{"rows":7}']

    async def test_executemany_counts(self, plain: Scene) -> None:
        def act(connection: psycopg.Connection[Any]) -> None:
            connection.cursor().executemany("INSERT INTO scratch VALUES (%s)", [(number,) for number in range(7)])

        assert await self.rows_of(plain, act) == ['{"rows":7}']

    async def test_what_is_streamed_counts_and_may_not_end_the_transaction(self, plain: Scene) -> None:
        def act(connection: psycopg.Connection[Any]) -> None:
            cursor = connection.cursor()
            assert list(cursor.stream("INSERT INTO scratch VALUES (1), (2) RETURNING number")) == [(1,), (2,)]
            assert list(cursor.stream("SELECT number FROM scratch")) == [(1,), (2,)]

        def end(connection: psycopg.Connection[Any]) -> None:
            connection.execute("INSERT INTO scratch VALUES (3)")
            list(connection.cursor().stream("COMMIT"))

        assert await self.rows_of(plain, act) == ['{"rows":2}']
        with pytest.raises(TransactionMisuse):
            await self.rows_of(plain, end)
        assert plain.rows("SELECT number FROM scratch") == [1, 2]

    async def test_nor_is_there_a_stream_when_the_handler_has_returned(self, plain: Scene) -> None:
        kept: list[Any] = []

        def act(connection: psycopg.Connection[Any]) -> None:
            connection.execute("INSERT INTO scratch VALUES (1)")
            kept.append(connection.cursor())

        await self.rows_of(plain, act)
        with pytest.raises(TransactionMisuse):
            list(kept[0].stream("INSERT INTO scratch VALUES (2) RETURNING number"))
        assert plain.rows("SELECT number FROM scratch") == [1]

    async def test_a_stream_counts_in_an_event_loop_as_well(
        self, tmp_path: Path, url_for: Callable[[Form], str]
    ) -> None:
        async def act(connection: psycopg.AsyncConnection[Any]) -> None:
            rows = connection.cursor().stream("INSERT INTO scratch VALUES (1), (2) RETURNING number")
            assert [row async for row in rows] == [(1,), (2,)]

        async with a_scene(POSTGRES_FORMS[1], tmp_path, url_for(POSTGRES_FORMS[1])) as scene:
            assert await self.rows_of(scene, act) == ['{"rows":2}']

    async def test_a_nested_transaction_that_is_rolled_back_does_not(self, plain: Scene) -> None:
        def act(connection: psycopg.Connection[Any]) -> None:
            connection.execute("INSERT INTO scratch VALUES (1)")
            with connection.transaction():
                connection.execute("INSERT INTO scratch VALUES (2)")
            with connection.transaction(force_rollback=True):
                connection.execute("INSERT INTO scratch VALUES (3)")
            with connection.transaction() as inner:
                connection.execute("INSERT INTO scratch VALUES (3)")
                raise psycopg.Rollback(inner)

        assert await self.rows_of(plain, act) == ['{"rows":2}']
        assert plain.rows("SELECT number FROM scratch") == [1, 2]

    @pytest.mark.parametrize("call", ["pipeline", "tpc_begin", "set_autocommit"])
    async def test_what_nobody_could_follow_is_refused(self, plain: Scene, call: str) -> None:
        def act(connection: psycopg.Connection[Any]) -> None:
            getattr(connection, call)(*(() if call == "pipeline" else ("x",)))

        with pytest.raises(TransactionMisuse):
            await self.rows_of(plain, act)

    async def test_no_transaction_is_open_before_the_first_statement(self, plain: Scene, postgres: Postgres) -> None:
        states: list[str] = []

        def think_first(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            look = "SELECT state FROM pg_stat_activity WHERE application_name = 'crossfoot' AND datname = %s"
            states.extend(state for (state,) in postgres.run(look, str(plain.path).rpartition("/")[2]))
            yield insert(message)

        await plain.perform(plain.work(plain.handler(think_first)))
        assert states
        assert set(states) == {"idle"}


class TestSessionsThatEnd:
    async def test_one_that_is_ended_during_the_handler_fails_its_delivery_and_the_lane_goes_on(
        self, postgres_scene: Scene, postgres: Postgres
    ) -> None:
        scene = postgres_scene

        def story(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            end_sessions(postgres, scene)
            yield insert(message, "again")

        work = scene.work(scene.handler(story))
        with pytest.raises(Exception, match="terminating connection"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        assert await scene.perform(scene.work(scene.handler(bill, name="next"))) is Kind.COMMITTED

    async def test_one_that_is_ended_just_before_the_commit_is_found_not_committed(
        self, postgres_scene: Scene, postgres: Postgres
    ) -> None:
        scene = postgres_scene
        work = scene.work(scene.handler(bill), fence=lambda: end_sessions(postgres, scene))
        with pytest.raises(Exception, match=r"terminating connection|server closed|connection is (closed|lost)|SSL"):
            await scene.perform(work)
        scene.assert_nothing_was_kept(of=work)
        assert await scene.perform(scene.work(scene.handler(bill), work.message)) is Kind.COMMITTED
        assert scene.effects == [work.message.id]

    @pytest.mark.parametrize("form", POSTGRES_FORMS[:2], ids=repr)
    @pytest.mark.parametrize("in_order", [None, InOrder()], ids=["any order", "in order"])
    async def test_one_that_is_ended_while_it_is_idle_is_nobodys_failure(
        self,
        form: Form,
        tmp_path: Path,
        url_for: Callable[[Form], str],
        postgres: Postgres,
        in_order: InOrder | None,
    ) -> None:
        """By a firewall, or by `idle_session_timeout`. Engines have `pool_pre_ping` for that."""
        async with a_scene(form, tmp_path, url_for(form)) as scene:
            handler = scene.handler(bill, in_order=in_order)
            for number in range(3):
                session = await scene.open_session()
                postgres.end_sessions("pid = %s", session.handle.info.backend_pid)
                work = scene.work(handler, a_message(id=str(number), sequence=number))
                assert await scene.perform(work) is Kind.COMMITTED

    async def test_nor_does_one_that_ended_with_its_delivery_fail_those_that_come_in_order(
        self, postgres_scene: Scene, postgres: Postgres
    ) -> None:
        """They are looked up before there is a transaction."""
        scene = postgres_scene

        def story(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message)
            end_sessions(postgres, scene)
            yield insert(message, "again")

        with pytest.raises(Exception, match="terminating connection"):
            await scene.perform(scene.work(scene.handler(story)))
        work = scene.work(scene.handler(bill, name="next", in_order=InOrder()), a_message(sequence=1))
        assert await scene.perform(work) is Kind.COMMITTED


def end_sessions(server: Postgres, scene: Scene) -> None:
    """End whatever has a transaction open in the scene's database."""
    name = str(scene.path).rpartition("/")[2]
    server.end_sessions("datname = %s AND state LIKE 'idle in transaction%%'", name)


class TestACommitWithoutAnAnswer:
    """Over a cable that breaks: the answer is lost, or the commit never arrives."""

    @pytest.fixture
    async def far(
        self, form: Form, tmp_path: Path, url_for: Callable[[Form], str], cable: Cable, postgres: Postgres
    ) -> AsyncIterator[Scene]:
        """The lane's way to the server is the cable; whoever asks again comes by it, too."""
        url = url_for(form)
        async with a_scene(form, tmp_path, url) as made:
            through = url.replace(f":{postgres.port}/", f":{cable.port}/")
            async with form.database(through) as database:
                made.database = database
                yield made
                await made.close_session(made.session)
                made.session = None

    async def test_it_happened_and_is_found_by_its_key(self, far: Scene, cable: Cable) -> None:
        work = far.work(far.handler(bill), fence=lambda: cable.at_request(b"COMMIT", arrives=True))
        assert await far.perform(work) is Kind.COMMITTED
        assert far.effects == [work.message.id]
        assert far.kinds(work) == [Kind.COMMITTED]

    async def test_it_never_arrived_and_the_delivery_fails(self, far: Scene, cable: Cable) -> None:
        work = far.work(far.handler(bill), fence=lambda: cable.at_request(b"COMMIT", arrives=False))
        with pytest.raises(Exception) as raised:  # noqa: PT011 - the drivers' words differ
            await far.perform(work)
        assert not isinstance(raised.value, CommitInDoubt)
        far.assert_nothing_was_kept(of=work)

    async def test_it_is_still_under_way_and_is_waited_for(self, far: Scene, cable: Cable, postgres: Postgres) -> None:
        """The line breaks before the commit arrives, and the server does not notice: its session is open, and holds the key.
        Nobody may say that it was not committed before that session has ended."""
        work = far.work(far.handler(bill), fence=lambda: cable.at_request(b"COMMIT", arrives=True, after=1.0))
        begun = time.monotonic()
        assert await far.perform(work) is Kind.COMMITTED
        assert time.monotonic() - begun >= 0.9
        assert far.effects == [work.message.id]


class TestBehindAPooler:
    """Which may give each transaction another session of the server."""

    @pytest.fixture
    def pooler(self, postgres: Postgres) -> Iterator[Pooler]:
        made = Pooler(postgres.port)
        yield made
        made.close()

    @pytest.mark.parametrize("form", POSTGRES_FORMS[:2], ids=repr)
    async def test_nothing_is_left_in_the_session(
        self, form: Form, tmp_path: Path, url_for: Callable[[Form], str], pooler: Pooler, postgres: Postgres
    ) -> None:
        through = url_for(form).replace(f":{postgres.port}/", f":{pooler.port}/")
        async with a_scene(form, tmp_path, through) as scene:
            handler = scene.handler(bill, in_order=InOrder())
            for number in range(8):
                work = scene.work(handler, a_message(id=str(number), sequence=number))
                assert await scene.perform(work) is Kind.COMMITTED
            await scene.perform_batch([scene.work(scene.handler(bill, name="batch")) for _ in range(60)])
            look = "SELECT (SELECT count(*) FROM pg_prepared_statements), current_setting('lock_timeout')"
            found: list[Any] = []

            def story(message: Message, tx: Any) -> Generator[Sql | Call, Any, None]:
                cursor = yield Sql(look)
                row = yield Call(lambda _: cursor.fetchone())
                found.append(row)
                yield insert(message)

            await scene.perform(scene.work(scene.handler(story, name="look")))
            assert found == [(0, "0")]

    def test_a_server_that_may_lose_what_it_confirmed_is_refused(self) -> None:
        with postgres_running(synchronous_commit="off") as careless:
            pooler = Pooler(careless.port)
            with pytest.raises(DatabaseUnavailable, match="ALTER ROLE"):
                connect(careless.url(port=pooler.port))
            pooler.close()


class TestEnginesThatWillNotDo:
    def test_one_that_commits_each_statement_by_itself(self, postgres: Postgres) -> None:
        engine = create_engine(
            postgres.url().replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
        )
        with pytest.raises(UsageError, match="AUTOCOMMIT"):
            SqlAlchemyDatabase(engine)
        engine.dispose()

    def test_a_password_is_not_in_what_a_database_calls_itself(self) -> None:
        assert "secret" not in repr(PostgresDatabase("postgresql://ada:secret@host/billing"))
