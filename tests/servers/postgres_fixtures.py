"""One PostgreSQL server per test process, ended with it, and a database of its own for each test.

A test module has them by `pytest_plugins = ["tests.servers.postgres_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.postgres import Postgres, fresh_database, postgres_running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One for many tests, which must leave it running."""
    with postgres_running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database."""
    with fresh_database(postgres) as url:
        yield url
