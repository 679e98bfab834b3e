"""A service whose messages travel by RabbitMQ: the same handlers, the same commands, and books that balance.

What the broker moves or drops by itself is found, and what it takes back while a handler runs is not committed.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import msgspec
import pytest

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import post_all
from crossfoot.message import Message
from crossfoot.queues.queue import Outgoing
from crossfoot.queues.rabbitmq import ensure
from crossfoot.worker.reconcile import Reconciliation
from tests.acceptance.service_rig import FORMS, Form, Service, a_service, eventually
from tests.acceptance.shell import BIN, ENVIRONMENT, crossfoot, rows
from tests.conformance.database_rig import Sql, bill, insert
from tests.conformance.rabbitmq_scene import Holder, Waiter, by_hand, control, the_one
from tests.servers.processes import free_port
from tests.servers.rabbitmq import RabbitServer

pytest_plugins = ["tests.servers.rabbitmq_fixtures"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.server,
    pytest.mark.usefixtures("no_blocking_calls"),
    pytest.mark.xdist_group("rabbitmq"),
]

ServiceOf = Callable[..., Any]


@pytest.fixture
def service_of(rabbit: RabbitServer, tmp_path: Path) -> ServiceOf:
    """A service with a queue of its own on the server."""

    @asynccontextmanager
    async def make(
        form: Form = FORMS[0], made: dict[str, Any] | None = None, **settings: Any
    ) -> AsyncIterator[Service]:
        name = await ensure(f"billing-{uuid4().hex[:12]}", url=rabbit.url, **(made or {}))
        async with a_service(form, tmp_path, queue=f"rabbitmq:{name}", endpoint=rabbit.url, **settings) as service:
            yield service

    return make


async def fates(service: Service, *messages: Message) -> list[Fate]:
    """As posted now."""
    await anyio.to_thread.run_sync(post_all, service.app.book)
    return [service.fate(message) for message in messages]


async def look(service: Service, times: int = 1, *, hides: bool = False) -> None:
    """Compare the queue with the book, when nothing is quite fresh, and without waiting for anything to be overdue; nor, unless
    it `hides` something, for what it may hide."""
    await anyio.sleep(0.05)
    if not hides:
        queue = service.app.queue
        queue._capabilities = msgspec.structs.replace(queue.capabilities, hides=0.0)  # type: ignore[attr-defined]  # RabbitMQ's
    reconciliation = Reconciliation(service.app.book, service.app.queue, patience=0.02)
    for _ in range(times):
        await reconciliation.run()


def fail(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    yield insert(message)
    raise RuntimeError("the printer is on fire")


class TestTheSameHandlers:
    """What is in `test_worker.py`, on another queue."""

    @pytest.mark.parametrize("form", FORMS, ids=repr)
    @pytest.mark.parametrize("kind", ["quorum", "classic"])
    async def test_a_message_settles_with_proof_before_its_ack(
        self, service_of: ServiceOf, form: Form, kind: str
    ) -> None:
        async with service_of(form, {"kind": kind}) as service:
            service.handle("case.released", bill)
            (message,) = await service.publish("case.released", "case-1")
            await service.work()
            assert service.fate(message) is Fate.SETTLED
            assert service.kinds(message) == [
                Kind.INTENDED, Kind.PUBLISHED, Kind.RECEIVED, Kind.COMMITTED, Kind.ACKED,
            ]  # fmt: skip
            assert (await service.app.queue.depth()).held == 0

    @pytest.mark.parametrize("batch", [1, 8], ids=["plain", "batch"])
    async def test_a_message_published_twice_settles_once(self, service_of: ServiceOf, batch: int) -> None:
        async with service_of() as service:
            service.handle("case.released", bill)
            message = service.app.message("case.released", subject="case-1")
            await service.app.publish(message, message)
            await service.work(batch=batch)
            assert service.effects == [message.id]
            assert service.fate(message) is Fate.SETTLED

    @pytest.mark.parametrize("kind", ["quorum", "classic"])
    async def test_after_its_last_attempt_it_lies_in_the_dead_letters_with_its_cause(
        self, service_of: ServiceOf, kind: str
    ) -> None:
        async with service_of(made={"kind": kind}) as service:
            service.handle("case.released", fail)
            messages = await service.publish("case.released", "case-1", "case-2")
            await service.app.queue.publish([Outgoing(key="stray|1", body=b"\xff not an event")])
            await service.work(attempts=3)
            for message in messages:
                assert service.fate(message) is Fate.DEAD
                assert service.kinds(message).count(Kind.FAILED) == 3
            dead = [held async for held in service.app.queue.dead_letters()]
            first, *others = sorted(held.attempt for held in dead)
            assert first == 1
            assert all(attempt >= 3 for attempt in others), "one that was taken back on its way is counted, too"
            assert sum("RuntimeError" in held.reason for held in dead) == 2
            assert service.rows("SELECT fate FROM crossfoot_messages WHERE type = 'unreadable'") == [Fate.DEAD]

    @pytest.mark.parametrize("kind", ["quorum", "classic"])
    async def test_one_that_was_in_the_hands_of_workers_that_died_is_not_to_blame(
        self, service_of: ServiceOf, kind: str
    ) -> None:
        async with service_of(made={"kind": kind}) as service:
            service.handle("case.released", bill)
            (message,) = await service.publish("case.released", "case-1")
            for _ in range(7):  # each died with it in its hands
                assert await service.app.queue.receive(1, lease=0.01, wait=2.0)
            await service.work(attempts=2)
            assert service.fate(message) is Fate.SETTLED
            assert service.effects == [message.id]


class TestTakenBack:
    """A connection is the lease there is."""

    async def test_a_handler_whose_connection_is_lost_is_stopped_at_once_and_its_message_settles_at_the_next_one(
        self, service_of: ServiceOf, rabbit: RabbitServer
    ) -> None:
        async with service_of(FORMS[1]) as service:
            began: list[float] = []
            ended: list[float] = []

            async def slow(message: Message, tx: Any) -> None:
                await tx.execute(*insert(message))
                began.append(time.monotonic())
                try:
                    if len(began) == 1:
                        await anyio.sleep(30)
                finally:
                    ended.append(time.monotonic())

            service.app.handler("case.released")(slow)
            (message,) = await service.publish("case.released", "case-1")
            async with service.working(attempts=5):
                await eventually(lambda: began, "the handler")
                await control(rabbit, "close_all_connections", "tested")
                closed = time.monotonic()
                await eventually(lambda: service.effects, "the second delivery")
                await eventually(lambda: service.kinds(message).count(Kind.ACKED), "its ack")
            assert ended[0] - closed < 1.0, "no beat of the leases was waited for"
            assert service.effects == [message.id]
            assert await fates(service, message) == [Fate.SETTLED]
            assert service.kinds(message).count(Kind.FAILED) == 1
            assert ["LeaseLost" in title for title in service.causes().values()] == [True]

    async def test_what_was_committed_before_the_connection_was_lost_is_not_done_again(
        self, service_of: ServiceOf, rabbit: RabbitServer
    ) -> None:
        async with service_of() as service:
            service.handle("case.released", bill)
            messages = await service.publish("case.released", *[f"case-{number}" for number in range(60)])
            async with service.working(attempts=50, concurrency=2):
                for _ in range(3):
                    await anyio.sleep(0.15)
                    await control(rabbit, "close_all_connections", "tested")
                await eventually(
                    lambda: len(set(service.effects)) == 60 and (service.app.queue.depth()), "every effect"
                )
            await service.work(attempts=50)
            assert sorted(service.effects) == sorted(message.id for message in messages)
            assert set(await fates(service, *messages)) == {Fate.SETTLED}

    async def test_a_worker_goes_on_when_the_server_is_started_again(
        self, service_of: ServiceOf, rabbit: RabbitServer
    ) -> None:
        async with service_of() as service:
            service.handle("case.released", bill)
            async with service.working():
                await service.publish("case.released", "case-1")
                await eventually(lambda: len(service.effects) == 1, "the first message")
                rabbit.kill()
                try:
                    with pytest.raises(Exception, match=r"was asked nothing|nothing was sent"):
                        await service.publish("case.released", "case-2")
                finally:
                    rabbit.start()
                await eventually(lambda: len(service.effects) == 2, "the message that the relay sent")
            assert set(service.ids_by_fate()) == {Fate.SETTLED}


class TestWhatTheBrokerHides:
    """Found by looking."""

    async def test_what_it_moved_to_the_dead_letters_is_dead_for_its_reason(self, service_of: ServiceOf) -> None:
        async with service_of(made={"retention": 0.3, "max_attempts": 2}) as service:
            service.handle("case.released", bill)
            (old,) = await service.publish("case.released", "case-1")
            await anyio.sleep(0.5)
            (worn,) = await service.publish("case.released", "case-2")
            for _ in range(2):  # two workers that say nothing any more
                assert await service.app.queue.receive(1, lease=0.05, wait=2.0)
                await anyio.sleep(0.1)
            await look(service)
            assert await fates(service, old, worn) == [Fate.DEAD, Fate.DEAD]
            told = service.rows(
                "SELECT e.details FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message "
                f"WHERE e.kind = {int(Kind.DEAD_LETTERED)} ORDER BY m.subject"
            )
            assert [json.loads(details)["reason"].rpartition(": ")[2] for details in told] == [
                "expired", "delivery_limit",
            ]  # fmt: skip

    async def test_what_a_full_queue_dropped_without_a_word_is_vanished(self, service_of: ServiceOf) -> None:
        bare = {
            "kind": "classic",
            "arguments": {"x-max-length": 1, "x-overflow": "drop-head", "x-dead-letter-routing-key": "nowhere"},
        }
        async with service_of(made=bare) as service:
            service.handle("case.released", bill)
            dropped, there = await service.publish("case.released", "case-1", "case-2")
            await service.work()
            await look(service, 2)
            assert await fates(service, dropped, there) == [Fate.VANISHED, Fate.SETTLED]

    async def test_what_somebody_purged_is_vanished_and_what_a_frozen_worker_holds_is_not(
        self, service_of: ServiceOf, rabbit: RabbitServer
    ) -> None:
        async with service_of() as service, by_hand(rabbit) as channel:
            service.handle("case.released", bill)
            name = service.app.queue.name
            (held,) = await service.publish("case.released", "case-1")
            holder = await anyio.to_thread.run_sync(Holder, name, rabbit)
            try:
                holder.freeze()
                (purged,) = await service.publish("case.released", "case-2")
                await channel.queue_purge(name)
                await look(service, 3)
                assert await fates(service, held, purged) == [Fate.QUEUED, Fate.QUEUED], "nobody can know yet"
            finally:
                await anyio.to_thread.run_sync(holder.kill)
            await service.work()
            await look(service, 2)
            assert await fates(service, held, purged) == [Fate.SETTLED, Fate.VANISHED]

    @pytest.mark.parametrize(
        "kind",
        [
            pytest.param(kind, marks=pytest.mark.proves("hides", engine=f"RabbitMQ {kind}"))
            for kind in ("quorum", "classic")
        ],
    )
    async def test_what_came_to_a_frozen_worker_that_waited_is_not_vanished(
        self, service_of: ServiceOf, rabbit: RabbitServer, kind: str
    ) -> None:
        async with service_of(made={"kind": kind}) as service:
            waiter = await anyio.to_thread.run_sync(Waiter, service.app.queue.name, rabbit)
            try:
                waiter.freeze()
                (message,) = await service.publish("case.released", "case-1")
                assert (await service.app.queue.depth()).held == 0, "it is counted nowhere, because nobody could say so"
                await look(service, 4, hides=True)
                assert await fates(service, message) == [Fate.QUEUED]
            finally:
                await anyio.to_thread.run_sync(waiter.kill)
            service.handle("case.released", bill)
            await service.work()
            assert await fates(service, message) == [Fate.SETTLED]

    @pytest.mark.proves("hides", engine="RabbitMQ quorum")
    async def test_what_waits_for_room_on_its_way_back_into_a_full_queue_is_not_vanished(
        self, service_of: ServiceOf
    ) -> None:
        async with service_of(made={"max_length": 1}) as service:
            queue = service.app.queue
            (message,) = await service.publish("case.released", "case-1")
            await queue.release([(await the_one(queue)).receipt], delay=0.5)
            for _ in range(5):  # a quorum queue takes some more than its limit
                await queue.publish([Outgoing(key="stray|1", body=b"{}")])
            await anyio.sleep(1.0)
            while taken := await queue.receive(10, lease=30.0, wait=0.5):
                await queue.ack([delivery.receipt for delivery in taken])
            assert (await queue.depth()).held == 0, "it is sent again minutes later, and counted nowhere until then"
            await look(service, 4, hides=True)
            assert await fates(service, message) == [Fate.QUEUED]

    async def test_what_another_process_holds_is_allowed_for_in_the_balance(
        self, service_of: ServiceOf, tmp_path: Path
    ) -> None:
        async with service_of(FORMS[1]) as service:
            go_on = anyio.Event()

            async def slow(message: Message, tx: Any) -> None:
                await go_on.wait()
                await tx.execute(*insert(message))

            service.app.handler("case.released")(slow)
            await service.publish("case.released", *[f"case-{number}" for number in range(40)])
            async with service.working(concurrency=1):
                depth = service.app.queue.depth
                await eventually(lambda: _all_in_hand(depth), "everything in hand")
                told = await anyio.to_thread.run_sync(_balance, tmp_path, service)
                go_on.set()
            assert (told["holds"], "40 open" in told["notes"][0]) == (True, True), told

    async def test_what_lies_among_the_dead_without_the_book_knowing_is_dead(self, service_of: ServiceOf) -> None:
        async with service_of() as service:
            (message,) = await service.publish("case.released", "case-1")
            (delivery,) = await service.app.queue.receive(1, lease=30.0, wait=1.0)
            await service.app.queue.dead_letter([delivery], reason="its worker died before it could say so")
            await look(service)
            assert await fates(service, message) == [Fate.DEAD]


async def _all_in_hand(depth: Callable[[], Any]) -> bool:
    found = await depth()
    return (found.ready, found.in_flight) == (0, 40)


def _balance(folder: Path, service: Service) -> Any:
    """As another process sees it."""
    variables: dict[str, Any] = {
        "CROSSFOOT_DATABASE": str(service.path),
        "CROSSFOOT_QUEUE": str(service.app.settings.queue),
        "CROSSFOOT_ENDPOINT": str(service.app.settings.endpoint),
    }
    return json.loads(crossfoot(folder, "balance", "--json", **variables).stdout)["identities"]["holdings"]


SERVICE = """
import time
from crossfoot import Crossfoot, Noop

