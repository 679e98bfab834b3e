"""A stream reached in three ways: by the test's subject, through a cable that can be cut; past it; and by the server's admin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from crossfoot.queues.redis import RedisQueue, ensure
from crossfoot.queues.redis.scripts import ACK, BURY, EXTEND, RECEIVE, RELEASE
from tests.conformance.cable_suite import CableScene
from tests.servers.cable import Cable, cable_to
from tests.servers.run import HOST
from tests.servers.valkey import Valkey


class Scene(CableScene):
    subject: RedisQueue
    direct: RedisQueue

    def __init__(self, subject: RedisQueue, direct: RedisQueue, cable: Cable, server: Valkey) -> None:
        super().__init__(subject, direct, cable)
        self.server = server
        self.stream = subject.name.partition("/")[0]

    async def prepared(self) -> None:
        """The server knows every script."""
        with self.server.admin() as admin:
            for script in (RECEIVE, ACK, RELEASE, EXTEND, BURY):
                admin.script_load(script.text)

    async def settled(self) -> None:
        """One request at a time: what comes later is done later."""

    def end_sessions(self) -> None:
        with self.server.admin() as admin:
            admin.client_kill_filter(_type="normal", skipme=True)

    def key(self, name: str) -> str:
        return f"{{{self.stream}}}:{name}"

    def pending(self) -> int:
        """What the group says is delivered and not acked."""
        with self.server.admin() as admin:
            return int(admin.xpending(self.stream, "crossfoot")["pending"])


@asynccontextmanager
async def scene_on(server: Valkey, **options: Any) -> AsyncIterator[Scene]:
    """A queue of its own on the server; the options are the subject's."""
    name = await ensure(f"faults-{uuid4().hex[:12]}", url=server.url)
    with cable_to(server.port) as cable:
        through = f"redis://{HOST}:{cable.port}/0"
        async with (
            RedisQueue(name, url=through, **{"timeout": 2.0, **options}) as subject,
            RedisQueue(name, url=server.url) as direct,
        ):
            yield Scene(subject, direct, cable, server)
