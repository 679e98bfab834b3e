"""The ten shapes once more under other names, on other queues and with other handlers, each amid traffic that is well.

And services that are well in ways that look ill: of these nothing must be said.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from crossfoot import Crossfoot, Noop
from crossfoot.books.entry import Kind
from crossfoot.books.replays import FINISHED
from crossfoot.message import Message
from crossfoot.outcomes.brought_back import look
from crossfoot.recover.replay.planning import Asked, plan
from crossfoot.recover.replay.policy import Policy
from crossfoot.recover.replay.running import Runner
from crossfoot.recover.replay.selection import Selection
from crossfoot.worker.retry import Retry
from tests.acceptance.incidents import Expected, Town, ids, publish, work
from tests.acceptance.service_rig import eventually
from tests.acceptance.town import checked

ITEMS = [f"item-{number}" for number in range(1, 13)]


def traffic(town: Town, app: Crossfoot) -> Callable[[], list[Message]]:
    """Traffic that is well, on the service's own queue: events with sequences whose handler does not mind their order, and some of which
    are tried again. Returns what publishes it."""
    failed: set[str] = set()

    @app.handler("stock.counted", operation="count:{subject}:{sequence}")
    def count(message: Message, tx: Any) -> None:
        if message.sequence == 1 and message.data["number"] % 4 == 0 and message.id not in failed:
            failed.add(message.id)
            raise ConnectionError("the shelf does not answer")
        town.insert(message, tx)

    def send() -> list[Message]:
        return [*publish(app, "stock.counted", *ITEMS, sequence=1), *publish(app, "stock.counted", *ITEMS, sequence=2)]

    return send


def work_until_tried(app: Crossfoot, message: Message, times: int = 4) -> None:
    """Have a worker run until a message has failed so often, and the traffic is settled."""
    book = app.book.another().open()
    counted = "SELECT count(DISTINCT e.id) FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message WHERE e.kind = ? AND "

    def tried() -> bool:
        with book.reading() as connection:
            (failures,) = connection.execute(f"{counted} m.id = ?", (Kind.FAILED.value, message.id)).fetchone()
            (settled,) = connection.execute(f"{counted} m.type = ?", (Kind.COMMITTED.value, "stock.counted")).fetchone()
        return bool(failures >= times and settled == 2 * len(ITEMS))

    async def until() -> None:
        worker = app.worker(wait=0.05, grace=5.0, retry=Retry(attempts=1_000, base=0.01, cap=0.02))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: anyio.to_thread.run_sync(tried), "tried again and again")
            worker.stop()
        await app.aclose()

    with closing(book):
        anyio.run(until)


# ---- swallowed ---------------------------------------------------------------------------------------------------------


def a_lookup_that_logs_and_goes_on(town: Town) -> Expected:
    """An asynchronous handler of several types that returns early where the customer is not found."""
    app = town.service("mailroom", queue="embedded:letters")
    send = traffic(town, app)

    @app.handler("letter.*", proves="letter.printed")
    async def print_letter(message: Message, tx: Any) -> None:
        with suppress(KeyError):
            {}[message.data["customer"]] if message.data["customer"] == "unknown" else None
            await tx.execute("INSERT INTO effects (id, note) VALUES (?, ?)", (message.id, message.subject))
            tx.outcome("letter.printed")

    send()
    publish(app, "letter.wanted", "l-1", "l-2", data={"customer": "ann"})
    lost = publish(app, "letter.wanted", "l-3", data={"customer": "unknown"})
    lost += publish(app, "letter.reminder", "l-1", data={"customer": "unknown"})
    app.run(until_idle=True)
    return Expected("swallowed", ids(lost), app, ("print_letter", "2 messages"))


def a_batch_of_two_types(town: Town) -> Expected:
    """Two handlers take lists; one of them leaves out what it cannot read, and says nothing."""
    app = town.service("ledger", batch=7)
    send = traffic(town, app)

    @app.handler("entry.posted", many=True)
    def post_all(messages: list[Message], tx: Any) -> None:
        for message in messages:
            if message.data["number"] % 5:
                town.insert(message, tx)
                tx.of(message).outcome("entry.written")

    @app.handler("entry.reversed", many=True)
    def reverse_all(messages: list[Message], tx: Any) -> None:
        for message in messages:
            town.insert(message, tx)

    accounts = [f"account-{number}" for number in range(1, 12)]
    posted = publish(app, "entry.posted", *accounts)
    send()
    publish(app, "entry.reversed", *accounts)
    app.run(until_idle=True)
    return Expected("swallowed", ids([posted[4], posted[9]]), app, ("post_all",))


# ---- blocked ----------------------------------------------------------------------------------------------------------


def one_blocks_its_partition(town: Town) -> Expected:
    """What stands in one line are messages of one partition key, of several subjects and types."""
    app = town.service("shipping", ordered=True, attempts=1_000)
    send = traffic(town, app)

    @app.handler("parcel.*")
    def label(message: Message, tx: Any) -> None:
        town.insert(message, tx)
        if message.subject == "parcel-1":
            raise KeyError("weight")

    (first,) = publish(app, "parcel.packed", "parcel-1", partitionkey="depot-7")
    behind = publish(app, "parcel.packed", "parcel-2", partitionkey="depot-7")
    behind += publish(app, "parcel.sealed", "parcel-3", partitionkey="depot-7")
    publish(app, "parcel.packed", "parcel-4", partitionkey="depot-8")
    send()
    work_until_tried(app, first)
    return Expected("blocked", ids([first, *behind]), app, (first.id, "2 messages"))


def one_that_others_wait_for_in_order(town: Town) -> Expected:
    """A handler takes events in order: those that name the one that fails are put aside, and it is tried again and again."""
    app = town.service("beds", queue="embedded:beds", attempts=1_000)
    send = traffic(town, app)

    @app.handler("bed.*", in_order=True)
    def assign(message: Message, tx: Any) -> None:
        town.insert(message, tx)
        if message.type == "bed.taken" and message.subject == "bed-1":
            raise KeyError("patient")

    (first,) = publish(app, "bed.taken", "bed-1", sequence=1)
    behind = publish(app, "bed.moved", "bed-1", sequence=2, predecessor=1)
    behind += publish(app, "bed.left", "bed-1", sequence=3, predecessor=2)
    publish(app, "bed.taken", "bed-2", sequence=1)
    send()
    work_until_tried(app, first)
    return Expected("blocked", ids([first, *behind]), app, (first.id, "2 messages of bed-1"))


# ---- the lease ---------------------------------------------------------------------------------------------------------


def a_report_that_blocks_the_loop(town: Town) -> Expected:
    """Two types; only one is slow, and only its message is in two hands."""
    begun = threading.Event()

    def service(seconds: float) -> Crossfoot:
        app = town.service("reports", queue="embedded:reports")

        @app.handler("report.wanted", operation="report:{subject}")
        async def make(message: Message, tx: Any) -> None:
            if seconds:
                begun.set()
                time.sleep(seconds)  # noqa: ASYNC251 - the bug: it blocks the loop
            await tx.execute("INSERT INTO effects (id, note) VALUES (?, ?)", (message.id, message.subject))

        @app.handler("report.read")
        def note(message: Message, tx: Any) -> None:
            town.insert(message, tx)

        return app

    slow, quick = service(1.3), service(0.0)
    (message,) = publish(slow, "report.wanted", "march")
    one = threading.Thread(target=work, args=(slow, 2.0), kwargs={"lease": 0.4})
    one.start()
    assert begun.wait(10)
    publish(quick, "report.read", *(f"r-{number}" for number in range(12)))
    work(quick, 1.5, lease=0.4)
    one.join()
    return Expected("lease-too-short", ids([message]), quick, ("report.wanted", "on queue reports is"))


# ---- publishing --------------------------------------------------------------------------------------------------------


def letters_that_are_too_large(town: Town) -> Expected:
    """Batches of several types for a queue that another service works; two letters of one type are larger than it takes."""
    app = town.service("press", queue="embedded:gallery", max_bytes=3_000)
    send = traffic(town, app)

    @app.handler("page.*")
    def show(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    send()
    refused = []
    for large in ("page-3", "page-5"):
        pages = [
            app.message(type_, subject=subject, data={"text": "x" * (6_000 if (type_, subject) == ("page.set", large) else 10)})
            for type_ in ("page.set", "page.proofed") for subject in ("page-1", large, "page-9")
        ]  # fmt: skip
        anyio.run(partial(app.publish, *pages))
        refused.append(pages[1])
    app.run(until_idle=True)
    return Expected("refused", ids(refused), app, ("queue gallery refused 2 messages",))


def two_types_on_a_queue_that_is_down(town: Town) -> Expected:
    """The outage was longer than the retention; before it all was well."""
    before, app = (town.service("doors", queue="embedded:doors", retention=retention) for retention in (3_600.0, 0.5))
    send = traffic(town, before)
    for service in (before, app):

        @service.handler("door.*")
        def log(message: Message, tx: Any) -> None:
            town.insert(message, tx)

    send()
    publish(before, "door.opened", "door-1")
    before.run(until_idle=True)
    lost = publish(app, "door.opened", "door-2") + publish(app, "door.closed", "door-2", "door-3")
    time.sleep(0.6)
    app.run(until_idle=True)
    return Expected("expired", ids(lost), app, ("3 messages of queue doors", "retention of its queue of 500 ms"))


def half_of_the_handlers(town: Town) -> Expected:
    """The worker of the last version is at work: two types are new, one of them with a handler whose pattern nearly fits."""
    app = town.service("claims", queue="embedded:claims", unknown_for=0.0, batch=5)
    send = traffic(town, app)

    @app.handler("claim.filed")
    def file(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    @app.handler("claims.*")
    def never(message: Message, tx: Any) -> None:
        raise AssertionError

    publish(app, "claim.filed", "claim-1", "claim-2")
    unknown = publish(app, "claim.appealed", "claim-1")
    send()
    unknown += publish(app, "claim.closed", "claim-1", "claim-2")
    app.run(until_idle=True)
    return Expected("unregistered", ids(unknown), app, ("no handler takes claim.appealed and claim.closed", "3 dead"))


# ---- once, and in order ------------------------------------------------------------------------------------------------


def a_key_that_names_the_message(town: Town) -> Expected:
    """The operation key names the message's id, so that it never is the same twice; asked for three times."""
    app = town.service("tickets", queue="embedded:tickets")
    send = traffic(town, app)

    @app.handler("seat.booked", operation="seat:{id}")
    def book(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    twice = [publish(app, "seat.booked", "show-3", data={"seat": "A7"})[0] for _ in range(3)]
    publish(app, "seat.booked", "show-3", data={"seat": "A8"})
    publish(app, "seat.booked", "show-4", data={"seat": "A7"})
    send()
    app.run(until_idle=True)
    return Expected("effect-twice", ids(twice), app, ("1 business action", "3 times", "names the message's id"))


def two_handlers_and_the_last_write(town: Town) -> Expected:
    """Each type has a handler of its own, two subjects are told the wrong way round, one of them in three events."""
    app = town.service("accounts", queue="embedded:accounts", batch=4)
    send = traffic(town, app)

    @app.handler("account.opened")
    def open_(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    @app.handler("account.closed")
    def close(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    send()
    publish(app, "account.closed", "acc-1", sequence=12)
    wrong = publish(app, "account.opened", "acc-1", sequence=11)
    publish(app, "account.closed", "acc-2", sequence=3)
    wrong += publish(app, "account.opened", "acc-2", sequence=1) + publish(app, "account.closed", "acc-2", sequence=2)
    publish(app, "account.opened", "acc-3", sequence=1)
    publish(app, "account.closed", "acc-3", sequence=2)
    app.run(until_idle=True, concurrency=1)
    return Expected("out-of-order", ids(wrong), app, ("3 events of queue accounts", "was sent first"))


def the_plural_again(town: Town) -> Expected:
    """A service with traffic on its own queue is not the one: the publisher of another one wrote `invoice` for `invoices`."""
    app = town.service("stock")
    send = traffic(town, app)
    send()
    app.run(until_idle=True)
    shop = town.service("shop", queue="embedded:invoice")
    consumer = town.service("invoices", queue="embedded:invoices", batch=3)

    @consumer.handler("invoice.*")
    def pay(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    lost = publish(shop, "invoice.due", "i-1", "i-2") + publish(shop, "invoice.paid", "i-1")
    work(consumer, 0.4)
    return Expected("nobody-publishes", ids(lost), consumer, ("queue invoices is worked", "queue invoice,"))


VARIATIONS: tuple[Callable[[Town], Expected], ...] = (
    a_lookup_that_logs_and_goes_on, a_batch_of_two_types, one_blocks_its_partition, one_that_others_wait_for_in_order,
    a_report_that_blocks_the_loop, letters_that_are_too_large, two_types_on_a_queue_that_is_down, half_of_the_handlers,
    a_key_that_names_the_message, two_handlers_and_the_last_write, the_plural_again,
)  # fmt: skip

ASYNCHRONOUS = {one.__name__ for one in (a_lookup_that_logs_and_goes_on, a_report_that_blocks_the_loop)}
"""Whose handlers are; in PostgreSQL the way there has another driver."""


# ---- well, though it may not look so -----------------------------------------------------------------------------------


def retries_and_several_workers(town: Town) -> Crossfoot:
    """A payment that is tried again is applied behind its cancellation, and a backlog is worked by many at once."""
    app = town.service("orders", attempts=6)
    failed: set[str] = set()

    @app.handler("order.*")
    def apply(message: Message, tx: Any) -> None:
        if message.type == "order.paid" and message.id not in failed and message.data["number"] % 3 == 0:
            failed.add(message.id)
            raise ConnectionError("the bank does not answer")
        town.insert(message, tx)

    orders = [f"order-{number}" for number in range(1, 25)]
    publish(app, "order.paid", *orders, sequence=1)
    publish(app, "order.cancelled", *orders, sequence=2)
    app.run(until_idle=True, concurrency=4)
    return app


def a_deploy(town: Town) -> Crossfoot:
    """The new type comes before the version that has its handler; the old one hands its messages back."""
    old, new = town.service("claims"), town.service("claims")

    def file(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    old.handler("claim.filed")(file)
    new.handler("claim.*")(file)
    publish(old, "claim.filed", "claim-1", "claim-2")
    publish(old, "claim.closed", "claim-1", "claim-2")
    work(old, 0.4)
    new.run(until_idle=True)
    return new


def priorities_and_what_waits(town: Town) -> Crossfoot:
    """What is urgent overtakes, and events that came early wait for theirs."""
    app = town.service("ward")

    @app.handler("bed.*", in_order=True)
    def assign(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    @app.handler("alarm.*")
    def ring(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    rooms = [f"room-{number}" for number in range(1, 9)]
    publish(app, "bed.left", *rooms, sequence=2, predecessor=1)
    publish(app, "bed.taken", *rooms, sequence=1)
    publish(app, "alarm.raised", *rooms, sequence=1)
    publish(app, "alarm.quiet", *rooms, sequence=2, extensions={"priority": 9})
    app.run(until_idle=True)
    return app


def nothing_to_do(town: Town) -> Crossfoot:
    """A habit of nothing, the same asked for twice under one key, and messages without a subject."""
    app = town.service("meters", batch=6)

    @app.handler("meter.read", operation="read:{subject}:{data.at}")
    def read(message: Message, tx: Any) -> Noop | None:
        if message.data["value"] == 0:
            return Noop("no consumption")
        town.insert(message, tx)
        return None

    for at in range(5):
        publish(app, "meter.read", "m-1", "m-2", data={"at": at, "value": at % 2})
        publish(app, "meter.read", "m-1", data={"at": at, "value": at % 2})
    app.run(until_idle=True)
    return app


def what_a_handler_sends(town: Town) -> Crossfoot:
    """A handler that is tried again sends its event after the later one, and who receives both does not mind."""
    app = town.service("flow", batch=5, attempts=5)
    failed: set[str] = set()

    @app.handler("part.*", operation="part:{subject}:{sequence}")
    def make(message: Message, tx: Any) -> None:
        if message.sequence == 1 and message.id not in failed:
            failed.add(message.id)
            raise ConnectionError("the press does not answer")
        town.insert(message, tx)
        tx.send("part.made", subject=message.subject, data={"of": message.sequence}, sequence=message.sequence)

    @app.handler("part.made", name="store")
    def store(message: Message, tx: Any) -> None:
        town.insert(message, tx)

    publish(app, "part.wanted", *ITEMS, sequence=1)
    publish(app, "part.changed", *ITEMS, sequence=2)
    app.run(until_idle=True)
    return app


def a_planned_replay(town: Town) -> Crossfoot:
    """Two payments died, were mended, and came back behind what had been shipped meanwhile."""
    app = town.service("orders", attempts=1)
    broken = True

    @app.handler("order.*")
    def apply(message: Message, tx: Any) -> None:
        if broken and message.type == "order.paid" and message.data["number"] in (2, 5):
            raise ValueError("rounding")
        town.insert(message, tx)

    publish(app, "order.paid", *ITEMS, sequence=1)
    publish(app, "order.shipped", *ITEMS, sequence=2)
    app.run(until_idle=True)
    assert [one.code for one in checked(app).findings] == ["failing", "stale-replay"]
    broken = False

    async def replay() -> None:
        asked = Asked(selection=Selection(), by="anna", why="mended", horizon=None, transform=None)
        worker = app.worker(wait=0.05, grace=5.0)
        await app.queue.open()
        number, _ = await plan(app.book, app.queue, app.registry, asked)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            with closing(app.book.another()) as book:
                replayed = await Runner(
                    book, app.queue, number, Policy(rate=10_000.0, patience=20.0), hold=1.0, look=look
                ).run()
            worker.stop()
        assert replayed.state == FINISHED
        await app.aclose()

    app.book.open()
    anyio.run(replay)
    return app


WELL: tuple[Callable[[Town], Crossfoot], ...] = (
    retries_and_several_workers, a_deploy, priorities_and_what_waits, nothing_to_do, what_a_handler_sends, a_planned_replay,
)  # fmt: skip
