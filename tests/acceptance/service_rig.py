"""A whole service in one process, over any of the database forms: published to, worked, and read from outside."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.message import Message
from crossfoot.worker.retry import Retry
from crossfoot.worker.worker import Worker
from tests.conformance.database_forms import FILE_FORMS
from tests.conformance.database_rig import Form, Story

FORMS = FILE_FORMS
"""Those whose queue may lie beside the book."""

PATIENCE = 20.0
"""Seconds a test waits for what must happen."""


class Service:
    """A `Crossfoot` on a file or a database of its own, with the quick settings tests want."""

    def __init__(self, app: Crossfoot, form: Form, path: Any) -> None:
        self.app = app
        self.form = form
        self.path = path

    def handle(self, type_: str, story: Story, **options: Any) -> None:
        """Register a story as a handler of this form."""
        options.setdefault("name", story.__name__)
        self.app.handler(type_, **options)(self.form.function(story))

    async def publish(self, type_: str, *subjects: str, **attributes: Any) -> list[Message]:
        """One message for each subject."""
        messages = [self.app.message(type_, subject=subject, **attributes) for subject in subjects]
        await self.app.publish(*messages)
        return messages

    def worker(self, *, attempts: int = 2, base: float = 0.01, **pattern: Any) -> Worker:
        return self.app.worker(
            **{"wait": 0.05, "grace": 5.0, "retry": Retry(attempts=attempts, base=base), "concurrency": 2} | pattern
        )

    async def work(self, **pattern: Any) -> None:
        """Until there is nothing left to do."""
        with anyio.fail_after(PATIENCE):
            await self.worker(**pattern).run(until_idle=True)

    @asynccontextmanager
    async def working(self, **pattern: Any) -> AsyncIterator[Worker]:
        """A worker that runs meanwhile, and is stopped afterwards."""
        worker = self.worker(**pattern)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            try:
                yield worker
            finally:
                worker.stop()

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """What is committed, seen from outside; single columns as plain values."""
        found = self.form.outside(str(self.path), sql, parameters, 10.0)
        return [row[0] if len(row) == 1 else row for row in found]

    def fate(self, message: Message) -> Fate:
        (fate,) = self.rows("SELECT fate FROM crossfoot_messages WHERE id = ?", message.id)
        return Fate(fate)

    def kinds(self, message: Message) -> list[Kind]:
        rows = self.rows(
            "SELECT e.kind FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message WHERE m.id = ? ORDER BY e.id",
            message.id,
        )
        return [Kind(kind) for kind in rows]

    def ids_by_fate(self) -> dict[Fate, set[str]]:
        found: dict[Fate, set[str]] = {}
        for id_, fate in self.rows("SELECT id, fate FROM crossfoot_messages"):
            found.setdefault(Fate(fate), set()).add(id_)
        return found

    def causes(self) -> dict[str, str]:
        """Titles of causes, by their fingerprint."""
        return dict(self.rows("SELECT fingerprint, title FROM crossfoot_causes"))

    @property
    def effects(self) -> list[str]:
        return self.rows(f"SELECT id FROM effects ORDER BY {self.form.order}")


@asynccontextmanager
async def a_service(form: Form, folder: Path, *, url: str = "", **settings: Any) -> AsyncIterator[Service]:
    """The service, with the business tables `effects`, `audit` and `taken` (a unique number, and 1 is in it).

    Args:
        url: the PostgreSQL database it lives in, instead of a file in the folder.
    """
    place = url or str(folder / "billing.db")
    for statement in (
        "CREATE TABLE effects (id TEXT, note TEXT)",
        "CREATE TABLE audit (id TEXT)",
        "CREATE TABLE taken (number INTEGER PRIMARY KEY)",
        "INSERT INTO taken VALUES (1)",
    ):
        form.outside(place, statement, ())
    engine: Engine | AsyncEngine | None = None
    if form.orm:
        address = form.engine_url(place)
        engine = create_async_engine(address) if form.is_async else create_engine(address)
    app = Crossfoot("billing", database=engine or form.address(place), synchronous="NORMAL", **settings)
    try:
        yield Service(app, form, place)
    finally:
        await app.aclose()
        if engine is not None:
            disposed = engine.dispose()
            if inspect.isawaitable(disposed):
                await disposed


async def eventually(condition: Callable[[], Any | Awaitable[Any]], what: str, seconds: float = PATIENCE) -> Any:
    """Wait until the condition is true; what it returned."""
    until = time.monotonic() + seconds
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < until, f"waited {seconds:g} s for {what}"
        await anyio.sleep(0.01)


__all__ = ["FORMS", "Form", "Service", "a_service", "eventually"]
