"""The book in PostgreSQL: the same laws, and many writers, whose transactions do not end in the order in which they began."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine

from crossfoot.books import queries, schema, sql, tables_promised
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.identity import find_or_publish
from crossfoot.books.lines import Place, last_lines, lines_after
from crossfoot.books.posting import backlog, post, post_all
from crossfoot.books.record import Record, unreadable
from crossfoot.books.store import Book, find_or_add, write_entries
from crossfoot.books.verify import Verification, verify
from crossfoot.errors import Conflict, DatabaseUnavailable, IdentityTaken, SchemaMismatch
from crossfoot.message import Message, encode
from crossfoot.postgres import Connection, connect
from crossfoot.recover.lookup import look_up
from tests.servers.postgres import Databases, Postgres
from tests.unit.book_rig import CAUSE, QUEUE, SOURCE, Lectern, broken, counted

pytest_plugins = ["tests.servers.postgres_fixtures"]
pytestmark = pytest.mark.server

HAPPY = (
    (Kind.INTENDED, 0), (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.COMMITTED, 1), (Kind.ACKED, 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def databases(postgres: Postgres) -> Databases:
    """Databases with an empty book."""
    return Databases(postgres, lambda url: Book(url).open().close())


@pytest.fixture
def place(databases: Databases) -> Iterator[str]:
    with databases.one() as url:
        yield url


@pytest.fixture
def desk(place: str) -> Iterator[Lectern]:
    made = Lectern(place)
    yield made
    made.close()


@pytest.fixture
def elsewhere(place: str) -> Iterator[Connection]:
    """Another program's connection to the same database."""
    made = connect(place)
    yield made
    made.close()


def settle(desk: Lectern, *names: str) -> None:
    for name in names:
        desk.story(name, *HAPPY)
        desk.complete(f"bill:{name}", name)


def verified(desk: Lectern) -> Verification:
    post_all(desk.book)
    with desk.book.reading() as connection:
        return verify(connection, desk.now)


class TestNames:
    @pytest.mark.parametrize("told", ["a\0b", os.urandom(5_000).hex(), "\ud800"], ids=["NUL", "long", "no text"])
    def test_a_message_without_a_name_is_booked_whatever_its_broker_calls_it(self, desk: Lectern, told: str) -> None:
        records = [
            unreadable(b"not an event", "billing", broker_id, now=desk.now, kept=None)
            for broker_id in (told, told + "2", told)
        ]
        first, other, again = desk.book.keys_of(records)
        assert first == again != other

    def test_a_name_that_can_be_looked_up_is_kept_as_it_is(self, desk: Lectern) -> None:
        record = unreadable(b"not an event", "billing", "orders:4711", now=desk.now, kept=None)
        assert record.identity == "queue:billing|orders:4711"


