"""What is read in a statement before PostgreSQL is asked to execute it."""

from __future__ import annotations

import pytest

from crossfoot.effects.databases.postgres_changes import PLAIN, look_at, may_write, writes
from crossfoot.errors import TransactionMisuse


@pytest.mark.parametrize(
    "statement",
    [
        r"INSERT INTO notes VALUES (E'it\'s; fine')",
        r"INSERT INTO notes VALUES ('a',e'it\'s; fine')",
        "SELECT $$one; two$$, $a$three; four$a$",
        "SELECT 1 /* one; /* two; */ three; */ ; -- four;",
    ],
)
def test_what_stands_in_a_text_or_a_comment_is_no_statement(statement: str) -> None:
    assert look_at(statement) is PLAIN


@pytest.mark.parametrize(
    "statement",
    [r"SELECT (E'\'' , 1); COMMIT; --')", r"INSERT INTO notes VALUES ('a\'); COMMIT; --')", "SELECT 1; COMMIT"],
)
def test_what_stands_behind_it_is_found(statement: str) -> None:
    with pytest.raises(TransactionMisuse, match="several statements"):
        look_at(statement)


@pytest.mark.parametrize(
    ("statement", "does", "may"),
    [
        ("/* all */ insert into notes values (1) returning 1", True, True),
        ("COPY (DELETE FROM notes RETURNING 1) TO STDOUT", True, True),
        ("COPY (SELECT 'DELETE') TO STDOUT", False, False),
        ("with a as (select 1) update notes set a = 1", False, True),
        ("SELECT * FROM notes FOR UPDATE", False, False),
        ("", False, False),
    ],
)
def test_whether_it_writes(statement: str, does: bool, may: bool) -> None:
    assert (writes(statement), may_write(statement)) == (does, may)
