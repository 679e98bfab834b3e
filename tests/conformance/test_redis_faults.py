"""A stream when requests fail half-way: what was done, what was not, and what nobody knows are never confused."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Accepted, Delivery, Done, Doubtful, NotDone, Refused
from crossfoot.queues.redis import RedisQueue, ensure
from crossfoot.testing.queues import outgoing
from crossfoot.testing.queues.suite import bodies
from tests.conformance.cable_suite import AnswersLost, RequestsCut, Settle
from tests.conformance.redis_scene import Scene, scene_on
from tests.servers.processes import free_port
from tests.servers.run import HOST
from tests.servers.valkey import Valkey, valkey_running

pytest_plugins = ["tests.servers.valkey_fixtures"]

pytestmark = [
    pytest.mark.server,
    pytest.mark.usefixtures("no_blocking_calls"),
    pytest.mark.xdist_group("valkey"),  # one process of each server is enough
]

ONE_ID = len(b"$15\r\n1700000000000-0\r\n")
"""Bytes of one accepted publish's answer."""


@pytest.fixture
async def scene(valkey: Valkey) -> AsyncIterator[Scene]:
    async with scene_on(valkey) as made:
        yield made


class TestAnswersLost(AnswersLost):
    async def test_what_was_answered_before_the_connection_broke_is_accepted(self, scene: Scene) -> None:
        scene.cable.lose_answers(after=2 * ONE_ID)
        answers = await scene.subject.publish([outgoing() for _ in range(5)])
        assert [type(answer) for answer in answers] == [Accepted] * 2 + [Doubtful] * 3
        assert await scene.stored() == 5

    async def test_batches_behind_one_in_doubt_are_refused_for_now_when_the_server_is_gone(self, scene: Scene) -> None:
        scene.cable.lose_answers()
        answers = await scene.subject.publish([outgoing() for _ in range(250)])
        assert [type(answer) for answer in answers] == [Doubtful] * 100 + [Refused] * 150
        assert not any(answer.permanent for answer in answers if isinstance(answer, Refused))
        assert await scene.stored() == 100


class TestRequestsCut(RequestsCut):
    pass


