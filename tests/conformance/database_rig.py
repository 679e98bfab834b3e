"""What the suite over database forms shares: handlers written once and told over each driver, and the scene around them.

A handler is written as a *story*, a generator that yields what it does to the database; each form tells it through its
own driver, so that one test speaks of sqlite3, aiosqlite and SQLAlchemy, synchronous and asynchronous.
"""

from __future__ import annotations

import inspect
import itertools
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import anyio.to_thread
import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from crossfoot.books.entry import Kind
from crossfoot.books.record import record_of
from crossfoot.books.store import Book
from crossfoot.dialect import translate
from crossfoot.effects.databases.asyncpg import AsyncpgDatabase
from crossfoot.effects.databases.psycopg import PostgresDatabase
from crossfoot.effects.databases.session import Database
from crossfoot.effects.databases.sqlalchemy import SqlAlchemyDatabase
from crossfoot.effects.databases.sqlite import SqliteDatabase
from crossfoot.effects.handler import Handler
from crossfoot.effects.hold import Hold
from crossfoot.effects.operation import operation_key
from crossfoot.effects.optimism import Optimism
from crossfoot.effects.perform import aperform, perform
from crossfoot.effects.sequence import InOrder
from crossfoot.effects.together import aperform_batch, perform_batch
from crossfoot.effects.work import Work
from crossfoot.message import Message, encode
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Delivery, Outgoing


class Sql(NamedTuple):
    """A statement of the handler's, through `tx.execute`."""

    text: str
    parameters: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never changed


class Call(NamedTuple):
    """Something the handler does to its connection or session; awaited where that is asynchronous."""

    act: Callable[[Any], Any]


Story = Callable[[Message, Any], Generator[Sql | Call, Any, Any]]


class Form:
    """One way to reach the database: a SQLite file, or a PostgreSQL database."""

    postgres = False
    django = False
    order = "rowid"
    """The order in which effects were written."""

    def __init__(self, name: str, *, is_async: bool, orm: bool) -> None:
        self.name = name
        self.is_async = is_async
        self.orm = orm

    def __repr__(self) -> str:
        return self.name

    def address(self, place: str) -> Any:
        """What a service is told, where it is told no engine."""
        return place

    def engine_url(self, place: str) -> str:
        """SQLAlchemy's name for the place."""
        return f"sqlite{'+aiosqlite' if self.is_async else ''}:///{place}"

    @asynccontextmanager
    async def database(self, place: str) -> AsyncIterator[Database]:
        if not self.orm:
            yield SqliteDatabase(place, synchronous="OFF")
        elif self.is_async:
            engine = create_async_engine(self.engine_url(place))
            _do_not_wait_for_the_disk(engine.sync_engine)
            yield SqlAlchemyDatabase(engine)
            await engine.dispose()
        else:
            plain = create_engine(self.engine_url(place))
            _do_not_wait_for_the_disk(plain)
            yield SqlAlchemyDatabase(plain)
            plain.dispose()

    def function(self, story: Story) -> Callable[..., Any]:
        """The story as a handler of this form."""
        return _told_async(story, self.spelt) if self.is_async else _told(story, self.spelt)

    def spelt(self, ask: Sql) -> tuple[str, Any]:
        """A handler's statement and its parameters, in the words of this form."""
        return ask

    def commit(self, handle: Any) -> Any:
        """What a handler does that takes the transaction for its own."""
        return handle.commit()

    def rollback(self, handle: Any) -> Any:
        return handle.rollback()

    def outside(self, place: str, sql: str, parameters: Sequence[Any], patience: float = 5.0) -> list[Any]:
        """Another program's statement, which commits by itself."""
        with closing(sqlite3.connect(place, timeout=patience, isolation_level=None)) as connection:
            return connection.execute(sql, parameters).fetchall()


class PostgresForm(Form):
    """The same in PostgreSQL."""

    postgres = True
    order = "ctid"

    def engine_url(self, place: str) -> str:
        return place.replace("postgresql:", "postgresql+psycopg:")

    @asynccontextmanager
    async def database(self, place: str) -> AsyncIterator[Database]:
        url = self.engine_url(place)
        if not self.orm:
            yield PostgresDatabase(place)
        elif self.is_async:
            engine = create_async_engine(url)
            yield SqlAlchemyDatabase(engine)
            await engine.dispose()
        else:
            plain = create_engine(url)
            yield SqlAlchemyDatabase(plain)
            plain.dispose()

    def spelt(self, ask: Sql) -> tuple[str, Any]:
        statement, parameters = ask
        if "INSERT OR IGNORE" in statement:
            statement = statement.replace("INSERT OR IGNORE", "INSERT") + " ON CONFLICT DO NOTHING"
        return statement if self.orm else translate(statement).decode(), parameters

    def outside(self, place: str, sql: str, parameters: Sequence[Any], patience: float = 5.0) -> list[Any]:
        with psycopg.connect(place, autocommit=True) as connection:
            connection.execute(f"SET lock_timeout = {int(patience * 1000) or 1}".encode())
            cursor = connection.execute(translate(sql), parameters)
            return cursor.fetchall() if cursor.description else []


