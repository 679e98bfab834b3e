"""The book's tables: made and migrated once, in one transaction, whoever comes first."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from crossfoot.books import in_sqlite, schema, tables_promised
from crossfoot.books.store import Book
from crossfoot.books.triggers import TRIGGERS
from crossfoot.boundaries import Boundary
from crossfoot.errors import DatabaseUnavailable, DiskFull, SchemaMismatch
from crossfoot.queues.embedded import tables as queue_tables
from crossfoot.sqlite import connect
from tests.unit.test_sqlite import on_a_small_disk, run

Schema = dict[tuple[str, str], str]
"""The definition of each table, index and trigger, by kind and name."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "book.db"


def schema_of(path: Path) -> Schema:
    """What a file holds, without differences of layout."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {(kind, name): re.sub(r"[\s\"]+", " ", sql).replace("( ", "(").strip() for kind, name, sql in rows}


def version_in(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT version_num FROM crossfoot_version")]


def set_version(path: Path, version: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE crossfoot_version SET version_num = ?", (version,))


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(schema.SCRIPTS))
    return ScriptDirectory.from_config(config)


def make(path: Path) -> None:
    Book(path).open().close()


# ---- what is made ------------------------------------------------------------------------------------------------


def test_the_newest_migration_is_the_one_the_code_was_written_for() -> None:
    assert scripts().get_heads() == [schema.HEAD]


def test_migrations_form_one_line_and_are_numbered_in_it() -> None:
    line = [script.revision for script in scripts().walk_revisions()][::-1]

    assert line == [f"{number:04d}" for number in range(1, len(line) + 1)]


def test_migrations_make_exactly_the_tables_that_the_code_declares(path: Path, tmp_path: Path) -> None:
    make(path)
    declared = tmp_path / "declared.db"
    engine = create_engine(f"sqlite:///{declared}")
    tables_promised.expected.metadata.create_all(engine)
    engine.dispose()
    with closing(sqlite3.connect(declared)) as connection:
        queue_tables.create_tables(connection)
        for trigger in TRIGGERS:
            connection.execute(trigger)

    made = schema_of(path)
    del made["table", "crossfoot_version"]
    assert made == schema_of(declared)


def test_a_book_of_the_first_version_is_brought_to_the_newest(path: Path) -> None:
    make(path)
    newest = schema_of(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        for kind, name in newest:
            if kind == "trigger" and not name.startswith("crossfoot_queue"):
                connection.execute(f"DROP TRIGGER {name}")
        for table in ("removed", "closed", "archived", "pruning", "erased"):
            connection.execute(f"DROP TABLE crossfoot_{table}")
        connection.execute("DROP INDEX crossfoot_outbox_line")
        for table in ("expectations", "expected", "invariants", "alerts", "episodes", "notices"):
            connection.execute(f"DROP TABLE crossfoot_{table}")
        connection.execute("DROP INDEX crossfoot_outcomes_about")
        connection.execute("CREATE INDEX crossfoot_outcomes_name ON crossfoot_outcomes (name, at)")
        connection.execute("DROP TABLE crossfoot_replays")
        connection.execute("DROP TABLE crossfoot_replay_members")
    set_version(path, "0001")

    make(path)

    assert schema_of(path) == newest
    assert version_in(path) == [schema.HEAD]


@pytest.mark.parametrize("twice", [False, True])
def test_a_message_that_had_two_operations_keeps_them_and_no_other_gets_two(path: Path, twice: bool) -> None:
    make(path)
    add = "INSERT INTO crossfoot_operations (key, message, kind, at) VALUES (?, ?, 23, 0) ON CONFLICT DO NOTHING"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP INDEX crossfoot_operations_message")
        connection.execute("CREATE INDEX crossfoot_operations_message ON crossfoot_operations (message)")
        connection.executemany(add, [("bill:0", 5), ("bill:1", 1), ("charge:1", 1 if twice else 2)])
    set_version(path, "0008")
    make(path)

    assert version_in(path) == [schema.HEAD]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(add, [("charge:0", 5), ("bill:3", 3), ("charge:3", 3), ("bill:4", 4)])
        keys = [key for (key,) in connection.execute("SELECT key FROM crossfoot_operations ORDER BY number")]
    assert keys == ["bill:0", "bill:1", "charge:1", "bill:3", "bill:4"]


def test_everything_of_ours_can_be_told_by_its_name(path: Path) -> None:
    make(path)

    assert {name.split("_")[0] for _, name in schema_of(path)} == {"crossfoot", "sqlite"}


def test_a_new_book_is_of_the_newest_version(path: Path) -> None:
    make(path)

    assert version_in(path) == [schema.HEAD]


def test_opening_again_changes_nothing(path: Path) -> None:
    make(path)
    before = schema_of(path), path.read_bytes()
    make(path)

    assert (schema_of(path), path.read_bytes()) == before


def test_the_book_moves_into_a_business_database_and_leaves_it_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as business, business:
        business.execute("CREATE TABLE invoices (id INTEGER PRIMARY KEY)")
        business.execute("INSERT INTO invoices VALUES (7)")
    make(path)

    with closing(sqlite3.connect(path)) as business:
        assert business.execute("SELECT * FROM invoices").fetchall() == [(7,)]
    assert version_in(path) == [schema.HEAD]


OPEN_AND_LIST = """
import json, sys
from crossfoot.books.store import Book

