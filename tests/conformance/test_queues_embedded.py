"""The conformance suite over the embedded queue: in line and unordered, and once by the real clock."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Unpack
from uuid import uuid4

import pytest

from crossfoot.clock import Clock, ManualClock, SystemClock
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.embedded.queue import FORTNIGHT
from crossfoot.queues.embedded.tables import create_tables
from crossfoot.queues.queue import Queue
from crossfoot.sqlite import Connection, connect
from crossfoot.testing.queues import QueueConformance, QueueSettings
from tests.conformance.engine import Engine


class OverAFile(QueueConformance, Engine):
    """The suite over one SQLite file per test."""

    engine = "SQLite"
    missing = QueueUnavailable

    ordered: ClassVar[bool]
    clock: Clock
    path: Path

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path, no_blocking_calls: None) -> None:
        self.path = tmp_path / "queue.db"
        connection: Connection = connect(self.path)
        create_tables(connection)
        connection.close()
        self.clock = self.make_clock()

    def make_clock(self) -> Clock:
        return ManualClock()

    def served_by(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    @asynccontextmanager
    async def make_queue(self, **settings: Unpack[QueueSettings]) -> AsyncIterator[Queue]:
        queue = EmbeddedQueue(
            self.path,
            f"orders-{uuid4().hex[:12]}",
            retention=settings.get("retention", FORTNIGHT),
            max_attempts=settings.get("max_attempts"),
            ordered=self.ordered,
            clock=self.clock,
        )
        await queue.open()
        try:
            yield queue
        finally:
            await queue.close()

    def twin(self, queue: Queue) -> Queue:
        return EmbeddedQueue(self.path, queue.name, retention=queue.retention, ordered=self.ordered, clock=self.clock)

    def missing_queue(self) -> Queue:
        return EmbeddedQueue(self.path.with_name("another.db"), "orders-nowhere")

    async def pass_time(self, seconds: float) -> None:
        if isinstance(self.clock, ManualClock):
            self.clock.advance(seconds)
        else:
            await super().pass_time(seconds)


@pytest.mark.anyio
class TestEmbeddedQueueInLine(OverAFile):
    ordered = True


@pytest.mark.anyio
class TestEmbeddedQueueUnordered(OverAFile):
    ordered = False


@pytest.mark.anyio
class TestEmbeddedQueueByTheRealClock(OverAFile):
    ordered = True

    def make_clock(self) -> Clock:
        return SystemClock()
