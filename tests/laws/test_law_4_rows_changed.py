"""Law 4's weakest proof, made honest: rows changed are those that are still there when the handler returns."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.effects.databases.changes import ChangeCounter

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


PROGRAMS = st.binary(max_size=40).map(lambda code: [_statement(2 * one + at % 2) for at, one in enumerate(code)])


@pytest.fixture(scope="module")
def connection() -> Iterator[sqlite3.Connection]:
    with closing(business()) as made:
        yield made


def business() -> sqlite3.Connection:
    """A business database, empty."""
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.executescript(
        """
        CREATE TABLE invoices (number INTEGER NOT NULL);
        CREATE TABLE orders (number INTEGER);
        CREATE TABLE audit (number INTEGER);
        CREATE TRIGGER audited AFTER INSERT ON orders BEGIN INSERT INTO audit VALUES (new.number); END;
        """
    )
    return made


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
        changed = counter.changed()
        left = "SELECT (SELECT count(*) FROM invoices) + (SELECT count(*) FROM orders) + (SELECT count(*) FROM audit)"

        assert changed == connection.execute(left).fetchone()[0]
    finally:
        connection.set_trace_callback(None)
        connection.execute("ROLLBACK")
