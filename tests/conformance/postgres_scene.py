"""A queue in PostgreSQL reached in three ways: by the test's subject, through a cable that can be cut; past it; and by an
operator."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import anyio

from crossfoot.queues.postgres import PostgresQueue, ensure
from tests.conformance.cable_suite import CableScene
from tests.servers.cable import Cable, cable_to
from tests.servers.postgres import Postgres
from tests.servers.run import HOST


class Scene(CableScene):
    subject: PostgresQueue
    direct: PostgresQueue

    def __init__(self, subject: PostgresQueue, direct: PostgresQueue, cable: Cable, server: Postgres, url: str) -> None:
        super().__init__(subject, direct, cable)
        self.server = server
        self.url = url
        self.database = urlsplit(url).path.lstrip("/")

    async def prepared(self) -> None:
        await self.subject.receive(1, lease=1.0)  # looks at everything, and so the next one claims at once

    async def settled(self) -> None:
        with anyio.fail_after(5):
            while self.run(  # noqa: ASYNC110 - another process, which has no event of ours
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'crossfoot' "
                "AND state = 'active'"
            ):
                await anyio.sleep(0.02)

    def run(self, sql: str, *parameters: Any) -> list[Any]:
        """One statement of an operator's."""
        return self.server.run(sql, *parameters, database=self.database)

    def sessions(self) -> list[int]:
        """Process ids of crossfoot's sessions on this database."""
        rows = self.run(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'crossfoot'"
        )
        return [pid for (pid,) in rows]

    def end_sessions(self) -> None:
        """What `pg_terminate_backend` does to all of them."""
        ended = set(self.sessions())
        for pid in ended:
            self.run("SELECT pg_terminate_backend(%s)", pid)
        until = time.monotonic() + 10
        while ended & set(self.sessions()):
            assert time.monotonic() < until, "a session does not end"
            time.sleep(0.01)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The server takes connections no more, and answers none it has."""
        pids = self.sessions()
        self.server.freeze()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            self.server.thaw()


@asynccontextmanager
async def scene_on(server: Postgres, url: str, **options: Any) -> AsyncIterator[Scene]:
    """A queue of its own in the database at `url`; the options are the subject's."""
    name = await ensure(f"faults-{uuid4().hex[:12]}", url=url)
    with cable_to(server.port) as cable:
        parts = urlsplit(url)
        through = urlunsplit(parts._replace(netloc=f"{parts.username}@{HOST}:{cable.port}"))
        shared = {key: value for key, value in options.items() if key != "timeout"}
        async with (
            PostgresQueue(name, url=through, **{"timeout": 2.0, **options}) as subject,
            PostgresQueue(name, url=url, **shared) as direct,
        ):
            yield Scene(subject, direct, cable, server, url)


@contextmanager
def database_on(server: Postgres) -> Iterator[str]:
    """An empty database; its URL."""
    name = f"scene_{uuid4().hex[:12]}"
    server.run(f"CREATE DATABASE {name}")
    try:
        yield server.url(name)
    finally:
        server.run(f"DROP DATABASE {name} WITH (FORCE)")