app = Crossfoot("billing")

@app.handler("case.released", operation="bill:{subject}")
def bill(message, tx):
    time.sleep(0.03)
    tx.execute("INSERT INTO effects (subject) VALUES (?)", (message.subject,))
    tx.send("invoice.issued", subject=message.subject)

@app.handler("invoice.issued", operation="letter:{subject}")
async def write_letter(message, tx):
    await tx.execute("INSERT INTO letters (subject) VALUES (?)", (message.subject,))

@app.handler("case.broken")
def broken(message, tx):
    raise RuntimeError("this case cannot be billed")
"""

CASES = 120


class TestProcesses:
    """Worker processes that are killed, and what the commands tell afterwards."""

    @pytest.mark.parametrize("kind", ["quorum", "classic"])
    async def test_workers_killed_in_between_leave_every_effect_once_and_nothing_unaccounted(
        self, tmp_path: Path, rabbit: RabbitServer, kind: str
    ) -> None:
        name = await ensure(f"billing-{uuid4().hex[:12]}", url=rabbit.url, kind=kind)
        await anyio.to_thread.run_sync(_kill_and_ask, tmp_path, f"{rabbit.url}/{name}")

    async def test_a_queue_that_is_not_there_ends_a_worker_with_2_and_a_remedy(
        self, rabbit: RabbitServer, tmp_path: Path
    ) -> None:
        def ask() -> None:
            (tmp_path / "billing.py").write_text(SERVICE)
            secret = f"amqp://me:s3cret@127.0.0.1:{free_port()}"
            for endpoint, says in (
                (rabbit.url, "queue nowhere does not exist at amqp://127.0.0.1"),
                (secret, "queue nowhere cannot be reached"),
            ):
                done = crossfoot(
                    tmp_path, "worker", "billing:app", code=2,
                    CROSSFOOT_QUEUE="rabbitmq:nowhere", CROSSFOOT_ENDPOINT=endpoint,
                )  # fmt: skip
                assert says in done.stderr
                assert "s3cret" not in done.stdout + done.stderr

        await anyio.to_thread.run_sync(ask)


def _kill_and_ask(folder: Path, url: str) -> None:
    (folder / "billing.py").write_text(SERVICE)
    (folder / "crossfoot.toml").write_text(
        f'queue = "{url}"\nlease = 1.0\nwait = 0.2\nbackoff = 0.01\nattempts = 2\nreconcile = 0.5\n'
    )
    with closing(sqlite3.connect(folder / "crossfoot.db")) as connection:
        connection.execute("CREATE TABLE effects (subject TEXT)")
        connection.execute("CREATE TABLE letters (subject TEXT)")
    crossfoot(folder, "publish", "billing:app", "case.released", "--subject", "case-0")
    _publish_the_rest(folder, url)
    crossfoot(folder, "publish", "billing:app", "case.broken", "--subject", "case-broken")

    chance = random.Random(1)
    for _ in range(3):
        worker = subprocess.Popen(
            [BIN / "crossfoot", "worker", "billing:app"], cwd=folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL
        )
        before = len(rows(folder / "crossfoot.db", "SELECT 1 FROM effects"))
        until = time.monotonic() + 20
        while len(rows(folder / "crossfoot.db", "SELECT 1 FROM effects")) == before:
            assert time.monotonic() < until, "a worker that is to be killed at work does no work"
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.2))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert len(rows(folder / "crossfoot.db", "SELECT 1 FROM effects")) < CASES, "nothing was left to be killed over"
    crossfoot(folder, "worker", "billing:app", "--until-idle")

    subjects = sorted(f"case-{number}" for number in range(CASES))
    for table in ("effects", "letters"):
        assert (
            sorted(subject for (subject,) in rows(folder / "crossfoot.db", f"SELECT subject FROM {table}")) == subjects
        )
    balance = json.loads(crossfoot(folder, "balance", "--json").stdout)
    assert (balance["balanced"], balance["unaccounted"]) == (True, 0)
    assert {name: count for name, count in balance["fates"].items() if count} == {"settled": 2 * CASES, "dead": 1}
    assert "case-broken" in crossfoot(folder, "dead", "list", code=1).stdout
    assert "RuntimeError" in crossfoot(folder, "why", "case-broken", code=1).stdout
    assert crossfoot(folder, "verify").returncode == 0


def _publish_the_rest(folder: Path, url: str) -> None:
    app = Crossfoot("billing", database=folder / "crossfoot.db", queue=url)

    async def publish() -> None:
        await app.publish(*[app.message("case.released", subject=f"case-{number}") for number in range(1, CASES)])
        await app.aclose()

    anyio.run(publish)
