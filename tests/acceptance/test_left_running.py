"""What a handler leaves running reaches no transaction any more; and what goes on side by side inside one is kept apart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from crossfoot.books.fate import Fate
from crossfoot.message import Message
from tests.acceptance.service_rig import FORMS, Service, a_service
from tests.conformance.database_rig import Sql

pytestmark = pytest.mark.anyio

INSERT = "INSERT INTO effects (id, note) VALUES (:id, '')"
BATCHES = pytest.mark.parametrize("batch", [1, 4], ids=["plain", "batch"])


@pytest.fixture(params=[form for form in FORMS if form.is_async], ids=repr)
async def loop_service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    async with a_service(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=[form for form in FORMS if not form.is_async], ids=repr)
async def thread_service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    async with a_service(request.param, tmp_path) as made:
        yield made


@BATCHES
@pytest.mark.parametrize("by", ["tx", "connection"])
async def test_a_task_left_running_proves_nothing_and_writes_nothing(
    loop_service: Service, batch: int, by: str
) -> None:
    """`gather` leaves the others running when one fails; the one here comes to write while the next message is handled."""
    service = loop_service
    left: list[asyncio.Future[None]] = []

    @service.app.handler("case.released")
    async def bill(message: Message, tx: Any) -> None:
        await tx.begin()
        if message.subject == "case-swallows":
            await asyncio.sleep(0.2)
            return  # the exception was caught and forgotten

        connection = tx.session

        async def late() -> None:
            await asyncio.sleep(0.05)
            values = {"id": message.id}
            if by == "tx" or service.form.orm:
                await tx.execute(INSERT, values)
            else:
                await connection.execute(INSERT, values)

        async def fails() -> None:
            raise ConnectionError("pricing is down")

        left.append(asyncio.ensure_future(late()))
        await fails()

    bad, swallows = await service.publish("case.released", "case-bad", "case-swallows")
    await service.work(batch=batch, attempts=1, concurrency=1)
    ended = await asyncio.gather(*left, return_exceptions=True)
    assert service.effects == []
    assert (service.fate(bad), service.fate(swallows)) == (Fate.DEAD, Fate.DEAD)
    assert all(isinstance(end, BaseException) for end in ended), "the late write was let through"


@BATCHES
async def test_a_thread_left_running_proves_nothing_and_writes_nothing(thread_service: Service, batch: int) -> None:
    service = thread_service
    left: list[threading.Thread] = []

    @service.app.handler("case.released")
    def bill(message: Message, tx: Any) -> None:
        if message.subject == "case-swallows":
            tx.execute("SELECT 1")
            for thread in left:
                thread.join(10)
            return

        def late() -> None:
            with suppress(Exception):
                over.wait(10)
                tx.execute(INSERT, {"id": message.id})

        over = threading.Event()
        left.append(threading.Thread(target=late))
        left[-1].start()
        threading.Timer(0.1, over.set).start()
        raise ConnectionError("pricing is down")

    bad, swallows = await service.publish("case.released", "case-bad", "case-swallows")
    await service.work(batch=batch, attempts=1, concurrency=1)
    assert service.effects == []
    assert (service.fate(bad), service.fate(swallows)) == (Fate.DEAD, Fate.DEAD)


@BATCHES
async def test_statements_side_by_side_open_one_transaction_and_a_duplicate_stays_one(
    loop_service: Service, batch: int
) -> None:
    service = loop_service

    @service.app.handler("case.released", operation="bill:{subject}")
    async def bill(message: Message, tx: Any) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(write, tx, message.id)

    async def write(tx: Any, id_: str) -> None:
        await tx.execute(INSERT, {"id": id_})

    messages = await service.publish("case.released", "case-1", "case-1", "case-2")
    await service.work(batch=batch, attempts=1, concurrency=1)
    assert [service.fate(message) for message in messages] == [Fate.SETTLED, Fate.DUPLICATE, Fate.SETTLED]
    assert sorted(service.effects) == sorted([messages[0].id] * 3 + [messages[2].id] * 3)


@pytest.mark.parametrize("form", FORMS, ids=repr)
async def test_a_transaction_that_could_not_be_opened_is_not_gone_on_with(
    form: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler swallows the error of its first statement, and writes on: nothing of that may be kept."""
    from crossfoot.effects.work import Work

    right = Work.open
    failed: list[Work] = []

    def fails_once(self: Work) -> Any:
        if not failed:
            failed.append(self)
            raise RuntimeError("the key could not be written")
        return (yield from right(self))

    def swallow(message: Message, tx: Any) -> Any:
        with suppress(Exception):
            yield Sql(INSERT, {"id": message.id})
        yield Sql(INSERT, {"id": message.id})

    monkeypatch.setattr(Work, "open", fails_once)
    async with a_service(form, tmp_path) as service:
        service.handle("case.released", swallow)
        (message,) = await service.publish("case.released", "case-1")
        await service.work(attempts=2, concurrency=1)
        assert service.effects.count(message.id) == 2, "one whole delivery, and nothing of the broken one"
        assert service.fate(message) is Fate.SETTLED