class AsyncpgForm(PostgresForm):
    """The same through asyncpg."""

    def address(self, place: str) -> Any:
        return place.replace("postgresql:", "postgresql+asyncpg:")

    def engine_url(self, place: str) -> str:
        return str(self.address(place))

    @asynccontextmanager
    async def database(self, place: str) -> AsyncIterator[Database]:
        if self.orm:
            url, _, query = self.engine_url(place).partition("?")
            engine = create_async_engine(url, connect_args={"server_settings": dict(parse_qsl(query))})
            yield SqlAlchemyDatabase(engine)
            await engine.dispose()
        else:
            yield AsyncpgDatabase(self.address(place))

    def commit(self, handle: Any) -> Any:
        return super().commit(handle) if self.orm else handle.execute("COMMIT")

    def rollback(self, handle: Any) -> Any:
        return super().rollback(handle) if self.orm else handle.execute("ROLLBACK")

    def spelt(self, ask: Sql) -> tuple[str, Any]:
        statement, parameters = super().spelt(ask)
        if self.orm:
            return statement, parameters
        given: list[Any] = []

        def number(found: re.Match[str]) -> str:
            given.append(parameters[found[1]])
            return f"${len(given)}"

        statement = re.sub(r"%\((\w+)\)s", number, statement)
        return statement.replace("%%", "%"), given


