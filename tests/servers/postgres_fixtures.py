"""One PostgreSQL server per test process, ended with it, and a database of its own for each test.

A test module has them by `pytest_plugins = ["tests.servers.postgres_fixtures"]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.servers.postgres import Postgres, postgres_running

_numbers = itertools.count(1)


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


@contextmanager
def fresh_database(server: Postgres, *, template: str = "template1") -> Iterator[str]:
    """A copy of a database, for one test; its URL. Sessions that are left on it at the end are ended."""
    name = f"test_{next(_numbers)}"
    server.run(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield server.url(name)
    finally:
        server.run(f"DROP DATABASE {name} WITH (FORCE)")
