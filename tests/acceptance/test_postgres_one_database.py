"""Book, queue and effects in one PostgreSQL database: an ack is a part of the effect."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest

from crossfoot import Crossfoot
from crossfoot.books.entry import ACK_REASONS, Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import post_all
from crossfoot.books.stock import take_stock
from crossfoot.books.verify import verify
from crossfoot.connection import without_driver
from crossfoot.message import Message
from crossfoot.postgres import connect
from crossfoot.queues.postgres import PostgresQueue
from crossfoot.queues.queue import Outgoing
from crossfoot.worker.retry import Retry
from tests.acceptance.service_rig import eventually
from tests.acceptance.shell import ENVIRONMENT, crossfoot
from tests.servers.postgres import Postgres
from tests.servers.undone import undo, was_undone

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.server,
    pytest.mark.xdist_group("postgres"),
]


class House:
    """A service with everything in one database."""

    def __init__(self, app: Crossfoot, url: str) -> None:
        self.app = app
        self.url = url

    async def work(self, **pattern: Any) -> None:
        settings = {"wait": 0.05, "grace": 5.0, "retry": Retry(attempts=2, base=0.01), "concurrency": 2} | pattern
        with anyio.fail_after(30):
            await self.app.worker(**settings).run(until_idle=True)

    async def publish(self, type_: str, *subjects: str) -> list[Message]:
        messages = [self.app.message(type_, subject=subject) for subject in subjects]
        await self.app.publish(*messages)
        return messages

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.url) as connection:
            found = connection.execute(sql.encode(), parameters or None).fetchall()
        return [row[0] if len(row) == 1 else row for row in found]

    def kinds(self, message: Message) -> list[Kind]:
        found = self.rows(
            "SELECT e.kind FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message WHERE m.id = %s ORDER BY e.id",
            message.id,
        )
        return [Kind(kind) for kind in found]

    async def fates(self, *messages: Message) -> list[Fate]:
        await anyio.to_thread.run_sync(post_all, self.app.book)
        return [Fate(*self.rows("SELECT fate FROM crossfoot_messages WHERE id = %s", one.id)) for one in messages]

    async def assert_sound(self) -> None:
        """The queue is empty, the books balance, and nothing was acked without a reason."""
        assert (await self.app.queue.depth()).held == 0
        await anyio.to_thread.run_sync(assert_books, self.url)


def assert_books(url: str) -> None:
    connection = connect(url)
    now = time.time_ns() // 1_000
    assert not verify(connection, now).differences
    stock = take_stock(connection, now, depth_of=None)
    assert stock.unaccounted == 0
    assert not [name for name, identity in stock.identities.items() if identity.holds is False]
    reasons = ", ".join(str(kind.value) for kind in ACK_REASONS)
    assert connection.execute(
        f"""SELECT count(*) FROM crossfoot_entries a WHERE a.kind = {Kind.ACKED.value} AND NOT EXISTS (
          SELECT 1 FROM crossfoot_entries p WHERE p.message = a.message AND p.kind IN ({reasons}))"""
    ).fetchall() == [(0,)]
    connection.close()


@pytest.fixture
async def house(postgres_url: str) -> AsyncIterator[House]:
    async with a_house(postgres_url) as made:
        yield made


@asynccontextmanager
async def a_house(url: str, **settings: Any) -> AsyncIterator[House]:
    plain = without_driver(url)
    with psycopg.connect(plain) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS effects (subject TEXT)")
    app = Crossfoot("billing", database=url, **settings)
    try:
        yield House(app, plain)
    finally:
        await app.aclose()


def bill(message: Message, tx: Any) -> None:
    tx.execute("INSERT INTO effects VALUES (%s)", (message.subject,))


async def abill(message: Message, tx: Any) -> None:
    await tx.execute("INSERT INTO effects VALUES (%s)", (message.subject,))


async def pg_bill(message: Message, tx: Any) -> None:
    await tx.execute("INSERT INTO effects VALUES ($1)", [message.subject])


MANNERS = {
    "plain": {"batch": 1},
    "careful": {"batch": 4},
    "optimistic": {"batch": 4, "optimistic": True},
}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_child_that_a_handler_forks_writes_nothing_in_its_transaction(house: House, is_async: bool) -> None:
    """Both would speak on one connection, and commit both rows."""
    ends: list[int] = []

    def fork() -> None:
        if child := os.fork():
            ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    def bill_twice(message: Message, tx: Any) -> None:
        tx.outcome("invoice.begun")
        fork()
        bill(message, tx)

    async def abill_twice(message: Message, tx: Any) -> None:
        await tx.begin()
        fork()
        await abill(message, tx)

    house.app.handler("case.released", name="bill")(abill_twice if is_async else bill_twice)
    messages = await house.publish("case.released", "case-1", "case-2")
    await house.work()
    assert ends == [70, 70], "the child is told, and ended where its handler ends"
    assert sorted(house.rows("SELECT subject FROM effects")) == ["case-1", "case-2"]
    assert await house.fates(*messages) == [Fate.SETTLED, Fate.SETTLED]
    await house.assert_sound()


@pytest.mark.parametrize("manner", MANNERS.values(), ids=MANNERS)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_one_that_was_taken_away_is_undone_and_those_beside_it_commit(
    house: House, is_async: bool, manner: dict[str, Any]
) -> None:
    taken: list[Any] = []

    def take_away(subject: str | None) -> None:
        if subject == "case-2" and not taken:
            with psycopg.connect(house.url, autocommit=True) as operator:
                taken.append(operator.execute(TAKE_AWAY, ("%case-2%",)).rowcount)

    def bill_slowly(message: Message, tx: Any) -> None:
        bill(message, tx)
        take_away(message.subject)

    async def abill_slowly(message: Message, tx: Any) -> None:
        await abill(message, tx)
        await anyio.to_thread.run_sync(take_away, message.subject)

    house.app.handler("case.released", operation="bill:{subject}")(abill_slowly if is_async else bill_slowly)
    messages = await house.publish("case.released", "case-1", "case-2", "case-3")
    await house.work(**manner)
    assert taken == [1]
    assert sorted(house.rows("SELECT subject FROM effects")) == ["case-1", "case-2", "case-3"]
    assert await house.fates(*messages) == [Fate.SETTLED] * 3
    assert [house.kinds(message).count(Kind.FAILED) for message in messages] == [0, 1, 0]
    (cause,) = house.rows("SELECT title FROM crossfoot_causes")
    assert cause.startswith("LeaseLost")
    await house.assert_sound()


TAKE_AWAY = """
UPDATE crossfoot_queue SET token = 4711, due_at = now() + interval '1 second' WHERE convert_from(body, 'UTF8') LIKE %s
"""
"""Somebody else has it for a second, and dies with it."""


@pytest.mark.parametrize("batch", [1, 4], ids=["plain", "batch"])
@pytest.mark.parametrize("handler", [bill, abill], ids=["sync", "async"])
async def test_effect_proof_and_ack_are_one_transaction(house: House, handler: Any, batch: int) -> None:
    await assert_one_transaction(house, handler, batch)


@pytest.mark.parametrize("batch", [1, 4], ids=["plain", "batch"])
async def test_so_they_are_through_asyncpg(postgres_url: str, batch: int) -> None:
    async with a_house(postgres_url.replace("postgresql:", "postgresql+asyncpg:")) as house:
        await assert_one_transaction(house, pg_bill, batch)


async def assert_one_transaction(house: House, handler: Any, batch: int) -> None:
    house.app.handler("case.released", operation="bill:{subject}", name="bill")(handler)
    messages = await house.publish("case.released", *(f"case-{number}" for number in range(10)))
    assert house.kinds(messages[0]) == [Kind.PUBLISHED], "published without a boundary in between"
    await house.work(batch=batch)
    assert sorted(house.rows("SELECT subject FROM effects")) == sorted(str(one.subject) for one in messages)
    for message in messages:
        assert house.kinds(message) == [Kind.PUBLISHED, Kind.RECEIVED, Kind.COMMITTED, Kind.ACKED]
    committed = house.rows(
        f"SELECT count(DISTINCT xmin::text), count(*) FROM crossfoot_entries WHERE kind IN ({Kind.COMMITTED}, {Kind.ACKED})"
    )
    assert committed[0][0] * 2 <= committed[0][1], "an ack was a transaction of its own"
    await house.assert_sound()


async def test_a_message_published_twice_settles_once(house: House) -> None:
    house.app.handler("case.released", operation="bill:{subject}", name="bill")(bill)
    message = house.app.message("case.released", subject="case-1")
    await house.app.publish(message, message)
    await house.work()
    assert house.rows("SELECT subject FROM effects") == ["case-1"]
    assert await house.fates(message) == [Fate.SETTLED]
    await house.assert_sound()


async def test_one_that_fails_again_and_again_is_dead_with_its_cause_in_one_step(house: House) -> None:
    @house.app.handler("case.released")
    def fail(message: Message, tx: Any) -> None:
        tx.execute("INSERT INTO effects VALUES (%s)", (message.subject,))
        raise RuntimeError("the printer is on fire")

    (message,) = await house.publish("case.released", "case-1")
    await house.work()
    assert house.rows("SELECT subject FROM effects") == []
    assert house.kinds(message).count(Kind.FAILED) == 2
    assert await house.fates(message) == [Fate.DEAD]
    assert [held.attempt async for held in house.app.queue.dead_letters()] == [2]


async def test_the_receipt_is_the_fence_a_worker_that_lost_its_message_commits_nothing(house: House) -> None:
    @house.app.handler("case.released", operation="bill:{subject}")
    async def slow(message: Message, tx: Any) -> None:
        await tx.execute("INSERT INTO effects VALUES (%s)", (message.subject,))
        if not taken:
            with psycopg.connect(house.url, autocommit=True) as operator:  # as if its lease had run out meanwhile
                operator.execute("UPDATE crossfoot_queue SET due_at = now() - interval '1 second'")
            async with PostgresQueue("billing", url=house.url) as other:
                taken.extend(await other.receive(1, lease=1.0))

    taken: list[Any] = []
    (message,) = await house.publish("case.released", "case-1")
    await house.work()
    assert len(taken) == 1
    assert house.rows("SELECT subject FROM effects") == ["case-1"], "the first commit went through, too"
    assert Kind.FAILED in house.kinds(message)
    assert await house.fates(message) == [Fate.SETTLED]
    await house.assert_sound()


@pytest.mark.parametrize(("lease", "commits"), [(6.0, True), (0.6, False)], ids=["long lease", "short lease"])
async def test_a_handler_that_sees_an_older_state_needs_a_lease_of_three_times_what_it_takes(
    postgres_url: str, lease: float, commits: bool
) -> None:
    older = f"{postgres_url}?options=-cdefault_transaction_isolation%3Drepeatable%5C%20read"
    async with a_house(older) as house:

        @house.app.handler("case.released", operation="bill:{subject}")
        async def slow(message: Message, tx: Any) -> None:
            await tx.execute("INSERT INTO effects VALUES (%s)", (message.subject,))
            await anyio.sleep(0.5)

        (message,) = await house.publish("case.released", "case-1")
        await house.work(lease=lease)
        assert house.rows("SELECT subject FROM effects") == (["case-1"] if commits else [])
        assert await house.fates(message) == [Fate.SETTLED if commits else Fate.DEAD]


async def test_the_events_of_one_subject_take_effect_in_order(postgres_url: str) -> None:
    async with a_house(postgres_url, ordered=True) as house:
        house.app.handler("case.released", name="bill")(bill)
        for _ in range(8):
            await house.publish("case.released", "case-1", "case-2")
        await house.work(concurrency=4)
        assert house.rows("SELECT subject FROM effects").count("case-1") == 8
        await house.assert_sound()


async def test_what_somebody_else_published_is_delivered_to_a_worker_that_waits(house: House) -> None:
    house.app.handler("case.released", name="bill")(bill)
    worker = house.app.worker(wait=5.0, grace=5.0)
    ready = anyio.Event()
    worker.on_ready = ready.set
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await ready.wait()
        await anyio.sleep(0.2)  # for it to wait in its receive
        async with PostgresQueue("billing", url=house.url) as other:
            message = house.app.message("case.released", subject="case-1")
            from crossfoot.message import encode

            await other.publish([Outgoing(key=message.key, body=encode(message))])
        await eventually(lambda: house.rows("SELECT subject FROM effects") == ["case-1"], "the effect")
        worker.stop()


PROGRAM = """
import sys, time
from crossfoot import Crossfoot

