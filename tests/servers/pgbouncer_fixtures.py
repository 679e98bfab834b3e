"""PgBouncer before the tests' PostgreSQL server, as a fixture: one per test process.

A test module has it by `pytest_plugins = ["tests.servers.pgbouncer_fixtures", "tests.servers.postgres_fixtures"]`. Where none can be had,
the tests that want one are skipped, and the run's last lines say so.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import report_unavailable
from tests.servers.debian import CannotBeHad
from tests.servers.pgbouncer import PgBouncer, pgbouncer_before
from tests.servers.postgres import Postgres


@pytest.fixture(scope="session")
def _pgbouncer_or_why(postgres: Postgres) -> Iterator[PgBouncer | str]:
    try:
        with pgbouncer_before(postgres) as pooler:
            yield pooler
    except CannotBeHad as why:
        yield str(why)


@pytest.fixture
def pgbouncer(_pgbouncer_or_why: PgBouncer | str, request: pytest.FixtureRequest) -> PgBouncer:
    """One for many tests, which must leave it running."""
    if isinstance(_pgbouncer_or_why, str):
        report_unavailable(request.config, "PgBouncer", _pgbouncer_or_why)
        pytest.skip(f"PgBouncer cannot be had: {_pgbouncer_or_why}")
    return _pgbouncer_or_why
