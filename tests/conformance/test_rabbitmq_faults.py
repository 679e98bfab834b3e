"""RabbitMQ when it dies, closes connections, refuses, is full or short of memory: what was done, what was not, what nobody knows."""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest

from crossfoot.clock import SystemClock
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Accepted, Delivery, Done, Doubtful, NotDone, Outgoing, Refused
from crossfoot.queues.rabbitmq import RabbitQueue, ensure
from crossfoot.queues.rabbitmq.checks import max_attempts_of, warnings, wears_out
from crossfoot.queues.rabbitmq.probing import Settings
from crossfoot.testing.queues import outgoing
from tests.conformance.rabbitmq_scene import Holder, Told, by_hand, control, dead_of, made, opened, settled_at, the_one
from tests.servers.cable import cable_to
from tests.servers.rabbitmq import RabbitServer

pytest_plugins = ["tests.servers.rabbitmq_fixtures"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.server,
    pytest.mark.usefixtures("no_blocking_calls"),
    pytest.mark.xdist_group("rabbitmq"),
]

SECRET = "swordfish"


def is_unknown(answer: object) -> bool:
    return isinstance(answer, NotDone) and not answer.lost


def is_void(answer: object) -> bool:
    return isinstance(answer, NotDone) and answer.lost


# ---- lost answers ----------------------------------------------------------------------------------------------------