class TestTables:
    def test_migrations_make_the_tables_that_the_code_declares_and_the_transactions_number(
        self, postgres: Postgres, place: str, postgres_url: str
    ) -> None:
        engine = create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
        tables_promised.expected.metadata.create_all(engine)
        engine.dispose()
        columns = """
            SELECT table_name, column_name, data_type FROM information_schema.columns
            WHERE table_name LIKE 'crossfoot%' AND table_name NOT IN ('crossfoot_version', 'crossfoot_queue_counts')
        """
        indexes = "SELECT tablename, regexp_replace(indexdef, 'ON .*USING', 'USING') FROM pg_indexes WHERE tablename LIKE 'crossfoot%'"
        made, declared = (
            {row for query in (columns, indexes) for row in postgres.run(query, database=url.rpartition("/")[2])}
            for url in (place, postgres_url)
        )
        # A message is three tables, which the view puts together; and numbers stand behind those of transactions.
        indexes_of_messages = {row for row in declared if row[0] == "crossfoot_messages" and "INDEX" in row[1]}
        apart = {
            (
                "crossfoot_messages",
                "CREATE INDEX crossfoot_messages_unsettled USING btree (fate, due) WHERE (fate <> 20)",
            )
        }
        by_number = {
            ("crossfoot_entries", "CREATE UNIQUE INDEX crossfoot_entries_pkey USING btree (id)"),
            ("crossfoot_operations", "CREATE UNIQUE INDEX crossfoot_operations_pkey USING btree (number)"),
        }
        assert declared - made == indexes_of_messages | by_number
        of_records = {("crossfoot_records", index) for _, index in indexes_of_messages - apart}
        record = "key queue source id type subject operation correlation causation sequence at bucket d0 d1"
        state = "marks latest due fate"
        columns_of = {
            "records": record, "payloads": "key body", "states": f"key {state}", "unsettled": f"{record} {state}",
        }  # fmt: skip
        kinds = {row[1]: row[2] for row in declared if len(row) == 3 and row[0] == "crossfoot_messages"}
        of_columns = {
            (f"crossfoot_{table}", name, kinds[name]) for table, names in columns_of.items() for name in names.split()
        }
        more = {row for row in made - declared if "version" not in row[0] and "queue_counts" not in row[0]}
        of_ranges = {row for row in more if re.fullmatch(r"crossfoot_(entries|payloads)_(\d+|rest)", row[0])}
        for table in ("entries", "payloads"):  # each range is as the whole
            columns_in: dict[str, set[Any]] = {
                row[0]: set() for row in of_ranges if row[0].startswith(f"crossfoot_{table}_")
            }
            for name, *column in (row for row in of_ranges if row[0] in columns_in and len(row) == 3):
                columns_in[name].add(tuple(column))
            of_whole = {row[1:] for row in made if row[0] == f"crossfoot_{table}" and len(row) == 3}
            assert len(columns_in) == 3
            assert all(columns == of_whole for columns in columns_in.values())
        places = {row[0] for row in of_ranges if "(xid, id)" in row[1] and "UNIQUE" in row[1]}
        assert places == {row[0] for row in of_ranges if row[0].startswith("crossfoot_entries_")}
        assert more - of_ranges == of_records | of_columns | {
            ("crossfoot_entries", "xid", "xid8"),
            ("crossfoot_operations", "xid", "xid8"),
            ("crossfoot_late", "xid", "xid8"),
            ("crossfoot_late", "lower", "bigint"),
            ("crossfoot_late", "CREATE UNIQUE INDEX crossfoot_late_pkey USING btree (xid, lower)"),
            ("crossfoot_operations", "CREATE UNIQUE INDEX crossfoot_operations_pkey USING btree (xid, number)"),
            ("crossfoot_payloads", "CREATE UNIQUE INDEX crossfoot_payloads_pkey USING btree (key)"),
            ("crossfoot_states", "CREATE UNIQUE INDEX crossfoot_states_pkey USING btree (key)"),
            ("crossfoot_states", "CREATE INDEX crossfoot_states_unsettled USING btree (fate, due) WHERE (fate <> 20)"),
        }

    @pytest.mark.parametrize("level", ["read%5C%20committed", "serializable"])
    def test_of_many_who_open_a_new_book_at_once_one_makes_it(self, postgres_url: str, level: str) -> None:
        url = f"{postgres_url}?options=-cdefault_transaction_isolation%3D{level}"
        failures: list[BaseException] = []

        def open_it() -> None:
            try:
                Book(url).open().close()
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)

        threads = [threading.Thread(target=open_it) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert failures == []
        with connect_and_close(postgres_url) as connection:
            assert schema.version_of(connection) == schema.HEAD

    def test_a_book_of_a_newer_version_is_refused_and_left_alone(self, desk: Lectern, place: str) -> None:
        desk.execute("UPDATE crossfoot_version SET version_num = '9000'")
        with pytest.raises(SchemaMismatch, match="newer than this crossfoot's"):
            Book(place).open()

    def test_a_user_who_may_not_make_tables_is_told_what_to_grant(self, postgres: Postgres, postgres_url: str) -> None:
        postgres.run("DROP ROLE IF EXISTS guest")
        postgres.run("CREATE ROLE guest LOGIN")
        with connect_and_close(postgres_url) as connection:  # before 15 everybody may make tables
            connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        with pytest.raises(DatabaseUnavailable, match=r"permission denied for schema public.*GRANT"):
            Book(postgres_url.replace("crossfoot@", "guest@")).open()

    def test_a_book_may_live_in_a_schema_of_its_own(self, postgres_url: str) -> None:
        with connect_and_close(postgres_url) as connection:
            connection.execute("CREATE SCHEMA books")
        Book(postgres_url + "?options=-csearch_path%3Dbooks").open().close()
        with connect_and_close(postgres_url) as connection:
            assert connection.execute("SELECT to_regclass('books.crossfoot_entries')::text").fetchone()[0]
            assert schema.version_of(connection) is None


def connect_and_close(url: str) -> Any:
    from contextlib import closing

    return closing(connect(url))


class TestBalance:
    def test_a_happy_book_balances_and_verifies(self, desk: Lectern) -> None:
        settle(desk, "one", "two", "three")
        desk.story("dead", (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1), (Kind.DEAD_LETTERED, 1))

        balance = desk.balance(depth_of=None)

        assert counted(balance.fates) == {"settled": 3, "dead": 1}
        assert (balance.published, balance.unaccounted, balance.waiting) == (4, 0, 0)
        assert broken(balance) == {}
        assert verified(desk).clean

    def test_what_breaks_an_identity_is_named(self, desk: Lectern) -> None:
        settle(desk, "right")
        desk.story("acked", (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.ACKED, 1))
        desk.story("claimed", *HAPPY)

        assert broken(desk.balance(depth_of=None)) == {"acks": ("acked",), "operations": ("claimed",)}

    def test_a_message_is_found_by_its_names(self, desk: Lectern) -> None:
        desk.story("one", *HAPPY, (Kind.FAILED, 2, {"cause": CAUSE.fingerprint}), subject="case-1", correlation="flow")
        desk.complete("bill:one", "one")
        with desk.book.reading() as connection:
            for name in ("one", "case-1", "flow", "bill:one", "tests|one"):
                found = look_up(connection, name, desk.now)
                assert (found.count, found.page is not None) == (1, True), name
            assert [line.id for line in last_lines(connection, 2, type="case.released", kind=int(Kind.ACKED))] == [
                "one"
            ]
            assert len(lines_after(connection, 0)) == 6


class TestTheHorizon:
    """Nothing is stepped over, and what is held up is told."""

    def test_an_entry_that_is_committed_late_is_posted(self, desk: Lectern, elsewhere: Connection) -> None:
        desk.story("late", (Kind.PUBLISHED, 0))
        desk.story("on time", (Kind.PUBLISHED, 0))
        elsewhere.begin()
        late = Entry(message=desk.keys["late"], kind=Kind.RECEIVED, attempt=1, delivery=1, at=desk.now)
        write_entries(elsewhere, [late])  # it has its number now
        desk.write("on time", (Kind.RECEIVED, 1))

        post_all(desk.book)
        elsewhere.finish()
        post_all(desk.book)

        assert counted(desk.balance(depth_of=None).fates) == {"processing": 2}
        assert verified(desk).clean

    def test_while_a_transaction_is_open_posting_waits_and_the_balance_says_so(
        self, desk: Lectern, elsewhere: Connection
    ) -> None:
        settle(desk, "before")
        post_all(desk.book)
        elsewhere.begin()
        elsewhere.execute("CREATE TABLE unrelated (n INTEGER)")  # any transaction that writes, of whomever
        settle(desk, "after")

        held = desk.balance(depth_of=None)
        assert (held.waiting, counted(held.fates)["settled"]) == (5, 1)
        assert any("5 newer entries are not posted yet" in warning for warning in held.warnings)
        assert held.balanced
        with desk.book.reading() as connection:
            assert verify(connection, desk.now).clean
            found = look_up(connection, "after", desk.now)
            assert found.page is not None
            assert found.page.fate == "settled", "a message's own page never lags"

        elsewhere.abandon()
        assert counted(desk.balance(depth_of=None).fates) == {"settled": 2}

    def test_who_follows_the_entries_is_told_of_late_ones_too_and_of_each_once(
        self, desk: Lectern, elsewhere: Connection
    ) -> None:
        told: list[tuple[str | None, int]] = []
        place: Place = 0

        def follow() -> None:
            nonlocal place
            with desk.book.reading() as connection:
                lines = lines_after(connection, place)
            told.extend((line.id, line.kind) for line in lines)
            place = lines[-1].place if lines else place

        desk.story("late", (Kind.PUBLISHED, 0))
        follow()
        elsewhere.begin()
        write_entries(elsewhere, [Entry(message=desk.keys["late"], kind=Kind.RECEIVED, attempt=1, at=desk.now)])
        desk.story("on time", (Kind.PUBLISHED, 0))
        follow()
        elsewhere.finish()
        desk.story("after", (Kind.PUBLISHED, 0))
        follow()
        follow()

        published, received = int(Kind.PUBLISHED), int(Kind.RECEIVED)
        assert told == [("late", published), ("late", received), ("on time", published), ("after", published)]

    def test_a_transaction_that_only_reads_holds_nobody_up(self, desk: Lectern, elsewhere: Connection) -> None:
        with elsewhere.snapshot():
            elsewhere.execute("SELECT count(*) FROM crossfoot_entries")
            settle(desk, "one")
            post_all(desk.book)
            with desk.book.reading() as connection:
                assert backlog(connection) == 0

    def test_a_transaction_that_is_rolled_back_leaves_a_gap_that_nobody_takes_for_a_removal(
        self, desk: Lectern, elsewhere: Connection
    ) -> None:
        settle(desk, "one")
        elsewhere.begin()
        write_entries(elsewhere, [Entry(message=desk.keys["one"], kind=Kind.RECEIVED, attempt=2, at=desk.now)])
        elsewhere.abandon()
        settle(desk, "two")
        assert verified(desk).clean
        assert broken(desk.balance(depth_of=None)) == {}

    def test_many_writers_and_posters_at_once_come_to_the_fold(self, desk: Lectern, place: str) -> None:
        names = [f"message-{number}" for number in range(60)]
        for name in names:
            desk.register(name)
        keys = list(desk.keys.values())
        done = threading.Event()
        failures: list[BaseException] = []

        def write(part: int) -> None:
            try:
                with connect_and_close(place) as connection:
                    for number, key in enumerate(keys[part::3]):
                        connection.begin()
                        for kind in (Kind.PUBLISHED, Kind.RECEIVED, Kind.COMMITTED):
                            write_entries(connection, [Entry(message=key, kind=kind, attempt=1, at=desk.now)])
                        connection.execute(sql.INSERT_OPERATION, (f"bill:{key}", key, int(Kind.COMMITTED), desk.now))
                        connection.abandon() if number % 7 == 6 else connection.finish()
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)

        def keep_posting() -> None:
            try:
                book = Book(place)
                while not done.is_set():
                    post(book, group=5)
                book.close()
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)

        writers = [threading.Thread(target=write, args=(part,)) for part in range(3)]
        posters = [threading.Thread(target=keep_posting) for _ in range(2)]
        for thread in (*posters, *writers):
            thread.start()
        for thread in writers:
            thread.join(60)
        done.set()
        for thread in posters:
            thread.join(60)

        assert failures == []
        result = verified(desk)
        assert result.clean, result.differences
        assert result.waiting == 0
        assert broken(desk.balance(depth_of=None)) == {}


