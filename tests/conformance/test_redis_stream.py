"""What others do to a stream behind crossfoot's back, and what several consumers do to each other."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from crossfoot.errors import UsageError
from crossfoot.queues.queue import Accepted, Delivery, Done, NotDone
from crossfoot.queues.redis import RedisQueue, ensure
from crossfoot.queues.redis.address import address_of
from crossfoot.queues.redis.entries import packed, unpacked
from crossfoot.queues.redis.opening import warnings
from crossfoot.testing.queues import outgoing
from crossfoot.testing.queues.suite import bodies, receipts
from tests.conformance.redis_scene import Scene, scene_on
from tests.servers.valkey import Valkey, valkey_running

pytest_plugins = ["tests.servers.valkey_fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("no_blocking_calls"), pytest.mark.xdist_group("valkey")]


@pytest.fixture
async def scene(valkey: Valkey) -> AsyncIterator[Scene]:
    async with scene_on(valkey) as made:
        yield made


class TestTrimmed:
    """XTRIM, MAXLEN and XDEL take entries that nobody has acked; the group goes on counting them as pending."""

    async def test_one_whose_lease_is_over_is_named_and_not_counted_any_more(
        self, scene: Scene, caplog: pytest.LogCaptureFixture
    ) -> None:
        gone, kept = await scene.delivered(2, lease=0.2)
        with scene.server.admin() as admin:
            admin.xtrim(scene.stream, maxlen=1, approximate=False)
        assert scene.pending() == 2
        await anyio.sleep(0.3)
        again = await scene.subject.receive(10, lease=30.0)
        assert bodies(again) == [kept.body]
        assert scene.pending() == 1
        assert f"trimmed or deleted by somebody: {gone.broker_id};" in caplog.text
        assert [held.body async for held in scene.direct.browse()] == [kept.body]

    async def test_one_that_is_held_can_be_acked_extended_and_buried_but_not_handed_back(self, scene: Scene) -> None:
        done, dying, returning = await scene.delivered(3)
        with scene.server.admin() as admin:
            admin.xtrim(scene.stream, maxlen=0, approximate=False)
        assert await scene.subject.extend(receipts([done, dying, returning]), lease=60.0) == [
            Done(one.receipt) for one in (done, dying, returning)
        ]
        assert await scene.subject.ack([done.receipt]) == [Done(done.receipt)]
        assert await scene.subject.dead_letter([dying], reason="poison") == [Done(dying.receipt)]
        assert bodies(await scene.dead()) == [dying.body]
        (answer,) = await scene.subject.release([returning.receipt])
        assert isinstance(answer, NotDone)
        assert answer.lost
        assert "trimmed" in answer.reason
        assert scene.pending() == 0
        assert await scene.stored() == 0

    async def test_one_that_was_handed_back_is_named_when_it_would_be_delivered_again(
        self, scene: Scene, caplog: pytest.LogCaptureFixture
    ) -> None:
        (delivery,) = await scene.delivered()
        await scene.subject.release([delivery.receipt])
        with scene.server.admin() as admin:
            admin.xdel(scene.stream, delivery.broker_id)
        assert await scene.subject.receive(1, lease=30.0) == []
        assert delivery.broker_id in caplog.text
        assert scene.pending() == 0


class TestConsumers:
    """Several at once."""

    async def test_of_two_that_race_for_a_lapsed_lease_one_gets_it_and_the_first_holder_is_fenced_off(
        self, scene: Scene
    ) -> None:
        first = await scene.delivered(20, lease=0.2)
        await anyio.sleep(0.3)
        taken: dict[str, list[Delivery]] = {"subject": [], "direct": []}

        async def take(name: str, queue: RedisQueue) -> None:
            for _ in range(20):
                taken[name] += await queue.receive(1, lease=30.0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, "subject", scene.subject)
            tasks.start_soon(take, "direct", scene.direct)
        both = [*taken["subject"], *taken["direct"]]
        assert sorted(bodies(both)) == sorted(bodies(first))
        assert {delivery.attempt for delivery in both} == {2}
        for answers in (
            await scene.subject.ack(receipts(first)),
            await scene.subject.extend(receipts(first), lease=30.0),
            await scene.subject.release(receipts(first)),
            await scene.subject.dead_letter(first, reason="poison"),
        ):
            assert all(isinstance(answer, NotDone) and answer.lost for answer in answers)
        assert await scene.subject.ack(receipts(both)) == [Done(one.receipt) for one in both]
        assert scene.pending() == 0

    async def test_a_holder_whose_lease_is_over_may_ack_while_nobody_else_took_it(self, scene: Scene) -> None:
        (delivery,) = await scene.delivered(lease=0.1)
        await anyio.sleep(0.2)
        assert await scene.subject.ack([delivery.receipt]) == [Done(delivery.receipt)]
        assert await scene.stored() == 0

    async def test_leases_of_different_length_end_each_at_its_own_time(self, scene: Scene) -> None:
        await scene.delivered(lease=30.0)
        (short,) = await scene.delivered(lease=0.2)
        (middle,) = await scene.delivered(lease=0.2)
        await scene.subject.extend([middle.receipt], lease=30.0)
        await anyio.sleep(0.3)
        assert bodies(await scene.subject.receive(10, lease=30.0)) == [short.body]

    async def test_delayed_messages_enter_the_stream_once_whoever_moves_them(self, scene: Scene) -> None:
        sent = [outgoing(b'{"same": 1}', delay=0.1) for _ in range(30)]
        await scene.direct.publish(sent)
        assert len([held async for held in scene.direct.browse()]) == 30
        assert (await scene.direct.depth()).delayed == 30
        await anyio.sleep(0.2)
        got: list[Delivery] = []

        async def take(queue: RedisQueue) -> None:
            while batch := await queue.receive(7, lease=30.0):
                got.extend(batch)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, scene.subject)
            tasks.start_soon(take, scene.direct)
        assert sorted(bodies(got)) == sorted(bodies(sent))

    async def test_a_waiting_receive_is_woken_by_what_another_hands_back(self, scene: Scene) -> None:
        (delivery,) = await scene.delivered()

        async def hand_back() -> None:
            await anyio.sleep(0.1)
            await scene.subject.release([delivery.receipt])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hand_back)
            with anyio.fail_after(3.0):
                assert len(await scene.direct.receive(1, lease=30.0, wait=10.0)) == 1

    async def test_large_messages_are_not_all_taken_at_once(self, valkey: Valkey) -> None:
        async with scene_on(valkey, max_bytes=2 * 1024 * 1024) as scene:
            await scene.subject.publish([outgoing(b"x" * 1_000_000) for _ in range(30)])
            assert len(await scene.subject.receive(100, lease=30.0)) == 10


class TestOthers:
    """Consumers and commands that are not crossfoot's."""

    async def test_what_somebody_read_by_other_means_is_delivered_once_it_is_idle(self, scene: Scene) -> None:
        await scene.direct.publish([outgoing() for _ in range(3)])
        with scene.server.admin() as admin:
            admin.xreadgroup("crossfoot", "somebody", {scene.stream: ">"}, count=3)
        assert await scene.subject.receive(10, lease=0.2) == []
        await anyio.sleep(0.3)
        again = await scene.subject.receive(10, lease=0.2)
        assert [delivery.attempt for delivery in again] == [2, 2, 2]

    async def test_what_somebody_acked_but_left_in_the_stream_is_delivered_rather_than_forgotten(
        self, scene: Scene
    ) -> None:
        (delivery,) = await scene.delivered(lease=0.2)
        with scene.server.admin() as admin:
            admin.xack(scene.stream, "crossfoot", delivery.broker_id)
        await anyio.sleep(0.3)
        (again,) = await scene.subject.receive(10, lease=30.0)
        assert again.body == delivery.body
        assert await scene.subject.ack([again.receipt]) == [Done(again.receipt)]
        assert (await scene.stored(), scene.pending()) == (0, 0)

    async def test_a_group_made_anew_delivers_everything_that_is_open(self, scene: Scene) -> None:
        held = await scene.delivered(2, lease=30.0)
        fresh = [outgoing(), outgoing()]
        await scene.direct.publish(fresh)
        with scene.server.admin() as admin:
            admin.xgroup_destroy(scene.stream, "crossfoot")
        await ensure(scene.subject.name, url=scene.server.url)
        again = await scene.direct.receive(10, lease=30.0)
        assert bodies(again) == [*bodies(held), *bodies(fresh)]
        assert all(isinstance(one, NotDone) for one in await scene.subject.ack(receipts(held)))
        assert await scene.direct.ack(receipts(again)) == [Done(one.receipt) for one in again]

    async def test_a_lease_from_before_the_group_was_made_anew_delivers_nothing_twice(self, scene: Scene) -> None:
        (held,) = await scene.delivered(lease=0.1)
        with scene.server.admin() as admin:
            admin.xgroup_destroy(scene.stream, "crossfoot")
        await ensure(scene.subject.name, url=scene.server.url)
        await anyio.sleep(0.2)
        assert bodies(await scene.direct.receive(10, lease=30.0)) == [held.body]
        assert await scene.direct.receive(10, lease=30.0) == []

    async def test_an_entry_without_a_body_is_delivered_as_what_it_has(self, scene: Scene) -> None:
        with scene.server.admin() as admin:
            admin.xadd(scene.stream, {"order": "4711", b"\xff": b"\xfe"})
        (delivery,) = await scene.subject.receive(1, lease=30.0)
        assert b'"order":"4711"' in delivery.body
        await scene.subject.dead_letter([delivery], reason="no envelope")
        with scene.server.admin() as admin:
            ((_, fields),) = admin.xrange(scene.key("dead"))
        assert fields[b"order"] == b"4711", "a dead letter is the entry as it was"
        assert fields[b"crossfoot-reason"] == b"no envelope"
        assert fields[b"crossfoot-attempt"] == b"1"
        assert fields[b"crossfoot-id"].decode() == delivery.broker_id
        (dead,) = await scene.dead()
        assert (dead.body, dead.broker_id) == (delivery.body, delivery.broker_id), "and is known again"

    @pytest.mark.parametrize("most", [None, 1], ids=["by the worker", "by the queue"])
    async def test_an_entry_of_more_fields_than_a_script_can_write_is_buried_all_the_same(
        self, valkey: Valkey, most: int | None
    ) -> None:
        many = {f"field-{number}": "x" for number in range(9_000)}
        async with scene_on(valkey, max_attempts=most) as scene:
            with scene.server.admin() as admin:
                admin.xadd(scene.stream, {**many, "body": "{}"})
            (delivery,) = await scene.subject.receive(1, lease=30.0)
            if most is None:
                assert await scene.subject.dead_letter([delivery], reason="poison") == [Done(delivery.receipt)]
            else:
                await scene.subject.release([delivery.receipt])
                assert await scene.subject.receive(1, lease=30.0) == []
            (dead,) = await scene.dead()
            assert (dead.body, dead.broker_id) == (delivery.body, delivery.broker_id)
            assert (await scene.stored(), scene.pending()) == (0, 0)
            with scene.server.admin() as admin:
                ((_, fields),) = admin.xrange(scene.key("dead"))
            assert (
                packed([part.encode() for pair in {**many, "body": "{}"}.items() for part in pair])
                == (fields[b"crossfoot-fields"])
            ), "a dead letter has all that the entry had"

    async def test_so_many_attributes_are_not_published(self, scene: Scene) -> None:
        many = {f"attribute-{number}": "x" for number in range(1_001)}
        wrong, right = await scene.subject.publish([outgoing(attributes=many, delay=1.0), outgoing()])
        assert getattr(wrong, "permanent", False), wrong
        assert isinstance(right, Accepted)

    @pytest.mark.parametrize("attributes", [{"body": "x"}, {"note": "\ud800"}], ids=["body", "no text"])
    async def test_an_attribute_that_cannot_be_kept_is_refused_and_its_neighbour_is_not(
        self, scene: Scene, attributes: dict[str, str]
    ) -> None:
        wrong, right = await scene.subject.publish([outgoing(attributes=attributes), outgoing()])
        assert getattr(wrong, "permanent", False), wrong
        assert isinstance(right, Accepted)

    async def test_any_reason_will_do_for_a_burial(self, scene: Scene) -> None:
        (delivery,) = await scene.delivered()
        assert await scene.subject.dead_letter([delivery], reason="\ud800" * 10_000) == [Done(delivery.receipt)]


