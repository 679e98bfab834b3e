"""A service in PostgreSQL: its book, its tables and its handlers' transactions there, its messages in a stream."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import post_all
from crossfoot.books.store import Book
from crossfoot.effects.sequence import InOrder
from crossfoot.errors import EnvelopeInvalid, UsageError
from crossfoot.message import Message, encode
from crossfoot.queues.queue import Outgoing
from crossfoot.queues.redis import ensure
from tests.acceptance.service_rig import Service, a_service, eventually
from tests.acceptance.shell import BIN, ENVIRONMENT, crossfoot
from tests.conformance.database_forms import POSTGRES_FORMS
from tests.conformance.database_rig import Form, Sql, bill, insert
from tests.servers.postgres import Databases, Postgres
from tests.servers.valkey import Valkey

pytest_plugins = ["tests.servers.postgres_fixtures", "tests.servers.valkey_fixtures"]

pytestmark = [pytest.mark.anyio, pytest.mark.server, pytest.mark.xdist_group("postgres")]

ServiceOf = Callable[..., Any]


@pytest.fixture(scope="module")
def databases(postgres: Postgres) -> Databases:
    """With an empty book."""
    return Databases(postgres, lambda url: Book(url).open().close())


@pytest.fixture
def url(databases: Databases) -> Iterator[str]:
    with databases.one() as made:
        yield made


@pytest.fixture
def service_of(valkey: Valkey, url: str, tmp_path: Path) -> ServiceOf:
    """A service with a database and a queue of its own."""

    @asynccontextmanager
    async def make(form: Form = POSTGRES_FORMS[0], **settings: Any) -> AsyncIterator[Service]:
        name = await ensure(f"billing-{uuid4().hex[:12]}", url=valkey.url)
        options = {"queue": f"redis:{name}", "endpoint": valkey.url, "url": url} | settings
        async with a_service(form, tmp_path, **options) as service:
            yield service

    return make


async def posted(service: Service) -> dict[Fate, set[str]]:
    await anyio.to_thread.run_sync(post_all, service.app.book)
    return service.ids_by_fate()


class TestTheSameHandlers:
    @pytest.mark.usefixtures("no_blocking_calls")
    @pytest.mark.parametrize("batch", [1, 8], ids=["plain", "batch"])
    @pytest.mark.parametrize("form", POSTGRES_FORMS, ids=repr)
    async def test_messages_settle_with_proof_before_their_acks(
        self, service_of: ServiceOf, form: Form, batch: int
    ) -> None:
        async with service_of(form) as service:

            def bill_and_tell(message: Message, tx: Any) -> Generator[Sql, Any, None]:
                yield insert(message)
                tx.outcome("invoice.issued", amount=120)
                tx.send("invoice.issued", subject=message.subject)

            def swallow(message: Message, tx: Any) -> Generator[Sql, Any, None]:
                try:
                    yield Sql("INSERT INTO taken VALUES (1)")
                except Exception:  # noqa: BLE001 - what the test is about
                    return

            service.handle("case.released", bill_and_tell)
            service.handle("invoice.issued", bill, name="letter")
            service.handle("case.swallowed", swallow)
            messages = await service.publish("case.released", *(f"case-{number}" for number in range(12)))
            (bad,) = await service.publish("case.swallowed", "case-x")
            await service.work(batch=batch, concurrency=3)

            fates = await posted(service)
            assert fates[Fate.DEAD] == {bad.id}
            assert len(fates[Fate.SETTLED]) == 24
            assert len(service.effects) == 24
            for message in messages:
                assert service.kinds(message) == [
                    Kind.INTENDED, Kind.PUBLISHED, Kind.RECEIVED, Kind.COMMITTED, Kind.ACKED,
                ]  # fmt: skip

    @pytest.mark.parametrize("name", ["id", "source", "type", "subject", "operation", "correlationid"])
    async def test_a_message_with_a_name_that_no_index_takes_dies_and_the_worker_does_not(
        self, service_of: ServiceOf, name: str
    ) -> None:
        """Another program may publish what it likes; here the received entry could not even be written."""
        async with service_of() as service:
            service.handle("case.released", bill)
            stated: dict[str, Any] = {"type": "case.released", "source": "elsewhere", "subject": "case-1"}
            long = Message(**stated | {name: random.Random(name).randbytes(3_000).hex()})
            await service.app.queue.open()
            await service.app.queue.publish([Outgoing(key=long.key, body=encode(long))])
            (good,) = await service.publish("case.released", "case-2")
            await service.work()
            assert service.effects == [good.id]
            assert [len(ids) for ids in (await posted(service)).values()] == [1, 1]
            assert [fate for fate, ids in (await posted(service)).items() if good.id not in ids] == [Fate.DEAD]
            with pytest.raises(EnvelopeInvalid, match="6,000 bytes, and a book in PostgreSQL takes 1,000"):
                await service.app.publish(long)

    @pytest.mark.parametrize("case", ["a\0b", random.Random(1).randbytes(3_000).hex()], ids=["NUL", "long"])
    async def test_a_message_whose_template_makes_a_key_that_no_index_takes_dies_alone(
        self, service_of: ServiceOf, case: str
    ) -> None:
        async with service_of() as service:
            service.handle("case.released", bill, operation="bill:{data.case}")
            (first,) = await service.publish("case.released", "case-1", data={"case": "one"})
            (bad,) = await service.publish("case.released", "case-2", data={"case": case})
            (last,) = await service.publish("case.released", "case-3", data={"case": "three"})
            await service.work()

            assert sorted(service.effects) == sorted([first.id, last.id])
            assert (await posted(service))[Fate.DEAD] == {bad.id}
            assert any("EnvelopeInvalid" in title for title in service.causes().values())

    async def test_a_handler_is_refused_a_name_that_no_index_takes(self, service_of: ServiceOf) -> None:
        """Else its delivery would be settled, what it sent be dead under another name, and its message open for ever."""
        async with service_of() as service:

            def send(message: Message, tx: Any) -> Generator[Sql, Any, None]:
                yield insert(message)
                tx.send("invoice.issued", id="x" * 3_000)

            service.handle("case.released", send)
            (message,) = await service.publish("case.released", "case-1")
            await service.work()
            assert service.effects == []
            assert await posted(service) == {Fate.DEAD: {message.id}}
            assert any("EnvelopeInvalid" in title for title in service.causes().values())

    async def test_events_in_order_by_many_workers_end_in_order(self, service_of: ServiceOf) -> None:
        def note_when(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            yield insert(message, note=f"{time.monotonic_ns():020}")  # pages of several sessions tell no order

        async with service_of() as service:
            service.handle("case.moved", note_when, in_order=InOrder(contiguous=True))
            messages = [
                service.app.message("case.moved", id=f"{subject}-{sequence}", subject=subject, sequence=sequence)
                for sequence in (3, 1, 4, 2, 5)
                for subject in ("a", "b", "c")
            ]
            await service.app.publish(*messages)
            workers = [service.worker(concurrency=2) for _ in range(3)]
            async with anyio.create_task_group() as tasks:
                for worker in workers:
                    tasks.start_soon(worker.run)
                await eventually(lambda: len(service.effects) == 15, "all events to be applied")
                for worker in workers:
                    worker.stop()
            applied = service.rows("SELECT id FROM effects ORDER BY note")
            for subject in "abc":
                assert [e for e in applied if e.startswith(subject)] == [f"{subject}-{n}" for n in range(1, 6)]


class TestProducing:
    """From a web request's own transaction."""

    async def test_over_each_kind_of_session_what_is_sent_commits_with_the_callers_work(
        self, service_of: ServiceOf, url: str
    ) -> None:
        async with service_of() as service:
            engine_url = url.replace("postgresql:", "postgresql+psycopg:")
            app: Crossfoot = service.app
            statement = "INSERT INTO effects VALUES ('{}', '')"
            engine, async_engine = create_engine(engine_url), create_async_engine(engine_url)

            def synchronous() -> None:
                with psycopg.connect(url) as connection, app.transaction(connection) as tx:
                    connection.execute(statement.format("psycopg").encode())
                    tx.send("case.released", subject="psycopg")
                with psycopg.connect(url, autocommit=True) as connection, app.transaction(connection) as tx:
                    tx.send("case.released", subject="autocommit")
                with Session(engine) as session, app.transaction(session) as tx:
                    session.execute(text(statement.format("orm")))
                    tx.send("case.released", subject="orm")
                with pytest.raises(RuntimeError):
                    give_up()

            def give_up() -> None:
                with psycopg.connect(url) as connection, app.transaction(connection) as tx:
                    tx.send("case.released", subject="never")
                    raise RuntimeError

            await anyio.to_thread.run_sync(synchronous)
            async with await psycopg.AsyncConnection.connect(url) as connection, app.atransaction(connection) as tx:
                await tx.send("case.released", subject="async")
            async with AsyncSession(async_engine) as session, app.atransaction(session) as tx:
                await tx.send("case.released", subject="async orm")
            engine.dispose()
            await async_engine.dispose()
            await self.send_by_asyncpg(app, url)

            sent = ["psycopg", "autocommit", "orm", "async", "async orm", "asyncpg", "joined", "pooled", "asyncpg orm"]
            assert service.rows("SELECT subject FROM crossfoot_messages ORDER BY key") == sent
            assert service.rows("SELECT count(*) FROM crossfoot_outbox") == [len(sent)]
            service.handle("case.released", bill)
            await service.work()
            assert len((await posted(service))[Fate.SETTLED]) == len(sent)

    async def send_by_asyncpg(self, app: Crossfoot, url: str) -> None:
        connection = await asyncpg.connect(url)
        async with app.atransaction(connection) as tx:
            await tx.send("case.released", subject="asyncpg")
        with suppress(RuntimeError):
            async with app.atransaction(connection) as tx:
                await tx.send("case.released", subject="never")
                raise RuntimeError
        theirs = connection.transaction()
        await theirs.start()
        async with app.atransaction(connection) as tx:
            await connection.execute("INSERT INTO effects VALUES ('asyncpg', '')")
            await tx.send("case.released", subject="joined")
        assert connection.is_in_transaction(), "who began it ends it"
        await theirs.commit()
        await connection.close()
        async with asyncpg.create_pool(url, min_size=1) as pool, pool.acquire() as it, app.atransaction(it) as tx:
            await tx.send("case.released", subject="pooled")
        engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
        async with AsyncSession(engine) as session, app.atransaction(session) as tx:
            await tx.send("case.released", subject="asyncpg orm")
        await engine.dispose()

    async def test_a_transaction_that_an_earlier_statement_began_is_ended_by_whoever_is_named(
        self, service_of: ServiceOf, url: str
    ) -> None:
        async with service_of() as service:
            app: Crossfoot = service.app

            def synchronous() -> None:
                with closing(psycopg.connect(url)) as connection:
                    connection.execute("SELECT 1")
                    with pytest.raises(UsageError, match="commit=True"), app.transaction(connection):
                        pass
                    with app.transaction(connection, commit=True) as tx:
                        tx.send("case.released", subject="committed")
                    with connection.transaction(), app.transaction(connection) as tx:
                        tx.send("case.released", subject="of a block")
                    connection.execute("SELECT 1")
                    with app.transaction(connection, commit=False) as tx:
                        tx.send("case.released", subject="given up")

            await anyio.to_thread.run_sync(synchronous)
            connection = await psycopg.AsyncConnection.connect(url)
            await connection.execute("SELECT 1")
            with pytest.raises(UsageError, match="commit=True"):
                async with app.atransaction(connection):
                    pass
            await connection.close()
            theirs = await asyncpg.connect(url)
            with pytest.raises(UsageError, match="leave commit= out"):
                async with app.atransaction(theirs, commit=True):
                    pass
            await theirs.close()
            found = service.rows("SELECT subject FROM crossfoot_messages ORDER BY key")
        assert found == ["committed", "of a block"]

    async def test_a_session_of_the_other_kind_is_refused_with_what_to_give(
        self, service_of: ServiceOf, url: str
    ) -> None:
        async with service_of() as service:
            app: Crossfoot = service.app
            engine = create_async_engine(url.replace("postgresql:", "postgresql+psycopg:"))
            async with await psycopg.AsyncConnection.connect(url) as connection, AsyncSession(engine) as session:
                for asynchronous in (connection, session):
                    with pytest.raises(UsageError, match=r"give a .*app\.atransaction"), app.transaction(asynchronous):
                        pass
            await engine.dispose()
            with psycopg.connect(url) as synchronous, pytest.raises(UsageError, match=r"give an .*app\.transaction"):
                async with app.atransaction(synchronous):
                    pass

    @pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
    async def test_an_engine_whose_every_statement_commits_is_refused(
        self, service_of: ServiceOf, url: str, driver: str
    ) -> None:
        async with service_of() as service:
            app: Crossfoot = service.app
            address = url.replace("postgresql:", f"postgresql+{driver}:")
            engine = create_async_engine(address, isolation_level="AUTOCOMMIT")
            async with AsyncSession(engine) as session:
                with pytest.raises(UsageError, match="AUTOCOMMIT"):
                    async with app.atransaction(session) as tx:
                        await tx.send("case.released", subject="case-1")
            await engine.dispose()
            assert service.rows("SELECT count(*) FROM crossfoot_outbox") == [0]

    async def test_a_transaction_is_not_begun_twice_which_the_server_would_warn_of(
        self, service_of: ServiceOf, url: str
    ) -> None:
        warnings: list[Any] = []
        async with service_of() as service:
            async with await psycopg.AsyncConnection.connect(url) as connection:
                connection.add_notice_handler(warnings.append)
                async with service.app.atransaction(connection) as tx:
                    await tx.send("case.released", subject="async")

            def synchronous() -> None:
                with psycopg.connect(url) as plain:
                    plain.add_notice_handler(warnings.append)
                    with service.app.transaction(plain) as tx:
                        tx.send("case.released", subject="sync")

            await anyio.to_thread.run_sync(synchronous)
            assert service.rows("SELECT count(*) FROM crossfoot_outbox") == [2]
        assert warnings == []

    async def test_a_connection_to_another_database_is_refused(
        self, service_of: ServiceOf, databases: Databases
    ) -> None:
        def send(app: Crossfoot, other: str) -> None:
            with psycopg.connect(other) as connection, app.transaction(connection) as tx:
                tx.send("case.released")

        async with service_of() as service:
            with databases.one() as other, pytest.raises(UsageError, match="is to another database or schema"):
                await anyio.to_thread.run_sync(send, service.app, other)


