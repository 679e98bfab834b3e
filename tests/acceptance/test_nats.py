"""A service on NATS: the same handlers, killed workers and servers, and books that balance in the end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import nats
import pytest

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import post_all
from crossfoot.queues.nats import NatsQueue, ensure
from crossfoot.queues.queue import Accepted, Delivery, Outgoing
from crossfoot.worker.reconcile import Reconciliation
from tests.acceptance.broker_suite import AServerOfItsOwn, ServiceOf, TheSameHandlers, fail
from tests.acceptance.killed_service import kill_and_ask
from tests.acceptance.service_rig import FORMS, Service, a_service
from tests.acceptance.shell import crossfoot
from tests.conformance.database_rig import Form, bill
from tests.servers.nats import NatsServer, running_nats

pytest_plugins = ["tests.servers.nats_fixtures"]

pytestmark = [pytest.mark.anyio, pytest.mark.server, pytest.mark.xdist_group("nats")]


async def made(server: NatsServer, **settings: Any) -> str:
    return await ensure(f"orders-{uuid4().hex[:12]}/billing", servers=server.url, **settings)


# ---- killed workers --------------------------------------------------------------------------------------------------


async def test_a_worker_is_killed_again_and_again_and_every_effect_is_there_once(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    name = await made(nats_server, lease=1.0)

    def kill() -> None:
        kill_and_ask(tmp_path, f"{nats_server.url}/{name}")
        holdings = json.loads(crossfoot(tmp_path, "balance", "--json").stdout)["identities"]["holdings"]
        assert (holdings["holds"], "in the queue by its own count" in holdings["notes"][0]) == (True, True)

    await anyio.to_thread.run_sync(kill)


# ---- in one process --------------------------------------------------------------------------------------------------


@pytest.fixture
def service_of(nats_server: NatsServer, tmp_path: Path) -> ServiceOf:
    """A service with a stream and a consumer of its own on the server."""

    @asynccontextmanager
    async def make(form: Form = FORMS[0], server: NatsServer = nats_server, **settings: Any) -> AsyncIterator[Service]:
        queue = NatsQueue(await made(server, lease=30.0), servers=server.url)
        async with a_service(form, tmp_path, queue=queue, **settings) as service:
            yield service

    return make


@pytest.mark.usefixtures("no_blocking_calls")
class TestTheSameHandlers(TheSameHandlers):
    tells_reasons = False


class TestTheServer(AServerOfItsOwn):
    @pytest.fixture
    def own_server(self, tmp_path: Path) -> Iterator[tuple[NatsServer, dict[str, Any]]]:
        with running_nats(tmp_path / "server") as server:
            yield server, {"server": server}


# ---- what NATS hides -------------------------------------------------------------------------------------------------


@pytest.fixture
async def plain(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Service]:
    queue = NatsQueue(await made(nats_server, max_attempts=2, lease=1.0), servers=nats_server.url)
    async with a_service(FORMS[0], tmp_path, queue=queue) as made_service:
        yield made_service


async def reconciled(service: Service, times: int = 1) -> None:
    for _ in range(times):
        await Reconciliation(service.app.book, service.app.queue, patience=0.0).run()
    await anyio.to_thread.run_sync(post_all, service.app.book)


async def test_a_message_whose_last_delivery_died_with_its_worker_is_found_dead_by_its_id(
    plain: Service, nats_server: NatsServer
) -> None:
    plain.handle("case.released", bill)
    lost, kept = await plain.publish("case.released", "case-1", "case-2")
    queue = plain.app.queue
    await queue.open()
    second: Delivery | None = None
    for attempt in (1, 2):  # two workers that say nothing any more
        first, second = sorted(await queue.receive(2, lease=1.0, wait=3.0), key=lambda one: one.receipt)
        assert first.attempt == attempt
        if attempt == 1:
            await queue.release([second.receipt, first.receipt])
    assert second is not None
    await queue.close()  # nobody listens
    await queue.open()
    await queue.ack([second.receipt])  # the second one came to its end after all
    await anyio.sleep(1.2)
    client = await nats.connect(nats_server.url)  # somebody who hears no advisory
    stream = queue.name.partition("/")[0]
    pull = await client.jetstream().pull_subscribe_bind("billing", stream)
    with pytest.raises(TimeoutError):
        await pull.fetch(1, timeout=0.3)
    await client.close()

    await reconciled(plain)
    assert plain.fate(lost) is Fate.DEAD
    assert plain.fate(kept) is not Fate.DEAD
    assert (await queue.depth()).dead == 1


async def test_the_worker_buries_at_the_last_delivery_itself_because_it_knows_which_that_is(plain: Service) -> None:
    plain.handle("case.released", fail)
    (message,) = await plain.publish("case.released", "case-1")
    await plain.work(attempts=5)
    assert plain.fate(message) is Fate.DEAD
    assert plain.kinds(message).count(Kind.FAILED) == 2, "the consumer's two, not the worker's five"
    assert plain.causes(), "and it says why"


async def test_what_the_stream_forgot_is_expired_and_what_somebody_removed_is_vanished(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    queue = NatsQueue(await made(nats_server, retention=2.0), servers=nats_server.url)
    async with a_service(FORMS[0], tmp_path, queue=queue) as service:
        service.handle("case.released", bill)
        purged, there = await service.publish("case.released", "purged", "there")
        client = await nats.connect(nats_server.url)
        await client.jetstream().delete_msg(queue.name.partition("/")[0], 1)
        await client.close()
        await reconciled(service)
        assert (service.fate(purged), service.fate(there)) == (Fate.QUEUED, Fate.QUEUED), "the head has not passed it"
        (delivery,) = await queue.receive(1, lease=30.0, wait=1.0)
        await reconciled(service)
        assert (service.fate(purged), service.fate(there)) == (Fate.VANISHED, Fate.QUEUED)
        await queue.release([delivery.receipt])
        await anyio.sleep(2.5)
        await reconciled(service)
        assert service.fate(there) is Fate.EXPIRED


async def test_what_a_full_stream_dropped_is_found(nats_server: NatsServer, tmp_path: Path) -> None:
    name = await made(nats_server)
    stream = name.partition("/")[0]
    client = await nats.connect(nats_server.url)
    config = (await client.jetstream().stream_info(stream)).config
    await client.jetstream().update_stream(config, max_msgs=1)  # and discards old ones
    await client.close()
    async with a_service(FORMS[0], tmp_path, queue=NatsQueue(name, servers=nats_server.url)) as service:
        service.handle("case.released", bill)
        dropped, there = await service.publish("case.released", "case-1", "case-2")
        await service.work()
        await reconciled(service)
        assert (service.fate(dropped), service.fate(there)) == (Fate.VANISHED, Fate.SETTLED)


async def test_dead_letters_that_lie_there_twice_are_compared_by_id_and_break_no_balance(
    service_of: ServiceOf, nats_server: NatsServer, tmp_path: Path
) -> None:
    async with service_of() as service:
        service.handle("case.released", fail)
        await service.publish("case.released", *[f"case-{number}" for number in range(15)])
        await service.work(attempts=2)
        queue = service.app.queue
        dead = [held async for held in queue.dead_letters()]
        again = [Outgoing(key=uuid4().hex, body=held.body) for held in dead]
        assert all(isinstance(answer, Accepted) for answer in await queue.publish(again))
        taken: list[Delivery] = []
        while len(taken) < 15:
            taken += await queue.receive(15, lease=30.0, wait=5.0)
        await queue.dead_letter(taken, reason="buried by somebody who heard no answer")
        await reconciled(service)

        def ask() -> Any:
            variables: dict[str, Any] = {
                "CROSSFOOT_QUEUE": f"nats:{queue.name}", "CROSSFOOT_ENDPOINT": nats_server.url, "CROSSFOOT_DATABASE": str(service.path),
            }  # fmt: skip
            told = crossfoot(tmp_path, "balance", "--json", code=None, **variables).stdout
            return json.loads(told)["identities"]["holdings"]

        holdings = await anyio.to_thread.run_sync(ask)
        assert holdings["holds"], holdings
        assert "15 dead in the book, and 30 dead letters, compared by id" in holdings["notes"][0]
