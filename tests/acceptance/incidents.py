"""Ten incidents, each built with the real library on a real queue: what happened, and what `check` must say of it first.

Each is the shape of a public post-mortem, made as small as it can be. Nothing is written into the book by hand.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import anyio
import msgspec

from crossfoot import Crossfoot, Noop
from crossfoot.message import Message
from crossfoot.worker.retry import Retry

QUICK: dict[str, Any] = {"attempts": 2, "backoff": 0.001, "synchronous": "NORMAL", "reconcile": 0.2}

TABLE = "CREATE TABLE effects (id TEXT, note TEXT)"


class Expected(msgspec.Struct, frozen=True):
    """What must be told first, and of exactly which messages.

    Attributes:
        of: the service whose program is named to `check`.
        words: what the diagnosis says, among other things.
    """

    code: str
    ids: frozenset[str]
    of: Crossfoot
    words: tuple[str, ...] = ()


class Town:
    """Where the incidents happen: one database, and the services on it.

    Args:
        database: a SQLite file, or the URL of a PostgreSQL database.
    """

    def __init__(self, database: str) -> None:
        self.database = database
        self.apps: list[Crossfoot] = []

    @property
    def mark(self) -> str:
        return "%s" if self.database.startswith("postgresql") else "?"

    def service(self, name: str = "billing", **settings: Any) -> Crossfoot:
        app = Crossfoot(name, database=self.database, **{**QUICK, **settings})
        self.apps.append(app)
        return app

    def insert(self, message: Message, tx: Any) -> None:
        tx.execute(f"INSERT INTO effects (id, note) VALUES ({self.mark}, {self.mark})", (message.id, message.subject))

    def close(self) -> None:
        for app in self.apps:
            anyio.run(app.aclose)


def publish(app: Crossfoot, type_: str, *subjects: str, **attributes: Any) -> list[Message]:
    """One message for each subject, numbered from 1 in its payload."""
    given = attributes.pop("data", None)
    messages = [
        app.message(type_, subject=subject, data={"number": number} if given is None else given, **attributes)
        for number, subject in enumerate(subjects, 1)
    ]
    anyio.run(lambda: app.publish(*messages))
    return messages


def cases(count: int) -> list[str]:
    return [f"case-{number}" for number in range(1, count + 1)]


def ids(messages: Iterable[Message]) -> frozenset[str]:
    return frozenset(message.id for message in messages)


def work(app: Crossfoot, seconds: float, **pattern: Any) -> None:
    """Have a worker run for so long."""

    async def until() -> None:
        worker = app.worker(**{"wait": 0.05, "grace": 5.0, **pattern})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await anyio.sleep(seconds)
            worker.stop()
        await app.aclose()

    anyio.run(until)


# ---- the ten ---------------------------------------------------------------------------------------------------------


def catches_and_acks(town: Town) -> Expected:
    """An exception was downgraded to a log line: the queue is green, and three invoices never happened."""
    app = town.service()

    @app.handler("case.released", operation="bill:{subject}")
    def bill(message: Message, tx: Any) -> None:
        with suppress(ConnectionError):
            if message.data["number"] in (2, 5, 9):
                raise ConnectionError("the price service does not answer")
            town.insert(message, tx)

    messages = publish(app, "case.released", *cases(10))
    app.run(until_idle=True)
    return Expected("swallowed", ids(messages[i] for i in (1, 4, 8)), app, ("bill", "does not raise it again"))


def batch_without_failures(town: Town) -> Expected:
    """A handler of batches that reports no failures: it logs the records that it could not do, and returns."""
    app = town.service(batch=10)

    @app.handler("case.released", operation="bill:{subject}", many=True)
    def bill_all(messages: list[Message], tx: Any) -> None:
        for message in messages:
            with suppress(ValueError):
                if message.data["number"] in (3, 7):
                    raise ValueError("no such tariff")
                town.insert(message, tx)

    messages = publish(app, "case.released", *cases(10))
    app.run(until_idle=True)
    return Expected("swallowed", ids([messages[2], messages[6]]), app, ("bill_all",))


def one_blocks_two(town: Town) -> Expected:
    """A malformed record at the head of its line, tried without an end: two good ones wait behind it."""
    app = town.service(ordered=True, attempts=1_000, backoff=0.01, backoff_cap=0.02)

    @app.handler("order.changed")
    def apply(message: Message, tx: Any) -> None:
        if message.data["number"] == 1:
            raise ValueError("amount is no number")
        town.insert(message, tx)

    blocked = publish(app, "order.changed", "order-1", "order-1", "order-1")
    publish(app, "order.changed", "order-2", data={"number": 2})
    work(app, 1.5, retry=Retry(attempts=1_000, base=0.01, cap=0.02))
    return Expected("blocked", ids(blocked), app, (blocked[0].id, "2 messages"))


def visibility_too_short(town: Town) -> Expected:
    """The handler takes longer than the lease, and keeps the event loop from extending it: a second worker has the message, too."""
    begun = threading.Event()

    def service(seconds: float) -> Crossfoot:
        app = town.service()

        @app.handler("case.released", operation="bill:{subject}")
        async def bill(message: Message, tx: Any) -> None:
            if seconds:
                begun.set()
                time.sleep(seconds)  # noqa: ASYNC251 - the bug: it blocks the loop
            await tx.execute("INSERT INTO effects (id, note) VALUES (?, ?)", (message.id, message.subject))

        return app

    slow, quick = service(1.6), service(0.0)
    (message,) = publish(slow, "case.released", "case-1")
    one = threading.Thread(target=work, args=(slow, 2.5), kwargs={"lease": 0.5})
    one.start()
    assert begun.wait(10)
    publish(quick, "case.released", "case-2")
    work(quick, 2.0, lease=0.5)
    one.join()
    return Expected("lease-too-short", ids([message]), quick, ("and its lease on queue billing is",))


def partly_refused(town: Town) -> Expected:
    """A batch of ten is published, two of which are too large; nobody reads the answers one by one."""
    app = town.service(max_bytes=2_000)

    @app.handler("case.released", operation="bill:{subject}")
    def bill(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    messages = [
        app.message("case.released", subject=subject, data={"notes": "x" * (5_000 if number in (4, 8) else 10)})
        for number, subject in enumerate(cases(10), 1)
    ]
    anyio.run(lambda: app.publish(*messages))
    app.run(until_idle=True)
    return Expected("refused", ids([messages[3], messages[7]]), app, ("refused 2 messages", "accepted 8"))


def retention_too_short(town: Town) -> Expected:
    """The workers were down for longer than the queue keeps a message."""
    app = town.service(retention=1.0)

    @app.handler("case.released", operation="bill:{subject}")
    def bill(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    lost = publish(app, "case.released", *cases(3))
    time.sleep(1.3)
    publish(app, "case.released", "case-4")
    work(app, 1.0)
    return Expected("expired", ids(lost), app, ("3 messages", "retention of its queue of 1 s"))


def deployed_without_handler(town: Town) -> Expected:
    """The publisher was deployed with a new type, and the worker that has its handler was not."""
    app = town.service(unknown_for=0.0)

    @app.handler("case.released", operation="bill:{subject}")
    def bill(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    publish(app, "case.released", *cases(3))
    unknown = publish(app, "case.closed", "case-1", "case-2")
    app.run(until_idle=True)
    return Expected("unregistered", ids(unknown), app, ("no handler takes case.closed",))


def charged_twice(town: Town) -> Expected:
    """The shop asked again after a time-out, under a new id, and the handler knows of no operation."""
    app = town.service("payments")

    @app.handler("order.placed")
    def charge(message: Message, tx: Any) -> None:
        town.insert(message, tx)
        tx.outcome("card.charged", amount=message.data["amount"])

    (first,) = publish(app, "order.placed", "order-7", data={"amount": 40})
    (again,) = publish(app, "order.placed", "order-7", data={"amount": 40})
    publish(app, "order.placed", "order-8", "order-9", data={"amount": 40})
    publish(app, "order.placed", "order-9", data={"amount": 15})
    app.run(until_idle=True)
    return Expected("effect-twice", ids([first, again]), app, ("1 business action", "took effect 2 times"))


def cancelled_then_paid(town: Town) -> Expected:
    """The cancellation overtook the payment, and last write won."""
    app = town.service("orders")

    @app.handler("order.*")
    def apply(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    publish(app, "order.cancelled", "order-1", sequence=2)
    (paid,) = publish(app, "order.paid", "order-1", sequence=1)
    publish(app, "order.paid", "order-2", sequence=1)
    publish(app, "order.cancelled", "order-2", sequence=2)
    app.run(until_idle=True, concurrency=1)
    return Expected("out-of-order", ids([paid]), app, ("order.paid, sequence 1", "order.cancelled, sequence 2"))


def nobody_publishes_there(town: Town) -> Expected:
    """One name too many: the consumer listens on `order`, and the shop publishes to `orders`."""
    shop = town.service("shop", queue="embedded:orders")
    consumer = town.service("billing", queue="embedded:order")

    @consumer.handler("order.placed")
    def bill(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    messages = publish(shop, "order.placed", "order-1", "order-2", "order-3")
    work(consumer, 0.5)
    return Expected("nobody-publishes", ids(messages), consumer, ("queue order is worked", "queue orders"))


INCIDENTS: tuple[Callable[[Town], Expected], ...] = (
    catches_and_acks, batch_without_failures, one_blocks_two, visibility_too_short, partly_refused, retention_too_short,
    deployed_without_handler, charged_twice, cancelled_then_paid, nobody_publishes_there,
)  # fmt: skip

NOT_IN_POSTGRESQL = {visibility_too_short.__name__}
"""Its handler is asynchronous, and the way there has another driver."""


def a_good_day(town: Town) -> Crossfoot:
    """Everything that happens to a service that is well: settled, nothing to do, asked for twice, and mended by a retry."""
    app = town.service(attempts=5)
    failed: set[str] = set()

    @app.handler("case.*", operation="bill:{subject}:{sequence}", in_order=True)
    def bill(message: Message, tx: Any) -> Noop | None:
        if message.data["number"] == 3 and message.id not in failed:
            failed.add(message.id)
            raise ConnectionError("the price service does not answer")
        if message.data["number"] == 4:
            return Noop("nothing to bill")
        town.insert(message, tx)
        tx.outcome("invoice.issued", amount=7)
        return None

    publish(app, "case.released", *cases(30), sequence=1)
    publish(app, "case.released", "case-1", "case-2", sequence=1)  # asked for twice: one operation
    publish(app, "case.closed", *cases(30), sequence=2)
    app.run(until_idle=True)
    return app
