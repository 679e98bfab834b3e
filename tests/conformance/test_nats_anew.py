"""A stream that is deleted and made anew while its messages are in hand: what is said of an old one must not hit a new one."""

from __future__ import annotations

import logging
from contextlib import suppress
from uuid import uuid4

import anyio
import nats
import pytest

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.nats import NatsQueue, ensure
from crossfoot.queues.queue import Accepted, Delivery, Done, NotDone, ReceiptAnswer
from crossfoot.testing.queues import outgoing
from tests.servers.nats import NatsServer, Proxy

pytest_plugins = ["tests.servers.nats_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("no_blocking_calls"), pytest.mark.xdist_group("nats")]


async def made(server: NatsServer, name: str = "") -> str:
    return await ensure(name or f"anew-{uuid4().hex[:12]}/billing", servers=server.url)


async def of_its_own(queue: NatsQueue, count: int) -> list[Delivery]:
    """So many messages, published and received."""
    answers = await queue.publish([outgoing() for _ in range(count)])
    assert [type(answer) for answer in answers] == [Accepted] * count
    return await received(queue, count)


async def received(queue: NatsQueue, count: int) -> list[Delivery]:
    got: list[Delivery] = []
    with anyio.fail_after(60):
        while len(got) < count:
            got += await queue.receive(count, lease=30.0, wait=1.0)
    return got


async def told(queue: NatsQueue, receipt: str) -> ReceiptAnswer:
    """What became of an ack; asked again while nobody knows."""
    with anyio.fail_after(60):
        while True:
            with suppress(QueueUnavailable):
                (answer,) = await queue.ack([receipt])
                if isinstance(answer, Done) or answer.lost:
                    return answer
            await anyio.sleep(0.05)


async def make_anew(server: NatsServer, name: str) -> None:
    client = await nats.connect(server.url)
    await client.jetstream().delete_stream(name.partition("/")[0])
    await client.close()
    await made(server, name)


async def heard(caplog: pytest.LogCaptureFixture) -> None:
    with anyio.fail_after(60):
        while "the stream was deleted" not in caplog.text:  # noqa: ASYNC110 - the server's word, of which nobody else is told
            await anyio.sleep(0.01)


async def test_no_word_about_an_old_message_is_taken_for_the_new_one_of_its_number(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    name = await made(nats_server)
    async with NatsQueue(name, servers=nats_server.url) as old, NatsQueue(name, servers=nats_server.url) as new:
        acked, buried, released, extended = await of_its_own(old, 4)
        await make_anew(nats_server, name)
        await heard(caplog)
        theirs = await of_its_own(new, 4)

        (answer,) = await old.ack([acked.receipt])
        assert isinstance(answer, NotDone)
        assert answer.lost
        assert "its stream was deleted" in answer.reason
        (answer,) = await old.release([released.receipt])
        assert isinstance(answer, NotDone)
        assert answer.lost
        assert await old.dead_letter([buried], reason="poison") == [Done(buried.receipt)], "it is nowhere else any more"
        assert await old.extend([extended.receipt], lease=20.0) == [Done(extended.receipt)], "nobody else can have it"

        depth = await new.depth()
        assert (depth.ready, depth.in_flight, depth.dead) == (0, 4, 1)
        assert [held.body async for held in new.dead_letters()] == [buried.body]
        assert await new.ack([one.receipt for one in theirs]) == [Done(one.receipt) for one in theirs]
        assert (await new.depth()).held == 0
        (mine,) = await of_its_own(old, 1)
        assert await old.ack([mine.receipt]) == [Done(mine.receipt)], "what it is given from now on is of the new one"


async def test_it_is_found_on_the_next_connection_when_nobody_could_say_so(
    nats_server: NatsServer, nats_proxy: Proxy
) -> None:
    name = await made(nats_server)
    async with NatsQueue(name, servers=nats_proxy.url) as old, NatsQueue(name, servers=nats_server.url) as new:
        (acked,) = await of_its_own(old, 1)
        nats_proxy.cut()
        await make_anew(nats_server, name)
        await of_its_own(new, 1)
        assert isinstance(await told(old, acked.receipt), NotDone)
        assert (await new.depth()).in_flight == 1


@pytest.mark.parametrize("what", ["another connection", "a purge", "a new consumer"])
async def test_a_stream_that_is_the_same_takes_acks(nats_server: NatsServer, nats_proxy: Proxy, what: str) -> None:
    name = await made(nats_server)
    stream, _, durable = name.partition("/")
    async with NatsQueue(name, servers=nats_proxy.url) as queue:
        first, second = await of_its_own(queue, 2)
        client = await nats.connect(nats_server.url)
        if what == "another connection":
            nats_proxy.cut()
        elif what == "a purge":
            await client.jetstream().purge_stream(stream)
        else:
            await client.jetstream().delete_consumer(stream, durable)
            await made(nats_server, name)
            await received(queue, 2)  # once more
        await client.close()
        for receipt in (first.receipt, second.receipt):
            assert await told(queue, receipt) == Done(receipt)
        assert (await queue.depth()).held == 0
