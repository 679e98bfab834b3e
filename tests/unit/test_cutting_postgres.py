"""The ranges of a book in PostgreSQL are made beside those who write it: nobody fails or waits because of them, and every answer
is the same before and after."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

import psycopg
import pytest
from msgspec.structs import replace

from crossfoot.books import cutting, horizon, ranges
from crossfoot.books.balance import Balance
from crossfoot.books.closing import STRETCH
from crossfoot.books.entry import Kind
from crossfoot.books.lines import lines_after
from crossfoot.books.posting import GROUP, backlog, post, post_all
from crossfoot.books.ranges import LOWEST, PERIOD, Range
from crossfoot.books.store import Book
from crossfoot.books.verify import verify
from crossfoot.clock import SECOND
from crossfoot.dialect import translate
from crossfoot.postgres import Connection as PostgresConnection
from crossfoot.postgres import connect
from crossfoot.recover.lookup import look_up
from tests.servers.plans import generic_plan, nodes
from tests.servers.postgres import Postgres
from tests.unit.book_rig import Lectern

pytest_plugins = ["tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

HAPPY = ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.COMMITTED, 1), (Kind.ACKED, 1))

WEEK = PERIOD / SECOND

SERVER_TIME = cutting.server_time
"""The real one, which the desk's fixture replaces."""


@pytest.fixture
def desk(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lectern]:
    """Its clock is the server's, too, so that weeks can pass."""
    made = Lectern(postgres_url)
    monkeypatch.setattr(cutting, "server_time", lambda _: made.now)
    yield made
    made.close()


@contextmanager
def plain(url: str) -> Iterator[PostgresConnection]:
    made = connect(url)
    try:
        yield made
    finally:
        made.close()


def cut_of(desk: Lectern) -> ranges.Cut:
    return cutting.look(desk.book.connection).cut


def settle(desk: Lectern, name: str) -> int:
    key = desk.story(name, *HAPPY, subject=f"case-{name}")
    desk.complete(f"bill:{name}", name)
    return key


def tend(desk: Lectern) -> None:
    """Until there is nothing more to be done. What is given up, as on a busy machine, is done at the next turn."""
    for _ in range(100):
        desk.book.tidy()
        if not cutting.look(desk.book.connection).asks_for_something(desk.now):
            desk.book.tidy()  # notes and what is quiet are seen to at the beginning
            return
    raise AssertionError("there is always something to be done")


def next_week(desk: Lectern) -> None:
    desk.clock.advance(WEEK)
    tend(desk)


def grow_old(desk: Lectern, weeks: int = 4) -> None:
    """A settled message each week, `week-0` first; posted, and the ranges looked after."""
    tend(desk)
    for week in range(weeks):
        settle(desk, f"week-{week}")
        post_all(desk.book)
        next_week(desk)
    settle(desk, "now")
    post_all(desk.book)
    tend(desk)


def is_true(desk: Lectern) -> Balance:
    """All is posted, and nothing else than what the entries say."""
    post_all(desk.book)
    with desk.book.reading() as connection:
        verified = verify(connection, desk.now)
    assert verified.clean, verified
    balance = desk.balance(depth_of=None)
    assert balance.balanced, balance
    assert balance.waiting == 0
    return balance