class TestRetention:
    """What is too old is set aside until the book has it."""

    async def test_it_is_told_until_it_is_purged_and_never_delivered(self, valkey: Valkey) -> None:
        async with scene_on(valkey, retention=0.3) as scene:
            old = [outgoing() for _ in range(3)]
            await scene.direct.publish(old)
            (held,) = await scene.subject.receive(1, lease=30.0)
            await anyio.sleep(0.4)
            young = outgoing()
            await scene.direct.publish([young])
            assert bodies(await scene.subject.receive(10, lease=30.0)) == [young.body]
            expired = await scene.subject.expired()
            assert sorted(bodies(expired)) == sorted(bodies(old[1:]))
            assert await scene.subject.purge(expired) == 2
            assert await scene.subject.expired() == []
            assert await scene.subject.ack([held.receipt]) == [Done(held.receipt)], "a running lease is left alone"

    async def test_a_long_queue_is_swept_in_pages(self, valkey: Valkey) -> None:
        async with scene_on(valkey, retention=0.2) as scene:
            await scene.direct.publish([outgoing() for _ in range(350)])
            await anyio.sleep(0.3)
            seen = 0
            while expired := await scene.subject.expired():
                assert len(expired) <= 100
                seen += await scene.subject.purge(expired)
            assert seen == 350
            assert await scene.stored() == 0


