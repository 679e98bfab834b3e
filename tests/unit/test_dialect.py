"""The book's statements in PostgreSQL's words."""

from __future__ import annotations

import pytest

from crossfoot.dialect import differs, translate


@pytest.mark.parametrize(
    ("sqlite", "postgres"),
    [
        ("SELECT 1 WHERE a = ? AND b IN (?, ?)", "SELECT 1 WHERE a = %s AND b IN (%s, %s)"),
        ("WHERE due <= :now AND queue = :queue_2", "WHERE due <= %(now)s AND queue = %(queue_2)s"),
        ("latest % 32", "latest %% 32"),
        ("'a?b :c it''s 5 %' || ?", "'a?b :c it''s 5 %%' || %s"),
        ('"key?" = ?', '"key?" = %s'),
        ("value::text = ?", "value::text = %s"),
        ("FROM m INDEXED BY crossfoot_m_1 WHERE TRUE", "FROM m WHERE TRUE"),
        ("FROM q NOT INDEXED WHERE TRUE", "FROM q WHERE TRUE"),
        ("FROM w\nCROSS JOIN m ON m.id = w.id", "FROM w\nJOIN m ON m.id = w.id"),
        ("SELECT 1 -- why ?\nFROM t", "SELECT 1 \nFROM t"),
    ],
)
def test_a_statement_is_spelt_as_psycopg_takes_it(sqlite: str, postgres: str) -> None:
    assert translate(sqlite).decode() == postgres


def test_where_a_statement_really_differs_the_one_beside_it_is_taken() -> None:
    statement = differs(
        "SELECT last FROM t WHERE a = ? /* sqlite */", postgres="SELECT last FROM t WHERE a = ? FOR UPDATE"
    )
    assert statement.endswith("/* sqlite */")
    assert translate(statement) == b"SELECT last FROM t WHERE a = %s FOR UPDATE"