SERVICE = """
import os
from crossfoot import Crossfoot

app = Crossfoot("billing")

@app.handler("case.released", operation="bill:{subject}")
def bill(message, tx):
    tx.execute("INSERT INTO effects (id, note) VALUES (%s, %s)", (message.id, message.subject))
    tx.outcome("invoice.issued")
    if message.data and message.data.get("poison"):
        raise ValueError("amount is negative")
"""


@pytest.fixture
def variables(valkey: Valkey, url: str, postgres: Postgres, tmp_path: Path) -> dict[str, Any]:
    """A folder with a service, and what its environment says."""
    (tmp_path / "billing.py").write_text(SERVICE)
    postgres.run("CREATE TABLE effects (id TEXT, note TEXT)", database=url.rpartition("/")[2])
    name = anyio.run(partial(ensure, f"billing-{uuid4().hex[:12]}", url=valkey.url))
    return {
        "CROSSFOOT_DATABASE": url, "CROSSFOOT_QUEUE": f"redis:{name}", "CROSSFOOT_ENDPOINT": valkey.url,
        "CROSSFOOT_ATTEMPTS": "2", "CROSSFOOT_BACKOFF": "0.01", "CROSSFOOT_LEASE": "2",
    }  # fmt: skip


class TestCommands:
    """Every command, with the book's URL from the environment or `--db`."""

    def test_from_publish_to_the_books(self, variables: dict[str, Any], url: str, tmp_path: Path) -> None:
        def do(*words: str, code: int = 0) -> str:
            return str(crossfoot(tmp_path, *words, code=code, **variables).stdout)

        for number in range(5):
            do("publish", "billing:app", "case.released", "--subject", f"case-{number}")
        do("publish", "billing:app", "case.released", "--subject", "case-x", "--data", '{"poison": true}')
        do("worker", "billing:app", "--until-idle")

        balance = json.loads(do("balance", "--json"))
        assert {fate: n for fate, n in balance["fates"].items() if n} == {"settled": 5, "dead": 1}
        assert (balance["published"], balance["unaccounted"]) == (6, 0)
        assert all(identity["holds"] for identity in balance["identities"].values()), balance["identities"]
        assert json.loads(do("verify", "--json", "--db", url))["clean"]
        assert "ValueError" in do("why", "case-x", code=1)
        assert "ValueError" in do("dead", "list", "--by-cause", code=1)
        assert len(do("tail", "--no-follow", "-n", "1000", "--json").splitlines()) > 20
        assert "crossfoot_messages" in do("metrics") or "crossfoot" in do("metrics")

    def test_a_book_that_is_not_there_is_told_without_secrets(self, tmp_path: Path) -> None:
        done = crossfoot(tmp_path, "balance", "--db", "postgresql://ada:secret@127.0.0.1:1/billing", code=None)
        assert done.returncode == 2
        assert "does not answer" in done.stderr
        assert "secret" not in done.stderr + done.stdout


