"""What a group, a log and a broker do to who consumes: rebalances, freezes, records that are gone, answers that do not come."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from crossfoot import Message
from crossfoot.clock import SystemClock, micros
from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.message import decode, encode
from crossfoot.queues.kafka import KafkaQueue, ensure, stillness
from crossfoot.queues.queue import Accepted, Delivery, Done, Doubtful, NotDone, Outgoing, Refused
from crossfoot.testing.queues import outgoing
from tests.servers.kafka import MockCluster, Tansu, publish_with_headers

pytest_plugins = ["tests.servers.kafka_fixtures"]

pytestmark = [
    pytest.mark.anyio, pytest.mark.server, pytest.mark.usefixtures("no_blocking_calls"), pytest.mark.xdist_group("kafka"),
]  # fmt: skip

ROOT = Path(__file__).parents[2]

PRODUCE, FETCH, COMMIT, OFFSET_FETCH = 0, 1, 8, 9
"""API keys of Kafka's protocol."""

OUT_OF_RANGE, CORRUPT, UNKNOWN_TOPIC, TOO_LARGE, TOPIC_FORBIDDEN, NO_ANSWER = 1, 2, 3, 10, 29, -195


class Scene:
    """A topic of its own, and what is read of it by others than the queue."""

    def __init__(self, server: MockCluster, topic: str) -> None:
        self.server = server
        self.topic = topic
        self.group = f"letters-of-{topic}"

    def queue(self, query: str = "", **options: Any) -> KafkaQueue:
        """To be entered."""
        return KafkaQueue(f"{self.topic}?group={self.group}{query}", servers=self.server.url, **options)

    def committed(self, partition: int = 0) -> int:
        """As the broker has it; negative for none."""
        client = Consumer({"bootstrap.servers": self.server.address, "group.id": self.group})
        try:
            (place,) = client.committed([TopicPartition(self.topic, partition)], timeout=5)
            return int(place.offset)
        finally:
            client.close()

    def commit(self, offset: int, partition: int = 0) -> None:
        """As somebody may who resets the group's offsets."""
        client = Consumer({"bootstrap.servers": self.server.address, "group.id": self.group})
        try:
            client.commit(offsets=[TopicPartition(self.topic, partition, offset)], asynchronous=False)
        finally:
            client.close()

    def put(self, *messages: tuple[bytes, bytes | None, int], headers: dict[str, bytes] | None = None) -> None:
        """Bodies with their key, each into a partition."""
        client = Producer({"bootstrap.servers": self.server.address})
        for body, key, partition in messages:
            client.produce(self.topic, value=body, key=key, partition=partition, headers=list((headers or {}).items()))
        client.flush(10)


SceneOf = Callable[..., Awaitable[Scene]]


@pytest.fixture
def scene_of(kafka_mock: MockCluster) -> SceneOf:
    async def make(partitions: int = 1, *, dead: bool = True) -> Scene:
        topic = f"faults-{uuid4().hex[:12]}"
        await anyio.to_thread.run_sync(kafka_mock.make_topic, topic, partitions)
        if dead:
            await anyio.to_thread.run_sync(kafka_mock.make_topic, f"{topic}.dead")
        return Scene(kafka_mock, topic)

    return make


