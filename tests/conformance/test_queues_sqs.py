"""The conformance suite over SQS, standard and FIFO, on MiniStack and on moto.

Where a server does otherwise than AWS, `tests/servers/differences.py` says so by name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import ClassVar, Unpack
from uuid import uuid4

import pytest
from boto3.session import Session

from crossfoot.queues.queue import Queue
from crossfoot.queues.sqs import SqsQueue, ensure
from crossfoot.testing.queues import QueueConformance, QueueSettings
from tests.conformance.engine import Engine
from tests.servers.differences import expect_difference
from tests.servers.processes import Server

pytest_plugins = ["tests.servers.fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("no_blocking_calls")]


class OverSqs(QueueConformance, Engine):
    """The suite over one server."""

    server: Server
    kind: ClassVar[str]
    session: Session
    shortest_retention = 60.0

    def use(self, server: Server, session: Session, request: pytest.FixtureRequest) -> None:
        self.server, self.session = server, session
        expect_difference(server.name, self.kind, request)

    @asynccontextmanager
    async def make_queue(self, **settings: Unpack[QueueSettings]) -> AsyncIterator[Queue]:
        name = await ensure(
            f"orders-{uuid4().hex[:12]}",
            fifo=self.kind == "fifo",
            max_attempts=settings.get("max_attempts", 1_000),
            retention=settings.get("retention", 345_600.0),
            endpoint_url=self.server.url,
            session=self.session,
        )
        queue = self._client(name)
        await queue.open()
        try:
            yield queue
        finally:
            await queue.close()

    def served_by(self) -> str:
        return f"{self.server.name} {version(self.server.name)}"

    def twin(self, queue: Queue) -> Queue:
        return self._client(queue.name)

    def missing_queue(self) -> Queue:
        return self._client("nowhere.fifo" if self.kind == "fifo" else "nowhere")

    async def pass_time(self, seconds: float) -> None:
        self.server.clock.advance(seconds)

    def _client(self, name: str) -> SqsQueue:
        return SqsQueue(name, endpoint_url=self.server.url, clock=self.server.clock, session=self.session)


@pytest.mark.xdist_group("ministack")
class OnMiniStack(OverSqs):
    @pytest.fixture(autouse=True)
    def _server(self, ministack: Server, aws: Session, request: pytest.FixtureRequest) -> None:
        self.use(ministack, aws, request)


@pytest.mark.xdist_group("moto")
class OnMoto(OverSqs):
    @pytest.fixture(autouse=True)
    def _server(self, moto: Server, aws: Session, request: pytest.FixtureRequest) -> None:
        self.use(moto, aws, request)


class TestStandardOnMiniStack(OnMiniStack):
    engine = "SQS standard"
    kind = "standard"


class TestFifoOnMiniStack(OnMiniStack):
    engine = "SQS FIFO"
    kind = "fifo"


class TestStandardOnMoto(OnMoto):
    engine = "SQS standard"
    kind = "standard"


class TestFifoOnMoto(OnMoto):
    engine = "SQS FIFO"
    kind = "fifo"
