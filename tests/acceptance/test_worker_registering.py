"""A worker is set up for the handlers that it finds when it begins; one that comes later is refused, and does not half work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from crossfoot import Crossfoot, InOrder
from crossfoot.books.fate import Fate
from crossfoot.errors import UsageError
from crossfoot.message import Message
from tests.acceptance.service_rig import FORMS, Service, a_service

pytestmark = pytest.mark.anyio


def bill(message: Message, tx: Any) -> None:
    tx.outcome("invoice.issued")


async def abill(message: Message, tx: Any) -> None:
    tx.outcome("invoice.issued")


def bills(messages: list[Message], tx: Any) -> None:
    for message in messages:
        tx.of(message).outcome("invoice.issued")


LATE: dict[str, Callable[[Crossfoot], Any]] = {
    "in order": lambda app: app.handler("case.moved", in_order=True, name="late")(bill),
    "in order, patiently": lambda app: app.handler("case.moved", in_order=InOrder(wait=60.0), name="late")(bill),
    "asynchronous": lambda app: app.handler("case.moved", name="late")(abill),
    "of lists": lambda app: app.handler("case.moved", many=True, name="late")(bills),
    "plain": lambda app: app.handler("case.moved", name="late")(bill),
}


@pytest.mark.parametrize("register", LATE.values(), ids=LATE)
async def test_a_handler_that_is_registered_while_a_worker_is_at_work_is_refused(
    tmp_path: Path, register: Callable[[Crossfoot], Any]
) -> None:
    async with a_service(FORMS[0], tmp_path) as service:
        service.app.handler("case.released")(bill)
        ready = anyio.Event()
        worker = service.worker()
        worker.on_ready = ready.set
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            with anyio.fail_after(60):
                await ready.wait()
            with pytest.raises(
                UsageError, match=r"handler late was registered while worker .* is at work.*before it begins"
            ):
                register(service.app)
            worker.stop()

        register(service.app)
        await works(service)


async def works(service: Service) -> None:
    """When the worker has gone the handler may be registered, and the next one knows it."""
    (message,) = await service.publish("case.moved", "case-1", sequence=1)
    await service.work()
    assert service.fate(message) is Fate.SETTLED


async def test_a_handler_cannot_register_another_one(tmp_path: Path) -> None:
    async with a_service(FORMS[0], tmp_path) as service:

        @service.app.handler("case.released")
        def imports_late(message: Message, tx: Any) -> None:
            LATE["in order"](service.app)

        (message,) = await service.publish("case.released", "case-1")
        await service.work(attempts=1)
        assert service.fate(message) is Fate.DEAD
