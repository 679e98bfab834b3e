"""Law 4's weakest proof, made honest: rows changed are those that are still there when the handler returns."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.effects.databases.changes import ChangeCounter
from crossfoot.effects.databases.sqlite import HandlerConnection
from crossfoot.errors import TransactionMisuse
from crossfoot.sqlite import connect_as

NAMES = ("a", "A", '"a"', '"a b"', "[c b]", "`b`", "'it''s'", '"d""e"', '"to"', "B")
"""Three of them are one name, and two end in the same word."""

SPELLINGS = (
    "SAVEPOINT {}",
    "savepoint {} ;",
    "/* try */ SavePoint {}",
    "RELEASE {}",
    "release savepoint {} -- done",
    "ROLLBACK TO {}",
    "rollback transaction to savepoint {};",
    "-- undo\n  ROLLBACK/**/TO/**/{}/* sent by a test */",
)

WRITES = (
    "INSERT INTO invoices VALUES (1)",
    "INSERT INTO invoices VALUES (2), (3)",
    "INSERT INTO invoices SELECT value FROM (VALUES (4), (5), (6)) AS v (value)",
    "INSERT INTO invoices VALUES (7), (NULL)",  # fails, and leaves nothing
    "SELECT 'ROLLBACK TO a'",
    "INSERT INTO orders VALUES (1)",  # a trigger writes a second row
)


def _statement(code: int) -> str:
    if code % 3 == 0:
        return WRITES[code // 3 % len(WRITES)]
    spelling = SPELLINGS[code // 3 % len(SPELLINGS)]
    return spelling.replace("{}", NAMES[code // 32 % len(NAMES)])


TABLES = (
    "CREATE TABLE invoices (number INTEGER NOT NULL)",
    "CREATE TABLE orders (number INTEGER)",
    "CREATE TABLE audit (number INTEGER)",
    "CREATE TRIGGER audited AFTER INSERT ON orders BEGIN INSERT INTO audit VALUES (new.number); END",
)

LEFT = "SELECT (SELECT count(*) FROM invoices) + (SELECT count(*) FROM orders) + (SELECT count(*) FROM audit)"


def possible(program: list[str]) -> list[str]:
    """Without what names a savepoint that is not there: that might be a neighbour's, and the handler is refused for it."""
    kept = []
    with closing(business()) as shadow:
        shadow.execute("BEGIN")
        for statement in program:
            try:
                shadow.execute(statement)
            except sqlite3.Error as error:
                if "no such savepoint" in str(error):
                    continue
            kept.append(statement)
    return kept


PROGRAMS = st.binary(max_size=40).map(
    lambda code: possible([_statement(2 * one + at % 2) for at, one in enumerate(code)])
)


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandlerConnection]:
    made = connect_as(HandlerConnection, tmp_path_factory.mktemp("lent") / "business.db", synchronous="OFF")
    for statement in TABLES:
        sqlite3.Connection.execute(made, statement)
    yield made
    made.leave()


@pytest.fixture(scope="module")
def connection() -> Iterator[sqlite3.Connection]:
    with closing(business()) as made:
        yield made


def business() -> sqlite3.Connection:
    """A business database, empty."""
    made = sqlite3.connect(":memory:", isolation_level=None)
    for statement in TABLES:
        made.execute(statement)
    return made


def counted(counter: ChangeCounter) -> int:
    """Rows changed. Nothing in these programs is a neighbour's, so a refusal breaks the law, too."""
    try:
        return counter.changed()
    except TransactionMisuse as refusal:
        raise AssertionError("a handler was refused that used its own savepoints only") from refusal


@given(program=PROGRAMS)
def test_rows_changed_are_net_of_what_savepoints_undid(connection: sqlite3.Connection, program: list[str]) -> None:
    counter = ChangeCounter(connection)
    connection.execute("BEGIN")
    connection.set_trace_callback(counter)
    try:
        counter.watch()
        for statement in program:
            with suppress(sqlite3.Error):  # a handler that swallows what goes wrong
                connection.execute(statement)
        changed = counted(counter)

        assert changed == connection.execute(LEFT).fetchone()[0]
    finally:
        connection.set_trace_callback(None)
        connection.execute("ROLLBACK")


@given(program=PROGRAMS, by_cursor=st.booleans())
def test_a_watch_that_begins_when_it_is_needed_counts_the_same(
    lent: HandlerConnection, program: list[str], by_cursor: bool
) -> None:
    """Through a connection as handlers get it, on which nothing is traced before there is a reason."""
    sqlite3.Connection.set_trace_callback(lent, None)
    lent.counter.tracing = False
    lent.begin()
    try:
        lent.counter.watch()
        lent.guarded = True
        for statement in program:
            with suppress(sqlite3.Error):
                (lent.cursor() if by_cursor else lent).execute(statement)
        lent.guarded = False
        changed = counted(lent.counter)

        assert changed == sqlite3.Connection.execute(lent, LEFT).fetchone()[0]
    finally:
        lent.guarded = False
        lent.abandon()