class TestWorkersThatDie:
    @pytest.mark.crash
    @pytest.mark.parametrize("batch", ["1", "10"], ids=["plain", "batch"])
    def test_workers_killed_at_random_lose_nothing_and_do_nothing_twice(
        self, variables: dict[str, Any], postgres: Postgres, url: str, tmp_path: Path, batch: str
    ) -> None:
        chance, count, name = random.Random(7), 200, url.rpartition("/")[2]
        events = "\n".join(
            json.dumps(
                {
                    "specversion": "1.0",
                    "id": f"m-{n}",
                    "source": "test",
                    "type": "case.released",
                    "subject": f"case-{n}",
                }
            )
            for n in range(count)
        )
        (tmp_path / "events.jsonl").write_text(events)
        crossfoot(tmp_path, "publish", "billing:app", "--file", "events.jsonl", **variables)
        command = [str(BIN / "crossfoot"), "worker", "billing:app"]
        environment = ENVIRONMENT | variables | {"CROSSFOOT_BATCH": batch, "CROSSFOOT_ATTEMPTS": "50"}
        for _ in range(4):
            worker = subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(1.2 + chance.random() * 0.8)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        time.sleep(2.1)  # the lease of the last one
        crossfoot(tmp_path, "worker", "billing:app", "--until-idle", **variables | {"CROSSFOOT_ATTEMPTS": "50"})

        assert postgres.run("SELECT count(*), count(DISTINCT note) FROM effects", database=name) == [(count, count)]
        balance = json.loads(crossfoot(tmp_path, "balance", "--json", **variables).stdout)
        assert {fate: n for fate, n in balance["fates"].items() if n} == {"settled": count}
        assert json.loads(crossfoot(tmp_path, "verify", "--json", **variables).stdout)["clean"]

    async def test_a_session_that_an_operator_ends_fails_its_delivery_and_not_the_worker(
        self, service_of: ServiceOf, postgres: Postgres
    ) -> None:
        ended = threading.Event()

        async with service_of() as service:

            def be_ended(message: Message, tx: Any) -> Generator[Any, Any, None]:
                yield insert(message)
                if not ended.is_set():
                    ended.set()
                    pid = yield Sql("SELECT pg_backend_pid()")
                    postgres.run("SELECT pg_terminate_backend(%s)", pid.fetchone()[0])
                    yield insert(message, "never")

            service.handle("case.released", be_ended)
            (message,) = await service.publish("case.released", "case-1")
            await service.work(attempts=5)
            assert service.effects == [message.id]
            assert service.kinds(message).count(Kind.FAILED) == 1
            assert (await posted(service))[Fate.SETTLED] == {message.id}
