"""A book in PostgreSQL that a former version wrote: brought to this one, it says what it said."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from alembic import command
from alembic.config import Config

from crossfoot.books import queries, schema
from crossfoot.books.entry import RANKS, Kind
from crossfoot.books.fate import Fate
from crossfoot.books.place import place_of
from crossfoot.books.posting import post_all
from crossfoot.books.record import Record
from crossfoot.books.stock import take_stock
from crossfoot.books.store import Book
from crossfoot.books.verify import verify
from tests.servers.postgres import Postgres
from tests.unit.book_rig import Lectern

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

AT = 1_700_000_000_000_000

SETTLED, QUEUED, BARE = "settled", "queued", "bare"
FORMER_COLUMNS = (
    "queue, source, id, type, subject, operation, correlation, causation, sequence, at, bucket, d0, d1, body"
)
POSTED = {
    SETTLED: (
        (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.COMMITTED, 1), (Kind.ACKED, 1),
    ),
    QUEUED: ((Kind.PUBLISHED, 0),),
    BARE: (),
}  # fmt: skip
FATES = {SETTLED: Fate.SETTLED, QUEUED: Fate.QUEUED}


def at_version(url: str, version: str) -> None:
    """The tables as that version made them."""
    config = Config()
    config.set_main_option("script_location", str(schema.SCRIPTS))
    with place_of(url, synchronous="FULL").migrating() as migration, migration.shared() as shared:
        config.attributes["connection"] = shared
        command.upgrade(config, version)


def record(id_: str) -> Record:
    body = None if id_ == QUEUED else b'{"data":' + id_.encode() + b"}"
    return Record("billing", "tests", id_, "case.released", f"case-{id_}", None, "flow", None, 3, AT, body)


def write(server: Postgres, database: str, id_: str, *, posted: bool) -> None:
    """A message and its entries, as version 3 kept them."""
    facts = POSTED[id_]
    marks = sum({1 << kind for kind, _ in facts}) if posted else 0
    latest = max((attempt * RANKS + kind for kind, attempt in facts), default=0) if posted else 0
    fate = int(FATES[id_]) if posted and facts else 0
    with server.admin(database) as raw, raw.transaction():
        row = raw.execute(
            f"INSERT INTO crossfoot_messages ({FORMER_COLUMNS}, marks, latest, fate) "
            f"VALUES ({', '.join(['%s'] * 14)}, %s, %s, %s) RETURNING key".encode(),
            (*record(id_).row(), marks, latest, fate),
        ).fetchone()
        assert row is not None
        for kind, attempt in facts:
            raw.execute(
                "INSERT INTO crossfoot_entries (message, kind, attempt, delivery, at, worker) VALUES (%s, %s, %s, 0, %s, 1)",
                (row[0], int(kind), attempt, AT),
            )
        if id_ == SETTLED:
            raw.execute(
                "INSERT INTO crossfoot_operations (key, message, kind, at) VALUES ('bill', %s, 23, 1)", (row[0],)
            )


def tally(server: Postgres, database: str) -> None:
    """The posting of these messages, by the former version."""
    fates = " ".join(f"WHEN {fate.value} THEN 'fate {fate.label}'" for fate in FATES.values())
    kinds = ", ".join(
        f"({kind.value}, 'entry {kind.label}')" for kind in (Kind.PUBLISHED, Kind.RECEIVED, Kind.COMMITTED, Kind.ACKED)
    )
    server.run(
        f"""INSERT INTO crossfoot_tallies
        SELECT bucket, queue, type, CASE fate {fates} END, count(*), sum(d0), sum(d1) FROM crossfoot_messages WHERE fate > 0
        GROUP BY 1, 2, 3, 4
        UNION ALL SELECT bucket, queue, type, k.measure, count(*), sum(d0), sum(d1) FROM crossfoot_messages
        JOIN (VALUES {kinds}) AS k (kind, measure) ON (marks & (1::bigint << k.kind)) <> 0 GROUP BY 1, 2, 3, 4
        UNION ALL SELECT bucket, queue, type, 'operation', count(*), sum(d0), sum(d1) FROM crossfoot_messages
        WHERE key IN (SELECT message FROM crossfoot_operations) GROUP BY 1, 2, 3""",
        database=database,
    )
    for table, number, name in (("entries", "id", "posted entries"), ("operations", "number", "posted operations")):
        server.run(
            f"""INSERT INTO crossfoot_facts SELECT '{name}', xid::text || ':' || {number} FROM crossfoot_{table}
            ORDER BY xid DESC, {number} DESC LIMIT 1""",
            database=database,
        )


@pytest.fixture
def former(postgres: Postgres, postgres_url: str) -> Callable[[], Book]:
    """A book of the third version: what was posted, and afterwards something that was not."""
    database = postgres_url.rpartition("/")[2]
    at_version(postgres_url, "0003")
    write(postgres, database, SETTLED, posted=True)
    tally(postgres, database)
    write(postgres, database, QUEUED, posted=False)
    return lambda: Book(postgres_url)


def test_a_book_of_the_former_version_says_what_it_said(former: Callable[[], Book]) -> None:
    book = former().open()
    try:
        with book.reading() as connection:
            assert schema.version_of(connection) == schema.HEAD
            rows = connection.execute("SELECT id, body, fate FROM crossfoot_messages ORDER BY key").fetchall()
            assert rows == [(SETTLED, record(SETTLED).body, Fate.SETTLED), (QUEUED, None, 0)]
            (row,) = queries.named(connection, "subject", f"case-{SETTLED}", 5)
            assert (row.queue, row.source, row.correlation, row.sequence) == ("billing", "tests", "flow", 3)
            assert [fact.kind for fact in queries.entries_of(connection, row.key)] == [k for k, _ in POSTED[SETTLED]]
            assert verify(connection, AT).clean

        assert post_all(book) == 1
        with book.reading() as connection:
            assert verify(connection, AT).clean
            balance = take_stock(connection, AT, depth_of=None)
        assert balance.balanced, balance
        assert {fate.label: count for fate in Fate if (count := balance.fates.get(fate.label, 0))} == {
            "settled": 1,
            "queued": 1,
        }
    finally:
        book.close()


def test_a_message_without_entries_is_found_after_the_migration_as_before(
    former: Callable[[], Book], postgres: Postgres, postgres_url: str
) -> None:
    write(postgres, postgres_url.rpartition("/")[2], BARE, posted=True)
    book = former().open()
    try:
        post_all(book)
        with book.reading() as connection:
            balance = take_stock(connection, AT, depth_of=None)
        assert not balance.balanced
        assert balance.unaccounted == 1
    finally:
        book.close()


def test_new_messages_are_given_keys_behind_the_former_ones(former: Callable[[], Book], postgres_url: str) -> None:
    former().open().close()
    desk = Lectern(postgres_url)
    try:
        key = desk.story("new", (Kind.PUBLISHED, 0))
        with desk.book.reading() as connection:
            assert connection.execute("SELECT max(key) FROM crossfoot_messages").fetchone() == (key,)
            assert connection.execute("SELECT count(*) FROM crossfoot_messages").fetchone() == (3,)
    finally:
        desk.close()


@pytest.mark.parametrize("twice", [False, True])
def test_a_message_that_had_two_operations_keeps_them_and_no_other_gets_two(
    postgres: Postgres, postgres_url: str, twice: bool
) -> None:
    database = postgres_url.rpartition("/")[2]
    at_version(postgres_url, "0008")
    add = "INSERT INTO crossfoot_operations (key, message, kind, at) VALUES ('{}', {}, 23, 0) ON CONFLICT DO NOTHING"
    for key, message in (("bill:0", 5), ("bill:1", 1), ("charge:1", 1 if twice else 2)):
        postgres.run(add.format(key, message), database=database)
    Book(postgres_url).open().close()

    for key, message in (("charge:0", 5), ("bill:3", 3), ("charge:3", 3), ("bill:4", 4)):
        postgres.run(add.format(key, message), database=database)
    keys = postgres.run("SELECT key FROM crossfoot_operations ORDER BY number", database=database)
    assert keys == [("bill:0",), ("bill:1",), ("charge:1",), ("bill:3",), ("bill:4",)]


def test_while_a_worker_completes_an_operation_the_look_for_messages_with_two_waits_and_others_go_on(
    postgres: Postgres, postgres_url: str
) -> None:
    database = postgres_url.rpartition("/")[2]
    at_version(postgres_url, "0008")
    add = "INSERT INTO crossfoot_operations (key, message, kind, at) VALUES ('{}', {}, 23, 0)"
    postgres.run(add.format("bill:1", 1), database=database)
    with postgres.admin(database) as writer:
        writer.execute("BEGIN")
        writer.execute(add.format("charge:1", 1).encode())
        migration = threading.Thread(target=lambda: Book(postgres_url).open().close())
        migration.start()
        tried = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'crossfoot_operations'::regclass"
        while not postgres.run(tried, database=database)[0][0]:
            assert migration.is_alive()
        postgres.run("SET lock_timeout = '10s'; " + add.format("bill:2", 2), database=database)
        writer.execute("COMMIT")
        migration.join(60)
    assert not migration.is_alive()
    book = Book(postgres_url).open()
    with book.reading() as connection:
        assert schema.version_of(connection) == schema.HEAD
    book.close()
    keys = postgres.run("SELECT key FROM crossfoot_operations ORDER BY key", database=database)
    assert keys == [("bill:1",), ("bill:2",), ("charge:1",)]


class TestCuttingIntoRanges:
    """From version 4 to 5: the tables there are become the first range, while others may be writing."""

    ENTRY = "INSERT INTO crossfoot_entries (message, kind, attempt, delivery, at, worker) VALUES (%s, 5, 1, 1, 1, 1)"

    @pytest.fixture
    def fourth(self, postgres_url: str) -> Iterator[Lectern]:
        """A book of the fourth version, which a worker of that version has open; it says the same statements."""
        at_version(postgres_url, "0004")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schema, "HEAD", "0004")
            desk = Lectern(postgres_url)
        for name in ("one", "two"):
            desk.story(name, *((kind, attempt) for kind, attempt in POSTED[SETTLED]))
            desk.complete(f"bill:{name}", name)
        yield desk
        desk.close()

    def test_rows_are_not_written_anew_and_the_book_says_what_it_said(
        self, fourth: Lectern, postgres: Postgres, postgres_url: str
    ) -> None:
        database = postgres_url.rpartition("/")[2]
        files = "SELECT relname, relfilenode FROM pg_class WHERE relname ~ '^crossfoot_(entries|payloads)(_0)?$' AND relkind = 'r'"
        rows = "SELECT to_jsonb(e) FROM crossfoot_entries e ORDER BY id"
        before, entries = (dict(postgres.run(files, database=database)), postgres.run(rows, database=database))
        Book(postgres_url).open().close()
        assert dict(postgres.run(files, database=database)) == {f"{name}_0": number for name, number in before.items()}
        assert postgres.run(rows, database=database) == entries

        desk = Lectern(postgres_url)
        try:
            desk.story("three", (Kind.PUBLISHED, 0))
            post_all(desk.book)
            with desk.book.reading() as connection:
                assert verify(connection, AT).clean
                numbers = connection.execute(
                    "SELECT count(*), count(DISTINCT id), max(id) FROM crossfoot_entries"
                ).fetchone()
                assert numbers == (9, 9, 9)
            balance = desk.balance(depth_of=None)
            assert balance.balanced, balance
            assert (balance.fates["settled"], balance.fates["queued"]) == (2, 1)
        finally:
            desk.close()

    def test_a_worker_of_the_former_version_that_is_not_stopped_goes_on(
        self, fourth: Lectern, postgres_url: str
    ) -> None:
        """What it says are the same statements, prepared or not; only ranges it does not make."""
        for number in range(5):  # so that statements are prepared
            fourth.story(f"before-{number}", (Kind.PUBLISHED, 0))
        Book(postgres_url).open().close()
        for number in range(5):
            fourth.story(f"after-{number}", (Kind.PUBLISHED, 0))
        fourth.write("one", (Kind.RECEIVED, 2), (Kind.ACKED, 2))
        desk = Lectern(postgres_url)
        try:
            post_all(desk.book)
            with desk.book.reading() as connection:
                assert verify(connection, AT).clean
            assert desk.balance(depth_of=None).published == 12
        finally:
            desk.close()

    def test_it_waits_for_whoever_is_writing(self, fourth: Lectern, postgres: Postgres, postgres_url: str) -> None:
        database = postgres_url.rpartition("/")[2]
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = %s)"
        with postgres.admin(database) as writer:
            writer.execute("BEGIN")
            writer.execute(self.ENTRY.encode(), (fourth.keys["one"],))
            migration = threading.Thread(target=lambda: Book(postgres_url).open().close())
            migration.start()
            while not postgres.run(waiting, database)[0][0]:
                assert migration.is_alive()
            writer.execute(self.ENTRY.encode(), (fourth.keys["two"],))
            writer.execute("COMMIT")
            migration.join(60)
        ((count,),) = postgres.run("SELECT count(*) FROM crossfoot_entries", database=database)
        assert count == 10

    def test_who_was_allowed_to_read_and_write_is_allowed_to(
        self, fourth: Lectern, postgres: Postgres, postgres_url: str
    ) -> None:
        database = postgres_url.rpartition("/")[2]
        if not postgres.run("SELECT 1 FROM pg_roles WHERE rolname = 'scribe'"):
            postgres.run("CREATE ROLE scribe LOGIN")
        postgres.run("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO scribe", database=database)
        postgres.run("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO scribe", database=database)
        postgres.run("GRANT SELECT ON crossfoot_payloads TO PUBLIC", database=database)
        Book(postgres_url).open().close()
        scribe = Lectern(postgres_url.replace("crossfoot@", "scribe@"))
        try:
            scribe.story("three", (Kind.PUBLISHED, 0))
            assert scribe.balance(depth_of=None).balanced
            query = "SELECT has_table_privilege('public', 'crossfoot_payloads', 'SELECT')"
            assert scribe.book.connection.execute(query).fetchone() == (True,)
        finally:
            scribe.close()
            postgres.run("DROP OWNED BY scribe", database=database)