async def until(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> None:
    with anyio.move_on_after(seconds):
        while True:
            if condition():
                return
            await anyio.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")


async def take(queue: KafkaQueue, count: int, *, lease: float = 1.0) -> list[Delivery]:
    taken: list[Delivery] = []
    with anyio.move_on_after(60):
        while len(taken) < count:
            taken += await queue.receive(count - len(taken), lease=lease, wait=1.0)
    assert len(taken) == count
    return taken


class TestTheOffset:
    """It passes nothing that has no end."""

    async def test_a_message_without_an_end_holds_it_back_and_a_new_consumer_begins_there(
        self, scene_of: SceneOf
    ) -> None:
        scene = await scene_of()
        async with scene.queue() as queue:
            sent = [outgoing() for _ in range(4)]
            await queue.publish(sent)
            first, second, third, _ = await take(queue, 4)
            assert await queue.ack([second.receipt, third.receipt]) == [Done(second.receipt), Done(third.receipt)]
            assert await anyio.to_thread.run_sync(scene.committed) == 0
            assert await queue.ack([first.receipt]) == [Done(first.receipt)]
            assert await anyio.to_thread.run_sync(scene.committed) == 3
        assert await anyio.to_thread.run_sync(scene.committed) == 3, "closing commits nothing that has no end"

    async def test_a_commit_that_is_refused_is_no_ack_and_can_be_asked_for_again(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        async with scene.queue() as queue:
            await queue.publish([outgoing()])
            (delivery,) = await take(queue, 1)
            await anyio.to_thread.run_sync(scene.server.fail_next, COMMIT, TOPIC_FORBIDDEN)
            (answer,) = await queue.ack([delivery.receipt])
            assert isinstance(answer, NotDone)
            assert not answer.lost
            assert await queue.ack([delivery.receipt]) == [Done(delivery.receipt)]
            assert await anyio.to_thread.run_sync(scene.committed) == 1

    async def test_no_more_than_the_bound_is_in_hand_beyond_it(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        await anyio.to_thread.run_sync(lambda: scene.put(*[(b"{}", None, 0)] * 400))
        async with scene.queue("&ahead=20") as queue:
            held = await take(queue, 20, lease=30.0)
            await anyio.sleep(0.5)
            shelf = queue._consumer.shelf  # type: ignore[union-attr] # what is in memory is told by nobody else
            assert len(shelf.tracks[0].items) <= 20 + 200, "one round of reading more, and not all of it"
            await queue.ack([one.receipt for one in held])
            assert len(await take(queue, 100, lease=30.0)) == 100

    async def test_the_next_of_a_key_is_handed_over_when_the_one_before_it_has_its_end_and_nothing_spins_until_then(
        self, scene_of: SceneOf
    ) -> None:
        scene = await scene_of()
        await anyio.to_thread.run_sync(lambda: scene.put((b'{"n":0}', b"a", 0), (b'{"n":1}', b"a", 0)))
        async with scene.queue() as queue:
            (first,) = await take(queue, 1, lease=30.0)
            await until(lambda: len(queue._consumer.shelf.tracks[0].items) == 2, "the second one")  # type: ignore[union-attr]  # it is open
            looks = 0
            deliver = queue._consumer.shelf.deliver  # type: ignore[union-attr] # how often it looks is told by nobody else

            def counted(*arguments: Any) -> Any:
                nonlocal looks
                looks += 1
                return deliver(*arguments)

            queue._consumer.shelf.deliver = counted  # type: ignore[union-attr, method-assign]
            assert await queue.receive(1, lease=30.0, wait=0.5) == []
            assert looks <= 20, "as often as something has come, and not as often as the machine can"

            async def end() -> None:
                await anyio.sleep(0.2)
                assert await queue.ack([first.receipt]) == [Done(first.receipt)]

            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(end)
                    (second,) = await queue.receive(1, lease=30.0, wait=20.0)
            assert second.body == b'{"n":1}'

    async def test_a_lease_is_told_as_it_is_kept_however_long_the_group_took_to_answer(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        await anyio.to_thread.run_sync(lambda: scene.put((b'{"n":0}', None, 0), (b'{"n":1}', None, 0)))
        clock = SystemClock()
        async with scene.queue("&session=6", clock=clock) as queue:
            await take(queue, 1, lease=6.0)
            await anyio.to_thread.run_sync(scene.server.slow, 600)
            try:
                (delivery,) = await queue.receive(1, lease=6.0, wait=5.0)
            finally:
                await anyio.to_thread.run_sync(scene.server.slow, 0)
            item = queue._consumer.shelf.out(delivery.receipt)  # type: ignore[union-attr]  # it is open
            assert item is not None
            told, kept = delivery.lease_until - clock.now(), micros(item.lease_over - clock.monotonic())
            assert abs(told - kept) < micros(0.3)


class TestTheGroup:
    """What it takes away."""

    async def test_a_partition_that_goes_to_another_member_voids_its_leases_and_is_committed_no_more(
        self, scene_of: SceneOf
    ) -> None:
        scene = await scene_of(2)
        await anyio.to_thread.run_sync(lambda: scene.put((b'{"n":0}', None, 0), (b'{"n":1}', None, 1)))
        async with scene.queue("&session=2") as one, scene.queue("&session=2") as two:
            lost: list[str] = []
            one.on_lost(lost.extend)
            mine = await take(one, 2, lease=2.0)
            got: list[Delivery] = []
            async with anyio.create_task_group() as tasks:

                async def receive() -> None:
                    while not got:
                        got.extend(await two.receive(2, lease=2.0, wait=1.0))

                tasks.start_soon(receive)
                await until(lambda: lost, "the loss")
            (gone,) = [delivery for delivery in mine if delivery.receipt in lost]
            (kept,) = [delivery for delivery in mine if delivery.receipt not in lost]
            assert [delivery.body for delivery in got] == [gone.body]
            partition = int(gone.broker_id.split("/")[1])
            answers = await one.ack([gone.receipt, kept.receipt])
            assert isinstance(answers[0], NotDone)
            assert answers[0].lost
            assert answers[1] == Done(kept.receipt)
            assert await anyio.to_thread.run_sync(scene.committed, partition) == 0, "another one's offset"
            assert await anyio.to_thread.run_sync(scene.committed, 1 - partition) == 1

    async def test_a_member_that_is_given_nothing_though_there_is_more_joins_anew(
        self, scene_of: SceneOf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client's own fetching is stopped behind its back: it lives, and the group has it, and nothing comes."""
        monkeypatch.setattr(stillness, "STILL_SECONDS", 1.0)
        scene = await scene_of(1)
        await anyio.to_thread.run_sync(lambda: scene.put((b'{"n":0}', None, 0)))
        async with scene.queue("&session=2") as queue:
            (first,) = await take(queue, 1)
            assert isinstance((await queue.ack([first.receipt]))[0], Done)
            consumer = queue._consumer
            assert consumer is not None
            monkeypatch.setattr(
                consumer._flow, "changes", lambda: ([0], [])
            )  # the client stops fetching, and nobody knows
            await until(lambda: consumer.shelf.caught_up, "the end of the log")
            await anyio.sleep(0.3)
            await anyio.to_thread.run_sync(lambda: scene.put((b'{"n":1}', None, 0)))
            await until(lambda: not consumer.up, "that it gave up")
            (second,) = await take(queue, 1)
            assert second.body == b'{"n":1}'

    async def test_an_ack_during_a_rebalance_is_done_or_its_partition_is_gone(self, scene_of: SceneOf) -> None:
        scene = await scene_of(2)
        await anyio.to_thread.run_sync(lambda: scene.put((b'{"n":0}', None, 0), (b'{"n":1}', None, 1)))
        async with scene.queue("&session=2") as one, scene.queue("&session=2") as two:
            mine = await take(one, 2, lease=2.0)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: two.receive(1, lease=2.0, wait=0.1))
                await anyio.sleep(0.3)  # the group waits for the first one to join again, and its commit with it
                answers = await one.ack([delivery.receipt for delivery in mine])
            assert all(isinstance(answer, Done) or answer.lost for answer in answers), answers
            kept = [
                int(taken.broker_id.split("/")[1])
                for taken, told in zip(mine, answers, strict=True)
                if told == Done(taken.receipt)
            ]
            assert kept
            for partition in kept:
                assert await anyio.to_thread.run_sync(scene.committed, partition) == 1

    async def test_a_process_that_froze_for_a_session_can_neither_extend_nor_ack(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        await anyio.to_thread.run_sync(lambda: scene.put((b'{"n":0}', None, 0), (b'{"n":1}', None, 0)))
        process = await anyio.to_thread.run_sync(_frozen_holder, scene)
        try:
            async with scene.queue("&session=2") as queue:
                taken = await take(queue, 2, lease=2.0)
                said = await anyio.to_thread.run_sync(_thawed, process)
                assert [one.body for one in taken] == [b'{"n":0}', b'{"n":1}']
                assert said == ["at once: not done", "lost", "ack: lost", "extend: lost"]
                assert await anyio.to_thread.run_sync(scene.committed) == 0
        finally:
            process.kill()
            await anyio.to_thread.run_sync(process.wait)

    async def test_where_to_begin_is_asked_again_and_what_the_broker_said_is_told(
        self, scene_of: SceneOf, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene = await scene_of()
        await anyio.to_thread.run_sync(lambda: scene.put((b"{}", None, 0)))
        async with scene.queue() as queue:
            await anyio.to_thread.run_sync(scene.server.fail_next, OFFSET_FETCH, *[TOPIC_FORBIDDEN] * 3)
            await take(queue, 1)
            assert "where to begin cannot be learned, it is asked again" in caplog.text
            assert "TOPIC_AUTHORIZATION_FAILED" in caplog.text

    async def test_a_queue_that_is_closed_while_it_joins_leaves_no_member_behind(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        queue = scene.queue()
        await queue.open()
        await anyio.to_thread.run_sync(scene.server.slow, 300)
        try:
            async with anyio.create_task_group() as tasks:

                async def receive() -> None:
                    with pytest.raises(QueueUnavailable, match="closed here"):
                        await queue.receive(1, lease=1.0, wait=5.0)

                tasks.start_soon(receive)
                await anyio.sleep(0.1)
                await queue.close()
        finally:
            await anyio.to_thread.run_sync(scene.server.slow, 0)
        assert [one.name for one in threading.enumerate() if one.name == f"kafka-{scene.topic}"] == []

    async def test_a_lease_is_not_extended_when_the_group_does_not_answer(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        await anyio.to_thread.run_sync(
            lambda: scene.put((b"{}", None, 0))
        )  # the queue's own publish may take longer than its timeout
        async with scene.queue("&session=30", timeout=0.5) as queue:
            (delivery,) = await take(queue, 1, lease=1.0)
            await anyio.to_thread.run_sync(scene.server.slow, 3_000)
            try:
                (answer,) = await queue.extend([delivery.receipt], lease=30.0)
            finally:
                await anyio.to_thread.run_sync(scene.server.slow, 0)
            assert isinstance(answer, NotDone)
            assert not answer.lost


HOLDS = """
import anyio, sys
from crossfoot.queues.kafka import KafkaQueue
from crossfoot.queues.queue import Done

async def hold(address):
    async with KafkaQueue(address) as queue:
        lost = []
        queue.on_lost(lost.extend)
        deliveries = []
        while len(deliveries) < 2:
            deliveries += await queue.receive(2 - len(deliveries), lease=2.0, wait=10.0)
        first, second = (one.receipt for one in deliveries)
        print("holds", flush=True)
        sys.stdin.readline()  # nothing else happens meanwhile: it is frozen, and then acks before it has heard of anything
        (answer,) = await queue.ack([first])
        print(f"at once: {'done' if isinstance(answer, Done) else 'not done'}", flush=True)
        with anyio.move_on_after(10):
            while not lost:
                await anyio.sleep(0.01)
        print("lost" if lost == [second] else lost, flush=True)
        for word, answers in (("ack", await queue.ack(lost)), ("extend", await queue.extend(lost, lease=2.0))):
            print(f"{word}: {'lost' if getattr(answers[0], 'lost', False) else answers[0]}", flush=True)

anyio.run(hold, *sys.argv[1:])
"""


def _frozen_holder(scene: Scene) -> subprocess.Popen[str]:
    """A process that has received the messages, and was stopped in its tracks."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, f"{scene.server.url}/{scene.topic}?group={scene.group}&session=2"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    process.send_signal(signal.SIGSTOP)
    return process


def _thawed(process: subprocess.Popen[str]) -> list[str]:
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate("go on\n", timeout=30)
    return said.splitlines()


class TestTheBroker:
    """It goes away, and comes back."""

    async def test_what_is_in_hand_while_it_is_away_is_acked_when_it_is_back_and_what_came_meanwhile_is_delivered(
        self, scene_of: SceneOf
    ) -> None:
        scene = await scene_of()
        async with scene.queue("&session=6", timeout=2.0) as queue:
            await queue.publish([outgoing()])
            (delivery,) = await take(queue, 1, lease=5.0)
            await anyio.to_thread.run_sync(scene.server.up, False)
            try:
                (answer,) = await queue.ack([delivery.receipt])
                assert isinstance(answer, NotDone)
                assert not answer.lost
                with pytest.raises(QueueUnavailable):
                    await queue.depth()
            finally:
                await anyio.to_thread.run_sync(scene.server.up, True)
            with anyio.fail_after(20):
                while await queue.ack([delivery.receipt]) != [Done(delivery.receipt)]:
                    pass
            assert await anyio.to_thread.run_sync(scene.committed) == 1
            await anyio.to_thread.run_sync(lambda: scene.put((b"next", None, 0)))
            (following,) = await take(queue, 1, lease=5.0)
            assert following.body == b"next"

    async def test_a_queue_is_closed_within_its_timeout_whether_the_group_answers_or_not(
        self, scene_of: SceneOf, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene = await scene_of()
        queue = scene.queue("&session=60", timeout=1.0)
        await queue.open()
        await queue.publish([outgoing()])
        (delivery,) = await take(queue, 1)
        await anyio.to_thread.run_sync(scene.server.up, False)
        try:
            await queue.ack([delivery.receipt])
            with anyio.fail_after(30):
                await queue.close()
        finally:
            await anyio.to_thread.run_sync(scene.server.up, True)
        assert "did not answer to our leaving it" in caplog.text

    async def test_a_partition_that_cannot_be_read_is_told(
        self, scene_of: SceneOf, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene = await scene_of()
        await anyio.to_thread.run_sync(lambda: scene.put((b"{}", None, 0)))
        await anyio.to_thread.run_sync(scene.server.fail_next, FETCH, CORRUPT)
        async with scene.queue() as queue:
            await take(queue, 1)
        assert [one.levelname for one in caplog.records if "INVALID_MSG" in one.getMessage()] == ["WARNING"]


class TestTheLog:
    """What it lets go of."""

    async def test_what_was_deleted_before_the_group_read_it_is_told_and_the_rest_is_delivered(
        self, scene_of: SceneOf, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene = await scene_of()
        async with scene.queue("&session=2") as queue:
            await queue.publish([outgoing()])
            await queue.ack([one.receipt for one in await take(queue, 1)])
        sent = [outgoing() for _ in range(4)]
        async with scene.queue("&session=2") as queue:
            await queue.publish(sent)
            await anyio.to_thread.run_sync(scene.server.delete_records, scene.topic, 0, 3)
            with anyio.fail_after(100):
                taken = await take_slowly(queue, 2)
            assert [one.body for one in taken] == [one.body for one in sent[2:]]
            assert queue.forgot_at is not None
            assert (
                "messages 1 to 2 of partition 0 were gone from the log before this group had read them" in caplog.text
            )
            assert [one.body async for one in queue.browse()] == [one.body for one in sent[2:]]

    async def test_a_group_without_an_offset_begins_at_the_beginning_and_holds_its_place_from_then_on(
        self, scene_of: SceneOf
    ) -> None:
        scene = await scene_of()
        sent = [outgoing() for _ in range(2)]
        async with scene.queue() as queue:
            await queue.publish(sent)
            assert [one.body for one in await take(queue, 2)] == [one.body for one in sent]
            assert await anyio.to_thread.run_sync(scene.committed) == 0

    @pytest.mark.parametrize("offset", [None, 0], ids=["no offset", "the offset 0"])
    async def test_what_was_deleted_before_the_group_read_anything_is_told_too(
        self, scene_of: SceneOf, offset: int | None
    ) -> None:
        scene = await scene_of()
        await anyio.to_thread.run_sync(lambda: scene.put(*[(b"%d" % number, None, 0) for number in range(4)]))
        if offset is not None:
            await anyio.to_thread.run_sync(scene.commit, offset)
        await anyio.to_thread.run_sync(scene.server.delete_records, scene.topic, 0, 2)
        async with scene.queue("&session=2") as queue:
            assert [one.body for one in await take(queue, 2)] == [b"2", b"3"]
            assert queue.forgot_at is not None

    async def test_a_log_that_was_cut_off_is_told_and_read_again_from_its_beginning(
        self, scene_of: SceneOf, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene = await scene_of()
        await anyio.to_thread.run_sync(lambda: scene.put((b"0", None, 0), (b"1", None, 0)))
        await anyio.to_thread.run_sync(scene.commit, 50)
        async with scene.queue("&session=2") as queue:
            taken = await take(queue, 2)
            assert [one.body for one in taken] == [b"0", b"1"]
            assert "the log of partition 0 ends before offset 50, which was read already" in caplog.text
            assert queue.forgot_at is None, "nothing is known to have expired"
            assert await queue.ack([one.receipt for one in taken]) == [Done(one.receipt) for one in taken]
            assert await anyio.to_thread.run_sync(scene.committed) == 2

    async def test_an_offset_that_the_log_has_after_all_is_not_called_forgotten(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        await anyio.to_thread.run_sync(lambda: scene.put(*[(b"%d" % number, None, 0) for number in range(4)]))
        await anyio.to_thread.run_sync(scene.commit, 2)
        await anyio.to_thread.run_sync(scene.server.fail_next, FETCH, OUT_OF_RANGE)
        async with scene.queue("&session=2") as queue:
            assert [one.body for one in await take(queue, 2)] == [b"2", b"3"]
            assert queue.forgot_at is None

    async def test_a_log_that_was_cut_off_hides_nothing_of_other_partitions(self, scene_of: SceneOf) -> None:
        scene = await scene_of(2)
        await anyio.to_thread.run_sync(lambda: scene.put((b"{}", None, 0), (b"{}", None, 1)))
        await anyio.to_thread.run_sync(scene.commit, 50)
        async with scene.queue() as queue:
            assert (await queue.depth()).held == 1

    async def test_a_topic_that_is_gone_for_a_moment_is_not_called_empty(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        async with scene.queue() as queue:
            await queue.publish([outgoing()])
            assert (await queue.depth()).held == 1
            for topic in (scene.topic, f"{scene.topic}.dead"):
                await anyio.to_thread.run_sync(scene.server.fail_topic, topic, UNKNOWN_TOPIC)
                with pytest.raises(QueueUnavailable, match=f"topic {topic} does not exist"):
                    await queue.depth()
                await anyio.to_thread.run_sync(scene.server.fail_topic, topic, 0)
            await anyio.to_thread.run_sync(scene.server.fail_topic, scene.topic, UNKNOWN_TOPIC)
            with pytest.raises(QueueUnavailable):
                await queue.oldest()
            with pytest.raises(QueueUnavailable):
                _ = [one async for one in queue.browse()]


async def take_slowly(queue: KafkaQueue, count: int) -> list[Delivery]:
    """The mock cluster lets a group wait for a session when it was left."""
    taken: list[Delivery] = []
    while len(taken) < count:
        taken += await queue.receive(count - len(taken), lease=1.0, wait=1.0)
    return taken


class TestWhatOthersPublish:
    """None of it stops its partition."""

    async def test_tombstones_empty_keys_and_headers_that_repeat_come_as_they_are(self, scene_of: SceneOf) -> None:
        scene = await scene_of()

        def put() -> None:
            client = Producer({"bootstrap.servers": scene.server.address})
            client.produce(scene.topic, value=None, key=None)
            client.produce(scene.topic, value=b"", key=b"", headers=[("note", b"1"), ("note", None), ("note", b"2")])
            client.produce(scene.topic, value=b"\xff", key=b"\xff", headers=[("note", b"\xff"), ("other", b"mine")])
            client.flush(10)

        await anyio.to_thread.run_sync(put)
        async with scene.queue() as queue:
            taken = await take(queue, 3)
            assert [(one.body, one.attributes) for one in taken] == [
                (b"", {}), (b"", {"note": "2"}), (b"\xff", {"other": "mine"}),
            ]  # fmt: skip
            receipts = [one.receipt for one in taken]
            assert await queue.ack(receipts) == [Done(one) for one in receipts]
            assert await anyio.to_thread.run_sync(scene.committed) == 3


class TestPublishing:
    """Each message has an answer of its own."""

    async def test_what_the_broker_refuses_is_refused_and_what_it_does_not_answer_is_in_doubt(
        self, scene_of: SceneOf
    ) -> None:
        scene = await scene_of()
        async with scene.queue(timeout=1.0) as queue:
            assert isinstance((await queue.publish([outgoing()]))[0], Accepted)
            await anyio.to_thread.run_sync(scene.server.fail_next, PRODUCE, TOO_LARGE)
            (large,) = await queue.publish([outgoing()])
            assert isinstance(large, Refused)
            assert large.permanent
            await anyio.to_thread.run_sync(scene.server.slow, 5_000)
            try:
                (doubtful,) = await queue.publish([outgoing()])
            finally:
                await anyio.to_thread.run_sync(scene.server.slow, 0)
            assert isinstance(doubtful, Doubtful)

    async def test_a_connection_that_ends_before_the_answer_stores_one_copy(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        async with scene.queue() as queue:
            await anyio.to_thread.run_sync(scene.server.fail_next, PRODUCE, NO_ANSWER, NO_ANSWER)
            (answer,) = await queue.publish([outgoing()])
            assert isinstance(answer, Accepted)
            assert (await queue.depth()).held == 1

    async def test_what_was_stored_and_then_refused_when_it_was_repeated_is_in_doubt(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        async with scene.queue() as queue:
            assert isinstance((await queue.publish([outgoing()]))[0], Accepted)
            answers: list[Any] = []

            async def publish() -> None:
                answers.extend(await queue.publish([outgoing()]))

            await anyio.to_thread.run_sync(scene.server.slow, 2_000)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(publish)
                    await anyio.sleep(0.7)  # it is stored; that is not answered yet
                    await anyio.to_thread.run_sync(scene.server.up, False)
                    await anyio.to_thread.run_sync(scene.server.fail_next, PRODUCE, TOPIC_FORBIDDEN)
                    await anyio.to_thread.run_sync(scene.server.slow, 0)
                    await anyio.to_thread.run_sync(scene.server.up, True)
            finally:
                await anyio.to_thread.run_sync(scene.server.slow, 0)
                await anyio.to_thread.run_sync(scene.server.up, True)
            assert (await queue.depth()).held == 2
            assert isinstance(answers[0], Doubtful)

    async def test_what_the_broker_refuses_at_once_is_refused(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        async with scene.queue() as queue:
            await queue.publish([outgoing()])
            await anyio.to_thread.run_sync(scene.server.fail_next, PRODUCE, TOPIC_FORBIDDEN)
            (answer,) = await queue.publish([outgoing()])
            assert isinstance(answer, Refused)
            assert not answer.permanent

    async def test_nothing_leaves_when_nobody_is_there(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        async with scene.queue(timeout=1.0) as queue:
            await anyio.to_thread.run_sync(scene.server.up, False)
            try:
                with pytest.raises(QueueUnavailable, match="nothing was sent"):
                    await queue.publish([outgoing()])
            finally:
                await anyio.to_thread.run_sync(scene.server.up, True)

    async def test_nothing_leaves_for_a_topic_that_is_gone(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        async with scene.queue(timeout=2.0) as queue:
            await anyio.to_thread.run_sync(scene.server.fail_topic, scene.topic, UNKNOWN_TOPIC)
            with pytest.raises(QueueUnavailable, match="nothing was sent"):
                await queue.publish([outgoing()])

    async def test_transactions_are_refused(self) -> None:
        with pytest.raises(UsageError, match="uses no transactions"):
            KafkaQueue("orders?group=letters", config={"transactional.id": "mine"})

    @pytest.mark.parametrize(
        ("setting", "value"), [("acks", "1"), ("max.poll.interval.ms", 1_000), ("heartbeat.interval.ms", 10)]
    )
    async def test_a_setting_that_would_not_be_heeded_is_refused(self, setting: str, value: str | int) -> None:
        with pytest.raises(UsageError, match=f"{setting} is decided by crossfoot"):
            KafkaQueue("orders?group=letters", config={setting: value})


class TestEvents:
    """CloudEvents as Kafka has them."""

    EVENT = Message(
        type="case.released", source="billing", id="1", subject="Fall 50% \u00e4", sequence=3, data={"amount": 120},
        extensions={"region": "e u"},
    )  # fmt: skip

    async def test_an_event_in_binary_mode_comes_as_the_event_it_is(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        headers = {
            "ce_specversion": b"1.0", "ce_type": b"case.released", "ce_source": b"billing", "ce_id": b"1", "ce_sequence": b"3",
            "ce_subject": "Fall 50% \u00e4".encode(), "ce_region": b"e u", "content-type": b"application/json", "note": b"mine",
        }  # fmt: skip
        await anyio.to_thread.run_sync(lambda: scene.put((b'{"amount":120}', None, 0), headers=headers))
        async with scene.queue() as queue:
            (delivery,) = await take(queue, 1)
            assert decode(delivery.body) == self.EVENT
            assert delivery.attributes == {"note": "mine"}

    async def test_binary_mode_publishes_attributes_as_headers_and_data_as_the_value(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        async with scene.queue("&mode=binary") as queue:
            await queue.publish([Outgoing(key="k", body=encode(self.EVENT), partition="case-1")])
            message = await anyio.to_thread.run_sync(_the_record, scene)
            assert message.value() == b'{"amount":120}'
            assert message.key() == b"case-1"
            headers = dict(message.headers())
            assert headers["ce_subject"] == "Fall 50% \u00e4".encode()
            assert headers["content-type"] == b"application/json"
            (delivery,) = await take(queue, 1)
            assert decode(delivery.body) == self.EVENT


def _the_record(scene: Scene) -> Any:
    client = Consumer(
        {"bootstrap.servers": scene.server.address, "group.id": "by-hand", "auto.offset.reset": "earliest"}
    )
    try:
        client.assign([TopicPartition(scene.topic, 0, 0)])
        return client.poll(10)
    finally:
        client.close()


class TestDeadLetters:
    """A topic of their own."""

    async def test_a_dead_letter_says_where_it_came_from_and_why_before_its_offset_is_passed(
        self, scene_of: SceneOf
    ) -> None:
        scene = await scene_of()
        async with scene.queue() as queue:
            await queue.publish([outgoing(partition="case-1", attributes={"note": "mine"})])
            (delivery,) = await take(queue, 1)
            assert await queue.dead_letter([delivery], reason="it cannot be billed") == [Done(delivery.receipt)]
            assert await anyio.to_thread.run_sync(scene.committed) == 1
            dead = Scene(scene.server, f"{scene.topic}.dead")
            message = await anyio.to_thread.run_sync(_the_record, dead)
            told = {name: value.decode() for name, value in message.headers()}
            assert message.key() == b"case-1"
            assert (told["x-crossfoot-reason"], told["x-crossfoot-topic"], told["note"]) == (
                "it cannot be billed", scene.topic, "mine",
            )  # fmt: skip
            assert (told["x-crossfoot-partition"], told["x-crossfoot-offset"]) == ("0", "0")

    async def test_one_that_cannot_be_confirmed_among_the_dead_holds_the_offset_back(self, scene_of: SceneOf) -> None:
        scene = await scene_of()
        async with scene.queue(timeout=1.0) as queue:
            async with scene.queue() as publisher:  # which has time for an answer
                await publisher.publish([outgoing()])
            (delivery,) = await take(queue, 1)
            await anyio.to_thread.run_sync(scene.server.fail_next, PRODUCE, TOO_LARGE)
            (answer,) = await queue.dead_letter([delivery], reason="too large for the dead")
            assert isinstance(answer, NotDone)
            assert not answer.lost
            assert await anyio.to_thread.run_sync(scene.committed) == 0

    async def test_without_a_topic_for_them_nothing_is_buried(self, scene_of: SceneOf) -> None:
        scene = await scene_of(dead=False)
        async with scene.queue() as queue:
            await queue.publish([outgoing()])
            (delivery,) = await take(queue, 1)
            (answer,) = await queue.dead_letter([delivery], reason="poison")
            assert isinstance(answer, NotDone)
            assert f"create the topic {scene.topic}.dead" in answer.reason


class TestHeadersThatAreNoText:
    NO_TEXT = b"a\xff\xfeb"

    @pytest.mark.parametrize(
        ("names", "kept"),
        [
            ([NO_TEXT], {}),
            ([NO_TEXT, NO_TEXT], {}),
            ([b"mine", NO_TEXT], {"mine": "1"}),
            ([NO_TEXT, b"mine"], {"mine": "1"}),
            ([NO_TEXT, b"mine", NO_TEXT, b"yours", NO_TEXT], {"mine": "1", "yours": "1"}),
        ],
    )
    async def test_the_message_comes_with_those_that_are(
        self, scene_of: SceneOf, names: list[bytes], kept: dict[str, str]
    ) -> None:
        """To touch what the client hands out in the place of such a name ends the process."""
        scene = await scene_of()
        send = partial(publish_with_headers, scene.server.url, scene.topic, b"{}", names)
        await anyio.to_thread.run_sync(send)
        async with scene.queue() as queue:
            (delivery,) = await take(queue, 1)
            assert (delivery.body, delivery.attributes) == (b"{}", kept)
            assert await queue.ack([delivery.receipt]) == [Done(delivery.receipt)]


class TestTheSecondOpinion:
    """The same on Tansu, a broker by others. It lets a group wait for half a session, and tells the end of a log too low."""

    async def test_published_delivered_released_acked_and_buried(self, tansu: Tansu) -> None:
        topic = f"orders-{uuid4().hex[:12]}"
        await ensure(topic, servers=tansu.url)
        address = f"{topic}?group=letters&session=6"
        sent = [outgoing(partition=f"case-{number}") for number in range(4)]
        async with KafkaQueue(address, servers=tansu.url) as queue:
            assert [type(answer) for answer in await queue.publish(sent)] == [Accepted] * 4
            taken = await take_from(queue, 4)
            assert sorted(one.body for one in taken) == sorted(one.body for one in sent)
            first, second, third, _ = taken
            assert await queue.ack([first.receipt]) == [Done(first.receipt)]
            assert await queue.dead_letter([second], reason="poison") == [Done(second.receipt)]
            assert await queue.release([third.receipt]) == [Done(third.receipt)]
            (again,) = await take_from(queue, 1)
            assert (again.body, again.attempt) == (third.body, 2)
            assert [held.body async for held in queue.dead_letters()] == [second.body]
        async with KafkaQueue(address, servers=tansu.url) as queue:
            assert sorted(one.body for one in await take_from(queue, 2)) == sorted(one.body for one in taken[2:])

    async def test_of_two_members_each_message_is_acked_by_one_whoever_joins(self, tansu: Tansu) -> None:
        topic = f"orders-{uuid4().hex[:12]}"
        await ensure(topic, servers=tansu.url, partitions=2)
        address = f"{topic}?group=letters&session=6"
        acked: list[bytes] = []
        sent = [outgoing(partition=f"case-{number % 7}") for number in range(60)]

        async def consume(queue: KafkaQueue) -> None:
            while len(set(acked)) < len(sent):
                taken = await queue.receive(3, lease=5.0, wait=0.5)
                await anyio.sleep(0.05)
                answers = await queue.ack([one.receipt for one in taken])
                acked.extend(
                    one.body for one, answer in zip(taken, answers, strict=True) if answer == Done(one.receipt)
                )

        one, two = KafkaQueue(address, servers=tansu.url), KafkaQueue(address, servers=tansu.url)
        async with one, two:
            await one.publish(sent)
            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(consume, one)
                    await until(lambda: acked, "an ack")
                    tasks.start_soon(consume, two)
        assert sorted(acked) == sorted(one.body for one in sent)


async def take_from(queue: KafkaQueue, count: int) -> Sequence[Delivery]:
    taken: list[Delivery] = []
    with anyio.fail_after(60):
        while len(taken) < count:
            taken += await queue.receive(count - len(taken), lease=5.0, wait=2.0)
    return taken
