"""One run of the demo: what is asked for, what comes of it, and who takes part."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from crossfoot.app import Crossfoot
from crossfoot.books.balance import Balance
from crossfoot.books.custody import Depth
from crossfoot.books.posting import post_all
from crossfoot.books.stock import take_stock
from crossfoot.connection import is_postgres
from crossfoot.demo import log, place, plan
from crossfoot.demo.found import found
from crossfoot.demo.log import Event
from crossfoot.demo.messages import SOURCE
from crossfoot.demo.outgoing import FaultyPublish
from crossfoot.demo.place import Place
from crossfoot.demo.plan import Fault, Plan, faults_on
from crossfoot.demo.process import example
from crossfoot.demo.progress import CLOSED
from crossfoot.demo.publisher import Publisher
from crossfoot.demo.record import Record
from crossfoot.demo.scene import Played, Scene, Watcher
from crossfoot.demo.states import FinalStates, compare
from crossfoot.demo.workers import Crew
from crossfoot.queues.embedded import EmbeddedQueue


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for.

    Attributes:
        messages: events of the log at most.
        db: the file, or the URL of the database, that becomes the book.
        folder: for everything else, to be thrown away.
    """

    messages: int
    seed: int
    db: str
    folder: Path
    queue: str = "embedded"
    endpoint: str | None = None
    workers: int = 2


class Count(msgspec.Struct, frozen=True):
    """One fault, injected and found, by ids."""

    injected: frozenset[str]
    found: frozenset[str]

    @property
    def missing(self) -> list[str]:
        return sorted(self.injected - self.found)

    @property
    def unexpected(self) -> list[str]:
        return sorted(self.found - self.injected)

    def problems(self, fault: Fault) -> list[str]:
        told = []
        if not self.injected:
            told.append(f"{fault.value}: never happened")
        if self.missing:
            told.append(f"{fault.value}: injected, and not found: {', '.join(self.missing)}")
        if self.unexpected:
            told.append(f"{fault.value}: found, and not injected: {', '.join(self.unexpected)}")
        return told


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        events: of the log, published.
        cases: of these events.
    """

    options: Options
    events: int
    cases: int
    played: Played
    balance: Balance
    faults: dict[Fault, Count]
    states: FinalStates

    @property
    def open(self) -> int:
        """Messages that are still open: none should be."""
        return sum(count for fate, count in self.balance.fates.items() if fate not in CLOSED)

    @property
    def problems(self) -> list[str]:
        """Why the run is not what it should be."""
        told = [text for fault, count in self.faults.items() for text in count.problems(fault)]
        told += [
            f"identity {name!r} does not hold" for name, one in self.balance.identities.items() if one.holds is False
        ]
        if self.balance.unaccounted:
            told.append(f"{self.balance.unaccounted} messages are unaccounted for")
        if self.open:
            told.append(f"{self.open} messages are still open")
        if self.states.different:
            told.append(f"{len(self.states.different)} cases end otherwise than the log says")
        return told


async def run(options: Options, watcher: Watcher) -> Result:
    """Run the demo.

    Raises:
        UsageError: too few messages, or a package that is not installed.
        DemoBroken: a worker left by itself, or nothing moves any more.
    """
    events = await anyio.to_thread.run_sync(_events, options.messages)
    drawn = plan.make(events, options.seed, options.queue)
    record = Record(options.folder / "injected.db")
    try:
        async with _place(options) as where, _scene(options, where, drawn, record) as scene:
            played = await scene.play(events, watcher)
            balance = await reckon(scene.app, await depths(where))
            return await anyio.to_thread.run_sync(_result, options, events, scene.app, played, balance, record)
    finally:
        record.close()


async def depths(where: Place) -> dict[str, Depth]:
    """What queues outside the book's file say of themselves."""
    if isinstance(where.main, EmbeddedQueue):
        return {}
    found = {}
    for queue in (where.main, where.late):
        now = await queue.depth()
        found[queue.name] = Depth(now.held, now.in_flight, now.dead, now.as_of)
    return found


async def reckon(app: Crossfoot, queues: dict[str, Depth]) -> Balance:
    """The balance, everything posted."""

    def draw() -> Balance:
        post_all(app.book)
        with app.book.reading() as connection:
            return take_stock(connection, app.clock.now(), depth_of=queues.get)

    return await anyio.to_thread.run_sync(draw)


def _result(
    options: Options, events: list[Event], app: Crossfoot, played: Played, balance: Balance, record: Record
) -> Result:
    injected, told = record.all(), found(app.book, options.queue)
    expected = log.ends(events)
    return Result(
        options=options, events=len(events), cases=len(expected), played=played, balance=balance,
        faults={fault: Count(frozenset(injected[fault]), frozenset(told[fault])) for fault in faults_on(options.queue)},
        states=compare(app.book, expected),
    )  # fmt: skip


def _events(count: int) -> list[Event]:
    return log.choose(log.read(log.folder() / log.FILE), count)


def _place(options: Options) -> AbstractAsyncContextManager[Place]:
    return place.place_of(options.queue, options.db, options.folder, options.endpoint)


def _make_tables(app: Crossfoot) -> None:
    """The book's; and in PostgreSQL the example's own, see `hooks.Spelt`."""
    app.book.open()
    if is_postgres(app.database.path):
        with app.book.writing() as connection:
            for statement in example().TABLES:
                connection.execute(statement)


@asynccontextmanager
async def _scene(options: Options, where: Place, drawn: Plan, record: Record) -> AsyncIterator[Scene]:
    acts = {f"event-{sequence}": act for sequence, act in drawn.acts.items()}
    faulty = FaultyPublish(where.main, {f"{SOURCE}|{id_}": act for id_, act in acts.items()}, record)
    settings: dict[str, Any] = {"database": options.db, "synchronous": place.SYNCHRONOUS, "payloads": True}
    app = Crossfoot(place.SERVICE, queue=faulty, **settings)
    late = Crossfoot(place.SERVICE, queue=where.late, **settings)
    crew = Crew(options.folder, acts, record, where.environment)
    try:
        await anyio.to_thread.run_sync(_make_tables, app)
        await app.queue.open()
        await late.queue.open()
        yield Scene(
            app,
            late,
            where,
            Publisher(app, late, drawn, record),
            crew,
            drawn,
            seed=options.seed,
            workers=options.workers,
        )
    finally:
        await crew.close()
        await app.aclose()
        await late.aclose()
