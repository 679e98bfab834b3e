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


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("SELECT set_config('search_path', 'x', true)", "search path"),
        ("select PG_CATALOG.Set_Config ( 'synchronous_commit','off',%s)", "synchronous_commit"),
        ("SELECT set_config('app.a', coalesce(x, f(y, true)), FALSE::bool)", r"set_config\('app.a', ..., false\)"),
        ("SELECT set_config(%s, %s, false)", "true as the last argument"),
        ("SELECT * INTO TEMP crossfoot_entries FROM notes", "temporary table"),
        ('create or replace temp view "crossfoot_messages" as select 1', "temporary table"),
        ("CREATE TABLE pg_temp.crossfoot_entries (id INT)", "temporary table"),
    ],
)
def test_what_would_hold_beyond_the_handler_is_refused(statement: str, says: str) -> None:
    with pytest.raises(TransactionMisuse, match=says):
        look_at(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT set_config('app.tenant', %s, true)",
        "SELECT set_config('app.a', coalesce(x, f(y, false)), true), f(z, false)",
        "INSERT INTO notes VALUES ('set_config(''search_path'', null, false)')",
        "SELECT $$set_config('search_path', '', false)$$",
        "CREATE TEMP TABLE crossfooted (id INT)",
        "SELECT count(*) FROM crossfoot_outcomes",
    ],
)
def test_what_ends_with_the_transaction_is_a_handler_s_to_say(statement: str) -> None:
    assert look_at(statement) is PLAIN
