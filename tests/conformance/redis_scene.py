"""A stream reached in three ways: by the test's subject, through a cable that can be cut; past it; and by the server's admin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from crossfoot.queues.queue import Delivery, Held
from crossfoot.queues.redis import RedisQueue, ensure
from crossfoot.queues.redis.scripts import ACK, BURY, EXTEND, RECEIVE, RELEASE
from crossfoot.testing.queues import outgoing
from tests.servers.cable import Cable, cable_to
from tests.servers.run import HOST
from tests.servers.valkey import Valkey


class Scene:
    """One queue.

    Args:
        subject: its client behind the cable; `direct` another one, past it.
    """

    def __init__(self, subject: RedisQueue, direct: RedisQueue, cable: Cable, server: Valkey) -> None:
        self.subject = subject
        self.direct = direct
        self.cable = cable
        self.server = server
        self.stream = subject.name.partition("/")[0]

    async def stored(self) -> int:
        return (await self.direct.depth()).held

    async def dead(self) -> list[Held]:
        return [held async for held in self.direct.dead_letters()]

    async def delivered(self, count: int = 1, *, lease: float = 30.0) -> list[Delivery]:
        """Fresh messages in the subject's hands."""
        await self.direct.publish([outgoing() for _ in range(count)])
        taken = await self.subject.receive(count, lease=lease)
        assert len(taken) == count
        return taken

    async def known_scripts(self) -> None:
        """Have the server know every script, so that the first request is the one that does it."""
        with self.server.admin() as admin:
            for script in (RECEIVE, ACK, RELEASE, EXTEND, BURY):
                admin.script_load(script.text)

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