class TestConflicts:
    def test_posting_that_is_undone_for_the_sake_of_a_handler_is_done_later(
        self, desk: Lectern, elsewhere: Connection
    ) -> None:
        for name in ("a", "b"):
            desk.story(name, *HAPPY)
            desk.complete(f"bill:{name}", name)
        name_it = "UPDATE crossfoot_messages SET operation = 'x' WHERE key = ?"
        for first, second in (("a", "b"), ("b", "a")):
            elsewhere.begin()
            elsewhere.execute(name_it, (desk.keys[first],))
            posting = threading.Thread(target=post_all, args=(desk.book,))
            posting.start()
            posting.join(0.2)
            try:
                elsewhere.execute(name_it, (desk.keys[second],))
                elsewhere.finish()
            except Conflict:
                elsewhere.abandon()
            posting.join(10)
            assert not posting.is_alive()
        assert counted(desk.balance(depth_of=None).fates) == {"settled": 2}
        assert verified(desk).clean

    def test_posting_does_not_fail_for_a_lock_that_somebody_holds_for_long(
        self, place: str, elsewhere: Connection
    ) -> None:
        """It may be done later, and a worker must not stop for it."""
        desk = Lectern(f"{place}?options=-clock_timeout%3D100ms")
        settle(desk, "one")
        for lock in ("LOCK TABLE crossfoot_states IN SHARE MODE", "LOCK TABLE crossfoot_tallies IN SHARE MODE"):
            with elsewhere.writing():
                elsewhere.execute(lock)
                assert post(desk.book) == 0
        with elsewhere.writing():
            elsewhere.alone("posting")
            assert post(desk.book) == 0
        assert verified(desk).clean
        assert counted(desk.balance(depth_of=None).fates) == {"settled": 1}
        desk.close()