Book(sys.argv[1]).open().close()
print(json.dumps("alembic" in sys.modules))
"""


def test_a_book_that_is_up_to_date_opens_without_the_machinery_of_migrations(path: Path) -> None:
    assert run(OPEN_AND_LIST, str(path)) is True
    assert run(OPEN_AND_LIST, str(path)) is False


# ---- many at once, and killed half-way ---------------------------------------------------------------------------

OPENER = """
import sys
from crossfoot.books.store import Book
from crossfoot.books import schema

print("ready", flush=True)
sys.stdin.readline()
book = Book(sys.argv[1]).open()
with book.reading() as connection:
    print(schema.version_of(connection), flush=True)
book.close()
"""


def test_processes_that_open_a_new_book_at_once_find_it_made_once(path: Path) -> None:
    command = [sys.executable, "-c", OPENER, str(path)]
    with ExitStack() as stack:
        openers = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(4)
        ]
        for opener in openers:
            assert opener.stdout is not None
            assert opener.stdout.readline() == "ready\n"
        for opener in openers:
            assert opener.stdin is not None
            opener.stdin.write("go\n")
            opener.stdin.flush()
        said = [opener.communicate(timeout=60)[0] for opener in openers]

    assert [opener.returncode for opener in openers] == [0] * len(openers)
    assert said == [f"{schema.HEAD}\n"] * len(openers)
    assert version_in(path) == [schema.HEAD]


KILLED = """
import os, signal, sys
from crossfoot import boundaries
from crossfoot.books import in_sqlite
from crossfoot.books.store import Book
from crossfoot.boundaries import Boundary

path, when = sys.argv[1:]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def connect(path, **stated):
    made = right(path, **stated)
    if not stated:  # it migrates
        made.set_trace_callback(lambda statement: die() if when in statement else None)
    return made