def _do_not_wait_for_the_disk(engine: Engine) -> None:
    """Nobody pulls the plug here."""

    @event.listens_for(engine, "connect")
    def relax(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")


def _told(story: Story, spelt: Callable[[Sql], tuple[str, Any]]) -> Callable[..., Any]:
    def handle(message: Message, tx: Any) -> Any:
        steps = story(message, tx)
        try:
            ask = next(steps)
            while True:
                try:
                    answer = tx.execute(*spelt(ask)) if isinstance(ask, Sql) else ask.act(tx.connection)
                except BaseException as error:  # noqa: BLE001 - the story decides
                    ask = steps.throw(error)
                else:
                    ask = steps.send(answer)
        except StopIteration as end:
            return end.value

    return handle


def _told_async(story: Story, spelt: Callable[[Sql], tuple[str, Any]]) -> Callable[..., Any]:
    async def act(ask: Call, tx: Any) -> Any:
        await tx.begin()
        answer = ask.act(tx.connection)
        return await answer if inspect.isawaitable(answer) else answer

    async def handle(message: Message, tx: Any) -> Any:
        steps = story(message, tx)
        try:
            ask = next(steps)
            while True:
                try:
                    doing = tx.execute(*spelt(ask)) if isinstance(ask, Sql) else act(ask, tx)
                    answer = await doing
                except BaseException as error:  # noqa: BLE001 - the story decides
                    ask = steps.throw(error)
                else:
                    ask = steps.send(answer)
        except StopIteration as end:
            return end.value

    return handle


class Lossy:
    """A real session over a line that breaks at its first commits: before each (`done=False`) or after it."""

    def __init__(self, inner: Any, *, done: bool, times: int = 1) -> None:
        self._inner = inner
        self._done = done
        self._left = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def commit(self) -> Any:
        """Over either kind of session."""
        if not self._left:
            return self._inner.commit()
        self._left -= 1
        answer = self._inner.commit() if self._done else None
        is_async = inspect.iscoroutinefunction(type(self._inner).commit)
        return self._lost_async(answer) if is_async else self._lost()

    def _lost(self) -> None:
        raise ConnectionResetError("the line broke")

    async def _lost_async(self, answer: Any) -> None:
        if answer is not None:
            await answer
        self._lost()


class Scene:
    """A service's file with a business table, its book, its queue, and one lane's session."""

    optimistic = False
    """Whether its lane begins batches without savepoints."""

    def __init__(self, form: Form, path: Path | str, database: Database, book: Book, queue: EmbeddedQueue) -> None:
        self.form = form
        self.path = path
        self.database = database
        self.book = book
        self.queue = queue
        self.session: Any = None
        self.optimism = Optimism() if self.optimistic else None
        self._numbers = itertools.count(1)

    def handler(
        self, story: Story, *, operation: str | None = None, proves: Sequence[str] = (), in_order: InOrder | None = None,
        name: str = "bill", many: bool = False,
    ) -> Handler:  # fmt: skip
        return Handler(
            name=name, service="billing", type="*", function=self.form.function(story), proves=tuple(proves),
            operation=operation_key(operation, handler=name), in_order=in_order,
            many=many,
        )  # fmt: skip

    def work(self, handler: Handler, message: Message | None = None, *, eager: bool = False, **hold: Any) -> Work:
        """A delivery about to be performed; its ack does not ride in the transaction, unless `hold` says so."""
        message = message or a_message()
        body = encode(message)
        (key,) = self.book.keys_of([record_of(message, self.queue.name, now=self.book.clock.now(), body=body)])
        made = Hold(
            key=key, delivery=next(self._numbers), attempt=1, worker=0, queue=self.queue.name, body=body,
            partition=message.subject, **hold,
        )  # fmt: skip
        return Work(handler, message, made, self.book.clock, eager=eager)

    async def delivered(self, message: Message, *, lease: float = 30.0) -> Delivery:
        """The message through the real queue, leased."""
        await self.queue.publish([Outgoing(key=message.key, body=encode(message), partition=message.subject)])
        (delivery,) = await self.queue.receive(1, lease=lease)
        return delivery

    async def perform(self, work: Work) -> Kind:
        session = await self.open_session()
        if self.form.is_async:
            return await aperform(work, session, self.database)
        return await anyio.to_thread.run_sync(perform, work, session, self.database)

    async def perform_batch(self, works: Sequence[Work]) -> list[Kind | Exception]:
        session = await self.open_session()
        if self.form.is_async:
            return await aperform_batch(works, session, self.optimism)
        return await anyio.to_thread.run_sync(perform_batch, works, session, self.optimism)

    async def open_session(self) -> Any:
        """The lane's session; `self.session` may be replaced by one that misbehaves."""
        if self.session is None:
            self.session = await self.another_session()
        return self.session

    async def handle(self) -> Any:
        """What a handler gets."""
        return (await self.open_session()).handle

    async def another_session(self) -> Any:
        if self.form.is_async:
            return await self.database.aconnect()
        return self.database.connect()

    async def close_session(self, session: Any) -> None:
        if session is not None and self.form.is_async:
            await session.close()
        elif session is not None:
            await anyio.to_thread.run_sync(session.close)

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """What is committed, seen from outside; single columns as plain values."""
        found = self.form.outside(str(self.path), sql, parameters)
        return [row[0] if len(row) == 1 else row for row in found]

    def write(self, sql: str, *parameters: Any, patience: float = 2.0) -> None:
        """Another program writes; an error of the driver's when somebody holds a lock for too long."""
        self.form.outside(str(self.path), sql, parameters, patience)

    @property
    def effects(self) -> list[str]:
        return self.rows(f"SELECT id FROM effects ORDER BY {self.form.order}")

    def kinds(self, work: Work) -> list[Kind]:
        found = self.rows("SELECT kind FROM crossfoot_entries WHERE message = ? ORDER BY id", work.hold.key)
        return [Kind(kind) for kind in found]

    def assert_nothing_was_kept(self, *, of: Work) -> None:
        """No effect, no key, no entry, no outcome, nothing to send; and the file is free for the next writer."""
        key = of.hold.key
        assert self.rows("SELECT 1 FROM effects WHERE id = ?", of.message.id) == []
        assert self.rows("SELECT 1 FROM crossfoot_operations WHERE message = ?", key) == []
        assert self.kinds(of) == []
        assert self.rows("SELECT 1 FROM crossfoot_outcomes WHERE message = ?", key) == []
        assert self.rows("SELECT 1 FROM crossfoot_messages WHERE causation = ?", of.message.id) == []
        self.write("INSERT INTO scratch VALUES (1)")


@asynccontextmanager
async def a_scene(form: Form, folder: Path, url: str = "") -> AsyncIterator[Scene]:
    """A scene in a folder, or in the database behind `url`; the queue lies in the folder."""
    path = folder / "billing.db"
    path.write_bytes(_an_empty_file())
    book = Book(url or path, synchronous="OFF").open()
    queue = EmbeddedQueue(path, "billing", ordered=False, synchronous="OFF")
    await queue.open()
    async with form.database(url or str(path)) as database:
        scene = Scene(form, url or path, database, book, queue)
        try:
            yield scene
        finally:
            await scene.close_session(scene.session)
            await queue.close()
            book.close()


@cache
def _an_empty_file() -> bytes:
    """A file with a book and the business tables; made once, because a migration takes longer than most tests."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        furnish(str(path))
        return path.read_bytes()


def furnish(place: str) -> None:
    """Make a book and the business tables."""
    book = Book(place).open()
    with book.writing() as connection:
        connection.execute("CREATE TABLE effects (id TEXT, note TEXT)")
        connection.execute("CREATE TABLE taken (number INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO taken VALUES (1)")
        connection.execute("CREATE TABLE scratch (number INTEGER)")
    book.close()


def a_message(**attributes: Any) -> Message:
    stated: dict[str, Any] = {"type": "case.released", "source": "billing", "subject": "case-1", "time": 1}
    return Message(**stated | attributes)


def insert(message: Message, note: str = "") -> Sql:
    """The effect of a message: a row in a table that would take a second one."""
    return Sql("INSERT INTO effects (id, note) VALUES (:id, :note)", {"id": message.id, "note": note})


def bill(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    """The ordinary handler: one row."""
    yield insert(message)