class TestTwoWhoAddTheSame:
    def test_the_second_waits_for_the_first_and_finds_its_message(self, desk: Lectern, elsewhere: Connection) -> None:
        desk.register("known")
        with desk.book.reading() as connection:
            row = connection.execute("SELECT * FROM crossfoot_messages").fetchone()
        assert row is not None
        from crossfoot.books.record import Record

        record = Record("billing", "tests", "new", "case.released", None, None, None, None, None, desk.now, None)
        elsewhere.begin()
        first = find_or_add(elsewhere, record)
        found: list[Any] = []

        def second() -> None:
            with desk.book.writing() as connection:
                found.append(find_or_add(connection, record))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        elsewhere.finish()
        thread.join(5)
        assert [known.key for known in found] == [first.key]


class TestRemovals:
    """Whoever takes something out of the book is met by its triggers."""

    @pytest.fixture(autouse=True)
    def three(self, desk: Lectern) -> None:
        settle(desk, "one", "two", "three")
        post_all(desk.book)

    def test_a_message_that_is_removed_is_named(self, desk: Lectern) -> None:
        desk.execute("DELETE FROM crossfoot_entries WHERE message = ?", desk.keys["two"])
        desk.execute("DELETE FROM crossfoot_messages WHERE key = ?", desk.keys["two"])
        told = {(difference.what, difference.id) for difference in verified(desk).differences}
        assert ("message removed", "two") in told
        assert "ledger" in broken(desk.balance(depth_of=None))

    def test_an_operation_that_is_removed_is_missed_by_the_balance(self, desk: Lectern) -> None:
        desk.execute("DELETE FROM crossfoot_operations WHERE message = ?", desk.keys["two"])
        assert broken(desk.balance(depth_of=None)) == {"operations": ("two",)}
        assert [difference.id for difference in verified(desk).differences] == ["two"]

    def test_an_operation_given_to_another_message_is_found(self, desk: Lectern) -> None:
        queued = desk.story("queued", (Kind.PUBLISHED, 0))
        desk.execute("UPDATE crossfoot_operations SET message = ? WHERE message = ?", queued, desk.keys["two"])
        assert broken(desk.balance(depth_of=None)) == {"operations": ("two", "queued")}

    def test_an_operation_that_its_own_transaction_removes_was_never_there(self, desk: Lectern) -> None:
        with desk.book.writing() as connection:
            connection.execute(sql.INSERT_OPERATION, ("x", desk.keys["one"], int(Kind.COMMITTED), desk.now))
            connection.execute(sql.DROP_OPERATION, ("x", desk.keys["one"]))
        assert broken(desk.balance(depth_of=None)) == {}

    def test_a_removal_while_it_is_being_posted_is_taken_off_once(self, desk: Lectern, elsewhere: Connection) -> None:
        settle(desk, "four")
        elsewhere.begin()
        elsewhere.execute("DELETE FROM crossfoot_operations WHERE message = ?", (desk.keys["four"],))
        posting = threading.Thread(target=post_all, args=(desk.book,))
        posting.start()
        posting.join(0.3)
        assert posting.is_alive(), "posting waits for who removes"
        elsewhere.finish()
        posting.join(5)
        assert broken(desk.balance(depth_of=None)) == {"operations": ("four",)}

    @pytest.mark.parametrize("table", ["records", "payloads", "states", "entries", "operations"])
    def test_a_table_of_the_book_is_not_emptied_as_a_whole(self, desk: Lectern, table: str) -> None:
        with pytest.raises(psycopg.errors.RaiseException, match="is part of a book"):
            desk.execute(f"TRUNCATE crossfoot_{table}")


