"""A service whose messages travel in a stream: the same handlers, the same commands, and books that balance.

The book stays in SQLite. What the stream loses, whoever lost it, is found by identity.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest

from crossfoot.books.fate import Fate
from crossfoot.queues.redis import ensure
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
from tests.conformance.database_rig import bill
from tests.servers.processes import free_port
from tests.servers.valkey import Valkey, valkey_running

pytest_plugins = ["tests.servers.valkey_fixtures"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.server,
    pytest.mark.usefixtures("no_blocking_calls"),
    pytest.mark.xdist_group("valkey"),
]


@pytest.fixture
def service_of(valkey: Valkey, tmp_path: Path) -> ServiceOf:
    """A service with a queue of its own on the server."""

    @asynccontextmanager
    async def make(form: Form = FORMS[0], server: Valkey = valkey, **settings: Any) -> AsyncIterator[Service]:
        name = await ensure(f"billing-{uuid4().hex[:12]}", url=server.url)
        async with a_service(form, tmp_path, queue=f"redis:{name}", endpoint=server.url, **settings) as service:
            yield service

    return make


class TestTheSameHandlers(TheSameHandlers, DeadUnheard, KeepingExpired):
    tells_reasons = False


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


class TestTheServer(AServerOfItsOwn):
    @pytest.fixture
    def own_server(self, tmp_path: Path) -> Iterator[tuple[Valkey, dict[str, Any]]]:
        with valkey_running(tmp_path / "server") as server:
            yield server, {"server": server}


class TestProcesses:
    """Worker processes that are killed, and what the commands tell afterwards."""

    async def test_workers_killed_in_between_leave_every_effect_once_and_nothing_unaccounted(
        self, tmp_path: Path
    ) -> None:
        with valkey_running(tmp_path / "server") as server:
            await ensure("billing", url=server.url)
            await anyio.to_thread.run_sync(kill_and_ask, tmp_path, f"{server.url}/billing")

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
