"""A service whose messages travel in a stream: the same handlers, the same commands, and books that balance.

The book stays in SQLite. What the stream loses, whoever lost it, is found by identity.
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
import pytest

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import post_all
from crossfoot.message import Message
from crossfoot.queues.queue import Outgoing
from crossfoot.queues.redis import RedisQueue, ensure
from crossfoot.worker.reconcile import Reconciliation
from tests.acceptance.service_rig import FORMS, Form, Service, a_service, eventually
from tests.acceptance.shell import BIN, ENVIRONMENT, crossfoot, rows
from tests.conformance.database_rig import Sql, bill, insert
from tests.servers.processes import free_port
from tests.servers.valkey import Valkey, valkey_running

pytest_plugins = ["tests.servers.valkey_fixtures"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.server,
    pytest.mark.usefixtures("no_blocking_calls"),
    pytest.mark.xdist_group("valkey"),
]

ServiceOf = Callable[..., Any]


@pytest.fixture
def service_of(valkey: Valkey, tmp_path: Path) -> ServiceOf:
    """A service with a queue of its own on the server."""

    @asynccontextmanager
    async def make(form: Form = FORMS[0], server: Valkey = valkey, **settings: Any) -> AsyncIterator[Service]:
        name = await ensure(f"billing-{uuid4().hex[:12]}", url=server.url)
        async with a_service(form, tmp_path, queue=f"redis:{name}", endpoint=server.url, **settings) as service:
            yield service

    return make


async def fates(service: Service, *messages: Message) -> list[Fate]:
    """As posted now."""
    await anyio.to_thread.run_sync(post_all, service.app.book)
    return [service.fate(message) for message in messages]


async def look(service: Service, times: int = 1) -> None:
    """Compare the queue with the book, when nothing is quite fresh, and without waiting for anything to be overdue."""
    await anyio.sleep(0.05)
    reconciliation = Reconciliation(service.app.book, service.app.queue, patience=0.02)
    for _ in range(times):
        await reconciliation.run()


class TestTheSameHandlers:
    """What is in `test_worker.py`, on another queue."""

    @pytest.mark.parametrize("form", FORMS, ids=repr)
    async def test_a_message_settles_with_proof_before_its_ack(self, service_of: ServiceOf, form: Form) -> None:
        async with service_of(form) as service:
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

    async def test_after_its_last_attempt_it_lies_in_the_dead_letters_with_its_cause(
        self, service_of: ServiceOf
    ) -> None:
        async with service_of() as service:

            def fail(message: Message, tx: Any) -> Generator[Sql, Any, None]:
                yield insert(message)
                raise RuntimeError("the printer is on fire")

            service.handle("case.released", fail)
            messages = await service.publish("case.released", "case-1", "case-2")
            await service.app.queue.publish([Outgoing(key="stray|1", body=b"\xff not an event")])
            await service.work(attempts=3)
            for message in messages:
                assert service.fate(message) is Fate.DEAD
                assert service.kinds(message).count(Kind.FAILED) == 3
            dead = [held async for held in service.app.queue.dead_letters()]
            assert sorted(held.attempt for held in dead) == [1, 3, 3]
            assert service.rows("SELECT fate FROM crossfoot_messages WHERE type = 'unreadable'") == [Fate.DEAD]

    async def test_one_that_was_in_the_hands_of_workers_that_died_is_not_to_blame(self, service_of: ServiceOf) -> None:
        async with service_of() as service:
            service.handle("case.released", bill)
            (message,) = await service.publish("case.released", "case-1")
            for _ in range(7):  # each died with it in its hands
                assert await service.app.queue.receive(1, lease=0.01, wait=2.0)
            await service.work(attempts=2)
            assert service.fate(message) is Fate.SETTLED
            assert service.effects == [message.id]


class TestLosses:
    """What a stream loses without a word."""

    async def test_entries_trimmed_before_they_were_delivered_are_vanished(self, service_of: ServiceOf) -> None:
        async with service_of() as service:
            lost_1, lost_2 = await service.publish("case.released", "case-1", "case-2")
            await anyio.sleep(0.1)  # what is at the head must be younger: the rest is not searched for
            (kept,) = await service.publish("case.released", "case-3")
            with _admin(service) as admin:
                admin.xtrim(service.app.queue.name, maxlen=1, approximate=False)
            await look(service)
            assert await fates(service, lost_1, lost_2, kept) == [
                Fate.VANISHED, Fate.VANISHED, Fate.QUEUED,
            ]  # fmt: skip

    async def test_an_entry_trimmed_while_a_worker_that_died_held_it_is_vanished(self, service_of: ServiceOf) -> None:
        async with service_of() as service:
            service.handle("case.released", bill)
            (lost,) = await service.publish("case.released", "case-1")
            await service.app.queue.receive(1, lease=0.1)
            with _admin(service) as admin:
                admin.xtrim(service.app.queue.name, maxlen=0, approximate=False)
                assert admin.xpending(service.app.queue.name, "crossfoot")["pending"] == 1
            await anyio.sleep(0.2)
            (kept,) = await service.publish("case.released", "case-2")
            await service.work()
            await look(service)
            assert await fates(service, lost, kept) == [Fate.VANISHED, Fate.SETTLED]
            with _admin(service) as admin:
                assert admin.xpending(service.app.queue.name, "crossfoot")["pending"] == 0

    async def test_what_an_emptied_server_held_is_vanished_once_the_queue_is_there_again(
        self, service_of: ServiceOf, tmp_path: Path
    ) -> None:
        with valkey_running(tmp_path / "server") as server:
            async with service_of(server=server) as service:
                messages = await service.publish("case.released", "case-1", "case-2")
                with server.admin() as admin:
                    admin.flushall()
                await ensure(service.app.queue.name, url=server.url)
                await look(service)
                assert set(await fates(service, *messages)) == {Fate.VANISHED}

    async def test_what_lies_among_the_dead_without_the_book_knowing_is_dead(self, service_of: ServiceOf) -> None:
        async with service_of() as service:
            (message,) = await service.publish("case.released", "case-1")
            (delivery,) = await service.app.queue.receive(1, lease=30.0)
            await service.app.queue.dead_letter([delivery], reason="its worker died before it could say so")
            await look(service)
            assert await fates(service, message) == [Fate.DEAD]

    async def test_a_message_past_the_retention_is_booked_as_expired_and_only_then_forgotten(
        self, service_of: ServiceOf
    ) -> None:
        async with service_of(retention=0.2) as service:
            (message,) = await service.publish("case.released", "case-1")
            await service.app.queue.publish([Outgoing(key="stray|1", body=b"nobody's envelope")])
            await anyio.sleep(0.3)
            assert await service.app.queue.receive(10, lease=30.0) == []
            assert await Reconciliation(service.app.book, service.app.queue).run() == {
                Kind.EXPIRED: 2, Kind.DEAD_LETTERED: 0, Kind.VANISHED: 0,
            }  # fmt: skip
            assert await fates(service, message) == [Fate.EXPIRED]
            assert service.rows("SELECT fate FROM crossfoot_messages WHERE type = 'unreadable'") == [Fate.EXPIRED]
            queue = service.app.queue
            assert isinstance(queue, RedisQueue)
            assert await queue.expired() == []

    async def test_a_long_queue_is_not_read_to_find_what_may_be_missing(
        self, service_of: ServiceOf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with service_of() as service:
            first = await service.publish("case.released", *[f"case-{number}" for number in range(20)])
            await anyio.sleep(0.1)
            await service.publish("case.released", *[f"case-{number}" for number in range(20, 150)])
            monkeypatch.setattr(service.app.queue, "browse", lambda: pytest.fail("the queue was browsed"))
            await look(service)
            monkeypatch.undo()
            lost = first[10]
            with _admin(service) as admin:
                (entry,) = [
                    entry
                    for entry, fields in admin.xrange(service.app.queue.name)
                    if lost.id.encode() in fields[b"body"]
                ]
                admin.xdel(service.app.queue.name, entry)
            taken = await service.app.queue.receive(20, lease=30.0)
            await look(service)
            assert await fates(service, lost) == [Fate.VANISHED], "the head has passed its place"
            await service.app.queue.release([delivery.receipt for delivery in taken])


def _admin(service: Service) -> Any:
    """The server's own view of the service's queue."""
    import redis

    return closing(redis.Redis.from_url(str(service.app.settings.endpoint)))


class TestTheServer:
    """A server that comes and goes does not end the worker."""

    async def test_a_worker_goes_on_when_the_server_is_started_again(
        self, service_of: ServiceOf, tmp_path: Path
    ) -> None:
        with valkey_running(tmp_path / "server") as server:
            async with service_of(server=server) as service:
                service.handle("case.released", bill)
                async with service.working(lease=2.0):
                    await service.publish("case.released", "case-1")
                    await eventually(lambda: len(service.effects) == 1, "the first message")
                    await anyio.to_thread.run_sync(server.kill)
                    await anyio.sleep(0.3)
                    await anyio.to_thread.run_sync(server.start)
                    await service.publish("case.released", "case-2")
                    await eventually(lambda: len(service.effects) == 2, "the second message")
                assert set(service.ids_by_fate()) == {Fate.SETTLED}

    async def test_what_was_published_while_it_was_away_is_sent_by_the_relay(
        self, service_of: ServiceOf, tmp_path: Path
    ) -> None:
        with valkey_running(tmp_path / "server") as server:
            async with service_of(server=server) as service:
                service.handle("case.released", bill)
                await anyio.to_thread.run_sync(server.kill)
                with pytest.raises(Exception, match=r"was asked nothing|nothing was sent"):
                    await service.publish("case.released", "case-1")
                await anyio.to_thread.run_sync(server.start)
                await service.work()
                assert len(service.effects) == 1


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

CASES = 200


class TestProcesses:
    """Worker processes that are killed, and what the commands tell afterwards."""

    async def test_workers_killed_in_between_leave_every_effect_once_and_nothing_unaccounted(
        self, tmp_path: Path
    ) -> None:
        with valkey_running(tmp_path / "server") as server:
            await ensure("billing", url=server.url)
            await anyio.to_thread.run_sync(_kill_and_ask, tmp_path, server)

    async def test_a_stream_that_is_not_there_ends_a_worker_with_2_and_a_remedy(
        self, valkey: Valkey, tmp_path: Path
    ) -> None:
        def ask() -> None:
            (tmp_path / "billing.py").write_text(SERVICE)
            secret = valkey.url.replace("redis://", "redis://default:s3cret@").replace(
                str(valkey.port), str(free_port())
            )
            for endpoint, says in (
                (valkey.url, "queue nowhere does not exist: make it with `ensure`, or with XGROUP CREATE nowhere"),
                (secret, "queue nowhere cannot be reached"),
            ):
                done = crossfoot(
                    tmp_path, "worker", "billing:app", code=2,
                    CROSSFOOT_QUEUE="redis:nowhere", CROSSFOOT_ENDPOINT=endpoint,
                )  # fmt: skip
                assert says in done.stderr
                assert "s3cret" not in done.stdout + done.stderr
            wrong = "pulsar://user:s3cret@127.0.0.1/0/q"
            done = crossfoot(tmp_path, "worker", "billing:app", code=2, CROSSFOOT_QUEUE=wrong)
            assert "crossfoot knows" in done.stderr
            assert "s3cret" not in done.stdout + done.stderr

        await anyio.to_thread.run_sync(ask)


def _kill_and_ask(folder: Path, server: Valkey) -> None:
    (folder / "billing.py").write_text(SERVICE)
    (folder / "crossfoot.toml").write_text(
        f'queue = "{server.url}/billing"\nlease = 1.0\nwait = 0.2\nbackoff = 0.01\nattempts = 2\nreconcile = 0.5\n'
    )
    with closing(sqlite3.connect(folder / "crossfoot.db")) as connection:
        connection.execute("CREATE TABLE effects (subject TEXT)")
        connection.execute("CREATE TABLE letters (subject TEXT)")
    crossfoot(folder, "publish", "billing:app", "case.released", "--subject", "case-0")
    _publish_the_rest(folder)
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


def _publish_the_rest(folder: Path) -> None:
    app = Crossfoot("billing", database=folder / "crossfoot.db", queue=_queue_of(folder))

    async def publish() -> None:
        await app.publish(*[app.message("case.released", subject=f"case-{number}") for number in range(1, CASES)])
        await app.aclose()

    anyio.run(publish)


def _queue_of(folder: Path) -> str:
    return (folder / "crossfoot.toml").read_text().split('"')[1]
