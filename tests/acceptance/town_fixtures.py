"""Where incidents are built: a file, or a database of PostgreSQL, with a table for effects.

A test module has them by `pytest_plugins = ["tests.acceptance.town_fixtures", "tests.servers.postgres_fixtures"]`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.incidents import TABLE, Town


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CROSSFOOT_DATABASE", "CROSSFOOT_QUEUE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def in_a_file(tmp_path: Path) -> Iterator[Town]:
    with closing(sqlite3.connect(tmp_path / "town.db")) as connection:
        connection.execute(TABLE)
    with closing(Town(str(tmp_path / "town.db"))) as town:
        yield town


@pytest.fixture
def in_postgres(postgres_url: str) -> Iterator[Town]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(TABLE)
    with closing(Town(postgres_url)) as town:
        yield town