class TestABookThatWasCopiedToAnotherServer:
    """Its entries bear numbers of transactions that this server has yet to give."""

    @pytest.fixture(params=[0, 10**9], ids=["as dumped", "from a busier server"])
    def ahead(self, desk: Lectern, request: pytest.FixtureRequest) -> int:
        settle(desk, "one", "two")
        post_all(desk.book)
        settle(desk, "three")  # not posted when it was dumped
        more = int(request.param)
        for table in ("entries", "operations"):
            desk.execute(f"UPDATE crossfoot_{table} SET xid = (xid::text::bigint + {more})::text::xid8")
        desk.execute(
            "UPDATE crossfoot_facts SET value = (split_part(value, ':', 1)::bigint + ?) || ':' || split_part(value, ':', 2) "
            "WHERE name LIKE 'posted %'",
            more,
        )
        return more

    def test_is_told_and_put_right(self, desk: Lectern, ahead: int) -> None:
        if ahead:
            with pytest.raises(DatabaseUnavailable, match=r"SELECT crossfoot_moved\(\)"):
                post_all(desk.book)
        desk.execute("SELECT crossfoot_moved()")
        settle(desk, "four")
        assert counted(desk.balance(depth_of=None).fates) == {"settled": 4}
        assert broken(desk.balance(depth_of=None)) == {}
        assert verified(desk).clean


