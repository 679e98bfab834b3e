"""Invariants whose statements are odd: what cannot be answered is told of, ends nobody, and is never called well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crossfoot.books.store import Book
from crossfoot.outcomes.invariant import Result, check, invariant, register, statements
from tests.servers.postgres import Databases, Postgres
from tests.unit.book_rig import Lectern

pytest_plugins = ["tests.servers.postgres_fixtures"]


@pytest.fixture(scope="module")
def databases(postgres: Postgres) -> Databases:
    return Databases(postgres, lambda url: Book(url).open().close())


@pytest.fixture
def in_postgres(databases: Databases) -> Iterator[Lectern]:
    with databases.one() as url:
        made = Lectern(url)
        made.execute(
            "CREATE FUNCTION forbidden() RETURNS INTEGER LANGUAGE plpgsql AS 'BEGIN RAISE insufficient_privilege; END'"
        )
        yield made
        made.execute("DROP FUNCTION forbidden()")
        made.close()


@pytest.fixture
def in_a_file(tmp_path: Path) -> Iterator[Lectern]:
    made = Lectern(tmp_path / "book.db")
    yield made
    made.close()


def asked(desk: Lectern, statement: str) -> Result:
    register(desk.book, [invariant("odd", statement)])
    check(desk.book)
    with desk.book.reading() as connection:
        (one,) = statements(connection)
    assert one.result is not None
    return one.result


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 'infinity'::timestamp AS until",  # a value that Python has no word for
        "SELECT convert_from('\\xff'::bytea, 'UTF8')",
        "SELECT 1; SELECT 2",
        "SELECT 1 / 0",
        "SELECT forbidden()",
        "-- nothing",
    ],
)
def test_in_postgresql_an_odd_statement_is_not_known_and_ends_nobody(in_postgres: Lectern, statement: str) -> None:
    result = asked(in_postgres, statement)

    assert result.holds is None
    assert result.error


@pytest.mark.parametrize(
    "statement",
    ["-- nothing", "SELECT 1; SELECT 2", "SELECT CAST(x'ff' AS TEXT)", "VACUUM", "BEGIN", "SELECT load_extension('x')"],
)
def test_in_a_file_an_odd_statement_is_not_known_and_ends_nobody(in_a_file: Lectern, statement: str) -> None:
    result = asked(in_a_file, statement)

    assert result.holds is None
    assert result.error
