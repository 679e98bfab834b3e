"""NATS when servers die, freeze, restart and lose their answers: what was done, what was not, and what nobody knows."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import nats
import pytest

from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.nats import NatsQueue, ensure
from crossfoot.queues.nats.messages import Entry, wire_size
from crossfoot.queues.nats.queue import _dying
from crossfoot.queues.queue import Accepted, Delivery, Done, Doubtful, Held, NotDone, Outgoing, Refused
from crossfoot.testing.queues import outgoing
from tests.servers.nats import NatsServer, Proxy, running_nats

pytest_plugins = ["tests.servers.nats_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("no_blocking_calls"), pytest.mark.xdist_group("nats")]

SECRET = "swordfish"


async def made(server: NatsServer, **settings: Any) -> str:
    return await ensure(f"faults-{uuid4().hex[:12]}/billing", servers=server.url, **settings)


@asynccontextmanager
async def opened(name: str, url: str, **options: Any) -> AsyncIterator[NatsQueue]:
    async with NatsQueue(name, servers=url, **options) as queue:
        yield queue


async def dead_of(queue: NatsQueue) -> list[Held]:
    return [held async for held in queue.dead_letters()]


async def the_one(queue: NatsQueue, *, lease: float = 30.0) -> Delivery:
    (delivery,) = await queue.receive(1, lease=lease, wait=3.0)
    return delivery


async def half_buried(queue: NatsQueue, delivery: Delivery) -> None:
    """The first step of a move to the dead letters, and no second."""
    dead, dying = await queue._dead_letters(), _dying(delivery)
    assert dead is not None
    assert dying is not None
    await dead.put([dying], "poison")


# ---- lost answers ----------------------------------------------------------------------------------------------------


async def test_a_publish_whose_answer_is_lost_is_in_doubt_and_there_is_one_copy_once_it_is_sent_again(
    nats_server: NatsServer, nats_proxy: Proxy
) -> None:
    name = await made(nats_server)
    async with opened(name, nats_proxy.url) as proxied, opened(name, nats_server.url) as direct:
        message = outgoing(b'{"lost": 1}')
        nats_proxy.cut_once_sent(b'{"lost": 1}')
        began = time.monotonic()
        (answer,) = await proxied.publish([message])
        assert isinstance(answer, Doubtful), answer
        assert time.monotonic() - began < 3.0, "the loss of the connection ends the wait"
        assert (await direct.depth()).held == 1, "stored it was"
        (again,) = await proxied.publish([message])
        assert isinstance(again, Accepted), again
        assert (await direct.depth()).held == 1


async def test_an_answer_that_does_not_come_in_time_is_in_doubt(nats_server: NatsServer, nats_proxy: Proxy) -> None:
    name = await made(nats_server)
    async with opened(name, nats_proxy.url, timeout=0.5) as queue:
        nats_proxy.deaf = True
        answers = await queue.publish([outgoing(), outgoing()])
        assert [type(answer) for answer in answers] == [Doubtful, Doubtful]
        nats_proxy.deaf = False


async def test_an_ack_whose_answer_is_lost_is_not_known_to_be_done_and_may_be_repeated(
    nats_server: NatsServer, nats_proxy: Proxy
) -> None:
    name = await made(nats_server)
    async with opened(name, nats_proxy.url) as queue:
        await queue.publish([outgoing()])
        delivery = await the_one(queue)
        nats_proxy.cut_once_sent(b"$JS.ACK")
        (answer,) = await queue.ack([delivery.receipt])
        assert isinstance(answer, NotDone)
        assert not answer.lost
        assert await queue.ack([delivery.receipt]) == [Done(delivery.receipt)]
        assert (await queue.depth()).held == 0


async def test_a_move_to_the_dead_letters_that_is_cut_in_the_middle_loses_nothing_and_doubles_nothing(
    nats_server: NatsServer, nats_proxy: Proxy
) -> None:
    name = await made(nats_server)
    async with opened(name, nats_proxy.url) as proxied, opened(name, nats_server.url) as direct:
        message = outgoing(b'{"dying": 1}', attributes={"note": "grün"})
        await direct.publish([message])
        delivery = await the_one(proxied)
        nats_proxy.cut_once_sent(b'{"dying": 1}')
        (answer,) = await proxied.dead_letter([delivery], reason="poison")
        assert isinstance(answer, NotDone)
        assert not answer.lost
        assert ((await direct.depth()).held, len(await dead_of(direct))) == (1, 1), "published, and not terminated"

        nats_proxy.cut_once_sent(b"+TERM")
        (answer,) = await proxied.dead_letter([delivery], reason="poison")
        assert isinstance(answer, NotDone)
        assert "among the dead letters" in answer.reason

        assert await proxied.dead_letter([delivery], reason="poison") == [Done(delivery.receipt)]
        assert [(held.body, held.attempt) for held in await dead_of(direct)] == [(message.body, 1)]
        assert (await direct.depth()).held == 0


async def test_a_worker_that_dies_between_the_two_steps_of_a_move_leaves_one_dead_letter_in_the_end(
    nats_server: NatsServer,
) -> None:
    name = await made(nats_server, lease=1.0)
    async with opened(name, nats_server.url) as first, opened(name, nats_server.url) as second:
        await first.publish([outgoing()])
        delivery = await the_one(first, lease=1.0)
        await half_buried(first, delivery)
        again = await the_one(second)
        assert again.attempt == 2
        assert await second.dead_letter([again], reason="poison") == [Done(again.receipt)]
        assert len(await dead_of(second)) == 1
        assert (await second.depth()).held == 0


async def test_a_worker_that_dies_between_the_two_steps_at_the_last_delivery_leaves_one_dead_letter(
    nats_server: NatsServer,
) -> None:
    name = await made(nats_server, lease=1.0, max_attempts=1)
    async with opened(name, nats_server.url) as queue:
        message = outgoing()
        await queue.publish([message])
        await half_buried(queue, await the_one(queue, lease=1.0))
        assert await queue.receive(1, lease=1.0, wait=2.0) == [], "given up, and the advisory was heard"
        assert [held.body for held in await dead_of(queue)] == [message.body]
        assert (await queue.depth()).held == 0


async def test_a_dead_letter_keeps_what_the_message_had_and_says_why(nats_server: NatsServer) -> None:
    name = await made(nats_server)
    stream = name.partition("/")[0]
    async with opened(name, nats_server.url) as queue:
        await queue.publish([Outgoing(key="shop|1", body=b"{}", attributes={"note": "grün"})])
        await queue.dead_letter([await the_one(queue)], reason="ValueError: 100 % wrong")
    client = await nats.connect(nats_server.url)
    message = await client.jetstream().get_msg(f"{stream}-dead", 1)
    await client.close()
    assert message.subject == f"{stream}-dead.billing"
    assert message.headers is not None
    assert {key: value for key, value in message.headers.items() if not key.startswith("Nats-")} == {
        "note": "gr%C3%BCn",
        "crossfoot-message-id": "shop|1",
        "crossfoot-queue": name,
        "crossfoot-attempt": "1",
        "crossfoot-reason": "ValueError:%20100%20%25%20wrong",
    }


# ---- servers that die, freeze and restart ----------------------------------------------------------------------------


async def test_a_frozen_server_leaves_a_publish_in_doubt_and_a_dead_one_refuses_it(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        name = await made(server)
        async with opened(name, server.url, timeout=1.0) as queue:
            await queue.publish([outgoing()])
            delivery = await the_one(queue)
            await anyio.to_thread.run_sync(server.freeze)
            assert isinstance((await queue.publish([outgoing()]))[0], Doubtful)
            (unanswered,) = await queue.ack([delivery.receipt])
            assert isinstance(unanswered, NotDone)
            assert not unanswered.lost
            with pytest.raises(QueueUnavailable, match=name):
                await queue.receive(1, lease=30.0, wait=0.2)
            server.thaw()
            await anyio.to_thread.run_sync(server.kill)
            for call in (
                lambda: queue.publish([outgoing()]),
                lambda: queue.receive(1, lease=30.0),
                lambda: queue.ack([delivery.receipt]),
                queue.depth,
            ):
                with anyio.fail_after(5), pytest.raises(QueueUnavailable, match=name):
                    await call()
            with pytest.raises(QueueUnavailable, match=f"{name} cannot be reached at nats://127.0.0.1:"):
                await NatsQueue(name, servers=server.url).open()


async def test_a_server_that_is_killed_in_the_middle_of_a_request_leaves_it_in_doubt_at_once(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        name = await made(server)
        async with opened(name, server.url, timeout=20.0) as queue:
            await anyio.to_thread.run_sync(server.freeze)
            answers: list[object] = []

            async def publish() -> None:
                answers.extend(await queue.publish([outgoing()]))

            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(publish)
                    await anyio.sleep(0.2)
                    await anyio.to_thread.run_sync(server.kill)
            assert [type(answer) for answer in answers] == [Doubtful]


async def test_a_queue_goes_on_when_its_server_is_back_and_a_waiting_receive_is_told_that_it_went(
    tmp_path: Path,
) -> None:
    with running_nats(tmp_path) as server:
        name = await made(server)
        async with opened(name, server.url) as queue:
            message, other = outgoing(), outgoing()
            await queue.publish([message, other])
            delivery = await the_one(queue)
            said: list[str] = []

            async def receive() -> None:
                try:
                    while await queue.receive(1, lease=30.0, wait=10.0):
                        pass
                except QueueUnavailable as error:
                    said.append(str(error))

            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(receive)
                    await anyio.sleep(0.3)
                    await anyio.to_thread.run_sync(server.kill)
            assert name in said[0]
            await anyio.to_thread.run_sync(server.start)
            assert await queue.ack([delivery.receipt]) == [Done(delivery.receipt)], "the receipt outlives the server"
            assert (await queue.depth()).held == 1


async def test_a_lease_longer_than_the_consumer_s_outlives_the_server_that_had_a_moment_to_write_it_down(
    tmp_path: Path,
) -> None:
    with running_nats(tmp_path) as server:
        name = await made(server, lease=1.0)
        async with opened(name, server.url) as queue:
            await queue.publish([outgoing()])
            delivery = await the_one(queue, lease=60.0)
            await anyio.sleep(1.0)
            await anyio.to_thread.run_sync(server.kill)
            await anyio.to_thread.run_sync(server.start)
            assert await queue.receive(1, lease=30.0, wait=2.5) == []
            assert await queue.ack([delivery.receipt]) == [Done(delivery.receipt)]


async def test_what_a_killed_server_confirmed_stays_and_what_it_delivered_may_come_again(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        name = await made(server)
        async with opened(name, server.url) as queue:
            await queue.publish([outgoing() for _ in range(50)])
            server.kill()  # while this event loop stands still: the next read finds the connection broken, and is repeated
            server.start()
            assert (await queue.depth()).held == 50
            taken = await queue.receive(50, lease=30.0, wait=1.0)
            assert await queue.ack([one.receipt for one in taken[:40]]) == [Done(one.receipt) for one in taken[:40]]
            server.kill()
            server.start()
            assert (await queue.depth()).held == 10


async def test_a_second_event_loop_gets_a_connection_of_its_own(nats_server: NatsServer) -> None:
    def in_loops_of_their_own() -> int:
        name = anyio.run(made, nats_server)
        queue = NatsQueue(name, servers=nats_server.url)
        anyio.run(queue.open)
        anyio.run(queue.publish, [outgoing()])
        anyio.run(queue.publish, [outgoing()])
        held = anyio.run(queue.depth).held
        anyio.run(queue.close)
        return held

    assert await anyio.to_thread.run_sync(in_loops_of_their_own) == 2


async def test_what_a_cancelled_receive_still_brings_is_given_back(nats_server: NatsServer, nats_proxy: Proxy) -> None:
    name = await made(nats_server)
    async with opened(name, nats_proxy.url) as queue, opened(name, nats_server.url) as direct:
        for _ in range(20):
            with anyio.move_on_after(0.02) as scope:
                await queue.receive(1, lease=30.0, wait=5.0)
            assert scope.cancelled_caught
        await direct.publish([outgoing()])
        assert len(await direct.receive(1, lease=30.0, wait=1.0)) == 1


# ---- refusals --------------------------------------------------------------------------------------------------------

USERS = f"""
max_payload: 65536
authorization {{ users = [
  {{ user: owner, password: {SECRET} }}
  {{ user: reader, password: {SECRET}, permissions: {{
    publish: ["$JS.API.STREAM.INFO.>", "$JS.API.CONSUMER.INFO.>", "$JS.API.CONSUMER.MSG.NEXT.>"], subscribe: ["_INBOX.>"] }} }}
  {{ user: worker, password: {SECRET}, permissions: {{
    publish: ["$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.MSG.NEXT.*.*", "$JS.API.STREAM.MSG.GET.*",
              "$JS.ACK.>", "ORDERS", "ORDERS-dead.billing"],
    subscribe: ["_INBOX.>", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>", "$JS.EVENT.ADVISORY.STREAM.DELETED.*"] }} }}
  {{ user: nobody, password: {SECRET}, permissions: {{ publish: ["nothing"], subscribe: ["_INBOX.>"] }} }}
] }}
"""


async def test_whoever_may_not_is_told_so_at_once_and_no_password_is_told_to_anybody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with running_nats(tmp_path, USERS) as server:

        def at(user: str, password: str = SECRET) -> str:
            return server.url.replace("//", f"//{user}:{password}@")

        name = await ensure("ORDERS/billing", servers=at("owner"))
        said = []
        async with opened(name, at("owner")) as owner, opened(name, at("reader")) as reader:
            await owner.publish([outgoing()])
            delivery = await the_one(reader)
            for call in (lambda: reader.publish([outgoing()]), lambda: reader.ack([delivery.receipt])):
                with anyio.fail_after(3), pytest.raises(QueueUnavailable, match="do not permit") as error:
                    await call()
                said.append(str(error.value))
        for url in (at("nobody"), at("owner", "wrong-password"), server.url):
            queue = NatsQueue(f"{url}/ORDERS/billing")
            with anyio.fail_after(3), pytest.raises(QueueUnavailable, match=name) as error:
                await queue.open()
            said.append(str(error.value))
        assert not [text for text in (*said, caplog.text) if SECRET in text or "wrong-password" in text]


async def test_the_permissions_that_the_guide_names_are_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_nats(tmp_path, USERS) as server:
        name = await ensure("ORDERS/billing", servers=server.url.replace("//", f"//owner:{SECRET}@"), max_attempts=1)
        async with opened(name, server.url.replace("//", f"//worker:{SECRET}@"), timeout=2.0) as queue:
            await queue.publish([outgoing(), outgoing(), outgoing()])
            assert len([held async for held in queue.browse()]) == 3
            acked, dying, given_up = await queue.receive(3, lease=20.0, wait=1.0)
            assert await queue.extend([acked.receipt], lease=30.0) == [Done(acked.receipt)]
            assert await queue.ack([acked.receipt]) == [Done(acked.receipt)]
            assert await queue.dead_letter([dying], reason="poison") == [Done(dying.receipt)]
            assert await queue.release([given_up.receipt]) == [Done(given_up.receipt)]
            assert await queue.receive(1, lease=20.0, wait=0.3) == []
            assert len(await dead_of(queue)) == 2
            assert (await queue.depth()).dead == 2
    assert "do not permit" not in caplog.text


async def test_ensuring_twice_changes_nothing_and_another_setting_is_said(nats_server: NatsServer) -> None:
    name = await made(nats_server, retention=600.0)
    assert await ensure(name, servers=nats_server.url, retention=600.0) == name
    with pytest.raises(UsageError, match=r"exists with other settings \(max_age\)"):
        await ensure(name, servers=nats_server.url, retention=700.0)
    with pytest.raises(UsageError, match=r"consumer .* exists with other settings \(ack_wait\)"):
        await ensure(name, servers=nats_server.url, retention=600.0, lease=20.0)


async def test_a_message_of_the_largest_size_can_be_buried_with_its_reason(nats_server: NatsServer) -> None:
    name = await made(nats_server)
    async with opened(name, nats_server.url) as queue:
        limit = queue.capabilities.max_bytes
        assert limit is not None
        await queue.publish([outgoing(b"x" * limit)])
        delivery = await the_one(queue)
        assert await queue.dead_letter([delivery], reason="ä" * 500) == [Done(delivery.receipt)]
        assert [len(held.body) for held in await dead_of(queue)] == [limit]


@pytest.mark.parametrize("headers", [{}, {"note": "n" * 40}], ids=["without headers", "with headers"])
@pytest.mark.parametrize("left", [0, 20, 100])
async def test_what_others_published_as_large_as_the_server_takes_can_be_buried(
    nats_server: NatsServer, headers: dict[str, str], left: int
) -> None:
    """It leaves no room for all that a dead letter says, and must not come back for ever."""
    name = await made(nats_server)
    client = await nats.connect(nats_server.url)
    entry = Entry(key="", body=b"", headers=headers)
    body = b"x" * (client.max_payload - wire_size(entry) - left)
    await client.jetstream().publish(name.partition("/")[0], body, headers=headers or None)
    async with opened(name, nats_server.url) as queue:
        delivery = await the_one(queue)
        assert await queue.dead_letter([delivery], reason="poison") == [Done(delivery.receipt)]
        assert [held.body for held in await dead_of(queue)] == [body]
        assert (await queue.depth()).held == 0
    buried = await client.jetstream().get_msg(f"{name.partition('/')[0]}-dead", 1)
    assert headers.items() <= (buried.headers or {}).items()
    await client.close()


async def test_limits_are_refusals_for_good_or_for_now(nats_server: NatsServer) -> None:
    name = await made(nats_server)
    stream = name.partition("/")[0]
    async with opened(name, nats_server.url) as queue:
        client = await nats.connect(nats_server.url)
        config = (await client.jetstream().stream_info(stream)).config
        await client.jetstream().update_stream(
            config, max_msg_size=1_000, max_msgs=1, discard="new"
        )  # after the opening
        await client.close()
        (over,) = await queue.publish([outgoing(b"x" * 2_000)])
        assert isinstance(over, Refused)
        assert over.permanent
        fits, full = [(await queue.publish([outgoing()]))[0] for _ in range(2)]
        assert isinstance(fits, Accepted)
        assert isinstance(full, Refused)
        assert not full.permanent
        assert "maximum messages exceeded" in full.reason


async def test_a_stream_or_a_consumer_that_is_deleted_meanwhile_is_unavailable_and_named(
    nats_server: NatsServer,
) -> None:
    name = await made(nats_server)
    stream = name.partition("/")[0]
    async with opened(name, nats_server.url) as queue:
        await queue.publish([outgoing()])
        delivery = await the_one(queue)
        client = await nats.connect(nats_server.url)
        await client.jetstream().delete_consumer(stream, "billing")
        for call in (lambda: queue.receive(1, lease=30.0), lambda: queue.ack([delivery.receipt]), queue.depth):
            with anyio.fail_after(3), pytest.raises(QueueUnavailable, match=name):
                await call()
        await client.jetstream().delete_stream(stream)
        await client.close()
        with anyio.fail_after(3), pytest.raises(QueueUnavailable, match="no stream takes what is published to"):
            await queue.publish([outgoing()])


@pytest.mark.parametrize(
    ("consumer", "reason"),
    [
        ({"ack_policy": "none"}, "ack policy is 'none'"),
        ({"ack_policy": "explicit", "deliver_subject": "pushed"}, "pushes"),
        ({"ack_policy": "explicit", "backoff": [1, 2], "max_deliver": 3}, "backoff"),
        ({"ack_policy": "explicit", "headers_only": True}, "headers_only"),
    ],
)
async def test_a_consumer_that_cannot_be_a_queue_s_is_refused_with_the_remedy(
    nats_server: NatsServer, consumer: dict[str, Any], reason: str
) -> None:
    client = await nats.connect(nats_server.url)
    stream = f"odd-{uuid4().hex[:12]}"
    await client.jetstream().add_stream(name=stream, subjects=[stream])
    await client.jetstream().add_consumer(stream, durable_name="billing", **consumer)
    await client.close()
    with pytest.raises(QueueUnavailable, match=reason):
        await NatsQueue(f"{stream}/billing", servers=nats_server.url).open()


async def test_what_the_settings_may_lose_is_said_when_the_queue_is_opened(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = await nats.connect(nats_server.url)
    stream = f"odd-{uuid4().hex[:12]}"
    await client.jetstream().add_stream(name=stream, subjects=[stream], storage="memory", max_msgs=5)
    await client.jetstream().add_consumer(stream, durable_name="billing", ack_policy="explicit", max_deliver=3)
    await client.close()
    async with opened(f"{stream}/billing", nats_server.url) as queue:
        assert queue.max_attempts == 3
    for word in ("storage: file", "discard: new", "max_deliver"):
        assert word in caplog.text


# ---- given up --------------------------------------------------------------------------------------------------------


async def test_what_a_consumer_gives_up_while_somebody_receives_is_among_the_dead_letters(
    nats_server: NatsServer,
) -> None:
    name = await made(nats_server, max_attempts=1)
    async with opened(name, nats_server.url) as queue:
        message, busy = outgoing(), outgoing()
        await queue.publish([busy, message])
        held, delivery = await queue.receive(2, lease=30.0, wait=1.0)
        await queue.release([delivery.receipt])
        assert await queue.receive(1, lease=30.0, wait=0.3) == []
        assert [one.body for one in await dead_of(queue)] == [message.body], "although another one is in flight"
        depth = await queue.depth()
        assert (depth.ready, depth.in_flight, depth.dead) == (0, 1, 1)
        await queue.ack([held.receipt])


async def test_what_was_given_up_and_nobody_heard_is_found_when_nothing_is_in_flight(nats_server: NatsServer) -> None:
    name = await made(nats_server, max_attempts=1)
    stream = name.partition("/")[0]
    async with opened(name, nats_server.url) as queue:
        message, acked, waiting = outgoing(), outgoing(), outgoing()
        await queue.publish([message, acked])
        client = await nats.connect(nats_server.url)  # another program, that hears no advisory and crashes
        pull = await client.jetstream().pull_subscribe_bind("billing", stream)
        first, second = await pull.fetch(2, timeout=2)
        await second.ack_sync()
        await first.nak()
        with pytest.raises(TimeoutError):
            await pull.fetch(1, timeout=0.3)
        with anyio.fail_after(20):  # until the server has forgotten that request, which would be given what comes next
            while (await pull.consumer_info()).num_waiting:  # noqa: ASYNC110 - no one tells
                await anyio.sleep(0.05)
        await client.close()
        await queue.publish([waiting])

        depth = await queue.depth()
        assert (depth.ready, depth.in_flight, depth.dead) == (1, 0, 1)
        assert [held.body async for held in queue.browse()] == [waiting.body]
        for _ in range(2):
            assert [held.body for held in await dead_of(queue)] == [message.body]
        depth = await queue.depth()
        assert (depth.ready, depth.in_flight, depth.dead) == (1, 0, 1)


async def test_what_was_given_up_is_shown_where_it_lies_if_there_is_no_place_for_dead_letters(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    name = await made(nats_server, max_attempts=1)
    stream = name.partition("/")[0]
    client = await nats.connect(nats_server.url)
    await client.jetstream().delete_stream(f"{stream}-dead")
    await client.close()
    async with opened(name, nats_server.url) as queue:
        message = outgoing()
        await queue.publish([message])
        delivery = await the_one(queue)
        (answer,) = await queue.dead_letter([delivery], reason="poison")
        assert isinstance(answer, NotDone)
        assert f"create the stream {stream}-dead" in answer.reason
        await queue.release([delivery.receipt])
        assert await queue.receive(1, lease=30.0, wait=0.3) == []
        assert [(held.body, held.dead) for held in await dead_of(queue)] == [(message.body, True)]
        assert (await queue.depth()).dead == 1
    assert f"there is no stream {stream}-dead" in caplog.text


# ---- leases ----------------------------------------------------------------------------------------------------------


async def test_an_extension_that_comes_too_late_is_lost_although_the_server_would_confirm_it(
    nats_server: NatsServer,
) -> None:
    name = await made(nats_server, lease=1.0)
    async with opened(name, nats_server.url) as slow, opened(name, nats_server.url) as other:
        await slow.publish([outgoing()])
        delivery = await the_one(slow, lease=1.0)
        again = await the_one(other, lease=1.0)
        for answer in (*await slow.extend([delivery.receipt], lease=30.0), *await slow.release([delivery.receipt])):
            assert isinstance(answer, NotDone)
            assert answer.lost
        assert again.attempt == 2
        assert await other.receive(1, lease=1.0) == [], "nobody took it from the one who holds it"
        assert await slow.ack([delivery.receipt]) == [Done(delivery.receipt)], "an ack is not fenced, as declared"