class TestTheServer:
    """It is killed, frozen, started again, emptied."""

    async def test_a_frozen_server_leaves_a_publish_in_doubt_and_a_dead_one_refuses_it(self, tmp_path: Path) -> None:
        with valkey_running(tmp_path) as server:
            async with scene_on(server, timeout=0.5) as scene:
                (delivery,) = await scene.delivered()
                server.freeze()
                began = time.monotonic()
                assert isinstance((await scene.subject.publish([outgoing()]))[0], Doubtful)
                with pytest.raises(QueueUnavailable, match=r"was asked nothing|nothing was sent"):
                    await scene.subject.ack([delivery.receipt])
                assert time.monotonic() - began < 3.0
                server.thaw()
                await anyio.to_thread.run_sync(server.kill)
                for call in (
                    lambda: scene.subject.publish([outgoing()]),
                    lambda: scene.subject.receive(1, lease=30),
                    lambda: scene.subject.ack([delivery.receipt]),
                    lambda: scene.subject.dead_letter([delivery], reason="poison"),
                    scene.subject.depth,
                ):
                    with pytest.raises(QueueUnavailable, match=scene.subject.name):
                        await call()

    async def test_after_a_restart_everything_goes_on_leases_receipts_and_scripts_included(
        self, tmp_path: Path
    ) -> None:
        with valkey_running(tmp_path) as server:
            async with scene_on(server) as scene:
                held, late = await scene.delivered(2)
                await scene.subject.release([late.receipt], delay=60.0)
                await scene.direct.publish([outgoing(), outgoing(delay=60.0)])
                await anyio.to_thread.run_sync(server.kill)
                await anyio.to_thread.run_sync(server.start)
                depth = await scene.subject.depth()
                assert (depth.ready, depth.in_flight, depth.delayed) == (1, 1, 2)
                assert await scene.subject.ack([held.receipt]) == [Done(held.receipt)]
                assert len(await scene.subject.receive(10, lease=30.0)) == 1

    async def test_a_wait_that_the_servers_death_breaks_off_is_an_error_and_not_an_empty_queue(
        self, tmp_path: Path
    ) -> None:
        with valkey_running(tmp_path) as server:

            async def die() -> None:
                await anyio.sleep(0.2)
                await anyio.to_thread.run_sync(server.kill)

            await ensure("orders", url=server.url)
            async with RedisQueue("orders", url=server.url) as queue, anyio.create_task_group() as tasks:
                tasks.start_soon(die)
                with pytest.raises(QueueUnavailable, match="orders"):
                    await queue.receive(1, lease=30.0, wait=10.0)

    async def test_every_script_survives_being_forgotten(self, scene: Scene) -> None:
        await scene.direct.publish([outgoing() for _ in range(4)])
        with scene.server.admin() as admin:
            admin.script_flush()
            one, two, three, _ = await scene.subject.receive(4, lease=30.0)
            calls: list[Settle] = [
                lambda: scene.subject.ack([one.receipt]),
                lambda: scene.subject.release([two.receipt], delay=60.0),
                lambda: scene.subject.extend([three.receipt], lease=60.0),
                lambda: scene.subject.dead_letter([three], reason="poison"),
            ]
            for settle in calls:
                admin.script_flush()
                (answer,) = await settle()
                assert isinstance(answer, Done)
            admin.script_flush()
            depth = await scene.subject.depth()
        assert (depth.ready, depth.in_flight, depth.delayed, depth.dead) == (0, 1, 1, 1)

    async def test_an_emptied_server_is_not_an_empty_queue(self, tmp_path: Path) -> None:
        with valkey_running(tmp_path) as server:
            async with scene_on(server) as scene:
                (delivery,) = await scene.delivered()
                with server.admin() as admin:
                    admin.flushall()
                for call in (
                    lambda: scene.subject.publish([outgoing(), outgoing(delay=1.0)]),
                    lambda: scene.subject.receive(1, lease=30),
                    lambda: scene.subject.ack([delivery.receipt]),
                    scene.subject.depth,
                    lambda: anext(aiter(scene.subject.browse())),
                ):
                    with pytest.raises(QueueUnavailable, match="does not exist: make it with"):
                        await call()
                await ensure(scene.subject.name, url=server.url)
                (answer,) = await scene.subject.ack([delivery.receipt])
                assert isinstance(answer, NotDone)
                assert answer.lost

    async def test_of_messages_buried_while_the_server_dies_each_is_in_one_place(self, tmp_path: Path) -> None:
        with valkey_running(tmp_path) as server:
            async with scene_on(server) as scene:
                for _ in range(3):
                    deliveries = await scene.delivered(90)
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(anyio.to_thread.run_sync, server.kill)
                        for delivery in deliveries:
                            tasks.start_soon(_bury_if_possible, scene, delivery)
                    await anyio.to_thread.run_sync(server.start)
                    held = [one.body async for one in scene.direct.browse()]
                    dead = [one.body for one in await scene.dead()]
                    assert sorted(held + dead) == sorted({*held, *dead}), "in two places"
                    assert {one.body for one in deliveries} <= {*held, *dead}, "nowhere"
                    for delivery in deliveries:
                        await scene.subject.ack([delivery.receipt])


async def _bury_if_possible(scene: Scene, delivery: Delivery) -> None:
    try:
        await scene.subject.dead_letter([delivery], reason="poison")
    except QueueUnavailable:
        return


