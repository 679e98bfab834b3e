"""Counting what a handler really changed, on real connections. The law over any program of savepoints is in tests/laws."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import aiosqlite
import pytest

from crossfoot.effects.databases.changes import ChangeCounter, chain, misuse_behind
from crossfoot.errors import TransactionMisuse

SCHEMA = """
CREATE TABLE invoices (id INTEGER PRIMARY KEY, number INTEGER UNIQUE, amount REAL);
CREATE TABLE audit (number INTEGER);
CREATE TABLE places (name TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID;
CREATE VIEW billed AS SELECT number FROM invoices;
CREATE TRIGGER audited AFTER UPDATE ON invoices BEGIN INSERT INTO audit VALUES (new.number); END;
CREATE TRIGGER written INSTEAD OF INSERT ON billed BEGIN INSERT INTO invoices (number) VALUES (new.number); END;
INSERT INTO invoices (number, amount) VALUES (1, 10), (2, 20), (3, 30);
"""

Handler = Callable[[sqlite3.Connection], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "business.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(SCHEMA)
    connection.close()
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.set_trace_callback(None)
    connection.close()


def changed(connection: sqlite3.Connection, handler: Handler) -> int:
    """What the counter says of a handler in a transaction of its own."""
    counter = ChangeCounter(connection)
    connection.execute("BEGIN IMMEDIATE")
    connection.set_trace_callback(counter)
    counter.watch()
    handler(connection)
    return counter.changed()


def script(*statements: str) -> Handler:
    """A handler that executes statements, and swallows whatever goes wrong."""

    def handler(connection: sqlite3.Connection) -> None:
        for statement in statements:
            with suppress(sqlite3.Error):
                connection.execute(statement)

    return handler


INSERT = "INSERT INTO invoices (number) VALUES (10)"
MORE = "INSERT INTO invoices (number) VALUES (11), (12)"
FAILS = "INSERT INTO invoices (number) VALUES (13), (1)"


@pytest.mark.parametrize(
    ("statements", "rows"),
    [
        ([], 0),
        (["SELECT * FROM invoices"], 0),
        ([INSERT], 1),
        ([INSERT, MORE], 3),
        (["DELETE FROM invoices"], 3),
        (["DELETE FROM invoices WHERE number > 1"], 2),
        (["UPDATE places SET n = 1"], 0),
        (["UPDATE invoices SET amount = amount WHERE number = 1"], 2),
        ([FAILS], 0),
        (["INSERT OR IGNORE INTO invoices (number) VALUES (1), (14)"], 1),
        (["INSERT OR FAIL INTO invoices (number) VALUES (15), (1), (16)"], 1),
        (["INSERT OR REPLACE INTO invoices (number) VALUES (1)"], 1),
        (["REPLACE INTO places VALUES ('a', 1), ('a', 2)"], 2),
        (["INSERT INTO invoices (number) VALUES (1) ON CONFLICT DO NOTHING"], 0),
        (["INSERT INTO places VALUES ('a', 1) ON CONFLICT DO UPDATE SET n = n + 1"] * 3, 3),
        (["WITH n AS (SELECT 20 AS x) INSERT INTO invoices (number) SELECT x FROM n"], 1),
        (["INSERT INTO billed VALUES (30)"], 1),
        (["CREATE TABLE later (x)", "INSERT INTO later VALUES (1)"], 1),
        (["SYNTAX ERROR", "SELECT * FROM nowhere"], 0),
    ],
    ids=lambda value: " / ".join(value)[:70] if isinstance(value, list) else None,
)
def test_rows_are_counted_as_sqlite_counts_them(
    connection: sqlite3.Connection, statements: list[str], rows: int
) -> None:
    """An update to the same value counts, its trigger's row counts; what conflicts and is ignored does not."""
    assert changed(connection, script(*statements)) == rows


@pytest.mark.parametrize(
    ("statements", "rows"),
    [
        (["SAVEPOINT a", INSERT, "RELEASE a"], 1),
        (["SAVEPOINT a", INSERT, "ROLLBACK TO a"], 0),
        (["SAVEPOINT a", INSERT, "ROLLBACK TO a", "RELEASE a", MORE], 2),
        ([MORE, "SAVEPOINT a", INSERT, "ROLLBACK TO a"], 2),
        (["SAVEPOINT a", INSERT, "SAVEPOINT b", MORE, "ROLLBACK TO b", "RELEASE a"], 1),
        (["SAVEPOINT a", INSERT, "SAVEPOINT b", MORE, "RELEASE b", "ROLLBACK TO a"], 0),
        (["SAVEPOINT a", INSERT, "SAVEPOINT b", MORE, "ROLLBACK TO b", "ROLLBACK TO a"], 0),
        (["SAVEPOINT a", INSERT, "ROLLBACK TO a", MORE, "ROLLBACK TO a"], 0),
        (["SAVEPOINT a", INSERT, "ROLLBACK TO a", MORE, "RELEASE a"], 2),
        (["SAVEPOINT a", INSERT, "SAVEPOINT a", MORE, "ROLLBACK TO a"], 1),
        (["SAVEPOINT a", INSERT, "SAVEPOINT a", MORE, "RELEASE a", "ROLLBACK TO a"], 0),
        (["SAVEPOINT a", INSERT, FAILS, "ROLLBACK TO a"], 0),
        (["SAVEPOINT a", "DELETE FROM invoices", "ROLLBACK TO a"], 0),
        (["SAVEPOINT a", "UPDATE invoices SET amount = 0", "ROLLBACK TO a"], 0),
    ],
    ids=lambda value: " / ".join(value) if isinstance(value, list) else None,
)
def test_what_a_savepoint_undid_does_not_count(
    connection: sqlite3.Connection, statements: list[str], rows: int
) -> None:
    assert changed(connection, script(*statements)) == rows


@pytest.mark.parametrize(
    "statements",
    [
        ["SAVEPOINT a", "SAVEPOINT b", INSERT, "RELEASE a", "ROLLBACK TO b"],
        ["SAVEPOINT a", INSERT, "ROLLBACK TO nowhere"],
        [INSERT, "RELEASE nowhere"],
    ],
    ids=" / ".join,
)
def test_a_savepoint_that_the_handler_did_not_set_may_be_a_neighbours(
    connection: sqlite3.Connection, statements: list[str]
) -> None:
    with pytest.raises(TransactionMisuse, match="that it did not set"):
        changed(connection, script(*statements))


@pytest.mark.parametrize(
    ("savepoint", "rollback"),
    [
        ("SAVEPOINT a;", "ROLLBACK TO a"),
        ("SAVEPOINT a ;", "ROLLBACK TO a;"),
        ("savepoint A", "rollback to a"),
        ('SAVEPOINT "a b"', 'ROLLBACK TO "a b"'),
        ('SAVEPOINT "A b"', "ROLLBACK TO [a B]"),
        ("SAVEPOINT `a``b`", 'ROLLBACK TO "a`b"'),
        ("SAVEPOINT 'it''s'", 'ROLLBACK TO "it\'s"'),
        ('SAVEPOINT "say ""to"""', "ROLLBACK TO 'say \"to\"'"),
        ("SAVEPOINT a", "ROLLBACK TRANSACTION TO SAVEPOINT a"),
        ("SAVEPOINT a", "ROLLBACK\nTO\n\ta\n;"),
        ("SAVEPOINT a /* try */", "/* failed */ ROLLBACK/**/TO/**/a -- again"),
        ("-- try\nSAVEPOINT a", "ROLLBACK TO a/* sent by the handler */"),
        ('SAVEPOINT "to"', 'ROLLBACK TO "to"'),
        ("SAVEPOINT " + "long" * 200, "ROLLBACK TO " + "long" * 200),
        ("SAVEPOINT Straße", "ROLLBACK TO straße"),
    ],
)
def test_savepoints_are_known_in_any_spelling(connection: sqlite3.Connection, savepoint: str, rollback: str) -> None:
    connection.execute("BEGIN")
    connection.execute(savepoint)
    connection.execute(rollback)
    connection.execute("ROLLBACK")

    assert changed(connection, script(savepoint, INSERT, rollback)) == 0


@pytest.mark.parametrize(("outer", "inner"), [('"a point"', '"b point"'), ("É", "é"), ('"a"', '" a"')])
def test_names_that_only_look_alike_are_two(connection: sqlite3.Connection, outer: str, inner: str) -> None:
    handler = script(f"SAVEPOINT {outer}", INSERT, f"SAVEPOINT {inner}", MORE, f"ROLLBACK TO {outer}")

    assert changed(connection, handler) == 0


def test_a_statement_that_only_speaks_of_a_rollback_is_none(connection: sqlite3.Connection) -> None:
    handler = script(
        "SAVEPOINT a", INSERT, "SELECT 'ROLLBACK TO a'", "/* ROLLBACK TO a */ SELECT 1", "SELECT 1 -- COMMIT"
    )

    assert changed(connection, handler) == 1


def test_rows_of_executemany_are_counted(connection: sqlite3.Connection) -> None:
    rows = [(number,) for number in range(100, 110)]

    assert changed(connection, lambda c: c.executemany("INSERT INTO invoices (number) VALUES (?)", rows)) == 10


def test_rows_of_an_executemany_that_failed_in_the_middle_are_those_before(connection: sqlite3.Connection) -> None:
    def handler(connection: sqlite3.Connection) -> None:
        with suppress(sqlite3.IntegrityError):
            connection.executemany("INSERT INTO invoices (number) VALUES (?)", [(100,), (101,), (1,), (102,)])

    assert changed(connection, handler) == 2


def test_returning_counts_like_any_insert(connection: sqlite3.Connection) -> None:
    handler: Handler = lambda c: c.execute(INSERT + " RETURNING id").fetchone()  # noqa: E731 - named for its type

    assert changed(connection, handler) == 1


def test_a_query_left_open_does_not_disturb_the_count(connection: sqlite3.Connection) -> None:
    cursors = []

    def handler(connection: sqlite3.Connection) -> None:
        connection.execute("SAVEPOINT a")
        cursors.append(connection.execute("SELECT * FROM invoices"))
        cursors[0].fetchone()
        connection.execute(INSERT)
        connection.execute("ROLLBACK TO a")

    assert changed(connection, handler) == 0


def test_each_handler_is_counted_from_its_own_beginning(connection: sqlite3.Connection) -> None:
    counter = ChangeCounter(connection)
    connection.execute("BEGIN")
    connection.set_trace_callback(counter)
    counts = []
    for number in (100, 101):
        counter.watch()
        connection.execute("SAVEPOINT same")
        connection.execute(f"INSERT INTO invoices (number) VALUES ({number})")
        counts.append(counter.changed())
        connection.execute("DELETE FROM places")

    assert counts == [1, 1]


@pytest.mark.parametrize(
    ("handler", "what"),
    [
        (script(INSERT, "COMMIT"), "COMMIT"),
        (script(INSERT, "commit transaction;"), "COMMIT"),
        (script(INSERT, "END"), "END"),
        (script(INSERT, "ROLLBACK"), "ROLLBACK"),
        (script(INSERT, "/* all */ rollback transaction"), "ROLLBACK"),
        (script(INSERT, "COMMIT", "BEGIN", MORE), "COMMIT"),
        (script(INSERT, "ROLLBACK", "BEGIN IMMEDIATE", MORE), "ROLLBACK"),
        (lambda c: c.commit(), "COMMIT"),
        (lambda c: c.rollback(), "ROLLBACK"),
        (lambda c: c.__enter__().execute(INSERT) and c.__exit__(None, None, None), "COMMIT"),
        (lambda c: _swallow(c.executescript, INSERT), "COMMIT"),
    ],
)
def test_a_handler_that_ends_the_transaction_is_found(
    connection: sqlite3.Connection, handler: Handler, what: str
) -> None:
    with pytest.raises(TransactionMisuse, match=f"the handler issued {what} on the transaction that crossfoot owns"):
        changed(connection, handler)


ENDS_IT = "INSERT OR ROLLBACK INTO invoices (number) VALUES (1)"


@pytest.mark.parametrize("after", [[], ["SELECT 1"], ["BEGIN", MORE]], ids=str)
def test_a_transaction_that_sqlite_rolled_back_is_found_although_the_handler_went_on(
    connection: sqlite3.Connection, after: list[str]
) -> None:
    with pytest.raises(TransactionMisuse, match=r"rolled back while the handler ran.*let that error out"):
        changed(connection, script(INSERT, ENDS_IT, *after))


@pytest.mark.parametrize("write", [MORE, "UPDATE invoices SET amount = 0", "DELETE FROM invoices", "REPLACE INTO audit VALUES (1)",
                                   "WITH n AS (SELECT 9 AS x) INSERT INTO audit SELECT x FROM n"])  # fmt: skip
def test_nothing_is_written_once_the_transaction_is_gone(
    connection: sqlite3.Connection, path: Path, write: str
) -> None:
    """It would be durable at once, without the operation key that makes it once."""
    before = _dump(path)
    with pytest.raises(TransactionMisuse):
        changed(connection, script(INSERT, ENDS_IT, write))

    assert _dump(path) == before


def test_after_a_transaction_was_lost_the_next_one_works(connection: sqlite3.Connection) -> None:
    with pytest.raises(TransactionMisuse):
        changed(connection, script(INSERT, ENDS_IT, MORE))

    assert changed(connection, script(INSERT)) == 1


async def test_the_same_holds_for_aiosqlite(path: Path) -> None:
    async with aiosqlite.connect(path, isolation_level=None) as connection:
        counter = ChangeCounter(connection)
        await connection.set_trace_callback(counter)
        await connection.execute("BEGIN")
        counter.watch()
        for statement in (INSERT, "SAVEPOINT a", MORE, "ROLLBACK TO a"):
            await connection.execute(statement)
        assert counter.changed() == 1

        counter.watch()
        for statement in (ENDS_IT, MORE):
            with suppress(sqlite3.Error):
                await connection.execute(statement)
        with pytest.raises(TransactionMisuse):
            counter.changed()
        rows = await connection.execute_fetchall("SELECT count(*) FROM invoices")

    assert [tuple(row) for row in rows] == [(3,)]


def _swallow(function: Callable[[str], object], script: str) -> None:
    with suppress(sqlite3.Error):
        function(script)


def _dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


# ---- what is behind an error ---------------------------------------------------------------------------------------------


class Wrapped(Exception):
    """As SQLAlchemy does it: the driver's error is in `orig`."""

    orig: BaseException | None = None


@pytest.mark.parametrize("link", ["__cause__", "orig"])
def test_a_chain_of_errors_that_ends_in_itself_has_an_end(link: str) -> None:
    first, second, third = Wrapped("first"), Wrapped("second"), Wrapped("third")
    for one, behind in ((first, second), (second, third), (third, second)):
        setattr(one, link, behind)
    alone = Wrapped("alone")
    setattr(alone, link, alone)

    assert list(islice(chain(first), 9)) == [first, second, third]
    assert list(islice(chain(alone), 9)) == [alone]
    assert list(chain(None)) == []


def test_a_refusal_to_end_the_transaction_is_found_in_any_wrapping() -> None:
    refusal = sqlite3.DatabaseError("not authorized")
    refusal.sqlite_errorname = "SQLITE_AUTH"
    driver, outer = Wrapped("by a driver"), RuntimeError("by a handler")
    driver.orig, outer.__cause__ = refusal, driver

    assert isinstance(misuse_behind(outer), TransactionMisuse)
    refusal.__cause__ = outer
    assert isinstance(misuse_behind(outer), TransactionMisuse)
    driver.orig = ValueError("something else")
    assert misuse_behind(outer) is None
