"""What a worker sees to beside its messages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from crossfoot.errors import QueueUnavailable
from crossfoot.worker.upkeep import Upkeep

pytestmark = pytest.mark.anyio


class Outbox:
    """One queue that there is always something for, one that cannot be reached, and one that waits for its turn."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.turn = anyio.Event()

    async def drain(self, queue: Any) -> int:
        await anyio.lowlevel.checkpoint()
        self.asked.append(queue.name)
        if queue.name == "away":
            raise QueueUnavailable("queue away does not answer")
        if queue.name == "quiet":
            self.turn.set()
        return int(queue.name == "busy")


async def test_a_queue_that_is_sent_to_all_the_time_does_not_hold_up_the_others() -> None:
    outbox = Outbox()
    queues = {name: cast("Any", SimpleNamespace(name=name)) for name in ("busy", "away", "quiet")}
    nothing = cast("Any", None)
    upkeep = Upkeep(nothing, nothing, queues["busy"], queues, cast("Any", outbox), 1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upkeep._relay)
        with anyio.fail_after(60):
            await outbox.turn.wait()
            while outbox.asked.count("busy") < 5:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    assert outbox.asked.count("away") == 1, "what cannot be reached rests"
