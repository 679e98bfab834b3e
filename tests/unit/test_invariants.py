"""Invariants: what breaks them is named; they only read, and have a bound; what cannot be told is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossfoot.books.asking import MOST_KEPT, NotAnswered, gathered
from crossfoot.errors import NotFound, UsageError
from crossfoot.outcomes.invariant import Invariant, Result, check, forget, invariant, register, statements
from crossfoot.outcomes.summary import summarize
from tests.unit.book_rig import Lectern

pytest_plugins = ["tests.servers.postgres_fixtures", "tests.unit.desk_fixtures"]

TWICE = "SELECT case_id FROM invoices GROUP BY case_id HAVING count(*) > 1 ORDER BY 1;"
ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "postgres": "SELECT pg_sleep(60)",
}


@pytest.fixture
def desk(desk: Lectern) -> Iterator[Lectern]:
    """A book beside business tables."""
    desk.execute("CREATE TABLE invoices (case_id TEXT, amount INTEGER)")
    yield desk
    desk.execute("DROP TABLE invoices")


def asked(desk: Lectern, stated: Invariant) -> Result:
    register(desk.book, [stated])
    check(desk.book)
    with desk.book.reading() as connection:
        (one,) = statements(connection)
    assert one.result is not None
    assert one.checked_at == desk.now
    return one.result


def issue(desk: Lectern, *cases: str) -> None:
    for case in cases:
        desk.execute("INSERT INTO invoices VALUES (?, 7)", case)


def test_what_breaks_one_is_named_by_its_columns(desk: Lectern) -> None:
    issue(desk, "4711", "4711", "4712", "4713", "4713", "4713")
    result = asked(desk, invariant("billed once", TWICE, ids="case_id"))
    assert (result.holds, result.count, result.ids) == (False, 2, ("4711", "4713"))


def test_one_that_finds_nothing_holds(desk: Lectern) -> None:
    issue(desk, "4711")
    assert asked(desk, invariant("billed once", TWICE)).holds is True


def test_several_columns_name_a_row_together(desk: Lectern) -> None:
    issue(desk, "4711")
    assert asked(desk, invariant("none", "SELECT amount, case_id FROM invoices")).ids == ("7 4711",)
    assert asked(desk, invariant("none", "SELECT amount, case_id FROM invoices", ids=["case_id"])).ids == ("4711",)


@pytest.mark.parametrize("words", ["100% sure", "what?", ":name", "'quoted'"])
def test_the_statement_reaches_the_database_as_it_was_written(desk: Lectern, words: str) -> None:
    text = words.replace("'", "''")
    assert asked(desk, invariant("words", f"SELECT '{text}' AS told", ids="told")).ids == (words,)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM invoices",
        "INSERT INTO invoices VALUES ('1', 1)",
        "DROP TABLE invoices",
        "CREATE TABLE more (x INTEGER)",
    ],
)
def test_it_can_only_read(desk: Lectern, statement: str) -> None:
    issue(desk, "4711")
    result = asked(desk, invariant("destroys", statement))
    assert result.holds is None
    assert result.error
    with desk.book.reading() as connection:
        assert connection.execute("SELECT count(*) FROM invoices").fetchone()[0] == 1


def test_it_cannot_open_other_files(tmp_path: Path) -> None:
    desk = Lectern(tmp_path / "book.db")
    try:
        result = asked(desk, invariant("reaches out", f"ATTACH DATABASE '{tmp_path / 'other.db'}' AS other"))
    finally:
        desk.close()
    assert result.holds is None
    assert "more than read" in result.error
    assert not (tmp_path / "other.db").exists()


def test_one_that_takes_too_long_is_cut_short_and_not_known(desk: Lectern) -> None:
    begun = time.monotonic()
    with desk.book.reading() as connection:
        endless = ENDLESS[connection.dialect]
    result = asked(desk, invariant("endless", endless, timeout="300ms"))
    assert result.holds is None
    assert "took longer than it may" in result.error
    assert time.monotonic() - begun < 30, "seconds, where it would take a minute or for ever"


def test_one_that_is_wrong_is_told_of_and_stops_nobody(desk: Lectern) -> None:
    register(desk.book, [invariant("a wrong one", "SELECT x FROM nowhere"), invariant("billed once", TWICE)])
    check(desk.book)
    with desk.book.reading() as connection:
        found = {one.name: one.result for one in statements(connection)}
        summary = summarize(connection, desk.now)
    wrong, right = found["a wrong one"], found["billed once"]
    assert wrong is not None
    assert right is not None
    assert (wrong.holds, right.holds) == (None, True)
    assert "nowhere" in wrong.error
    assert summary.breached == ["a wrong one"], "what cannot be told is no good news"


def test_a_column_that_is_not_there_is_told_of(desk: Lectern) -> None:
    issue(desk, "4711", "4711")
    assert "it has no column id, but case_id" in asked(desk, invariant("billed once", TWICE, ids="id")).error


def test_it_is_asked_when_its_time_has_come(desk: Lectern) -> None:
    stated = invariant("billed once", TWICE, every="1m")
    assert asked(desk, stated).holds
    issue(desk, "4711", "4711")
    desk.clock.advance(59)
    check(desk.book, only_due=True)
    assert _holds(desk) is True
    desk.clock.advance(1)
    check(desk.book, only_due=True)
    assert _holds(desk) is False


def test_one_that_says_something_else_is_asked_anew_and_one_that_is_forgotten_is_gone(desk: Lectern) -> None:
    asked(desk, invariant("billed once", TWICE))
    register(desk.book, [invariant("billed once", TWICE)])
    assert _holds(desk) is True
    register(desk.book, [invariant("billed once", "SELECT 1")])
    with desk.book.reading() as connection:
        assert statements(connection)[0].result is None
    forget(desk.book, "billed once")
    with pytest.raises(NotFound, match="crossfoot outcomes"):
        forget(desk.book, "billed once")


def _holds(desk: Lectern) -> bool | None:
    with desk.book.reading() as connection:
        result = statements(connection)[0].result
    assert result is not None
    return result.holds


def test_many_rows_are_counted_and_few_are_kept() -> None:
    found = gathered(["n"], ((n,) for n in range(5_000)), time.monotonic() + 60)
    assert (found.count, len(found.rows)) == (5_000, MOST_KEPT)
    with pytest.raises(NotAnswered):
        gathered(["n"], [(1,)], time.monotonic() - 1)


@pytest.mark.parametrize(("name", "statement"), [("", "SELECT 1"), ("x", ""), ("x", " ; ")])
def test_what_is_no_invariant_is_refused(name: str, statement: str) -> None:
    with pytest.raises(UsageError, match="invariant"):
        invariant(name, statement)