class TestRefusals:
    """The server says no: nothing was done."""

    async def test_a_full_server_takes_nothing_and_hands_out_what_it_has(self, tmp_path: Path) -> None:
        with valkey_running(tmp_path) as server:
            async with scene_on(server) as scene:
                await scene.direct.publish([outgoing() for _ in range(5)])
                await scene.direct.publish([outgoing(delay=0.001)])
                with server.admin() as admin:
                    admin.config_set("maxmemory", "1")
                for message in (outgoing(), outgoing(delay=1.0)):
                    (answer,) = await scene.subject.publish([message])
                    assert isinstance(answer, Refused), answer
                    assert not answer.permanent
                    assert "OOM" in answer.reason
                one, two, three, four, _ = await scene.subject.receive(10, lease=30.0)
                assert await scene.subject.extend([one.receipt], lease=60.0) == [Done(one.receipt)]
                assert await scene.subject.release([two.receipt], delay=60.0) == [Done(two.receipt)]
                assert await scene.subject.dead_letter([three], reason="poison") == [Done(three.receipt)]
                assert await scene.subject.ack([four.receipt]) == [Done(four.receipt)]
                with server.admin() as admin:
                    admin.config_set("maxmemory", "0")
                assert len(await scene.subject.receive(10, lease=30.0)) == 1, (
                    "the delayed one enters when there is room"
                )

    @pytest.mark.parametrize(
        ("harm", "says"),
        [
            (("SET", "{stream}", "x"), "cannot be used"),
            (("XGROUP", "DESTROY", "{stream}", "crossfoot"), "has no group crossfoot"),
            (("XGROUP", "CREATE", "{stream}", "audit", "$"), r"has other groups beside crossfoot \(audit\)"),
            (("REPLICAOF", "127.0.0.1", "1"), "takes no writes"),
        ],
    )
    async def test_a_queue_that_cannot_be_received_from_is_named_with_the_remedy(
        self, tmp_path: Path, harm: tuple[str, ...], says: str
    ) -> None:
        with valkey_running(tmp_path) as server:
            async with scene_on(server) as scene:
                (delivery,) = await scene.delivered()
                with server.admin() as admin:
                    if harm[0] == "SET":
                        admin.delete(scene.stream)
                    admin.execute_command(*(word.format(stream=scene.stream) for word in harm))
                with pytest.raises(QueueUnavailable, match=f"queue {scene.subject.name} .*{says}"):
                    await scene.subject.receive(1, lease=30.0)
                if harm[0] != "XGROUP":
                    with pytest.raises(QueueUnavailable, match=f"queue {scene.subject.name} "):
                        await scene.subject.publish([outgoing(), outgoing()])
                if "audit" in harm:
                    with pytest.raises(QueueUnavailable, match="audit"):
                        await scene.subject.ack([delivery.receipt])
                    with server.admin() as admin:
                        assert admin.xlen(scene.stream) == 1, "the other group was robbed of it"
                    with pytest.raises(QueueUnavailable, match="audit"):
                        await RedisQueue(scene.subject.name, url=server.url).open()

    async def test_a_dead_letter_that_has_no_place_stays_where_it_is(self, scene: Scene) -> None:
        (delivery,) = await scene.delivered()
        with scene.server.admin() as admin:
            admin.set(scene.key("dead"), "in the way")
        with pytest.raises(QueueUnavailable, match=f"{{{scene.stream}}}:dead is no stream"):
            await scene.subject.dead_letter([delivery], reason="poison")
        with scene.server.admin() as admin:
            admin.delete(scene.key("dead"))
        assert await scene.subject.dead_letter([delivery], reason="poison") == [Done(delivery.receipt)]

    async def test_wrong_credentials_are_told_and_never_shown(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with valkey_running(tmp_path) as server:
            with server.admin() as admin:
                admin.execute_command(
                    "ACL", "SETUSER", "billing", "on", ">s3cret", "~*", "+@all", "-xgroup", "-config", "-info"
                )
                admin.xgroup_create("orders", "crossfoot", mkstream=True)
            place = f"{HOST}:{server.port}/0/orders"
            async with RedisQueue(f"redis://billing:s3cret@{place}") as queue:
                assert queue.name == "orders"
                assert isinstance((await queue.publish([outgoing()]))[0], Accepted)
            told = []
            for user, password in (("billing", "wr0ng"), ("nobody", "s3cret")):
                with pytest.raises(QueueUnavailable, match="refused our credentials") as caught:
                    await RedisQueue(f"redis://{user}:{password}@{place}").open()
                told.append(str(caught.value))
            with pytest.raises(QueueUnavailable, match="refused us") as caught:
                await ensure(f"redis://billing:s3cret@{place}-2")
            told.append(str(caught.value))
            server.kill()
            with pytest.raises(QueueUnavailable, match="cannot be reached") as caught:
                await RedisQueue(f"redis://billing:s3cret@{place}").open()
            told.append(str(caught.value))
        everything = " ".join([*told, caplog.text])
        assert "s3cret" not in everything
        assert "wr0ng" not in everything


class TestWaiting:
    """Nothing is ever on its way to nobody."""

    async def test_a_receive_that_is_cancelled_again_and_again_loses_no_message(self, scene: Scene) -> None:
        sent = [outgoing() for _ in range(40)]
        got: list[bytes] = []

        async def publish() -> None:
            for message in sent:
                await scene.direct.publish([message])
                await anyio.sleep(0.005)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            for number in range(200):
                with anyio.move_on_after(0.001 * (number % 7)):
                    got += bodies(await scene.subject.receive(1, lease=300.0, wait=1.0))
        got += bodies(await scene.subject.receive(100, lease=300.0))
        assert sorted(got) == sorted(message.body for message in sent)

    async def test_one_client_serves_two_event_loops_and_leaves_no_connection_open(self, valkey: Valkey) -> None:
        name = await ensure(f"loops-{uuid4().hex[:12]}", url=valkey.url)
        queue = RedisQueue(name, url=valkey.url)

        async def publish() -> None:
            await queue.open()
            assert isinstance((await queue.publish([outgoing()]))[0], Accepted)

        for _ in range(2):
            await anyio.to_thread.run_sync(anyio.run, publish)  # an unclosed connection is a warning, and so an error
        await queue.open()
        assert (await queue.depth()).ready == 2
        await queue.close()
        with valkey.admin() as admin:
            assert not [client for client in admin.client_list() if client["name"] == "crossfoot"]


class TestAFailover:
    """A replica takes over, behind the same name; the old primary takes no more writes."""

    async def test_clients_follow_the_name_and_what_was_replicated_goes_on(self, tmp_path: Path) -> None:
        with valkey_running(tmp_path / "one") as one, valkey_running(tmp_path / "two") as two:
            async with scene_on(one) as scene:
                held, returned = await scene.delivered(2)
                await scene.subject.release([returned.receipt])
                with one.admin() as primary, two.admin() as replica:
                    replica.replicaof(HOST, one.port)
                    await anyio.to_thread.run_sync(_wait_until_the_same, primary, replica)
                    replica.replicaof("NO", "ONE")
                    primary.replicaof(HOST, two.port)
                scene.cable.lead_to(two.port)
                with pytest.raises(QueueUnavailable, match="takes no writes"):
                    await scene.subject.publish([outgoing()])
                assert isinstance((await scene.subject.publish([outgoing()]))[0], Accepted)
                again = await scene.subject.receive(10, lease=30.0)
                assert sorted(delivery.attempt for delivery in again) == [1, 2]
                assert await scene.subject.ack([held.receipt]) == [Done(held.receipt)]


def _wait_until_the_same(primary: Any, replica: Any) -> None:
    until = time.monotonic() + 30
    while (info := replica.info("replication"))["master_link_status"] != "up" or replica.dbsize() != primary.dbsize():
        assert time.monotonic() < until, info
        time.sleep(0.05)


class TestACluster:
    """All keys of a queue are on one node; whichever node is named, that one is asked."""

    async def test_queues_on_other_nodes_are_found_and_followed(self, tmp_path: Path) -> None:
        more = {"cluster_enabled": "yes", "cluster_node_timeout": "1000", "cluster_require_full_coverage": "no"}
        with (
            valkey_running(tmp_path / "one", cluster_port=str(free_port()), **more) as one,
            valkey_running(tmp_path / "two", cluster_port=str(free_port()), **more) as two,
        ):
            await anyio.to_thread.run_sync(_join, one, two)
            for name in ("billing", "letters", "orders"):
                await ensure(name, url=one.url)
                async with RedisQueue(name, url=one.url) as queue:
                    await queue.publish([outgoing(), outgoing(delay=60.0)])
                    (delivery,) = await queue.receive(1, lease=30.0, wait=1.0)
                    assert await queue.receive(1, lease=30.0, wait=0.1) == []
                    assert await queue.ack([delivery.receipt]) == [Done(delivery.receipt)]
                    depth = await queue.depth()
                    assert (depth.held, depth.delayed) == (1, 1)
            with two.admin() as admin:
                assert {b"billing", b"letters"} <= set(admin.keys("*")), "nothing was on the other node"
            async with RedisQueue("billing", url=one.url) as first, RedisQueue("letters", url=one.url) as second:
                two.kill()
                await anyio.sleep(0.1)
                for queue in (first, second):
                    with pytest.raises(QueueUnavailable, match=queue.name):
                        await queue.publish([outgoing()])
                two.start()
                await anyio.to_thread.run_sync(_wait_for, one, two)
                for queue in (first, second):
                    assert isinstance((await queue.publish([outgoing()]))[0], Accepted)


def _join(one: Valkey, two: Valkey) -> None:
    with one.admin() as first, two.admin() as second:
        first.execute_command("CLUSTER ADDSLOTSRANGE", 0, 8191)
        second.execute_command("CLUSTER ADDSLOTSRANGE", 8192, 16383)
        first.execute_command("CLUSTER MEET", HOST, two.port, two.settings["cluster-port"])
    _wait_for(one, two)


def _wait_for(*nodes: Valkey) -> None:
    until = time.monotonic() + 30
    for node in nodes:
        with node.admin() as admin:
            while (info := admin.cluster("INFO"))["cluster_state"] != "ok" or info["cluster_slots_ok"] != "16384":
                assert time.monotonic() < until, info
                time.sleep(0.05)
