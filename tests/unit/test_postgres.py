"""Connections to PostgreSQL: transactions, and errors that say what to do next."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from crossfoot.cli.suggesting import naming
from crossfoot.connection import has_password, shown
from crossfoot.errors import DatabaseUnavailable, DiskFull, UsageError
from crossfoot.postgres import Connection, Raw, connect, connect_raw, explain
from crossfoot.queues.postgres.address import address_of, shown_safely
from tests.servers.postgres import Postgres, postgres_running

pytest_plugins = ["tests.servers.postgres_fixtures"]
pytestmark = pytest.mark.server


@pytest.fixture
def connection(postgres_url: str) -> Iterator[Connection]:
    made = connect(postgres_url)
    made.execute("CREATE TABLE t (number BIGINT, note TEXT)")
    yield made
    made.close()


@pytest.fixture
def other(connection: Connection, postgres_url: str) -> Iterator[Connection]:
    made = connect(postgres_url)
    yield made
    made.close()


def notes(connection: Connection) -> list[str]:
    return [note for (note,) in connection.execute("SELECT note FROM t ORDER BY number")]


class TestConnecting:
    def test_a_server_that_vanished_is_given_up_after_a_minute(self, connection: Connection) -> None:
        """Said by the kernel, which does it; to have packets dropped takes rights that tests do not have."""
        with socket.fromfd(connection.raw.fileno(), socket.AF_INET, socket.SOCK_STREAM) as line:
            idle, between, count, unconfirmed = (
                line.getsockopt(socket.IPPROTO_TCP, option)
                for option in (
                    socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT,
                )
            )  # fmt: skip
        assert idle + count * between == 60
        assert unconfirmed == 60_000

    def test_what_the_url_says_of_it_wins(self, postgres_url: str) -> None:
        with (
            closing(connect(f"{postgres_url}?tcp_user_timeout=5000")) as made,
            socket.fromfd(made.raw.fileno(), socket.AF_INET, socket.SOCK_STREAM) as line,
        ):
            assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5_000

    def test_what_cannot_be_settled_is_not_left_open(self, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("crossfoot.postgres.connection.BOUNDS", "SELECT 1 / 0")
        made: list[Raw] = []

        def connecting(kind: type[Raw], url: str, *, synchronous: str) -> Raw:
            made.append(connect_raw(kind, url, synchronous=synchronous))
            return made[-1]

        monkeypatch.setattr("crossfoot.postgres.connection.connect_raw", connecting)
        with pytest.raises(psycopg.errors.DivisionByZero):
            connect(postgres_url, by_index=True)
        assert [raw.closed for raw in made] == [True]


class TestTransactions:
    def test_writing_commits_at_the_end(self, connection: Connection, other: Connection) -> None:
        with connection.writing():
            connection.execute("INSERT INTO t VALUES (?, ?)", (1, "50 % ?"))
            assert notes(other) == []
        assert notes(other) == ["50 % ?"]

    def test_writing_rolls_back_on_any_exception(self, connection: Connection, other: Connection) -> None:
        def interrupted() -> None:
            with connection.writing():
                connection.execute("INSERT INTO t VALUES (1, 'a')")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert notes(other) == []
        assert not connection.in_transaction

    def test_a_snapshot_is_of_one_moment(self, connection: Connection, other: Connection) -> None:
        with connection.snapshot():
            assert notes(connection) == []
            other.execute("INSERT INTO t VALUES (1, 'a')")
            assert notes(connection) == []
        assert notes(connection) == ["a"]

    def test_many_rows_are_written_in_one_go_and_counted(self, connection: Connection) -> None:
        with connection.writing():
            assert (
                connection.executemany("INSERT INTO t VALUES (?, ?)", [(n, str(n)) for n in range(50)]).rowcount == 50
            )
            assert connection.executemany("DELETE FROM t WHERE number = ?", []).rowcount == 0

    def test_a_large_result_is_read_in_portions(self, connection: Connection) -> None:
        connection.execute("INSERT INTO t SELECT n, 'x' FROM generate_series(1, 10000) n")
        with connection.snapshot():
            first, second = (iter(connection.stream("SELECT number FROM t ORDER BY 1")) for _ in range(2))
            assert sum(1 for _ in zip(first, second, strict=True)) == 10_000

    def test_sums_are_whole_numbers(self, connection: Connection) -> None:
        connection.execute("INSERT INTO t VALUES (?, 'a'), (?, 'b')", (2**62, -(2**40)))
        ((total,),) = connection.execute("SELECT sum(number) FROM t")
        assert total == 2**62 - 2**40
        assert isinstance(total, int)

    def test_of_two_who_want_to_be_alone_the_second_waits_for_the_first(
        self, connection: Connection, other: Connection
    ) -> None:
        def wait() -> None:
            with other.writing():
                other.alone("posting")
                other.execute("INSERT INTO t VALUES (2, 'second')")

        with connection.writing():
            connection.alone("posting")
            thread = threading.Thread(target=wait)
            thread.start()
            thread.join(0.2)
            assert thread.is_alive()
            connection.execute("INSERT INTO t VALUES (1, 'first')")
        thread.join(5)
        assert notes(connection) == ["first", "second"]


class TestErrors:
    """What happened, where, and what to do next; without password, user or values."""

    def test_a_server_that_is_not_there(self) -> None:
        with pytest.raises(DatabaseUnavailable, match=r"does not answer.*check that the server runs") as raised:
            connect("postgresql://ada:secret@127.0.0.1:1/billing?connect_timeout=2")
        assert "secret" not in str(raised.value)
        assert str(raised.value).startswith("postgresql://127.0.0.1:1/billing")

    def test_a_database_that_is_not_there(self, postgres: Postgres) -> None:
        with pytest.raises(DatabaseUnavailable, match='database "nowhere" does not exist: create it'):
            connect(postgres.url("nowhere"))

    def test_a_user_nobody_knows(self, postgres: Postgres) -> None:
        with pytest.raises(DatabaseUnavailable, match='role "nobody" does not exist'):
            connect(postgres.url(user="nobody"))

    @pytest.mark.parametrize(
        "password", ["se%zzcret", "se/cret", "34/56cret", "se[cret", "se?cret", "se#cret", "s@cret"]
    )
    def test_a_url_that_cannot_be_read_is_not_told_with_its_password(self, password: str) -> None:
        url = f"postgresql://ada:{password}@127.0.0.1:1/billing"
        with pytest.raises((UsageError, DatabaseUnavailable), match=r"cannot be read|does not answer") as raised:
            connect(url)
        told = f"{raised.value} {shown(url)} {shown_safely(url)}"
        assert not any(part in told for part in (":se", "34", "56", "cret"))
        assert has_password(url)

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://host/billing?password=s@cret",
            "postgresql://host?password=s@cret",
            "postgresql:///?password=secret",
        ],
    )
    def test_nor_is_one_that_stands_behind_the_question_mark(self, url: str) -> None:
        assert "cret" not in shown(url) + shown_safely(url)
        assert has_password(url)

    def test_a_command_that_is_to_be_copied_names_the_place_and_no_password(self) -> None:
        assert naming("postgresql://ada:secret@one:1/billing") == " --db postgresql://one:1/billing"
        assert naming("postgresql://ada@one:1/billing") == " --db postgresql://ada@one:1/billing"
        assert naming(None) == ""

    def test_a_place_is_told_as_it_was_named(self) -> None:
        assert shown("postgres://ada@one:1,two:2/billing?sslmode=require") == "postgresql://one:1,two:2/billing"

    def test_where_the_parameters_say_where_it_is_that_is_shown(self) -> None:
        url = "postgresql:///billing?user=ada&host=%2Frun%2Fpg&port=5433&password=secret&sslmode=require"
        assert shown(url) == "postgresql:///billing?host=/run/pg&port=5433"
        with pytest.raises(UsageError, match=r"as in postgresql:///billing\?host=/run/pg&queue=billing"):
            address_of("postgresql:///billing?host=/run/pg")
        assert not has_password("postgresql://ada@host/billing?sslmode=require")

    def test_a_session_that_an_operator_ended(self, connection: Connection, postgres: Postgres) -> None:
        postgres.run("SELECT pg_terminate_backend(%s)", connection.raw.info.backend_pid)
        with pytest.raises(DatabaseUnavailable, match="start again when it answers"):
            connection.execute("SELECT 1")
        assert connection.broken

    def test_a_session_that_stood_still_in_its_transaction(self, connection: Connection) -> None:
        connection.execute("SET idle_in_transaction_session_timeout = '50ms'")
        connection.begin()
        threading.Event().wait(0.3)
        with pytest.raises(DatabaseUnavailable, match="raise its timeout"):
            connection.execute("SELECT 1")

    def test_a_statement_that_took_too_long(self, connection: Connection) -> None:
        connection.execute("SET statement_timeout = '50ms'")
        with pytest.raises(DatabaseUnavailable, match="statement_timeout: raise that"):
            connection.execute("SELECT pg_sleep(5)")

    def test_a_standby_only_reads(self, connection: Connection) -> None:
        connection.execute("SET default_transaction_read_only = on")
        with pytest.raises(DatabaseUnavailable, match="connect to the primary"), connection.writing():
            connection.execute("INSERT INTO t VALUES (1, 'a')")
        assert not connection.in_transaction

    def test_a_user_without_rights(self, connection: Connection, postgres: Postgres) -> None:
        """It is what the database allows that is the matter, and no fault of crossfoot's to be reported."""
        connection.execute("CREATE ROLE nobody_much")
        connection.execute("SET ROLE nobody_much")
        try:
            with pytest.raises(
                DatabaseUnavailable, match=r"permission denied for table t: check .* its rights \(GRANT\)"
            ):
                connection.execute("INSERT INTO t VALUES (1, 'a')")
        finally:
            connection.execute("RESET ROLE")
            connection.execute("DROP ROLE nobody_much")

    def test_too_many_connections(self, postgres: Postgres) -> None:
        with postgres_running(max_connections="5", superuser_reserved_connections="0", max_wal_senders="0") as small:
            small.run("CREATE ROLE no_more LOGIN CONNECTION LIMIT 0")
            with pytest.raises(DatabaseUnavailable, match=r"too many connections for role .* the limit of the role"):
                connect(small.url(user="no_more"))
            held = [connect(small.url()) for _ in range(5)]
            with pytest.raises(DatabaseUnavailable, match="raise max_connections"):
                connect(small.url())
            for one in held:
                one.close()

    def test_a_full_disk_stops_the_worker(self) -> None:
        assert isinstance(explain(psycopg.errors.DiskFull("could not extend file"), "db"), DiskFull)

    def test_what_the_statement_itself_did_wrong_is_left_as_it_is(self, connection: Connection) -> None:
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT 1 FROM nowhere")

    def test_a_server_that_restarts_is_used_again_by_a_new_connection(self) -> None:
        with postgres_running() as server:
            first = connect(server.url())
            server.kill()
            server.start()
            with pytest.raises(DatabaseUnavailable):
                first.execute("SELECT 1")
            second = connect(server.url())
            assert second.execute("SELECT 1").fetchone() == (1,)
            second.close()


class TestDurability:
    def test_commits_that_the_server_may_lose_are_not_accepted(self, postgres: Postgres) -> None:
        with postgres_running(synchronous_commit="off") as careless:
            sure, quick = connect(careless.url()), connect(careless.url(), synchronous="NORMAL")
            assert sure.execute("SHOW synchronous_commit").fetchone() == ("on",)
            assert quick.execute("SHOW synchronous_commit").fetchone() == ("off",)
            sure.close()
            quick.close()
