"""A queue in PostgreSQL when requests fail half-way: what was done, what was not, and what nobody knows are never confused."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.postgres import PostgresQueue, ensure
from crossfoot.queues.queue import Accepted, Delivery, Done, Doubtful, NotDone, Refused
from crossfoot.testing.queues import outgoing
from crossfoot.testing.queues.suite import bodies
from tests.conformance.cable_suite import AnswersLost, RequestsCut
from tests.conformance.postgres_scene import Scene, scene_on
from tests.servers.cable import Pooler
from tests.servers.postgres import Postgres, postgres_running
from tests.servers.run import HOST

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [
    pytest.mark.server,
    pytest.mark.usefixtures("no_blocking_calls"),
    pytest.mark.xdist_group("postgres"),  # one process of each server is enough
]


@pytest.fixture
async def scene(postgres: Postgres, postgres_url: str) -> AsyncIterator[Scene]:
    async with scene_on(postgres, postgres_url) as made:
        yield made


class TestAnswersLost(AnswersLost):
    async def test_groups_behind_one_in_doubt_are_refused_for_now_when_the_server_is_gone(self, scene: Scene) -> None:
        scene.cable.lose_answers()
        answers = await scene.subject.publish([outgoing() for _ in range(2_500)])
        assert [type(answer) for answer in answers] == [Doubtful] * 1_000 + [Refused] * 1_500
        assert not any(answer.permanent for answer in answers if isinstance(answer, Refused))
        await scene.settled()
        # A long answer begins before the commit: the server may notice that nobody listens, and roll back.
        assert await scene.stored() in (0, 1_000)


class TestRequestsCut(RequestsCut):
    pass


class TestTheServer:
    """It is killed, frozen, started again, restored."""

    async def test_a_frozen_server_leaves_a_publish_in_doubt_and_a_dead_one_refuses_it(self, own: Postgres) -> None:
        async with scene_on(own, own.url(), timeout=0.3) as scene:
            (delivery,) = await scene.delivered()
            with scene.frozen():
                began = time.monotonic()
                assert isinstance((await scene.subject.publish([outgoing()]))[0], Doubtful)
                with pytest.raises(QueueUnavailable, match=r"was asked nothing|nothing was sent"):
                    await scene.subject.ack([delivery.receipt])
                assert time.monotonic() - began < 6.0
            await anyio.to_thread.run_sync(own.kill)
            for call in (
                lambda: scene.subject.publish([outgoing()]),
                lambda: scene.subject.receive(1, lease=30),
                lambda: scene.subject.ack([delivery.receipt]),
                lambda: scene.subject.dead_letter([delivery], reason="poison"),
                scene.subject.depth,
            ):
                with pytest.raises(QueueUnavailable, match=scene.subject.name):
                    await call()
            await anyio.to_thread.run_sync(own.start)

    @pytest.mark.parametrize("how", ["kill", "stop"])
    async def test_after_a_restart_everything_goes_on_leases_and_receipts_included(
        self, own: Postgres, how: str
    ) -> None:
        async with scene_on(own, own.url()) as scene:
            held, late = await scene.delivered(2)
            await scene.subject.release([late.receipt], delay=60.0)
            await scene.direct.publish([outgoing(), outgoing(delay=60.0)])
            await anyio.to_thread.run_sync(getattr(own, how))
            await anyio.to_thread.run_sync(own.start)
            depth = await scene.subject.depth()
            assert (depth.ready, depth.in_flight, depth.delayed) == (1, 1, 2)
            assert await scene.subject.ack([held.receipt]) == [Done(held.receipt)]
            assert len(await scene.subject.receive(10, lease=30.0)) == 1

    async def test_a_wait_that_the_servers_death_breaks_off_is_an_error_and_not_an_empty_queue(
        self, own: Postgres
    ) -> None:
        async def die() -> None:
            await anyio.sleep(0.2)
            await anyio.to_thread.run_sync(own.kill)

        async with scene_on(own, own.url()) as scene, anyio.create_task_group() as tasks:
            tasks.start_soon(die)
            with pytest.raises(QueueUnavailable, match=scene.subject.name):
                await scene.subject.receive(1, lease=30.0, wait=10.0)
        await anyio.to_thread.run_sync(own.start)

    async def test_a_dropped_table_is_not_an_empty_queue(self, scene: Scene) -> None:
        (delivery,) = await scene.delivered()
        scene.run("DROP TABLE crossfoot_queue")
        for call in (
            lambda: scene.subject.publish([outgoing(), outgoing(delay=1.0)]),
            lambda: scene.subject.receive(1, lease=30),
            lambda: scene.subject.ack([delivery.receipt]),
            scene.subject.depth,
            lambda: anext(aiter(scene.subject.browse())),
        ):
            with pytest.raises(QueueUnavailable, match=r"has no tables for queues.*make them with"):
                await call()
        await ensure(scene.subject.name, url=scene.url)
        (answer,) = await scene.subject.ack([delivery.receipt])
        assert isinstance(answer, NotDone)
        assert answer.lost

    async def test_of_messages_buried_while_the_server_dies_each_is_in_one_place(self, own: Postgres) -> None:
        async with scene_on(own, own.url()) as scene:
            for _ in range(2):
                deliveries = await scene.delivered(60)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anyio.to_thread.run_sync, own.kill)
                    for delivery in deliveries:
                        tasks.start_soon(_bury_if_possible, scene, delivery)
                await anyio.to_thread.run_sync(own.start)
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

    async def test_a_row_that_somebody_holds_is_waited_for_and_then_known_not_to_be_acked(
        self, postgres: Postgres, postgres_url: str
    ) -> None:
        async with scene_on(postgres, postgres_url, timeout=0.3) as scene:
            (delivery,) = await scene.delivered()
            with scene.server.admin(scene.database) as admin, admin.transaction():
                admin.execute("SELECT FROM crossfoot_queue FOR UPDATE")
                with pytest.raises(QueueUnavailable, match="statement timeout"):
                    await scene.subject.ack([delivery.receipt])
            assert await scene.subject.ack([delivery.receipt]) == [Done(delivery.receipt)]

    async def test_a_table_that_is_locked_stops_nothing_for_longer_than_the_deadline(
        self, postgres: Postgres, postgres_url: str
    ) -> None:
        async with scene_on(postgres, postgres_url, timeout=0.3) as scene:
            with scene.server.admin(scene.database) as admin, admin.transaction():
                admin.execute("LOCK TABLE crossfoot_queue")
                began = time.monotonic()
                with pytest.raises(QueueUnavailable):
                    await scene.subject.publish([outgoing()])
                assert time.monotonic() - began < 2.0
            assert await scene.stored() == 0

    async def test_a_database_that_only_reads_is_named_with_the_remedy(self, scene: Scene) -> None:
        (delivery,) = await scene.delivered()
        scene.server.run(f"ALTER DATABASE {scene.database} SET default_transaction_read_only = on")
        scene.end_sessions()
        await anyio.sleep(0.05)
        for call in (
            lambda: scene.subject.publish([outgoing()]),
            lambda: scene.subject.receive(1, lease=30),
            lambda: scene.subject.ack([delivery.receipt]),
        ):
            with pytest.raises(QueueUnavailable, match="connect to the primary"):
                await call()
        scene.server.run(f"ALTER DATABASE {scene.database} RESET default_transaction_read_only")
        scene.end_sessions()
        await anyio.sleep(0.05)
        assert await scene.subject.ack([delivery.receipt]) == [Done(delivery.receipt)]

    async def test_the_rights_that_the_guide_names_are_enough_and_without_them_the_remedy_is_told(
        self, scene: Scene
    ) -> None:
        scene.run("CREATE ROLE clerk LOGIN")
        url = scene.url.replace("crossfoot@", "clerk@")
        try:
            async with PostgresQueue(scene.subject.name, url=url) as queue:
                with pytest.raises(QueueUnavailable, match="GRANT"):
                    await queue.publish([outgoing()])
                scene.run("GRANT SELECT, INSERT, UPDATE, DELETE ON crossfoot_queue TO clerk")
                scene.run("GRANT USAGE ON SEQUENCE crossfoot_queue_key TO clerk")
                await queue.publish([outgoing(partition="a"), outgoing()])
                one, two = await queue.receive(2, lease=30.0)
                await queue.extend([one.receipt], lease=60.0)
                await queue.dead_letter([one], reason="poison")
                assert await queue.ack([two.receipt]) == [Done(two.receipt)]
                assert (await queue.depth()).dead == 1
        finally:
            scene.run("DROP OWNED BY clerk")
            scene.run("DROP ROLE clerk")

    async def test_wrong_credentials_are_told_and_never_shown(
        self, own: Postgres, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        await ensure("orders", url=own.url())
        own.run("CREATE ROLE clerk LOGIN PASSWORD 's3cret'")
        (own.folder / "data" / "pg_hba.conf").write_text(
            f"host all crossfoot {HOST}/32 trust\nhost all all {HOST}/32 scram-sha-256\n"
        )
        own.run("SELECT pg_reload_conf()")
        place = f"{HOST}:{own.port}/postgres?queue=orders"
        told = []
        with pytest.raises(QueueUnavailable, match="check the user, its password") as caught:
            await PostgresQueue(f"postgresql://clerk:wr0ng@{place}").open()
        told.append(str(caught.value))
        await anyio.to_thread.run_sync(own.kill)
        with pytest.raises(QueueUnavailable, match="cannot be reached") as caught:
            await PostgresQueue(f"postgresql://clerk:s3cret@{place}").open()
        told.append(str(caught.value))
        everything = " ".join([*told, caplog.text])
        assert "s3cret" not in everything
        assert "wr0ng" not in everything

    async def test_when_there_is_no_connection_left_nothing_was_sent(self, own: Postgres) -> None:
        async with scene_on(own, own.url()) as scene:
            own.run("CREATE ROLE clerk LOGIN CONNECTION LIMIT 1")
            own.run("GRANT SELECT, INSERT, UPDATE, DELETE ON crossfoot_queue TO clerk")
            own.run("GRANT USAGE ON SEQUENCE crossfoot_queue_key TO clerk")
            url = own.url(user="clerk")
            async with PostgresQueue(scene.subject.name, url=url) as first:
                with pytest.raises(QueueUnavailable, match=r"was asked nothing|nothing was sent"):
                    await PostgresQueue(scene.subject.name, url=url).open()
                await scene.direct.publish([outgoing()])
                # It cannot listen either, and polls.
                assert len(await first.receive(1, lease=30.0, wait=2.0)) == 1


class TestAPooler:
    """In transaction mode; told by the process id that it makes up."""

    @pytest.fixture
    def pooler(self, postgres: Postgres) -> Iterator[Pooler]:
        made = Pooler(postgres.port)
        yield made
        made.close()

    async def test_behind_one_nothing_is_prepared_set_or_kept_in_a_session(
        self, postgres: Postgres, postgres_url: str, pooler: Pooler
    ) -> None:
        name = await ensure("orders", url=postgres_url)
        through = postgres_url.replace(f":{postgres.port}/", f":{pooler.port}/")
        async with PostgresQueue(name, url=through, ordered=True) as queue:
            await queue.publish([outgoing(partition="a") for _ in range(10)])
            for _ in range(10):
                (delivery,) = await queue.receive(10, lease=30.0, wait=0.1)
                await queue.extend([delivery.receipt], lease=60.0)
                assert await queue.ack([delivery.receipt]) == [Done(delivery.receipt)]
            ask = queue._client.ask
            assert await ask("SELECT count(*) FROM pg_prepared_statements") == [(0,)]
            assert await ask("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'") == [(0,)]
            for setting, default in (("statement_timeout", "0"), ("plan_cache_mode", "auto")):
                assert await ask("SELECT current_setting(%(name)s)", {"name": setting}) == [(default,)]


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

    async def test_a_message_from_another_process_ends_a_wait_without_a_poll(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("crossfoot.queues.postgres.receiving.FIRST_PAUSE", 30.0)
        took = await _waited(scene)
        assert took < 2.0, "nobody was told"

    async def test_a_wait_that_cannot_be_told_anything_polls(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("crossfoot.queues.postgres.client.Client.listen", _deaf)
        took = await _waited(scene)
        assert took < 2.0

    async def test_a_listening_connection_that_is_lost_is_made_anew(self, scene: Scene) -> None:
        for _ in range(3):
            assert await _waited(scene) < 2.0
            scene.end_sessions()
            await anyio.sleep(0.05)

    async def test_one_client_serves_two_event_loops_and_leaves_no_connection_open(
        self, postgres: Postgres, postgres_url: str
    ) -> None:
        name = await ensure("loops", url=postgres_url)
        queue = PostgresQueue(name, url=postgres_url)

        async def publish() -> None:
            await queue.open()
            assert isinstance((await queue.publish([outgoing()]))[0], Accepted)
            assert await queue.receive(1, lease=0.001, wait=0.1)

        for _ in range(2):
            await anyio.to_thread.run_sync(anyio.run, publish)  # an unclosed connection is a warning, and so an error
        await queue.open()
        assert (await queue.depth()).ready == 2
        await queue.close()
        await anyio.sleep(0.1)
        rows = postgres.run(
            "SELECT FROM pg_stat_activity WHERE datname = %s AND application_name = 'crossfoot'",
            postgres_url.rpartition("/")[2],
        )
        assert rows == []


async def _deaf(*_: Any) -> None:
    raise QueueUnavailable("a pooler is in between")


async def _waited(scene: Scene) -> float:
    """Seconds from a publish to its delivery to somebody who waits."""
    message = outgoing()
    arrived: list[tuple[float, list[bytes]]] = []

    async def consume() -> None:
        got = await scene.subject.receive(1, lease=30.0, wait=10.0)
        arrived.append((time.monotonic(), bodies(got)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume)
        await anyio.sleep(0.3)
        sent = time.monotonic()
        await scene.direct.publish([message])
    at, got = arrived[0]
    assert got == [message.body]
    return at - sent


@pytest.fixture
def own() -> Iterator[Postgres]:
    """A server of this test's own, to be killed."""
    with postgres_running() as server:
        yield server
