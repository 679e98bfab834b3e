"""A service whose messages travel in a PostgreSQL database, with the book in SQLite: the same handlers, the same commands, and
books that balance."""

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
from crossfoot.queues.postgres import PostgresQueue, ensure
from crossfoot.queues.queue import Outgoing
from crossfoot.worker.reconcile import Reconciliation
from tests.acceptance.service_rig import FORMS, Form, Service, a_service, eventually
from tests.acceptance.shell import BIN, ENVIRONMENT, crossfoot, rows
from tests.conformance.database_rig import Sql, bill, insert
from tests.servers.postgres import Postgres, postgres_running

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.server,
    pytest.mark.usefixtures("no_blocking_calls"),
    pytest.mark.xdist_group("postgres"),
]

ServiceOf = Callable[..., Any]


@pytest.fixture
def service_of(postgres: Postgres, postgres_url: str, tmp_path: Path) -> ServiceOf:
    """A service with a queue of its own in the database."""

    @asynccontextmanager
    async def make(form: Form = FORMS[0], url: str = postgres_url, **settings: Any) -> AsyncIterator[Service]:
        name = await ensure(f"billing-{uuid4().hex[:12]}", url=url)
        async with a_service(form, tmp_path, queue=f"postgres:{name}", endpoint=url, **settings) as service:
            yield service

    return make


async def fates(service: Service, *messages: Message) -> list[Fate]:
    """As posted now."""
    await anyio.to_thread.run_sync(post_all, service.app.book)
    return [service.fate(message) for message in messages]


async def look(service: Service) -> None:
    """Compare the queue with the book, when nothing is quite fresh, and without waiting for anything to be overdue."""
    await anyio.sleep(0.05)
    await Reconciliation(service.app.book, service.app.queue, patience=0.02).run()


class TestTheSameHandlers:
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

    async def test_the_events_of_one_subject_take_effect_in_the_order_of_their_publication(
        self, service_of: ServiceOf
    ) -> None:
        async with service_of(ordered=True) as service:
            service.handle("case.released", bill)
            messages = [m for _ in range(10) for m in await service.publish("case.released", "case-1")]
            await service.work(concurrency=4)
            assert service.effects == [message.id for message in messages]

    async def test_what_is_urgent_is_handled_first(self, service_of: ServiceOf) -> None:
        async with service_of() as service:
            service.handle("case.released", bill)
            messages = [
                message
                for number, priority in enumerate((0, 3, 9, 5))
                for message in await service.publish(
                    "case.released", f"case-{number}", extensions={"priority": priority}
                )
            ]
            await service.work(concurrency=1)
            assert service.effects == [messages[number].id for number in (2, 3, 1, 0)]

    async def test_what_a_handler_sends_has_its_priority_too(self, service_of: ServiceOf, postgres: Postgres) -> None:
        async with service_of(queues=["postgres:letters"]) as service:

            def send(message: Message, tx: Any) -> Generator[Sql, Any, None]:
                yield insert(message)
                tx.send("letter.wanted", subject="case-1", to="letters", extensions={"priority": 7})

            service.handle("case.released", send)
            await service.publish("case.released", "case-1")
            await service.work()
            database = str(service.app.settings.endpoint).rpartition("/")[2]
            found = postgres.run("SELECT priority FROM crossfoot_queue WHERE queue = 'letters'", database=database)
            assert found == [(7,)]


class TestLosses:
    async def test_a_row_that_somebody_deleted_is_vanished(self, service_of: ServiceOf, postgres: Postgres) -> None:
        async with service_of() as service:
            lost_1, lost_2 = await service.publish("case.released", "case-1", "case-2")
            await anyio.sleep(0.1)  # what is at the head must be younger: the rest is not searched for
            (kept,) = await service.publish("case.released", "case-3")
            _delete(service, postgres, lost_1, lost_2)
            await look(service)
            assert await fates(service, lost_1, lost_2, kept) == [
                Fate.VANISHED, Fate.VANISHED, Fate.QUEUED,
            ]  # fmt: skip

    async def test_one_that_is_deleted_in_a_workers_hands_is_vanished_or_its_effect_stands(
        self, service_of: ServiceOf, postgres: Postgres
    ) -> None:
        async with service_of() as service:
            service.handle("case.released", bill)
            (lost,) = await service.publish("case.released", "case-1")
            await service.app.queue.receive(1, lease=0.1)
            _delete(service, postgres, lost)
            await service.work()
            await look(service)
            assert await fates(service, lost) == [Fate.VANISHED]

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
            queue = service.app.queue
            assert isinstance(queue, PostgresQueue)
            assert await queue.expired() == []