right, in_sqlite.connect = in_sqlite.connect, connect
boundaries.install(lambda boundary: die() if boundary == when else None)
Book(path).open()
"""


@pytest.mark.parametrize(
    "when",
    [Boundary.DURING_MIGRATION, "CREATE TABLE crossfoot_causes", "CREATE TABLE crossfoot_tallies", "CREATE TRIGGER"],
)
def test_a_process_killed_while_it_migrates_leaves_nothing_and_the_next_one_does_it_all(path: Path, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), when], capture_output=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert schema_of(path) == {}

    make(path)
    assert version_in(path) == [schema.HEAD]
    assert ("table", "crossfoot_entries") in schema_of(path)


# ---- versions and files that will not do -------------------------------------------------------------------------


@pytest.fixture
def newer(path: Path) -> Iterator[Path]:
    """A book that a later crossfoot has migrated."""
    make(path)
    set_version(path, "9000")
    before = path.read_bytes()
    yield path
    assert path.read_bytes() == before, "nothing was changed"


def test_a_newer_book_is_refused_and_left_alone(newer: Path) -> None:
    says = rf"book\.db is of schema 9000, newer than this crossfoot's {schema.HEAD}: upgrade crossfoot; nothing was changed"
    with pytest.raises(SchemaMismatch, match=says):
        Book(newer).open()


def test_a_newer_book_is_not_read_either(newer: Path) -> None:
    with closing(connect(newer, read_only=True)) as reader, pytest.raises(SchemaMismatch, match="newer than this"):
        schema.check(reader, str(newer))


def test_a_reader_of_an_older_book_is_told_who_migrates_it(path: Path) -> None:
    make(path)
    set_version(path, "0000")

    with closing(connect(path, read_only=True)) as reader, pytest.raises(SchemaMismatch, match="start a worker once"):
        schema.check(reader, str(path))


def test_a_reader_of_a_file_without_a_book_is_told_how_one_comes_about(path: Path) -> None:
    with closing(sqlite3.connect(path)) as business, business:
        business.execute("CREATE TABLE invoices (id INTEGER PRIMARY KEY)")

    with closing(connect(path, read_only=True)) as reader, pytest.raises(SchemaMismatch, match="holds no book yet"):
        schema.check(reader, str(path))


def test_a_reader_of_a_book_of_this_version_is_let_in(path: Path) -> None:
    make(path)
    with closing(connect(path, read_only=True)) as reader:
        schema.check(reader, str(path))


def test_a_book_that_was_migrated_while_we_waited_for_the_lock_is_not_migrated_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = connect

    def overtaken(name: str, **stated: Any) -> object:
        if not stated:  # it is about to migrate
            monkeypatch.setattr(in_sqlite, "connect", right)
            make(path)
            set_version(path, "9000")
        return right(name, **stated)

    monkeypatch.setattr(in_sqlite, "connect", overtaken)
    with pytest.raises(SchemaMismatch, match="newer than this"):
        Book(path).open()
    assert version_in(path) == ["9000"]


def test_a_table_of_the_same_name_that_is_not_ours_is_an_error_and_nothing_is_left_half_made(path: Path) -> None:
    with closing(sqlite3.connect(path)) as business, business:
        business.execute("CREATE TABLE crossfoot_messages (id INTEGER PRIMARY KEY)")
    before = schema_of(path)

    with pytest.raises(DatabaseUnavailable, match=r"book\.db: table crossfoot_messages already exists"):
        Book(path).open()
    assert schema_of(path) == before


def test_a_book_that_could_not_be_opened_can_be_opened_later(path: Path) -> None:
    book = Book(path)
    path.write_text("not a database " * 100)
    with pytest.raises(DatabaseUnavailable, match="is not a SQLite database"):
        book.open()
    path.unlink()

    assert book.open() is book
    book.close()


MIGRATE = """
from crossfoot.books import schema

taken = open(folder + "/ballast", "wb").write(b"x" * (1024 * 1024 - int(sys.argv[2])))
report = {}
try:
    Book(folder + "/book.db").open()
except Exception as error:
    report = {"error": type(error).__name__, "says": str(error)}
os.remove(folder + "/ballast")
book = Book(folder + "/book.db").open()
with book.reading() as connection:
    report["later"] = schema.version_of(connection)
"""


@pytest.mark.parametrize("free", [60_000, 120_000])
def test_a_disk_that_is_full_before_the_tables_are_made_is_named_and_nothing_is_half_made(
    request: pytest.FixtureRequest, free: int
) -> None:
    report = on_a_small_disk(request, MIGRATE, str(free))

    assert report["error"] == DiskFull.__name__
    assert "book.db is full" in report["says"]
    assert report["later"] == schema.HEAD, "with space again, it is made"