async def test_a_publish_whose_answer_is_lost_is_in_doubt_at_once_and_was_stored(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    with cable_to(rabbit.port) as cable:
        async with opened(name, rabbit, port=cable.port) as queue, opened(name, rabbit) as direct:
            assert isinstance((await queue.publish([outgoing()]))[0], Accepted)
            cable.lose_answers()
            began = time.monotonic()
            answers = await queue.publish([outgoing()])  # a second one might still be in the cable when it is cut
            assert [type(answer) for answer in answers] == [Doubtful]
            assert time.monotonic() - began < 3.0, "the loss of the connection ends the wait"
            cable.heal()
            assert await settled_at(direct, 2, 0) == (2, 0)
            assert isinstance((await queue.publish([outgoing()]))[0], Accepted), "the next one has a new connection"


async def test_a_request_that_does_not_arrive_leaves_its_publish_in_doubt_and_nothing_is_stored(
    rabbit: RabbitServer,
) -> None:
    name = await made(rabbit)
    with cable_to(rabbit.port) as cable:
        async with opened(name, rabbit, port=cable.port) as queue, opened(name, rabbit) as direct:
            await queue.publish([outgoing()])
            cable.cut_requests()
            assert isinstance((await queue.publish([outgoing()]))[0], Doubtful)
            with pytest.raises(QueueUnavailable, match=name):
                await queue.publish([outgoing()])
            cable.heal()
            assert (await direct.depth()).ready == 1


async def test_an_ack_whose_answer_is_lost_is_not_known_to_be_done_nor_when_it_is_asked_for_again(
    rabbit: RabbitServer,
) -> None:
    name = await made(rabbit)
    with cable_to(rabbit.port) as cable:
        async with opened(name, rabbit, port=cable.port) as queue, opened(name, rabbit) as direct:
            await queue.publish([outgoing()])
            delivery = await the_one(queue)
            cable.lose_answers()
            (answer,) = await queue.ack([delivery.receipt])
            assert is_unknown(answer), answer
            cable.heal()
            (again,) = await queue.ack([delivery.receipt])
            assert is_unknown(again), again
            (late,) = await queue.ack([delivery.receipt])
            assert is_void(late), late
            assert await direct.receive(1, lease=30.0, wait=0.5) == [], "it was taken"


async def test_a_move_that_is_cut_after_its_first_step_leaves_it_in_both_places(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    with cable_to(rabbit.port) as cable:
        async with opened(name, rabbit, port=cable.port) as queue, opened(name, rabbit) as direct:
            await queue.publish([outgoing()])
            delivery = await the_one(queue)
            cable.lose_answers()
            (answer,) = await queue.dead_letter([delivery], reason="poison")
            assert is_unknown(answer), answer
            cable.heal()
            assert [held.body for held in await dead_of(direct)] == [delivery.body], "sent, and not known to be"
            assert await queue.dead_letter([delivery], reason="poison") == [Done(delivery.receipt)]
            assert [held.body for held in await dead_of(direct)] == [delivery.body] * 2, "one identity, twice"
            assert (await direct.depth()).held == 0


# ---- connections and channels that end --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["quorum", "classic"])
async def test_when_the_broker_closes_a_connection_everything_in_hand_is_void_in_that_moment(
    rabbit: RabbitServer, kind: str
) -> None:
    name = await made(rabbit, kind=kind)
    async with opened(name, rabbit) as queue:
        lost = Told(queue)
        sent = [outgoing() for _ in range(5)]
        await queue.publish(sent)
        taken = await queue.receive(5, lease=30.0, wait=1.0)
        await control(rabbit, "close_all_connections", "tested")
        await lost.within(2)
        assert sorted(lost.receipts) == sorted(one.receipt for one in taken)
        for answer in (
            *await queue.ack([taken[0].receipt]),
            *await queue.release([taken[1].receipt]),
            *await queue.extend([taken[2].receipt], lease=30.0),
            *await queue.dead_letter([taken[3]], reason="too late"),
            *await queue.release([taken[4].receipt], delay=1.0),
        ):
            assert is_void(answer), answer
        again = [one for _ in range(5) for one in await queue.receive(5, lease=30.0, wait=1.0 / 5)]
        assert sorted(one.body for one in again) == sorted(one.body for one in sent)
        assert {one.attempt for one in again} == {2}


async def test_a_channel_that_the_broker_ends_takes_everything_in_hand_with_it(rabbit: RabbitServer) -> None:
    """It is never given a reason to; so here is one, by hand: a number that is not outstanding."""
    name = await made(rabbit)
    async with opened(name, rabbit) as queue:
        lost = Told(queue)
        await queue.publish([outgoing(), outgoing()])
        one, two = await queue.receive(2, lease=30.0, wait=1.0)
        channel = (await queue._connection.receiving()).channel
        await channel.basic_ack(4711)  # PRECONDITION_FAILED - unknown delivery tag
        await lost.within(2)
        assert set(lost.receipts) == {one.receipt, two.receipt}
        assert is_void((await queue.ack([one.receipt]))[0])
        assert len(await queue.receive(2, lease=30.0, wait=1.0)) == 2


async def test_a_second_ack_and_a_receipt_of_anybody_s_never_reach_the_broker(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    async with opened(name, rabbit) as queue, opened(name, rabbit) as other:
        await queue.publish([outgoing(), outgoing()])
        first = await the_one(queue)
        second = await the_one(other)
        assert await queue.ack([first.receipt]) == [Done(first.receipt)]
        answers = await queue.ack([first.receipt, second.receipt, "nobody's", first.receipt.replace(":1", ":999")])
        assert all(map(is_void, answers)), answers
        assert await other.ack([second.receipt]) == [Done(second.receipt)], "its channel lives"


async def test_what_a_killed_server_confirmed_is_there_when_it_is_back_and_what_it_delivered_comes_again(
    rabbit: RabbitServer,
) -> None:
    name, classic = await made(rabbit), await made(rabbit, kind="classic")
    async with opened(name, rabbit) as queue, opened(classic, rabbit) as other:
        for one in (queue, other):
            await one.publish([outgoing() for _ in range(20)])
        taken = await queue.receive(10, lease=30.0, wait=1.0)
        acked = [one.receipt for one in taken[:4]]
        assert await queue.ack(acked) == [Done(receipt) for receipt in acked]
        try:
            rabbit.kill()
            await anyio.sleep(0.05)
            assert is_void((await queue.ack([taken[5].receipt]))[0])
            for call in (lambda: queue.publish([outgoing()]), lambda: queue.receive(1, lease=30.0), queue.depth):
                with anyio.fail_after(5), pytest.raises(QueueUnavailable, match=name):
                    await call()
        finally:
            rabbit.start()  # in this thread: it ends with the one that started it
        await anyio.sleep(0.6)  # a failure to connect is believed for half a second
        assert (await other.depth()).ready == 20
        got = []
        while more := await queue.receive(30, lease=30.0, wait=1.0):
            got += more
        assert len(got) in (16, 20), "acks that were not on disk yet may be undone; nothing else is"
        assert {one.body for one in taken[4:]} <= {one.body for one in got}


async def test_a_frozen_server_leaves_requests_unanswered_and_a_lease_is_not_extended_on_hope(
    rabbit: RabbitServer,
) -> None:
    name = await made(rabbit)
    async with opened(name, rabbit, timeout=0.7) as queue:
        await queue.publish([outgoing()])
        delivery = await the_one(queue)
        try:
            rabbit.freeze()
            (publish,) = await queue.publish([outgoing()])
            assert isinstance(publish, Doubtful)
            (extension,) = await queue.extend([delivery.receipt], lease=30.0)
            assert is_void(extension), "an unanswered connection is given up, and with it all it held"
            assert is_void((await queue.ack([delivery.receipt]))[0])
            with pytest.raises(QueueUnavailable, match=name):
                await queue.receive(1, lease=30.0)
        finally:
            rabbit.thaw()
        await anyio.sleep(0.6)
        assert len(await queue.receive(2, lease=30.0, wait=3.0)) >= 1


async def test_an_ack_that_nobody_heard_of_is_not_called_lost_when_it_is_asked_for_again(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    async with opened(name, rabbit, timeout=0.7) as queue:
        await queue.publish([outgoing(), outgoing()])
        one, other = await queue.receive(2, lease=30.0, wait=3.0)
        try:
            rabbit.freeze()
            for _ in range(2):
                (answer,) = await queue.ack([one.receipt])
                assert isinstance(answer, NotDone)
                assert not answer.lost, "it may have been taken"
            assert is_void((await queue.ack([other.receipt]))[0]), "and this one was never said"
        finally:
            rabbit.thaw()


async def test_a_queue_deleted_under_a_waiting_receive_is_told_of(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    said: list[str] = []
    async with opened(name, rabbit) as queue, by_hand(rabbit) as channel:

        async def receive() -> None:
            try:
                await queue.receive(1, lease=30.0, wait=10.0)
            except QueueUnavailable as error:
                said.append(str(error))

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await anyio.sleep(0.3)
                await channel.queue_delete(name)
        assert name in said[0]
        assert "deleted" in said[0]
        with pytest.raises(QueueUnavailable, match=f"{name} does not deliver: .*no queue"):
            await queue.receive(1, lease=30.0)
        with pytest.raises(QueueUnavailable, match=f"{name} does not exist"):
            await queue.depth()


async def test_a_waiting_receive_is_told_at_once_that_its_connection_was_lost(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    said: list[str] = []
    async with opened(name, rabbit) as queue:

        async def receive() -> None:
            try:
                await queue.receive(1, lease=30.0, wait=20.0)
            except QueueUnavailable as error:
                said.append(str(error))

        with anyio.fail_after(15):  # less than it would wait for a message
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                while name not in await control(rabbit, "list_consumers"):
                    pass  # asking takes its time
                await control(rabbit, "close_all_connections", "tested")
        assert name in said[0]
        assert "tested" in said[0], "in the broker's own words"


# ---- who holds what --------------------------------------------------------------------------------------------------


async def test_what_a_killed_process_held_is_delivered_again_at_once_and_counted(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    async with opened(name, rabbit) as queue:
        sent = [outgoing() for _ in range(3)]
        await queue.publish(sent)
        holder = await anyio.to_thread.run_sync(Holder, name, rabbit)
        try:
            assert holder.holds == 3
            assert await queue.receive(3, lease=30.0, wait=0.3) == []
            depth = await queue.depth()
            assert (depth.ready, depth.in_flight >= 1) == (0, True), "it is not empty: somebody holds some of it"
        finally:
            await anyio.to_thread.run_sync(holder.kill)
        again: list[Delivery] = []
        while len(again) < 3:
            again += await queue.receive(3, lease=30.0, wait=2.0)
        assert {one.attempt for one in again} == {2}
        await queue.ack([one.receipt for one in again])
        assert await queue.receive(1, lease=30.0) == []
        assert (await queue.depth()).held == 0


async def test_what_a_frozen_process_holds_does_not_look_lost(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    async with opened(name, rabbit) as queue:
        await queue.publish([outgoing()])
        holder = await anyio.to_thread.run_sync(Holder, name, rabbit)
        try:
            holder.freeze()
            await anyio.sleep(0.5)
            assert (await queue.depth()).held == 1
        finally:
            await anyio.to_thread.run_sync(holder.kill)
        assert (await the_one(queue)).attempt == 2


async def test_what_a_frozen_process_holds_is_nobody_else_s_before_its_lease_is_over_and_somebody_s_soon_afterwards(
    rabbit: RabbitServer,
) -> None:
    name = await made(rabbit)
    async with opened(name, rabbit) as queue:
        await queue.publish([outgoing()])
        holder = await anyio.to_thread.run_sync(Holder, f"{name}?heartbeat=2", rabbit)
        try:
            holder.freeze()
            again = await the_one(queue, wait=15.0)
        finally:
            await anyio.to_thread.run_sync(holder.kill)
        assert again.attempt == 2
        late = (SystemClock().now() - holder.lease_until) / 1_000_000
        assert 0 <= late < 6, "the broker waits for a heartbeat's silence, and not for three"


# ---- refusals --------------------------------------------------------------------------------------------------------


async def test_what_no_queue_takes_is_refused_and_never_accepted(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    async with by_hand(rabbit) as channel, opened(name, rabbit) as queue:
        assert isinstance((await queue.publish([outgoing()]))[0], Accepted)
        await channel.queue_delete(name)
        answers = await queue.publish([outgoing() for _ in range(5)])
        assert all(isinstance(answer, Refused) and not answer.permanent for answer in answers), answers
        assert all(
            "NO_ROUTE" in answer.reason and name in answer.reason for answer in answers if isinstance(answer, Refused)
        )


async def test_an_exchange_that_leads_nowhere_refuses_and_one_that_is_not_there_does_too(rabbit: RabbitServer) -> None:
    name, exchange = await made(rabbit), f"orders-{uuid4().hex[:8]}"
    async with by_hand(rabbit) as channel:
        await channel.exchange_declare(exchange, exchange_type="topic")
        async with opened(f"{name}?exchange={exchange}&key=order.placed", rabbit) as queue:
            assert isinstance((await queue.publish([outgoing()]))[0], Refused)
            await channel.queue_bind(name, exchange, routing_key="order.*")
            assert isinstance((await queue.publish([outgoing()]))[0], Accepted)
            assert (await the_one(queue)).attempt == 1
            await channel.exchange_delete(exchange)
            (answer,) = await queue.publish([outgoing()])
            assert not isinstance(answer, Accepted), "the broker ends the channel, and says no more"


async def test_a_full_queue_refuses_and_takes_more_when_there_is_room(rabbit: RabbitServer) -> None:
    name = await made(rabbit, max_length=5)
    async with opened(name, rabbit) as queue:
        answers = []
        for _ in range(30):
            answers += await queue.publish([outgoing()])
        refused = [answer for answer in answers if isinstance(answer, Refused)]
        assert refused, "a quorum queue takes some more than its limit, and then refuses"
        assert all("full" in answer.reason and not answer.permanent for answer in refused)
        accepted = sum(isinstance(answer, Accepted) for answer in answers)
        assert (await queue.depth()).ready == accepted
        taken = await queue.receive(30, lease=30.0, wait=0.5)
        assert len(taken) == accepted
        await queue.ack([one.receipt for one in taken])
        assert isinstance((await queue.publish([outgoing()]))[0], Accepted)


async def test_a_no_for_a_reason_that_nobody_can_see_is_in_doubt(rabbit: RabbitServer) -> None:
    """A policy is not among what the broker tells: so its refusal could also be a failure half-way."""
    name = await made(rabbit, kind="classic")
    policy = '{"max-length": 1, "overflow": "reject-publish"}'
    await control(rabbit, "set_policy", "--apply-to", "queues", name, f"^{name}$", policy)
    async with opened(name, rabbit) as queue:
        answers = [answer for _ in range(4) for answer in await queue.publish([outgoing()])]
        assert [type(answer) for answer in answers] == [Accepted, Doubtful, Doubtful, Doubtful]


async def test_a_queue_that_drops_its_oldest_says_so_when_opened_and_they_lie_among_the_dead(
    rabbit: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    name = await made(rabbit, kind="classic", arguments={"x-max-length": 2, "x-overflow": "drop-head"})
    async with opened(name, rabbit) as queue:
        assert "it confirms a message and moves its oldest to the dead letters" in caplog.text
        sent = [outgoing() for _ in range(5)]
        assert {type(answer) for answer in await queue.publish(sent)} == {Accepted}
        assert await settled_at(queue, 2, 3) == (2, 3)
        dead = await dead_of(queue)
        assert sorted(held.body for held in dead) == sorted(one.body for one in sent[:3])
        assert {held.reason for held in dead} == {f"the broker moved it out of queue {name}: maxlen"}


async def test_a_broker_short_of_memory_leaves_one_publish_in_doubt_and_then_says_that_it_takes_none(
    rabbit: RabbitServer,
) -> None:
    name = await made(rabbit)
    async with opened(name, rabbit, timeout=1.5) as queue:
        await queue.publish([outgoing()])
        delivery = await the_one(queue)
        try:
            await control(rabbit, "set_vm_memory_high_watermark", "absolute", "1000")
            (first,) = await queue.publish([outgoing()])
            assert isinstance(first, Doubtful), first
            began = time.monotonic()
            with pytest.raises(QueueUnavailable, match="short of memory or disk"):
                await queue.publish([outgoing()])
            assert time.monotonic() - began < 0.5
            assert await queue.extend([delivery.receipt], lease=30.0) == [Done(delivery.receipt)]
            assert await queue.ack([delivery.receipt]) == [Done(delivery.receipt)], "acks go on"
        finally:
            await control(rabbit, "set_vm_memory_high_watermark", "absolute", "2GB")
        await anyio.sleep(0.3)
        assert isinstance((await queue.publish([outgoing()]))[0], Accepted)
        assert len([one for _ in range(2) for one in await queue.receive(2, lease=30.0, wait=0.5)]) == 2, (
            "the one in doubt was taken once there was room"
        )


async def test_whoever_may_not_is_told_so_and_no_password_is_told_to_anybody(
    rabbit: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    name, user = await made(rabbit), f"user-{uuid4().hex[:8]}"
    await control(rabbit, "add_user", user, SECRET)
    await control(rabbit, "set_permissions", user, "^$", r"^amq\.default$", rf"^{name}(\.dead|\.holders)?$")
    place = f"127.0.0.1:{rabbit.port}"
    said = []
    for address in (
        f"amqp://{user}:{SECRET}x@{place}/{name}",
        f"amqp://{user}:{SECRET}@{place}/elsewhere/{name}",
        f"amqp://{user}:{SECRET}@127.0.0.1:1/{name}",
        f"amqp://{user}:{SECRET}@{place}/nowhere",
    ):
        with pytest.raises(QueueUnavailable) as raised:
            await RabbitQueue(address).open()
        said.append(str(raised.value))
    assert "Check user and password" in said[0]
    assert "virtual host" in said[1]
    assert "cannot be reached" in said[2]
    assert "does not exist" in said[3]
    async with RabbitQueue(f"amqp://{user}:{SECRET}@{place}/{name}") as queue:
        assert "its settings could not be learned" in caplog.text, "it may not declare"
        assert isinstance((await queue.publish([Outgoing(key="a|1", body=b"{}")]))[0], Accepted)
        delivery = await the_one(queue)
        assert await queue.ack([delivery.receipt]) == [Done(delivery.receipt)], "and may work all the same"
        await queue.publish([outgoing()])
        await queue.dead_letter([await the_one(queue)], reason="poison")
        assert (len(await dead_of(queue)), (await queue.depth()).dead) == (1, 1)
    assert SECRET not in "".join(said) + caplog.text


async def test_without_the_queue_of_its_holders_nothing_that_is_in_hand_is_lost(
    rabbit: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    name = await made(rabbit)
    async with opened(name, rabbit) as queue, by_hand(rabbit) as channel:
        await queue.publish([outgoing(), outgoing()])
        first = await the_one(queue)
        assert await queue.ack([first.receipt]) == [Done(first.receipt)]
        await channel.queue_delete(f"{name}.holders")
        second = await the_one(queue)
        assert "others cannot see what is held here" in caplog.text
        assert await queue.ack([second.receipt]) == [Done(second.receipt)]


async def test_what_is_missing_beside_a_queue_is_named_by_who_receives_and_missed_by_nobody_who_publishes(
    rabbit: RabbitServer,
) -> None:
    name = f"bare-{uuid4().hex[:8]}"
    async with by_hand(rabbit) as channel:
        await channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    async with opened(name, rabbit) as queue:
        assert isinstance((await queue.publish([outgoing()]))[0], Accepted)
        assert isinstance((await queue.publish([outgoing(delay=5.0)]))[0], Refused), "there is nowhere to wait"
        with pytest.raises(QueueUnavailable, match=f"{name} needs {name}.dead beside it"):
            await queue.receive(1, lease=30.0)
        await ensure(f"{name}2", url=rabbit.url)


async def test_a_queue_that_loses_dead_letters_by_being_looked_at_is_not_used_for_them(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    async with by_hand(rabbit) as channel, opened(name, rabbit) as queue, opened(name, rabbit) as looking:
        await channel.queue_delete(f"{name}.dead")
        limited: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": 2}
        await channel.queue_declare(f"{name}.dead", durable=True, arguments=limited)
        await queue.publish([outgoing()])
        with pytest.raises(QueueUnavailable, match=rf"{name} cannot use {name}\.dead .*x-delivery-limit: -1"):
            await queue.receive(1, lease=30.0)
        await channel.basic_publish(b"{}", routing_key=f"{name}.dead")
        for _ in range(4):
            with pytest.raises(QueueUnavailable, match="x-delivery-limit: -1"):
                await dead_of(looking)
        assert (await queue.depth()).dead == 1, "it is still there"


async def test_a_waiting_queue_that_drops_what_has_waited_is_not_used(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    async with by_hand(rabbit) as channel, opened(name, rabbit) as queue:
        await channel.queue_delete(f"{name}.wait.2")
        await channel.queue_declare(f"{name}.wait.2", durable=True)
        await queue.publish([outgoing()])
        with pytest.raises(QueueUnavailable, match=rf"{name}\.wait\.2 .*x-dead-letter-routing-key: {name}"):
            await queue.receive(1, lease=30.0)
        assert (await queue.depth()).ready == 1


def test_a_quorum_queue_of_version_4_gives_a_message_up_although_nobody_told_it_to() -> None:
    def quorum(version: int, **arguments: object) -> Settings:
        return Settings(arguments={"x-queue-type": "quorum", **arguments}, version=(version, 0))

    never = {"x-delivery-limit": -1}
    assert [max_attempts_of(one) for one in (quorum(3), quorum(4), quorum(4, **never))] == [None, 21, None]
    assert ["delivered too often" in "".join(warnings(one)) for one in (quorum(3), quorum(4), quorum(4, **never))] == [
        False, True, False,
    ]  # fmt: skip
    assert [bool(wears_out(one)) for one in (quorum(3), quorum(4), quorum(4, **never))] == [False, True, False]


async def test_a_second_event_loop_gets_a_connection_of_its_own(rabbit: RabbitServer) -> None:
    def in_loops_of_their_own() -> int:
        name = anyio.run(made, rabbit)
        queue = RabbitQueue(name, url=rabbit.url)
        anyio.run(queue.open)
        anyio.run(queue.publish, [outgoing()])
        anyio.run(queue.publish, [outgoing()])
        held = anyio.run(queue.depth).held
        anyio.run(queue.close)
        return held

    assert await anyio.to_thread.run_sync(in_loops_of_their_own) == 2
