"""Crossfoot's own statements in PostgreSQL: several in one trip, in order, none after an error; and what a rollback forgets."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import pq

from crossfoot.books.entry import Kind
from crossfoot.effects.proof import Noop
from crossfoot.effects.work import Work
from crossfoot.message import Message
from crossfoot.postgres import Trips, connect_raw, rows_changed, rows_of
from tests.conformance.database_rig import Scene, Sql, bill, insert
from tests.servers.postgres import Postgres

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.server]

Line = psycopg.Connection[Any]

INSERT = b"INSERT INTO t (number, note) VALUES (%s, %s)"


@pytest.fixture
def line(postgres_url: str) -> Iterator[Line]:
    with connect_raw(psycopg.Connection, postgres_url) as made:
        made.execute("CREATE TABLE t (number bigint PRIMARY KEY, note text)")
        yield made


def told(line: Line, trips: Trips) -> list[Any]:
    return line.wait(trips.send())


def rows(line: Line) -> list[Any]:
    return line.execute("SELECT number, note FROM t ORDER BY number").fetchall()


class TestATrip:
    def test_what_is_said_first_is_done_first_and_each_has_its_answer(self, line: Line) -> None:
        trips = Trips(line)
        for statement in (b"BEGIN", b"INSERT INTO t VALUES (1, 'a'), (2, 'b')", b"DELETE FROM t", b"COMMIT"):
            assert trips.say(statement)

        assert [rows_changed([one]) for one in told(line, trips)] == [0, 2, 2, 0]
        assert rows(line) == []
        assert not trips.waiting

    def test_nothing_is_sent_before_its_time_and_what_is_forgotten_never(self, line: Line) -> None:
        trips = Trips(line)
        trips.say(INSERT, [(1, "a")])
        trips.forget()
        trips.say(INSERT, [(2, "b")])

        assert rows(line) == []
        told(line, trips)
        assert rows(line) == [(2, "b")]

    def test_after_an_error_nothing_that_follows_is_done_the_commit_included(self, line: Line) -> None:
        trips = Trips(line)
        trips.say(b"BEGIN")
        trips.say(INSERT, [(1, "a"), (1, "again"), (2, "b")])
        trips.say(b"COMMIT")

        with pytest.raises(psycopg.errors.UniqueViolation):
            told(line, trips)
        assert line.info.transaction_status is pq.TransactionStatus.INERROR
        line.execute("ROLLBACK")
        assert rows(line) == []

    def test_parameters_arrive_as_they_would_over_a_cursor(self, line: Line) -> None:
        trips = Trips(line)
        wanted = [(-(2**63), "100 % of ü\n'\\"), (0, ""), (2**63 - 1, None)]
        trips.say(INSERT, wanted)
        trips.say(b"SELECT number, note, '%%' FROM t WHERE note = %s OR %s::text IS NULL", [("", None)])

        answers = told(line, trips)

        assert rows_changed(answers[:3]) == 3
        assert sorted(rows_of(answers[3], line)) == sorted((*row, "%") for row in wanted)
        assert rows(line) == wanted

    def test_lists_arrive_as_arrays_whatever_is_in_them(self, line: Line) -> None:
        trips = Trips(line)
        numbers = [-(2**63), 0, 2**63 - 1, None]
        texts = ['{"a"},\\ "', "NULL", "", None]
        trips.say(b"SELECT %s::bigint[], %s::text[], %s::text[]", [(numbers, texts, [])])

        assert rows_of(told(line, trips)[0], line) == [(numbers, texts, [])]

    @pytest.mark.parametrize(
        "value", ["a\0b", b"bytes", 1.5, True, "\ud800", ["a", 1.5], ["a\0b"], ["\ud800"]], ids=repr
    )
    def test_what_it_cannot_write_as_a_cursor_would_it_does_not_take(self, line: Line, value: Any) -> None:
        trips = Trips(line)
        assert not trips.say(INSERT, [(1, "a"), (2, value)])
        assert not trips.waiting

    def test_it_takes_nothing_in_another_encoding_or_behind_a_pooler(self, line: Line) -> None:
        trips = Trips(line)
        line.execute("SET client_encoding TO latin1")
        assert not trips.say(b"BEGIN")
        line.execute("SET client_encoding TO utf8")
        assert trips.say(b"BEGIN")
        line.prepare_threshold = None  # as a connection has it that leads to one
        assert not Trips(line).say(b"BEGIN")

    def test_more_than_either_end_can_hold_is_sent_and_read_at_once(self, line: Line) -> None:
        trips = Trips(line)
        trips.say(b"SELECT %s::text", [("x" * 1_000,)] * 20_000)
        assert len(told(line, trips)) == 20_000

    def test_a_session_that_the_server_ends_says_why(self, line: Line, postgres: Postgres) -> None:
        trips = Trips(line)
        postgres.run("SELECT pg_terminate_backend(%s)", line.info.backend_pid)
        trips.say(b"BEGIN")
        with pytest.raises(psycopg.OperationalError):
            told(line, trips)
        assert line.closed


class TestWhatIsPrepared:
    def test_a_statement_is_prepared_from_its_third_use_on(self, line: Line) -> None:
        trips = Trips(line)
        for number in range(5):
            trips.say(INSERT, [(number, "a")])
            told(line, trips)
        names = line.execute("SELECT statement FROM pg_prepared_statements WHERE name LIKE 'crossfoot%'").fetchall()
        assert names == [("INSERT INTO t (number, note) VALUES ($1, $2)",)]
        assert len(rows(line)) == 5

    def test_one_that_failed_while_it_was_prepared_can_be_said_again(self, line: Line) -> None:
        trips = Trips(line)
        for _ in range(4):
            trips.say(b"SELECT 1 / %s::int", [(0,)])
            trips.say(b"SELECT 2")
            with pytest.raises(psycopg.errors.DivisionByZero):
                told(line, trips)
        trips.say(b"SELECT 1 / %s::int", [(1,)])
        trips.say(b"SELECT 2")
        assert [rows_of(one, line) for one in told(line, trips)] == [[(1,)], [(2,)]]

    def test_what_the_server_has_forgotten_is_prepared_anew(self, line: Line) -> None:
        trips = Trips(line)
        for _ in range(4):
            trips.say(b"SELECT 1")
            told(line, trips)
        line.execute("DEALLOCATE ALL")
        trips.say(b"SELECT 1")
        with pytest.raises(psycopg.errors.InvalidSqlStatementName):
            told(line, trips)
        trips.say(b"SELECT 1")
        assert len(told(line, trips)) == 1


def undo_half(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    yield insert(message, "kept")
    yield Sql("SAVEPOINT attempt")
    yield insert(message, "undone")
    yield Sql("ROLLBACK TO attempt")


def fail(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    yield insert(message)
    raise RuntimeError("the printer is on fire")


def decline(message: Message, tx: Any) -> Generator[Sql, Any, Noop]:
    yield Sql("SELECT 1")
    return Noop("nothing to bill")


class TestADelivery:
    async def test_a_rollback_after_which_the_driver_has_the_server_forget_costs_no_second_run(
        self, postgres_scene: Scene
    ) -> None:
        scene, runs = postgres_scene, []

        def counted(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            runs.append(message.id)
            yield from undo_half(message, tx)

        for _ in range(4):  # until all is prepared
            await scene.perform(scene.work(scene.handler(bill)))
        works = [scene.work(scene.handler(counted)) for _ in range(4)]
        assert [await scene.perform(work) for work in works] == [Kind.COMMITTED] * 4
        assert runs == [work.message.id for work in works]

    async def test_failures_and_successes_in_turn_settle_each_as_it_should(self, postgres_scene: Scene) -> None:
        scene = postgres_scene
        for _ in range(6):
            with pytest.raises(RuntimeError):
                await scene.perform(scene.work(scene.handler(fail)))
            assert await scene.perform(scene.work(scene.handler(bill))) is Kind.COMMITTED
            assert await scene.perform(scene.work(scene.handler(decline))) is Kind.NOOP
        assert len(scene.effects) == 6

    async def test_what_is_forgotten_behind_its_back_costs_a_second_run_and_no_failure(
        self, psycopg_scene: Scene
    ) -> None:
        scene = psycopg_scene
        for _ in range(4):
            await scene.perform(scene.work(scene.handler(bill)))
        done = scene.session._own.execute("DEALLOCATE ALL", prepare=False)
        if scene.form.is_async:
            await done
        assert await scene.perform(scene.work(scene.handler(bill))) is Kind.COMMITTED
        assert len(scene.effects) == 5

    async def test_it_takes_two_trips_beside_the_handlers_own(
        self, psycopg_scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Begin and claim; the handler's; entries and commit, and before them the ack."""
        scene = psycopg_scene
        scene.write("INSERT INTO scratch VALUES (1), (2), (3), (4), (5)")

        def work(number: int) -> Work:
            ack = ("DELETE FROM scratch WHERE number = ?", (number,))
            return scene.work(scene.handler(bill), ack=ack)

        for number in range(1, 5):
            await scene.perform(work(number))
        trips = 0
        kind = type(scene.session.handle)
        wait = kind.wait

        def counted(self: Any, generator: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal trips
            trips += 1
            return wait(self, generator, *arguments, **options)

        monkeypatch.setattr(kind, "wait", counted)
        assert await scene.perform(work(5)) is Kind.COMMITTED
        assert trips == 3
        assert scene.rows("SELECT 1 FROM scratch") == []