class TestOpening:
    """What the server may lose is said once, when the queue is opened."""

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"appendonly": "no"}, "keeps nothing on disk"),
            ({"appendonly": "no", "save": "60 1"}, "saves snapshots at most"),
            ({"appendfsync": "everysec"}, "appendfsync everysec"),
            ({"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"}, "maxmemory-policy allkeys-lru"),
            ({"maxmemory": "64mb", "maxmemory-policy": "volatile-lru"}, ""),
            ({}, ""),
        ],
    )
    async def test_what_the_server_is_set_to(
        self, settings: dict[str, str], says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        with valkey_running(tmp_path, **settings) as server:
            await ensure("orders", url=server.url)
            async with RedisQueue("orders", url=server.url) as queue:
                await queue.open()
        assert len(caplog.records) == (1 if says else 0)
        assert says in caplog.text

    def test_where_settings_may_not_be_read_nothing_is_guessed(self) -> None:
        assert warnings({}, {}) == []
        assert "evict" in warnings({"maxmemory": "1", "maxmemory_policy": "allkeys-lru", "aof_enabled": "1"}, {})[0]

    async def test_a_user_with_the_rights_the_guide_names_can_do_everything(self, tmp_path: Path) -> None:
        from tests.acceptance.pages import DOCS

        guide = (DOCS / "guides" / "redis.md").read_text(encoding="utf-8")
        _, _, rest = guide.partition("ACL SETUSER")
        rules = rest.partition("```")[0].replace("\\\n", " ").split()
        with valkey_running(tmp_path) as server:
            await ensure("billing", url=server.url)
            with server.admin() as admin:
                admin.execute_command("ACL", "SETUSER", *rules)
            place = server.url.removeprefix("redis://")
            async with RedisQueue(f"redis://billing:password@{place}/billing", retention=60.0) as queue:
                await queue.publish([outgoing() for _ in range(4)] + [outgoing(delay=0.001)])
                assert await queue.receive(1, lease=30.0, wait=0.0)
                one, two, three, *_ = await queue.receive(10, lease=30.0)
                await queue.extend([one.receipt], lease=30.0)
                await queue.release([two.receipt])
                await queue.dead_letter([three], reason="poison")
                await queue.ack([one.receipt])
                assert (await queue.depth()).dead == 1
                assert await queue.oldest() is not None
                assert [held async for held in queue.browse()]
                assert [held async for held in queue.dead_letters()]
                await queue.purge(await queue.expired())
                while await queue.receive(10, lease=30.0, wait=0.2):
                    pass


class TestAddresses:
    """Where a queue is, as settings say it."""

    @pytest.mark.parametrize(
        ("queue", "url", "expected"),
        [
            ("billing", None, ("redis://127.0.0.1:6379/0", "billing", "crossfoot", "billing")),
            ("billing/audit", "redis://h:1/2", ("redis://h:1/2", "billing", "audit", "billing/audit")),
            ("redis://u:p@h:1/3/billing", None, ("redis://u:p@h:1/3", "billing", "crossfoot", "billing")),
            ("rediss://h/billing/audit", None, ("rediss://h/0", "billing", "audit", "billing/audit")),
            ("redis://h/0/a%2Fb?ssl=1", None, ("redis://h/0?ssl=1", "a/b", "crossfoot", "a/b")),
        ],
    )
    def test_a_name_or_a_url(self, queue: str, url: str | None, expected: tuple[str, ...]) -> None:
        address = address_of(queue, url)
        assert (address.url, address.stream, address.group, address.name) == expected

    @pytest.mark.parametrize("stream", ["billing", "{billing}.orders", "a.{billing}"])
    def test_all_keys_of_a_queue_are_in_one_slot_of_a_cluster(self, stream: str) -> None:
        from redis.crc import key_slot

        assert len({key_slot(key.encode()) for key in address_of(stream).keys}) == 1

    @pytest.mark.parametrize("queue", ["redis://u:s3cret@h:1/0", "redis://u:s3cret@h:1/0/a}b", "amqp://u:s3cret@h/0/q"])
    def test_what_leads_nowhere_is_wrong_use_and_shows_no_password(self, queue: str) -> None:
        with pytest.raises(UsageError) as caught:
            address_of(queue)
        assert "s3cret" not in str(caught.value)

    def test_packing_is_undone_by_unpacking(self) -> None:
        fields = [b"", b"a:b", b"\x00\xff", uuid4().bytes * 1_000, b"12:"]
        assert unpacked(packed(fields)) == fields
