"""The conformance suite over PostgreSQL: in line and unordered, by the server's real clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar, Unpack
from uuid import uuid4

import anyio
import pytest

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.postgres import PostgresQueue, ensure
from crossfoot.queues.queue import Queue
from crossfoot.testing.queues import QueueConformance, QueueSettings
from tests.conformance.engine import Engine
from tests.servers.postgres import Postgres

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [
    pytest.mark.server,
    pytest.mark.usefixtures("no_blocking_calls"),
    pytest.mark.xdist_group("postgres"),
]


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> str:
    """One for all tests: each has a queue of its own in the same table."""
    postgres.run("CREATE DATABASE conformance")
    anyio.run(lambda: ensure("any", url=postgres.url("conformance")))
    return postgres.url("conformance")


class OverATable(QueueConformance, Engine):
    """The suite over one table."""

    engine = "PostgreSQL"
    missing = QueueUnavailable
    ordered: ClassVar[bool]
    url: str
    server: Postgres

    @pytest.fixture(autouse=True)
    def _server(self, postgres: Postgres, database: str) -> None:
        self.server, self.url = postgres, database

    @asynccontextmanager
    async def make_queue(self, **settings: Unpack[QueueSettings]) -> AsyncIterator[Queue]:
        name = f"orders-{uuid4().hex[:12]}"
        async with PostgresQueue(name, url=self.url, ordered=self.ordered, **settings) as queue:
            yield queue

    def served_by(self) -> str:
        return f"PostgreSQL {self.server.run('SHOW server_version')[0][0]}"

    def twin(self, queue: Queue) -> Queue:
        return PostgresQueue(queue.name, url=self.url, ordered=self.ordered, retention=queue.retention)

    def missing_queue(self) -> Queue:
        return PostgresQueue("nowhere", url=self.server.url())


class TestATable(OverATable):
    ordered = False


class TestATableInLine(OverATable):
    ordered = True
