"""A service on NATS: the same handlers, killed workers and servers, and books that balance in the end."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Generator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import nats
import pytest

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import post_all
from crossfoot.message import Message
from crossfoot.queues.nats import NatsQueue, ensure
from crossfoot.queues.queue import Delivery
from crossfoot.worker.reconcile import Reconciliation
from tests.acceptance.service_rig import FORMS, Service, a_service, eventually
from tests.acceptance.shell import BIN, ENVIRONMENT, SECONDS, crossfoot, rows, run
from tests.conformance.database_rig import Sql, bill, insert
from tests.servers.nats import NatsServer, running_nats

pytest_plugins = ["tests.servers.nats_fixtures"]

pytestmark = [pytest.mark.anyio, pytest.mark.server, pytest.mark.xdist_group("nats")]

PUBLISHED = 200
ROOT = Path(__file__).parents[2]

SERVICE = """
import time
import anyio
from crossfoot import Crossfoot
from tests.acceptance.service_rig import FORMS
from tests.conformance.database_rig import bill

app = Crossfoot("billing")

def slowly(message, tx):
    time.sleep(0.005)
    told(message, tx)

told = FORMS[0].function(bill)
app.handler("case.released", name="bill")(slowly)

async def publish():
    await app.publish(*[app.message("case.released", subject=f"case-{number}") for number in range(200)])
    await app.aclose()

if __name__ == "__main__":
    anyio.run(publish)
"""
"""The handler of `test_worker.py`, slow enough to be killed in the middle. Settings come from the environment."""


async def made(server: NatsServer, **settings: Any) -> str:
    return await ensure(f"orders-{uuid4().hex[:12]}/billing", servers=server.url, **settings)


# ---- killed workers --------------------------------------------------------------------------------------------------


async def test_a_worker_is_killed_again_and_again_and_every_effect_is_there_once(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    name = await made(nats_server, lease=1.0)
    await anyio.to_thread.run_sync(killed_and_balanced, nats_server, name, tmp_path)


def killed_and_balanced(server: NatsServer, name: str, folder: Path) -> None:
    variables: dict[str, Any] = {
        "CROSSFOOT_QUEUE": f"{server.url}/{name}", "CROSSFOOT_LEASE": "1", "CROSSFOOT_SYNCHRONOUS": "NORMAL",
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
    }  # fmt: skip
    (folder / "service.py").write_text(SERVICE, encoding="utf-8")
    book = folder / "crossfoot.db"
    with closing(sqlite3.connect(book)) as connection:
        connection.execute("CREATE TABLE effects (id TEXT, note TEXT)")
    done = run([str(BIN / "python"), "service.py"], folder, **variables)
    assert done.returncode == 0, done.stderr

    for number in range(1, 4):
        command = [str(BIN / "crossfoot"), "worker", "service:app"]
        with subprocess.Popen(command, cwd=folder, env=ENVIRONMENT | variables) as worker:
            try:
                until = time.monotonic() + SECONDS
                while len(rows(book, "SELECT 1 FROM effects")) < number * 40:
                    assert time.monotonic() < until, "the worker does not work"
                    time.sleep(0.01)
            finally:
                worker.send_signal(signal.SIGKILL)
    assert len(rows(book, "SELECT 1 FROM effects")) < PUBLISHED, "it was killed in the middle"

    crossfoot(folder, "worker", "service:app", "--until-idle", **variables)

    assert rows(book, "SELECT count(*), count(DISTINCT id) FROM effects") == [(PUBLISHED, PUBLISHED)]
    balance = json.loads(crossfoot(folder, "balance", "--json", **variables).stdout)
    assert balance["unaccounted"] == 0
    holdings = balance["identities"]["holdings"]
    assert (holdings["holds"], "0 and 0 in the queue by its own count" in holdings["notes"][0]) == (True, True)
    assert rows(book, "SELECT DISTINCT queue, fate FROM crossfoot_messages") == [(name, Fate.SETTLED)]
    assert "settled" in crossfoot(folder, "why", "case-7", **variables).stdout.lower()
    assert "NO DEAD LETTERS" in crossfoot(folder, "dead", "list", **variables).stdout


# ---- in one process --------------------------------------------------------------------------------------------------


@pytest.fixture(params=FORMS, ids=repr)
async def service(
    request: pytest.FixtureRequest, nats_server: NatsServer, tmp_path: Path, no_blocking_calls: None
) -> AsyncIterator[Service]:
    queue = NatsQueue(await made(nats_server, lease=30.0), servers=nats_server.url)
    async with a_service(request.param, tmp_path, queue=queue) as made_service:
        yield made_service


def fail(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    yield insert(message)
    raise RuntimeError("the printer is on fire")


async def test_what_is_handled_settles_and_what_fails_is_dead_with_its_cause(service: Service) -> None:
    service.handle("case.released", bill)
    service.handle("case.broken", fail)
    good = await service.publish("case.released", *[f"case-{number}" for number in range(10)])
    (broken,) = await service.publish("case.broken", "case-x")
    await service.work(attempts=2)
    assert sorted(service.effects) == sorted(message.id for message in good)
    assert service.kinds(good[0]) == [
        Kind.INTENDED, Kind.PUBLISHED, Kind.RECEIVED, Kind.COMMITTED, Kind.ACKED,
    ]  # fmt: skip
    assert service.fate(broken) is Fate.DEAD
    (title,) = service.causes().values()
    depth = await service.app.queue.depth()
    assert (depth.held, depth.dead) == (0, 1)
    assert "RuntimeError" in title


async def test_a_worker_goes_on_when_its_server_was_killed_and_started_again(tmp_path: Path) -> None:
    with running_nats(tmp_path / "server") as server:
        queue = NatsQueue(await made(server), servers=server.url)
        async with a_service(FORMS[0], tmp_path, queue=queue) as service:
            service.handle("case.released", bill)
            first = await service.publish("case.released", "case-1")
            async with service.working():
                await eventually(lambda: len(service.effects) == 1, "the first effect")
                await anyio.to_thread.run_sync(server.kill)
                await anyio.sleep(0.5)
                await anyio.to_thread.run_sync(server.start)
                second = await service.app.publish("case.released", subject="case-2")
                await eventually(lambda: len(service.effects) == 2, "the second effect")
            assert service.effects[0] == first[0].id
            assert len(second) == 1


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
