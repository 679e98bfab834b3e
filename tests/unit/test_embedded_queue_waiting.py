"""Waiting, waking and cancellation of the embedded queue: nothing is lost between the task and its thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from crossfoot.clock import ManualClock
from crossfoot.queues.embedded import EmbeddedQueue, doorbell
from crossfoot.queues.embedded import queue as module
from crossfoot.queues.embedded.doorbell import Listener
from crossfoot.queues.embedded.queue import _Claim
from crossfoot.queues.queue import Delivery, Outgoing
from crossfoot.sqlite import Connection
from tests.unit.embedded_rig import make_file, messages, open_connection

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_blocking_calls")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_file(tmp_path / "queue.db")


@pytest.fixture
async def queue(path: Path) -> AsyncIterator[EmbeddedQueue]:
    queue = EmbeddedQueue(path, "orders", clock=ManualClock(), synchronous="OFF")
    await queue.open()
    yield queue
    await queue.close()


@pytest.fixture
def blocker(path: Path) -> Iterator[Connection]:
    """Somebody else's connection, whose transaction keeps a claim waiting."""
    with closing(open_connection(path)) as connection:
        yield connection


@pytest.fixture
def only_the_bell_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 1_000.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 1_000.0)


async def _start_receive(queue: EmbeddedQueue, monkeypatch: pytest.MonkeyPatch) -> asyncio.Task[list[Delivery]]:
    """A receive that has found nothing and waits for the bell."""
    waits = anyio.Event()
    wait = Listener.wait

    async def told(self: Listener, seconds: float) -> bool:
        waits.set()
        return await wait(self, seconds)

    monkeypatch.setattr(Listener, "wait", told)
    task = asyncio.create_task(queue.receive(1, lease=30, wait=1_000))
    with anyio.fail_after(10):
        await waits.wait()
    return task


class TestWaking:
    @pytest.mark.usefixtures("only_the_bell_wakes")
    async def test_a_publish_through_another_client_in_this_process_wakes_a_receive(
        self, path: Path, queue: EmbeddedQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = await _start_receive(queue, monkeypatch)
        other = EmbeddedQueue(path, "orders", clock=ManualClock())
        await other.open()
        await other.publish(messages(1))
        with anyio.fail_after(10):
            assert len(await task) == 1
        await other.close()

    @pytest.mark.usefixtures("only_the_bell_wakes")
    async def test_a_commit_in_another_thread_wakes_a_receive(
        self, path: Path, queue: EmbeddedQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = await _start_receive(queue, monkeypatch)

        def produce() -> None:
            with closing(open_connection(path)) as business, business.writing():
                for statement in queue.publish_statements(messages(1), ManualClock().now()):
                    business.execute(*statement)
            queue.wake()

        await anyio.to_thread.run_sync(produce)
        with anyio.fail_after(10):
            assert len(await task) == 1

    @pytest.mark.usefixtures("only_the_bell_wakes")
    async def test_an_ack_that_lets_the_next_of_the_partition_go_wakes_a_receive(
        self, queue: EmbeddedQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await queue.publish(messages(2, partition="case-1"))
        (first,) = await queue.receive(9, lease=30)
        task = await _start_receive(queue, monkeypatch)
        await queue.ack([first.receipt])
        with anyio.fail_after(10):
            assert len(await task) == 1

    async def test_a_message_of_another_process_is_found_by_looking(
        self, path: Path, queue: EmbeddedQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = await _start_receive(queue, monkeypatch)

        def produce_elsewhere() -> None:
            with closing(open_connection(path)) as business, business.writing():
                for statement in queue.publish_statements(messages(1), ManualClock().now()):
                    business.execute(*statement)

        await anyio.to_thread.run_sync(produce_elsewhere)
        with anyio.fail_after(10):
            assert len(await task) == 1

    async def test_a_receive_that_waited_in_vain_ends_in_time_and_leaves_no_listener(
        self, queue: EmbeddedQueue
    ) -> None:
        started = anyio.current_time()
        assert await queue.receive(1, lease=30, wait=0.05) == []
        assert 0.05 <= anyio.current_time() - started < 5
        assert not doorbell._listeners


class TestCancellation:
    async def test_a_claim_that_ends_after_its_task_was_cancelled_is_given_back(
        self, queue: EmbeddedQueue, blocker: Connection
    ) -> None:
        await queue.publish(messages(1))
        await anyio.to_thread.run_sync(blocker.begin)
        task = asyncio.create_task(queue.receive(1, lease=1_000_000))
        await _until_its_thread_is_at_it(queue)
        task.cancel()
        await anyio.to_thread.run_sync(blocker.abandon)
        await asyncio.wait([task])
        assert task.cancelled()
        (again,) = await queue.receive(1, lease=30)
        assert again.attempt in {1, 2}

    async def test_a_claim_inside_a_cancelled_scope_still_reaches_its_caller(
        self, queue: EmbeddedQueue, blocker: Connection
    ) -> None:
        await queue.publish(messages(1))
        await anyio.to_thread.run_sync(blocker.begin)
        took: list[Delivery] = []
        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                await _until_its_thread_is_at_it(queue)
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(blocker.abandon)

            async with anyio.create_task_group() as group:
                group.start_soon(cancel)
                took += await queue.receive(1, lease=1_000_000)
        assert len(took) == 1

    async def test_a_claim_given_up_before_its_thread_began_takes_nothing(
        self, path: Path, queue: EmbeddedQueue
    ) -> None:
        await queue.publish(messages(1))
        claim = _Claim(queue._store, 1, 1_000_000)
        await anyio.to_thread.run_sync(claim.give_back)
        assert await anyio.to_thread.run_sync(claim.take) == []
        assert (await queue.depth()).ready == 1

    async def test_a_receive_cancelled_at_any_moment_loses_nothing(self, queue: EmbeddedQueue) -> None:
        await queue.publish(messages(1))
        for turns in range(150):
            task = asyncio.create_task(queue.receive(1, lease=1_000_000))
            for _ in range(turns % 15):
                await asyncio.sleep(0)
            if turns % 3 == 0:  # also while the thread is at it, whatever its pace
                await anyio.to_thread.run_sync(threading.Event().wait, 0.0002 * (turns % 10))
            task.cancel()
            try:
                (delivery,) = await task
            except asyncio.CancelledError:
                continue
            await queue.release([delivery.receipt])
        depth = await queue.depth()
        assert (depth.ready, depth.in_flight) == (1, 0)


class TestBrowsing:
    async def test_it_goes_through_every_page_and_holds_no_snapshot_between_them(
        self, path: Path, queue: EmbeddedQueue
    ) -> None:
        await queue.publish(messages(250))
        seen = []
        async for held in queue.browse():
            seen.append(held.body)
            if len(seen) == 150:
                await queue.publish([Outgoing(key="late", body=b"late")])
                assert await anyio.to_thread.run_sync(_can_empty_the_log, path)
        assert seen == [*(message.body for message in messages(250)), b"late"]


async def _until_its_thread_is_at_it(queue: EmbeddedQueue) -> None:
    while queue._turn is None or not queue._turn.borrowed_tokens:
        await anyio.lowlevel.checkpoint()
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


def _can_empty_the_log(path: Path) -> bool:
    with closing(open_connection(path)) as other:
        ((busy, _, _),) = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return not busy
