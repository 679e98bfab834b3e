"""The conformance suite over a stream of Valkey, by the server's real clock. There is no difference to be declared."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Unpack
from uuid import uuid4

import pytest

from crossfoot.queues.queue import Queue
from crossfoot.queues.redis import RedisQueue, ensure
from crossfoot.testing.queues import QueueConformance, QueueSettings
from tests.conformance.engine import Engine
from tests.servers.valkey import Valkey

pytest_plugins = ["tests.servers.valkey_fixtures"]

pytestmark = [
    pytest.mark.server,
    pytest.mark.usefixtures("no_blocking_calls"),
    pytest.mark.xdist_group("valkey"),
]


class OverAStream(QueueConformance, Engine):
    """The suite over one server."""

    engine = "Redis streams"
    server: Valkey
    group = ""

    @pytest.fixture(autouse=True)
    def _server(self, valkey: Valkey) -> None:
        self.server = valkey

    @asynccontextmanager
    async def make_queue(self, **settings: Unpack[QueueSettings]) -> AsyncIterator[Queue]:
        name = await ensure(f"orders-{uuid4().hex[:12]}{self.group}", url=self.server.url)
        async with RedisQueue(name, url=self.server.url, **self.more(settings)) as queue:
            yield queue

    def more(self, settings: QueueSettings) -> dict[str, Any]:
        return dict(settings)

    def served_by(self) -> str:
        with self.server.admin() as client:
            return f"Valkey {client.info('server')['valkey_version']}"

    def twin(self, queue: Queue) -> Queue:
        return RedisQueue(queue.name, url=self.server.url)

    def missing_queue(self) -> Queue:
        return RedisQueue("nowhere", url=self.server.url)


class TestAStream(OverAStream):
    pass


class TestAStreamWithAGroupOfAnotherNameAndLargeMessages(OverAStream):
    group = "/accounts"

    def more(self, settings: QueueSettings) -> dict[str, Any]:
        return {**settings, "max_bytes": 3 * 1024 * 1024}
