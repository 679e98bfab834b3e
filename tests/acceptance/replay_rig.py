"""A service of which messages die, and come back by a replay: on a queue beside the book, on one elsewhere, and in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from crossfoot.books.posting import post_all
from crossfoot.books.replays import Replay
from crossfoot.books.stock import take_stock
from crossfoot.books.store import Book
from crossfoot.clock import SECOND
from crossfoot.message import Message
from crossfoot.outcomes.brought_back import look
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.recover.replay.planning import Asked, found, plan
from crossfoot.recover.replay.policy import Policy
from crossfoot.recover.replay.report import Report, report
from crossfoot.recover.replay.running import Runner
from crossfoot.recover.replay.selection import Selection
from tests.acceptance.service_rig import FORMS, Service, a_service
from tests.conformance.database_forms import POSTGRES_FORMS
from tests.conformance.database_rig import Sql, insert

QUICK = Policy(canary=2, stage=8, rate=10_000.0, window=8, patience=20.0)


class Clinic:
    """A service whose handler fails for what is broken, until it is mended."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.app = service.app
        self.broken: dict[str, type[Exception]] = {}
        self.forgetful: set[str] = set()
        """Types whose handler writes, and says nothing of an outcome."""
        clinic = self

        def bill(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            kind = clinic.broken.get(message.type)
            if kind is not None:
                raise kind(f"{message.type} is broken")
            yield insert(message)
            if message.type not in clinic.forgetful:
                tx.outcome("case.billed")

        service.handle("case.*", bill, operation="bill:{type}:{subject}")

    async def kill(self, type_: str, *subjects: str, error: type[Exception] = ValueError, **more: Any) -> list[Message]:
        """Messages that die."""
        self.broken[type_] = error
        messages = await self.service.publish(type_, *subjects, **more)
        await self.service.work(attempts=1)
        return messages

    async def plan(
        self, why: str = "mended", horizon: float | None = None, transform: Any = None, **selection: Any
    ) -> int:
        asked = Asked(selection=Selection(**selection), by="anna", why=why, horizon=horizon, transform=transform)
        number, _ = await plan(self.app.book, self.app.queue, self.app.registry, asked)
        return number

    async def run(self, number: int, policy: Policy = QUICK, *, work: bool = True, **pattern: Any) -> Replay:
        """With a worker beside it."""
        book = self.app.book.another()
        runner = Runner(book, self.app.queue, number, policy, hold=1.0, look=look)
        try:
            if not work:
                return await runner.run()
            async with self.service.working(attempts=1, **pattern):
                with anyio.fail_after(60):
                    return await runner.run()
        finally:
            book.close()

    async def report(self, number: int) -> Report:
        def read() -> Report:
            post_all(self.app.book)
            with self.app.book.reading() as connection, connection.snapshot():
                return report(connection, found(connection, number), self.app.clock.now(), look)

        return await anyio.to_thread.run_sync(read)

    async def broken_identities(self) -> dict[str, Any]:
        def take() -> dict[str, Any]:
            post_all(self.app.book)
            with self.app.book.reading() as connection:
                stock = take_stock(connection, self.app.clock.now(), depth_of=None)
            return {name: one.notes for name, one in stock.identities.items() if one.holds is False}

        return await anyio.to_thread.run_sync(take)

    async def dead_in_queue(self) -> int:
        await self.app.queue.open()
        return (await self.app.queue.depth()).dead

    def grow_old(self, seconds: int) -> None:
        """Have all messages be published that much earlier."""
        statement = "UPDATE crossfoot_messages SET at = at - ?"
        self.app.book.write(lambda connection: connection.execute(statement, (seconds * SECOND,)))

    def classes(self, number: int) -> dict[str, str]:
        return dict(
            self.service.rows(
                "SELECT m.id, r.class FROM crossfoot_replay_members r JOIN crossfoot_messages m ON m.key = r.message "
                f"WHERE r.replay = {number}"
            )
        )


@asynccontextmanager
async def a_clinic(kind: str, folder: Path, url: str, **settings: Any) -> AsyncIterator[Clinic]:
    form = POSTGRES_FORMS[0] if kind == "postgres" else FORMS[0]
    place: dict[str, Any] = {"url": url, "queue": "postgres:billing", "endpoint": url} if kind == "postgres" else {}
    if kind == "elsewhere":
        Book(folder / "queue.db").open().close()
        place = {"queue": EmbeddedQueue(folder / "queue.db", "billing", ordered=False)}
    if kind == "postgres":
        from crossfoot.queues.postgres import ensure

        await ensure("billing", url=url)
    async with a_service(form, folder, **place, **settings) as service:
        yield Clinic(service)


KINDS = ["beside", "elsewhere", pytest.param("postgres", marks=pytest.mark.server)]


@asynccontextmanager
async def requested(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Clinic]:
    """The one of `KINDS` that a fixture was asked for."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with a_clinic(request.param, folder, url) as made:
        yield made
