"""A service whose messages travel in a PostgreSQL database, with the book in SQLite: the same handlers, the same commands, and
books that balance."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest

from crossfoot.books.fate import Fate
from crossfoot.message import Message
from crossfoot.queues.postgres import ensure
from tests.acceptance.broker_suite import (
    AServerOfItsOwn,
    DeadUnheard,
    KeepingExpired,
    ServiceOf,
    TheSameHandlers,
    fates,
    look,
)
from tests.acceptance.killed_service import SERVICE, kill_and_ask
from tests.acceptance.service_rig import FORMS, Form, Service, a_service
from tests.acceptance.shell import crossfoot
from tests.conformance.database_rig import Sql, bill, insert
from tests.servers.postgres import Postgres, postgres_running

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.server,
    pytest.mark.usefixtures("no_blocking_calls"),
    pytest.mark.xdist_group("postgres"),
]


@pytest.fixture
def service_of(postgres: Postgres, postgres_url: str, tmp_path: Path) -> ServiceOf:
    """A service with a queue of its own in the database."""

    @asynccontextmanager
    async def make(form: Form = FORMS[0], url: str = postgres_url, **settings: Any) -> AsyncIterator[Service]:
        name = await ensure(f"billing-{uuid4().hex[:12]}", url=url)
        async with a_service(form, tmp_path, queue=f"postgres:{name}", endpoint=url, **settings) as service:
            yield service

    return make


class TestTheSameHandlers(TheSameHandlers, DeadUnheard, KeepingExpired):
    tells_reasons = False

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


def _delete(service: Service, server: Postgres, *messages: Message) -> None:
    """As a hand in the SQL prompt would."""
    database = str(service.app.settings.endpoint).rpartition("/")[2]
    for message in messages:
        server.run("DELETE FROM crossfoot_queue WHERE message = %s", message.key, database=database)


class TestTheServer(AServerOfItsOwn):
    @pytest.fixture
    def own_server(self) -> Iterator[tuple[Postgres, dict[str, Any]]]:
        with postgres_running() as server:
            yield server, {"url": server.url()}


class TestProcesses:
    """Worker processes that are killed, and what the commands tell afterwards."""

    async def test_workers_killed_in_between_leave_every_effect_once_and_nothing_unaccounted(
        self, postgres_url: str, tmp_path: Path
    ) -> None:
        await ensure("billing", url=postgres_url)
        await anyio.to_thread.run_sync(kill_and_ask, tmp_path, f"{postgres_url}?queue=billing")

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