url = sys.argv[1]
app = Crossfoot("billing", database=url, queue="postgres:billing",
                lease=1.0, wait=0.2, backoff=0.01, reconcile=0.5)

@app.handler("case.released", operation="bill:{subject}")
def bill(message, tx):
    tx.execute("INSERT INTO effects VALUES (%s)", (message.subject,))
    time.sleep(0.01)

app.run(until_idle=sys.argv[2] == "until idle", batch=int(sys.argv[3]))
"""

CASES = 1_000


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 8], ids=["plain", "batch"])
async def test_workers_killed_at_any_moment_leave_every_effect_once(
    postgres: Postgres, postgres_url: str, tmp_path: Path, batch: int
) -> None:
    (tmp_path / "billing.py").write_text(PROGRAM)

    def start(how: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "billing.py", postgres_url, how, str(batch)]
        return subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT)

    def torment() -> None:
        chance = random.Random(batch)
        for _ in range(4):
            workers = [start("for ever") for _ in range(2)]
            before = count()
            until = time.monotonic() + 30
            while count() == before and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 0.3))
            for worker in workers:
                worker.send_signal(signal.SIGKILL)
                worker.wait()
        assert 0 < count() < CASES, "nobody was killed at work"
        assert start("until idle").wait() == 0

    async with a_house(postgres_url) as house:

        def count() -> int:
            return int(house.rows("SELECT count(*) FROM effects")[0])

        messages = await house.publish("case.released", *(f"case-{number}" for number in range(CASES)))
        await anyio.to_thread.run_sync(torment)
        subjects = house.rows("SELECT subject FROM effects")
        assert sorted(subjects) == sorted(str(one.subject) for one in messages)
        assert set(await house.fates(*messages)) == {Fate.SETTLED}
        await house.assert_sound()


async def test_the_commands_tell_what_the_queue_holds(house: House, tmp_path: Path) -> None:
    house.app.handler("case.released", name="bill")(bill)
    await house.publish("case.released", "case-1")
    await house.work()
    await house.publish("case.released", "case-2")
    await anyio.to_thread.run_sync(post_all, house.app.book)

    def ask() -> Any:
        return json.loads(crossfoot(tmp_path, "balance", "--json", CROSSFOOT_DATABASE=house.url).stdout)

    balance = await anyio.to_thread.run_sync(ask)
    assert (balance["balanced"], balance["unaccounted"]) == (True, 0)
    assert {name: count for name, count in balance["fates"].items() if count} == {"settled": 1, "queued": 1}
    holdings = balance["identities"]["holdings"]
    assert holdings["holds"] is True, holdings


class TestUndoneForTheSakeOfAnother:
    """Workers and publishers stand in each other's way; none of them may stop for it."""

    async def undo(self, house: House, what: str) -> None:
        house.app.book.open()
        undo(house.url, what)

    @pytest.mark.parametrize("batch", [1, 4], ids=["plain", "batch"])
    async def test_failures_are_booked_at_the_next_try(self, house: House, batch: int) -> None:
        def refuse(message: Message, tx: Any) -> None:
            raise ValueError("the printer is on fire")

        house.app.handler("case.released")(refuse)
        messages = await house.publish("case.released", "case-1", "case-2")
        await self.undo(house, "UPDATE OF operation ON crossfoot_records")
        await house.work(batch=batch)

        assert await house.fates(*messages) == [Fate.DEAD, Fate.DEAD]
        assert was_undone(house.url)
        assert [house.kinds(one).count(Kind.DEAD_LETTERED) for one in messages] == [1, 1]
        await house.assert_sound()

    async def test_what_is_received_is_handled_once(self, house: House) -> None:
        house.app.handler("case.released")(bill)
        messages = await house.publish("case.released", "case-1", "case-2")
        await self.undo(house, "INSERT ON crossfoot_entries")
        await house.work()

        assert was_undone(house.url)
        assert [house.kinds(one).count(Kind.RECEIVED) for one in messages] == [1, 1]
        assert sorted(house.rows("SELECT subject FROM effects")) == ["case-1", "case-2"]
        await house.assert_sound()

    async def test_what_is_published_is_published_once(self, house: House) -> None:
        house.app.handler("case.released")(bill)
        await self.undo(house, "INSERT ON crossfoot_entries")
        (message,) = await house.publish("case.released", "case-1")
        await house.work()

        assert house.kinds(message).count(Kind.PUBLISHED) == 1
        assert house.rows("SELECT subject FROM effects") == ["case-1"]
        await house.assert_sound()


async def test_a_publisher_whose_connection_was_ended_while_it_was_idle_publishes_all_the_same(
    house: House, postgres: Postgres
) -> None:
    house.app.handler("case.released")(bill)
    await house.publish("case.released", "case-1")
    assert postgres.end_sessions("datname = %s", house.url.rpartition("/")[2])
    await house.publish("case.released", "case-2")
    await house.work()

    assert sorted(house.rows("SELECT subject FROM effects")) == ["case-1", "case-2"]
    await house.assert_sound()