class TestAServerThatRestarts:
    def test_the_book_connects_anew(self, desk: Lectern, postgres: Postgres) -> None:
        desk.register("one")
        postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'crossfoot'")
        desk.write("one", (Kind.PUBLISHED, 0))
        assert counted(desk.balance(depth_of=None).fates) == {"queued": 1}


def test_of_two_that_mend_a_dead_message_at_once_one_is_told_that_the_name_is_taken(
    desk: Lectern, place: str, elsewhere: Connection
) -> None:
    """Else the book would hold what one of them carries, and the queue both."""
    key = desk.story("one", *HAPPY[:3], (Kind.DEAD_LETTERED, 1), body=body(1))

    def mended(amount: int) -> Record:
        return Record(QUEUE, SOURCE, "one", "case.released", None, None, None, None, None, desk.now, body(amount))

    def second() -> tuple[int, int] | IdentityTaken:
        with closing(Book(place).open()) as book:
            return book.write(lambda connection: find_or_publish(connection, [mended(3)]))[0]

    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with ThreadPoolExecutor(1) as pool:
        with desk.book.writing() as connection:
            assert find_or_publish(connection, [mended(2)]) == [(key, 1)]
            other = pool.submit(second)
            until = time.monotonic() + 30
            while not elsewhere.execute(waiting).fetchone()[0]:
                assert time.monotonic() < until, "it did not wait for the first"
                time.sleep(0.01)
            write_entries(connection, [Entry(message=key, kind=Kind.INTENDED, at=desk.now, attempt=1)])
        assert isinstance(other.result(30), IdentityTaken)
    with desk.book.reading() as connection:
        assert queries.body_of(connection, key) == body(2)


def body(amount: int) -> bytes:
    return encode(Message(type="case.released", source=SOURCE, id="one", data={"amount": amount}))
