"""A book on either database, as the fixture `desk`.

A test module has it by `pytest_plugins = ["tests.servers.postgres_fixtures", "tests.unit.desk_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crossfoot.books.store import Book
from tests.servers.postgres import Databases, Postgres
from tests.unit.book_rig import Lectern


@pytest.fixture(scope="module")
def databases(postgres: Postgres) -> Databases:
    return Databases(postgres, lambda url: Book(url).open().close())


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=[pytest.mark.server, pytest.mark.xdist_group("postgres")])]
)
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lectern]:
    if request.param == "sqlite":
        made = Lectern(tmp_path / "book.db")
        yield made
        made.close()
        return
    with request.getfixturevalue("databases").one() as url:
        made = Lectern(url)
        yield made
        made.close()