def fact(desk: Lectern, name: str) -> str | None:
    row = desk.book.connection.execute("SELECT value FROM crossfoot_facts WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def lies_in(desk: Lectern, key: int) -> tuple[str, str]:
    """The tables in which a message's entries and its payload lie."""
    query = """
        SELECT (SELECT min(tableoid::regclass::text) FROM crossfoot_entries WHERE message = :key),
          (SELECT tableoid::regclass::text FROM crossfoot_payloads WHERE key = :key)
    """
    entries, payload = desk.book.connection.execute(query, {"key": key}).fetchone()
    return entries, payload


class TestClocks:
    def test_the_servers_clock_ends_a_range_and_no_workers(self, postgres_url: str) -> None:
        with Writer(postgres_url) as right, Writer(postgres_url) as wrong:
            wrong.clock.advance(60 * WEEK)
            for desk in (right, wrong):
                settle(desk, f"first of {id(desk)}")
            right.book.tidy()
            before = cut_of(right)

            for number in range(5):
                for desk in (wrong, right):
                    settle(desk, f"{number} of {id(desk)}")
                    desk.book.tidy()

            assert cut_of(right).ranges == before.ranges
            assert cut_of(right).since == before.since

    def test_the_servers_time_is_told_in_microseconds(self, desk: Lectern) -> None:
        row = desk.book.connection.execute("SELECT CAST(extract(epoch FROM now()) AS BIGINT)").fetchone()
        assert abs(SERVER_TIME(desk.book.connection) // SECOND - row[0]) < 60


class TestWeeks:
    def test_each_week_has_a_range_of_its_own(self, desk: Lectern) -> None:
        grow_old(desk)
        tables = [lies_in(desk, desk.keys[name]) for name in ("week-0", "week-1", "week-2", "week-3", "now")]
        assert len(set(tables)) == 5
        for entries, payload in tables:
            assert entries.removeprefix("crossfoot_entries") == payload.removeprefix("crossfoot_payloads")
        cut = cut_of(desk)
        assert [one.upper for one in cut.ranges[:-1]] == [one.lower for one in cut.ranges[1:]]
        assert cut.following is not None

    def test_every_answer_is_the_same_as_of_a_book_in_one_range(self, desk: Lectern, postgres: Postgres) -> None:
        def answers(of: Lectern) -> tuple[Any, ...]:
            balance = is_true(of)
            with of.book.reading() as connection:
                stories = [
                    look_up(connection, name, of.now) for name in ("week-0", "case-week-2", "bill:now", "week-1")
                ]
                told = [(line.id, line.kind, line.attempt) for line in lines_after(connection, 0)]
                tallies = connection.execute("SELECT * FROM crossfoot_tallies ORDER BY 1, 2, 3, 4").fetchall()
            pages = [replace(story.page, message=replace(story.page.message, key=0)) for story in stories if story.page]
            assert len(pages) == len(stories)
            return balance.fates, balance.boundaries, balance.published, told, tallies, pages

        postgres.run("DROP DATABASE IF EXISTS uncut")
        postgres.run("CREATE DATABASE uncut")
        other = Lectern(postgres.url("uncut"))
        try:
            for each in (desk, other):
                for week in range(4):
                    settle(each, f"week-{week}")
                    next_week(each) if each is desk else each.clock.advance(WEEK)
                settle(each, "now")
                each.write("week-1", (Kind.RECEIVED, 2), (Kind.ACKED, 2))
                post_all(each.book)
            assert len(cut_of(desk).ranges) > len(cut_of(other).ranges)
            assert answers(desk) == answers(other)
        finally:
            other.close()

    def test_a_clock_that_steps_back_an_hour_makes_nothing_and_ends_nothing(self, desk: Lectern) -> None:
        grow_old(desk, 2)
        before = cut_of(desk)
        desk.clock.advance(-3_600)
        tend(desk)
        assert (cut_of(desk).ranges, cut_of(desk).next_key) == (before.ranges, before.next_key)
        desk.clock.advance(WEEK - 1)
        tend(desk)
        assert cut_of(desk).next_key == before.next_key
        desk.clock.advance(3_601)
        tend(desk)
        assert cut_of(desk).next_key > before.next_key

    def test_keys_are_closed_past_those_that_were_used_up(self, desk: Lectern) -> None:
        grow_old(desk, 3)
        assert desk.keys["now"] > 5 * STRETCH
        for number in range(12):
            settle(desk, f"more-{number}")
            post_all(desk.book)
        closed, count = (fact(desk, "closed") or "").split(":")
        assert int(closed) > desk.keys["now"]
        assert int(count) > 4
        is_true(desk)


class TestQuiet:
    """To old ranges hardly anything is added, and posting does not look into them unless it is told."""

    def test_posting_looks_only_into_ranges_to_which_something_may_have_been_added(self, desk: Lectern) -> None:
        grow_old(desk, 6)
        connection = desk.book.connection
        assert isinstance(connection, PostgresConnection)
        at = {**horizon.cursors(connection)._asdict(), "all": ranges.HIGHEST, "group": GROUP}
        for statement in (horizon._POST, horizon._WAITING, horizon._BACKLOG, horizon._LAST_NUMBER):
            plan = generic_plan(connection.raw, translate(statement), at)
            scanned = [node for node in nodes(plan) if "crossfoot_entries_" in node.get("Relation Name", "")]
            assert len({node["Relation Name"] for node in scanned}) == 4
            assert all(node["Index Name"].endswith("_pkey") for node in scanned)

    def test_what_is_added_to_a_quiet_range_is_posted(self, desk: Lectern) -> None:
        grow_old(desk)
        assert cut_of(desk).ranges[1].upper <= int(fact(desk, "quiet") or LOWEST)
        desk.write("week-0", (Kind.RECEIVED, 2))
        desk.write("week-1", (Kind.RECEIVED, 2))
        assert backlog(desk.book.connection) == 2
        assert post_all(desk.book) == 2
        tend(desk)
        assert horizon.cursors(desk.book.connection).floor <= desk.keys["week-1"], (
            "a note of the last transaction stays"
        )
        settle(desk, "later")
        post_all(desk.book)
        tend(desk)
        assert horizon.cursors(desk.book.connection).floor > desk.keys["week-1"]
        is_true(desk)

    def test_what_is_committed_after_posting_looked_where_to_look_is_not_stepped_over(self, desk: Lectern) -> None:
        grow_old(desk)
        with plain(desk.book.path) as poster:
            poster.begin()
            poster.alone(horizon.TURN)
            at = horizon.cursors(poster)
            desk.write("week-0", (Kind.RECEIVED, 2))
            settle(desk, "newest")
            real = horizon.cursors
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(horizon, "cursors", lambda connection: at)
                horizon._post(poster, GROUP)
            assert horizon.cursors is real
            poster.finish()
        assert post_all(desk.book) > 0
        is_true(desk)

    def test_a_note_stays_until_its_transaction_is_posted(self, desk: Lectern) -> None:
        grow_old(desk)
        with plain(desk.book.path) as other:
            other.begin()
            other.execute("SELECT pg_current_xact_id()")  # nothing that comes later is posted before this has ended
            desk.write("week-0", (Kind.RECEIVED, 2))
            assert post_all(desk.book) == 0
            tend(desk)
            other.finish()
        assert post_all(desk.book) == 1
        is_true(desk)

    def test_a_range_is_not_quiet_before_what_was_written_there_is_posted(self, desk: Lectern) -> None:
        tend(desk)
        settle(desk, "week-0")
        with plain(desk.book.path) as other:
            other.begin()
            other.execute("SELECT pg_current_xact_id()")
            for week in range(1, 4):
                next_week(desk)
                settle(desk, f"week-{week}")
                post_all(desk.book)
            tend(desk)
            assert fact(desk, "quieting") is not None
            assert fact(desk, "quiet") is None
            other.finish()
        is_true(desk)
        settle(desk, "later")
        post_all(desk.book)
        tend(desk)
        assert fact(desk, "quiet") == str(ranges.quiet_below(cut_of(desk)))

    def test_whoever_still_writes_into_a_range_keeps_it_from_becoming_quiet(self, desk: Lectern) -> None:
        grow_old(desk, 1)
        with plain(desk.book.path) as other:
            other.begin()
            other.execute(
                "INSERT INTO crossfoot_entries (message, kind, attempt, delivery, at, worker) VALUES (?, 5, 2, 2, 1, 1)",
                (desk.keys["week-0"],),
            )
            for week in range(1, 4):
                desk.clock.advance(WEEK)
                desk.book.tidy()  # which is given up where it would have to wait
                settle(desk, f"week-{week}")
            assert fact(desk, "quieting") is None
            other.finish()
        tend(desk)
        assert fact(desk, "quieting") is not None
        post_all(desk.book)
        assert is_true(desk).fates["settled"] == 5

    def test_after_a_move_to_another_server_every_range_is_looked_into_again(self, desk: Lectern) -> None:
        grow_old(desk)
        desk.write("week-0", (Kind.RECEIVED, 2))
        desk.book.connection.execute("SELECT crossfoot_moved()")
        assert fact(desk, "quiet") is None
        tend(desk)
        assert fact(desk, "quiet") is None
        assert post_all(desk.book) == 1
        settle(desk, "later")
        is_true(desk)
        tend(desk)
        assert fact(desk, "quiet") is not None


class TestMakers:
    def test_of_two_makers_at_once_one_makes_the_range(self, desk: Lectern) -> None:
        tend(desk)
        settle(desk, "one")
        desk.clock.advance(WEEK)
        books = [Book(desk.book.path, clock=desk.clock, synchronous="OFF").open() for _ in range(4)]
        together(*[lambda book=book: [book.tidy() for _ in range(5)] for book in books])
        for book in books:
            book.close()
        tend(desk)
        assert len(cut_of(desk).ranges) == 3
        settle(desk, "two")
        assert is_true(desk).published == 2

    def test_a_maker_that_is_killed_at_any_step_leaves_nothing_half_done(
        self, desk: Lectern, postgres: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database = postgres_url.rpartition("/")[2]
        grow_old(desk, 2)
        desk.clock.advance(WEEK)
        said, last, killed = 0, 1, 0

        def dying(
            self: PostgresConnection, sql: str, parameters: Any = (), /, real: Any = PostgresConnection.execute
        ) -> Any:
            nonlocal said
            if self is not desk.book.connection:
                said += 1
                if said == last:
                    postgres.end_sessions("pid = %s", self.raw.info.backend_pid)
            return real(self, sql, parameters)

        while (before := cutting.look(desk.book.connection)).asks_for_something(desk.now):
            said = 0
            with monkeypatch.context() as patch:
                patch.setattr(PostgresConnection, "execute", dying)
                desk.book.tidy()
            after = cutting.look(desk.book.connection)
            killed += said >= last
            last = last + 1 if after == before else 1  # a step is done: the next one is killed from its beginning, too
            made = postgres.run(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^crossfoot_(entries|payloads)_[1-9]'",
                database=database,
            )
            attached = [one.lower for one in after.cut.ranges[1:]]
            assert {name for (name,) in made} == {f"{table}_{lower}" for table in cutting.CUT for lower in attached}
        assert killed > 15
        settle(desk, "after all")
        desk.write("week-0", (Kind.RECEIVED, 2))
        is_true(desk)

    def test_ranges_are_made_while_four_write_and_two_make_them(
        self, desk: Lectern, postgres_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Keys run into the next range, and the first one becomes quiet; nobody fails, and nothing is missed."""
        tend(desk)
        settle(desk, "old")
        monkeypatch.setattr(ranges, "_of_a_period", lambda *_: 0)
        for module in (ranges, cutting):
            monkeypatch.setattr(module, "LEAST", 2_000)
        last = cut_of(desk).ranges[-1]
        desk.execute(f"SELECT setval('crossfoot_messages_key_seq', {last.upper - 2_100})")
        enough = threading.Event()

        def writing(number: int) -> None:
            with Writer(postgres_url) as writer:
                writer.keys |= desk.keys
                for turn in range(5_000):
                    settle(writer, f"{number}-{turn}")
                    if turn > 10:
                        writer.write(f"{number}-{turn - 10}", (Kind.RECEIVED, 2), (Kind.ACKED, 2))
                    if turn % 50 == 0:
                        writer.write("old", (Kind.RECEIVED, 2), (Kind.ACKED, 2))
                    if enough.is_set():
                        return
                raise AssertionError("no further range is made")

        def making() -> None:
            book = Book(postgres_url, clock=desk.clock, synchronous="OFF").open()
            while not enough.is_set():
                book.tidy()
                post(book)
                if len(cutting.look(book.connection).cut.ranges) > 3:
                    enough.set()
            book.close()

        together(*[lambda number=number: writing(number) for number in range(4)], making, making)
        tend(desk)
        assert cut_of(desk).current not in (last, None)
        assert fact(desk, "quieting") is not None
        is_true(desk)


class Writer(Lectern):
    """One that is closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def together(*jobs: Callable[[], Any]) -> None:
    """All at once; what one of them raises is raised."""
    failures: list[BaseException] = []

    def run(job: Callable[[], Any]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []


class TestNobodyWaits:
    @pytest.fixture
    def impatient(self, desk: Lectern) -> None:
        """Who would have to wait for a maker fails."""
        desk.execute("SET lock_timeout = '1s'")

    @pytest.mark.usefixtures("impatient")
    def test_messages_are_written_while_a_range_is_being_made(self, desk: Lectern) -> None:
        tend(desk)
        with plain(desk.book.path) as maker:
            maker.begin()
            lower = cut_of(desk).ranges[-1].upper
            for table in cutting.CUT:
                for statement in cutting.statements(table, Range(lower, lower + 1)):
                    maker.execute(statement)
            settle(desk, "meanwhile")
            maker.finish()
        is_true(desk)

    def test_a_maker_gives_way_to_whoever_has_the_rest_in_use(
        self, desk: Lectern, caplog: pytest.LogCaptureFixture
    ) -> None:
        tend(desk)
        desk.execute(f"SELECT setval('crossfoot_messages_key_seq', {cut_of(desk).ranges[-1].lower})")
        with plain(desk.book.path) as reader:
            reader.begin()
            reader.execute("SELECT count(*) FROM crossfoot_entries")
            with caplog.at_level(logging.WARNING):
                assert not desk.book.tidy()
            assert cut_of(desk).following is None
            assert caplog.messages == []
            reader.finish()
        tend(desk)
        assert cut_of(desk).following is not None


class TestRest:
    """Keys that no range takes in."""

    def test_they_are_found_posted_and_left_behind_by_the_next_range(self, desk: Lectern) -> None:
        tend(desk)
        beyond = cut_of(desk).ranges[-1].upper + 10
        desk.execute(f"SELECT setval('crossfoot_messages_key_seq', {beyond})")
        settle(desk, "outrun")
        assert lies_in(desk, desk.keys["outrun"]) == ("crossfoot_entries_rest", "crossfoot_payloads_rest")
        is_true(desk)

        desk.clock.advance(WEEK)
        tend(desk)
        made = cut_of(desk).ranges[-1]
        assert made.lower > desk.keys["outrun"]
        desk.write("outrun", (Kind.RECEIVED, 2), (Kind.ACKED, 2))
        settle(desk, "still outside")
        desk.execute(f"SELECT setval('crossfoot_messages_key_seq', {made.lower})")
        settle(desk, "inside")
        assert lies_in(desk, desk.keys["still outside"])[0] == "crossfoot_entries_rest"
        assert lies_in(desk, desk.keys["inside"])[0] == f"crossfoot_entries_{made.lower}"
        grow_old(desk)
        desk.write("outrun", (Kind.RECEIVED, 3))
        assert post_all(desk.book) == 1
        is_true(desk)

    def test_a_range_that_keys_run_into_while_it_is_made_is_given_up(
        self, desk: Lectern, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tend(desk)
        last = cut_of(desk).ranges[-1]
        desk.execute(f"SELECT setval('crossfoot_messages_key_seq', {last.lower})")
        real = cutting.statements

        def overtaken(table: str, made: Range) -> list[str]:
            return [*real(table, made), f"SELECT setval('crossfoot_messages_key_seq', {made.lower - 5})"]

        with monkeypatch.context() as patch:
            patch.setattr(cutting, "statements", overtaken)
            assert not desk.book.tidy()
        assert cut_of(desk).ranges[-1] == last
        tend(desk)
        following = cut_of(desk).following
        assert following is not None
        assert following.lower == cut_of(desk).next_key + ranges.LEAST

    def test_a_large_rest_is_made_a_range_in_a_quiet_hour(self, desk: Lectern) -> None:
        grow_old(desk, 3)
        desk.execute(f"SELECT setval('crossfoot_messages_key_seq', {cut_of(desk).ranges[-1].upper + 10})")
        settle(desk, "in a gap")
        tend(desk)
        desk.execute(f"SELECT setval('crossfoot_messages_key_seq', {cut_of(desk).ranges[-1].upper + 10})")
        settle(desk, "outrun")
        post_all(desk.book)

        with desk.book.reading() as connection:
            (text,) = connection.execute("SELECT crossfoot_rest_to_range()").fetchone()
        made = cut_of(desk).ranges[-1]
        assert f"from {made.lower} until before {made.upper}" in text
        assert made == cut_of(desk).current
        assert lies_in(desk, desk.keys["outrun"]) == (
            f"crossfoot_entries_{made.lower}",
            f"crossfoot_payloads_{made.lower}",
        )
        assert lies_in(desk, desk.keys["in a gap"]) == ("crossfoot_entries_rest", "crossfoot_payloads_rest")
        is_true(desk)

        tend(desk)
        assert cut_of(desk).following is not None
        settle(desk, "more")
        post_all(desk.book)
        tend(desk)
        assert int(fact(desk, "quiet") or LOWEST) > desk.keys["in a gap"]
        desk.write("in a gap", (Kind.RECEIVED, 2))
        desk.write("week-0", (Kind.RECEIVED, 2))
        assert post_all(desk.book) == 2
        is_true(desk)

    def test_a_role_that_may_not_make_tables_says_so_once_and_goes_on(
        self, desk: Lectern, postgres: Postgres, postgres_url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with guest_of(postgres, postgres_url) as url:
            grow_old(desk, 3)
            guest = Lectern(url)
            guest.clock.advance(3 * WEEK)
            guest.keys |= desk.keys
            guest.write("week-0", (Kind.RECEIVED, 2))  # into a quiet range
            with caplog.at_level(logging.WARNING):
                assert not guest.book.tidy()
                assert caplog.messages == []
                desk.execute(f"SELECT setval('crossfoot_messages_key_seq', {cut_of(desk).ranges[-1].upper + 7})")
                settle(guest, "beyond")
                assert not guest.book.tidy()
                assert not guest.book.tidy()
            (text,) = caplog.messages
            assert "this role may not make the next range" in text
            assert "GRANT crossfoot to it" in text
            is_true(guest)
            guest.close()
        tend(desk)
        assert cut_of(desk).following is not None


@contextmanager
def guest_of(postgres: Postgres, url: str) -> Iterator[str]:
    """The URL of a role that may read and write the book's tables, as the guide wants it."""
    database = url.rpartition("/")[2]
    with ExitStack() as stack:
        with suppress(psycopg.errors.DuplicateObject):
            postgres.run("CREATE ROLE clerk LOGIN")
        postgres.run("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk", database=database)
        postgres.run("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO clerk", database=database)
        stack.callback(postgres.run, "DROP OWNED BY clerk", database=database)
        yield url.replace("crossfoot@", "clerk@")
