"""The composition root: settings become objects, and the parts are wired here and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
import msgspec

from crossfoot import settings as settings_module
from crossfoot.books.payloads import Keeping as KeepingPayloads
from crossfoot.books.payloads import Payloads
from crossfoot.books.store import Book
from crossfoot.clock import Clock, SystemClock
from crossfoot.connection import is_postgres
from crossfoot.effects.attached import note_queues
from crossfoot.effects.databases.choosing import database_of, fits
from crossfoot.effects.databases.session import Database
from crossfoot.effects.handler import Handler
from crossfoot.effects.operation import operation_key
from crossfoot.effects.outbox import Outbox, fact_of
from crossfoot.effects.producing import AsyncProducing, Producing, Sender, joined, joined_async
from crossfoot.effects.sequence import InOrder
from crossfoot.effects.signature import takes_transaction
from crossfoot.effects.work import in_handler
from crossfoot.errors import UsageError
from crossfoot.message import Message
from crossfoot.message.envelope import is_uri
from crossfoot.message.priority import priority_of
from crossfoot.outcomes.expectation import expect
from crossfoot.outcomes.invariant import invariant
from crossfoot.outcomes.promises import Keeping, Promises
from crossfoot.payload import Payload, payload_type_of
from crossfoot.queues.choosing import queue_of
from crossfoot.queues.naming import by_name
from crossfoot.queues.queue import LocalQueue, Outgoing, PublishAnswer, Queue, system_of
from crossfoot.settings import Settings
from crossfoot.tracing.producing import Place, Ready, publishing
from crossfoot.worker.pattern import Pattern
from crossfoot.worker.registry import Registry
from crossfoot.worker.retry import Retry
from crossfoot.worker.worker import Worker

if TYPE_CHECKING:  # only those who declare a limit need it
    from crossfoot.flow.limits import Limit

F = TypeVar("F", bound=Callable[..., Any])


class Crossfoot:
    """One service: its handlers, its queue, and its book.

    Args:
        name: the service's name; also the queue's, unless settings say otherwise.
        database: a SQLite file, the URL of a PostgreSQL database (`postgresql://...`, `postgresql+asyncpg://...`), or a SQLAlchemy
            engine or Django's connection on either, with the business tables. The book lives beside them.
        queue: `embedded`, a table in the database; one in another PostgreSQL database
            (`postgresql://HOST/DATABASE?queue=NAME`), an SQS queue (`sqs:NAME` or its URL), a stream (`redis:NAME` or its URL),
            a NATS durable (`nats://HOST:4222/STREAM/DURABLE`), a queue of RabbitMQ (`rabbitmq:NAME` or its URL), a topic
            of Kafka (`kafka:TOPIC` or its URL), or a `Queue` of your own making.
        queues: further queues that it sends to, as `queue` names them: `embedded:letters`, `sqs:letters`.
        clock: where the time comes from.
        payloads: whether the book keeps what messages carry; or an object that decides what it keeps, see
            `crossfoot.books.payloads.Payloads`.
        settings: any of `crossfoot.settings.Settings`; they win over the environment and `crossfoot.toml`.

    Raises:
        UnknownSetting: with the nearest known name.
        UsageError: a name or a setting that will not do.
    """

    def __init__(
        self,
        name: str,
        *,
        database: Any = None,
        queue: str | Queue | None = None,
        queues: Sequence[str] = (),
        clock: Clock | None = None,
        payloads: KeepingPayloads | None = None,
        **settings: Any,
    ) -> None:
        if not name or not name.strip():
            raise UsageError("a service needs a name, as in Crossfoot('billing'): its book and its queue are called so")
        if not is_uri(name):
            raise UsageError(
                f"{name!r} cannot be a service's name: it is the source of its messages, which CloudEvents wants to be a URI "
                "reference: use letters, digits, '-', '.' and '/'"
            )
        if payloads is not None and not isinstance(payloads, (bool, Payloads)):
            raise UsageError(
                f"payloads is True, False, or an object with store() and restore(), and not {payloads!r}: see crossfoot.books.payloads"
            )
        self.name = name
        stated = queue if isinstance(queue, str) else None
        path = str(database) if isinstance(database, (str, Path)) else None
        self.settings: Settings = settings_module.load(
            database=path, queue=stated, payloads=payloads if isinstance(payloads, bool) else None, **settings
        )
        self.pattern = _pattern(self.settings)
        self.clock = clock or SystemClock()
        self.registry = Registry()
        self.promises = Promises()
        self.database: Database = database_of(database, self.settings.database, synchronous=self.settings.synchronous)
        keeping = self.settings.payloads if payloads is None or isinstance(payloads, bool) else payloads
        self.book = Book(self.database.path, clock=self.clock, synchronous=self.settings.synchronous, payloads=keeping)
        if queue is None or isinstance(queue, str):
            stated, queue = self.settings.queue, queue_of(name, self.database.path, self.settings, self.clock)
        self.queue: Queue = queue
        others = {
            one: queue_of(name, self.database.path, msgspec.structs.replace(self.settings, queue=one), self.clock)
            for one in queues
            if one != stated
        }
        self.queues: dict[str, Queue] = by_name(queue, others.values())
        self._noted = False

    # ---- handlers ------------------------------------------------------------------------------------------------

    def handler(  # noqa: PLR0913 - each says one thing about the handler, by name
        self, type: str, *, operation: str | None = None, proves: str | Sequence[str] = (), in_order: InOrder | bool = False,
        payload: Any = None, deadline: float | None = None, limit: Limit | None = None, many: bool = False,
        name: str | None = None,
    ) -> Callable[[F], F]:  # fmt: skip
        """Register a function, synchronous or not, for a message type.

        Args:
            type: the type it takes; `*` stands for any run of characters.
            operation: names the business action, as in `bill:{subject}:{sequence}`; the message itself unless given.
            proves: outcomes without which a return proves nothing.
            in_order: take each subject's events in order; `True` is short for `InOrder()`, which says what else there is.
            payload: a msgspec struct, pydantic model or dataclass that `message.data` is made into.
            deadline: seconds it may run, its waits for the database included; a deadline of `crossfoot.flow`.
            limit: of `crossfoot.flow`; without a permit in time, the message is handed back untried.
            many: call it with a list: all of a batch that are its, for effects that are one statement for many. Its proof is a row
                for each of them, or what `tx.of(message)` told of each; else, and if it fails, it is called with one at a time.
            name: what books and pages call it; the function's name unless given.

        Raises:
            HandlerConflict: the type or the name is taken.
            UsageError: the operation names a field that messages do not have, what is asked for does not go together, or a worker of
                this service is at work already.
        """

        if not isinstance(type, str):
            raise UsageError("a handler takes a message type: write @app.handler('case.released') above it")
        if not isinstance(in_order, (bool, InOrder)):
            raise UsageError(f"in_order is True, or an InOrder(...), and not {in_order!r}")

        def register(function: F) -> F:
            called = name or getattr(function, "__name__", "")
            if not called:
                raise UsageError(f"{function!r} has no name: give it one with name=...")
            fits(self.database, function, called)
            declared = payload if payload is not None else payload_type_of(function, many=many)
            self.registry.add(
                Handler(
                    name=called, service=self.name, type=type, function=function,
                    operation=operation_key(operation, handler=called, scope=self.queue.name),
                    proves=(proves,) if isinstance(proves, str) else tuple(proves),
                    in_order=InOrder() if in_order is True else in_order or None,
                    payload=Payload(declared) if declared is not None else None, deadline=deadline, limit=limit, many=many,
                    wants_transaction=takes_transaction(function, called), destinations=self.queues,
                    book=self.database.path,
                )
            )  # fmt: skip
            return function

        return register

    # ---- what the business is promised -----------------------------------------------------------------------------

    def expect(
        self, outcome: str, *, after: str, within: str | float | timedelta, name: str | None = None, **more: Any
    ) -> None:
        """Expect an outcome after every message of a type, within a time. `crossfoot outcomes` names those without.

        Args:
            outcome: as `tx.outcome` names it.
            after: a message's type.
            within: from when the message was published until the outcome was recorded: `30s`, `5m`, `2h`, `1d`.
            name: what pages and alerts call it.
            by: what both have in common: `subject`, `correlation` (the flow), or `message` (its own handler recorded it).
            skew: by how much the clocks of those who write may differ; nothing unless given.
            since: messages published before are not looked at: a time with its zone, or its text (RFC 3339).
            excused: fates of which nothing more is expected: `noop`, `duplicate`, `superseded` and `discarded` unless given.

        Raises:
            UsageError: one of the words will not do, or the name is taken.
        """
        self.promises.add(expect(outcome, after=after, within=within, name=name, **more))

    def invariant(
        self, name: str, sql: str, *, ids: str | Sequence[str] = (), timeout: str | float | timedelta = "5s",
        every: str | float | timedelta = "1m",
    ) -> None:  # fmt: skip
        """State what must always be true of the business tables: a question that must find no row.

        Args:
            sql: a SELECT in the database's own words; it can only read.
            ids: columns that name what is wrong; all of them unless given.
            timeout: how long it may take; what is cut short counts as not known.
            every: how often a worker asks.

        Raises:
            UsageError: one of these will not do, or the name is taken.
        """
        self.promises.add(invariant(name, sql, ids=ids, timeout=timeout, every=every))

    # ---- producing -----------------------------------------------------------------------------------------------

    def message(self, type: str, **attributes: Any) -> Message:
        """A message of this service."""
        attributes.setdefault("source", self.name)
        return Message(type=type, **attributes)

    async def publish(self, *messages: Message | str, **attributes: Any) -> list[PublishAnswer]:
        """Publish, durably: what the queue did not confirm is sent again by the relay, under the same id.

        Args:
            messages: messages, or one type with the attributes of a message to make.

        Returns:
            For each message `Accepted`, `Refused` or `Doubtful`, in order.

        Raises:
            QueueUnavailable: the queue cannot be reached; the messages are in the book and will be sent. Only where the queue is a
                table beside the book nothing was published.
            PublishRefused: it is not set as it must be, or there is none of that name and the book never knew one. Nothing was
                sent, and the book says that the messages were refused.
        """
        refuse_inside_handler("app.publish()")
        await anyio.to_thread.run_sync(self.book.open)
        if not self._noted:
            await anyio.to_thread.run_sync(note_queues, self.book, tuple(self.queues.values()))
            self._noted = True
        made = [self._made(message, attributes) for message in messages]
        place = Place(self.queue.name, system_of(self.queue), self.queue.capabilities.max_bytes)
        with publishing(made, place) as publication:
            answers = await self._publish(publication.ready)
            publication.answered([fact_of(answer) for answer in answers])
        return answers

    async def _publish(self, made: Sequence[Ready]) -> list[PublishAnswer]:
        local = isinstance(self.queue, LocalQueue) and await anyio.to_thread.run_sync(self.queue.is_in, self.book.path)
        if local:
            await self.queue.open()
            return await anyio.to_thread.run_sync(self._publish_locally, made)
        records = [(self._record(message, body), _outgoing(message, body)) for message, body in made]
        return await Outbox(self.book, {self.queue.name: self.queue}).publish(records, self.queue)

    @contextmanager
    def transaction(self, session: Any, *, commit: bool | None = None) -> Iterator[Producing]:
        """Send messages from within the caller's own transaction (a web request, a script).

        Args:
            session: a `sqlite3.Connection`, a `psycopg.Connection`, a SQLAlchemy `Session` or a connection of Django's, on this
                service's database. What is begun here is committed at the end; what the caller has begun, by the caller.
            commit: whether to commit when the block ends: to be stated where an earlier statement began the transaction.

        Raises:
            UsageError, TransactionMisuse: nobody said who commits; something was sent when the block was over.
        """
        refuse_inside_handler("app.transaction()")
        self.book.open()
        with joined(session, self._sender(), commit) as producing:
            yield producing

    @asynccontextmanager
    async def atransaction(self, session: Any, *, commit: bool | None = None) -> AsyncIterator[AsyncProducing]:
        """The same for an `aiosqlite.Connection`, a `psycopg.AsyncConnection`, an `asyncpg.Connection` or a SQLAlchemy
        `AsyncSession`."""
        refuse_inside_handler("app.atransaction()")
        await anyio.to_thread.run_sync(self.book.open)
        sender = await anyio.to_thread.run_sync(self._sender)
        async with joined_async(session, sender, commit) as producing:
            yield producing

    # ---- working -------------------------------------------------------------------------------------------------

    def worker(self, **pattern: Any) -> Worker:
        """A worker of this service.

        Args:
            pattern: any of `Pattern`, instead of what the settings say.
        """
        return Worker(
            self.name, self.book, self.queue, self.registry, self.database, queues=self.queues,
            pattern=msgspec.structs.replace(self.pattern, **pattern), chores=(Keeping(self.book, self.promises),),
        )  # fmt: skip

    def run(self, *, until_idle: bool = False, **pattern: Any) -> None:
        """Work until interrupted; with `until_idle`, until the queue is empty."""

        async def work() -> None:
            try:
                await self.worker(**pattern).run(until_idle=until_idle)
            finally:
                await self.aclose()

        anyio.run(work)

    async def aclose(self) -> None:
        """Close the queue and the book."""
        with anyio.CancelScope(shield=True):
            async with AsyncExitStack() as stack:  # what cannot be closed keeps nothing else open
                stack.push_async_callback(anyio.to_thread.run_sync, self.book.close)
                for queue in reversed(self.queues.values()):
                    stack.push_async_callback(queue.close)

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _sender(self) -> Sender:
        book = self.book.identity() if is_postgres(self.database.path) else ""
        return Sender(
            self.name, self.database.path, self.queue.name, self.queues, self.clock, self.book.payloads, book
        )  # fmt: skip

    def _made(self, message: Message | str, attributes: dict[str, Any]) -> Message:
        if isinstance(message, str):
            message = self.message(message, **attributes)
        elif not isinstance(message, Message):
            raise UsageError(
                "publish() takes messages one by one, as in publish(*messages), or a type and its attributes, not a "
                f"{type(message).__name__}"
            )
        elif attributes:
            raise UsageError(f"publish() was given a message and also {', '.join(attributes)}: set them on the message")
        if message.time is None:
            message = msgspec.structs.replace(message, time=self.clock.now())
        return message

    def _record(self, message: Message, body: bytes) -> Any:
        return self.book.record_of(message, self.queue.name, now=self.clock.now(), body=body)

    def _publish_locally(self, made: Sequence[Ready]) -> list[PublishAnswer]:
        """Into the book and into the queue in one transaction: there is no boundary in between, and no doubt."""
        from crossfoot.effects.local import publish_locally

        assert isinstance(self.queue, LocalQueue)
        pairs = [(self._record(message, body), _outgoing(message, body)) for message, body in made]
        return publish_locally(self.book, self.queue, pairs)


def _pattern(s: Settings) -> Pattern:
    """How a worker works by the settings; `Pattern` and `Retry` refuse what is out of bounds."""
    # A long first pause needs no cap beside it; a cap that is none is for `Retry` to refuse.
    longest = max(s.backoff, s.backoff_cap) if s.backoff_cap > 0 else s.backoff_cap
    return Pattern(
        concurrency=s.concurrency, batch=s.batch, optimistic=s.optimistic, lease=s.lease, wait=s.wait, grace=s.grace, reconcile=s.reconcile,
        prefetch=s.prefetch,
        retry=Retry(attempts=s.attempts, base=s.backoff, cap=longest, unknown_for=s.unknown_for),
    )  # fmt: skip


def refuse_inside_handler(what: str) -> None:
    """A second transaction from inside a handler would wait for the handler's own, which waits for it."""
    work = in_handler.get()
    if work is not None:
        raise UsageError(f"{what} was called in the handler of {work}: use tx.send(), which commits with the handler")


def _outgoing(message: Message, body: bytes) -> Outgoing:
    return Outgoing(
        key=message.key, body=body, partition=message.partitionkey or message.subject, priority=priority_of(body)
    )