def _delete(service: Service, server: Postgres, *messages: Message) -> None:
    """As a hand in the SQL prompt would."""
    database = str(service.app.settings.endpoint).rpartition("/")[2]
    for message in messages:
        server.run("DELETE FROM crossfoot_queue WHERE message = %s", message.key, database=database)


class TestTheServer:
    """A server that comes and goes does not end the worker."""

    async def test_a_worker_goes_on_when_the_server_is_started_again(self, service_of: ServiceOf) -> None:
        with postgres_running() as server:
            async with service_of(url=server.url()) as service:
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

    async def test_what_was_published_while_it_was_away_is_sent_by_the_relay(self, service_of: ServiceOf) -> None:
        with postgres_running() as server:
            async with service_of(url=server.url()) as service:
                service.handle("case.released", bill)
                await anyio.to_thread.run_sync(server.kill)
                with pytest.raises(Exception, match=r"was asked nothing|nothing was sent"):
                    await service.publish("case.released", "case-1")
                await anyio.to_thread.run_sync(server.start)
                await service.work()
                assert len(service.effects) == 1


SERVICE = """
import time
from crossfoot import Crossfoot

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

CASES = 150


class TestProcesses:
    """Worker processes that are killed, and what the commands tell afterwards."""

    async def test_workers_killed_in_between_leave_every_effect_once_and_nothing_unaccounted(
        self, postgres_url: str, tmp_path: Path
    ) -> None:
        await ensure("billing", url=postgres_url)
        await anyio.to_thread.run_sync(_kill_and_ask, tmp_path, postgres_url)

    async def test_a_database_without_the_table_ends_a_worker_with_2_and_a_remedy(
        self, postgres_url: str, tmp_path: Path
    ) -> None:
        def ask() -> None:
            (tmp_path / "billing.py").write_text(SERVICE)
            secret = postgres_url.replace("crossfoot@", "crossfoot:s3cret@")
            for queue, says in (
                (f"{secret}?queue=nowhere", "queue nowhere: postgresql://127.0.0.1"),
                (f"{secret}nothing", "create it, or name another one"),
                ("postgresql://me:s3cret@127.0.0.1:1/app", "queue billing cannot be reached"),
            ):
                done = crossfoot(tmp_path, "worker", "billing:app", code=2, CROSSFOOT_QUEUE=queue)
                assert says in " ".join(done.stderr.split())
                assert "s3cret" not in done.stdout + done.stderr

        await anyio.to_thread.run_sync(ask)


def _kill_and_ask(folder: Path, url: str) -> None:
    (folder / "billing.py").write_text(SERVICE)
    (folder / "crossfoot.toml").write_text(
        f'queue = "{url}?queue=billing"\nlease = 1.0\nwait = 0.2\nbackoff = 0.01\nattempts = 2\nreconcile = 0.5\n'
    )
    with closing(sqlite3.connect(folder / "crossfoot.db")) as connection:
        connection.execute("CREATE TABLE effects (subject TEXT)")
        connection.execute("CREATE TABLE letters (subject TEXT)")
    crossfoot(folder, "publish", "billing:app", "case.released", "--subject", "case-0")
    _publish_the_rest(folder, f"{url}?queue=billing")
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
    assert crossfoot(folder, "verify").returncode == 0


def _publish_the_rest(folder: Path, queue: str) -> None:
    app = Crossfoot("billing", database=folder / "crossfoot.db", queue=queue)

    async def publish() -> None:
        await app.publish(*[app.message("case.released", subject=f"case-{number}") for number in range(1, CASES)])
        await app.aclose()

    anyio.run(publish)
