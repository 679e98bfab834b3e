"""What a receive promises: no more than asked, leased to one consumer, counted, given again when the lease is over."""

from __future__ import annotations

import time

import anyio

from crossfoot.clock import SECOND
from crossfoot.queues.queue import Delivery, Queue
from crossfoot.testing.queues.suite import LONG_LEASE, SHORT_LEASE, QueueSuite, bodies, outgoing, proves, receipts


class Delivering(QueueSuite):
    """From the consumer's side."""

    async def test_an_empty_queue_delivers_nothing(self) -> None:
        async with self.make_queue() as queue:
            assert await queue.receive(10, lease=LONG_LEASE) == []

    async def test_a_delivery_says_how_often_since_when_and_until_when(self) -> None:
        async with self.make_queue() as queue:
            await self.put(queue)
            delivery = await self.take_one(queue, lease=LONG_LEASE)
            assert delivery.attempt == 1
            assert delivery.receipt
            if delivery.enqueued_at is not None:
                granted = delivery.lease_until - delivery.enqueued_at
                assert abs(granted - LONG_LEASE * SECOND) < 10 * SECOND, "the lease and the enqueue time disagree"

    @proves("max_receive")
    async def test_never_more_than_asked_and_never_more_than_declared(self) -> None:
        async with self.make_queue() as queue:
            declared = queue.capabilities.max_receive
            sent = await self.put(queue, min(declared, 100) + 3)
            few = await queue.receive(2, lease=LONG_LEASE, wait=self.patience)
            many = await queue.receive(declared + 50, lease=LONG_LEASE, wait=self.patience)
            assert 1 <= len(few) <= 2
            assert 1 <= len(many) <= declared
            rest = await self.take(queue, len(sent))
            assert sorted(bodies([*few, *many, *rest])) == sorted(bodies(sent))

    async def test_a_leased_message_is_delivered_to_nobody_else(self) -> None:
        async with self.make_queue() as queue:
            other = self.twin(queue)
            await other.open()
            try:
                await self.put(queue)
                await self.take_one(queue)
                assert await self.take(other, 1) == []
                assert await self.take(queue, 1) == []
            finally:
                await other.close()

    async def test_a_message_is_delivered_again_when_its_lease_is_over_and_the_count_goes_on(self) -> None:
        async with self.make_queue() as queue:
            sent = await self.put(queue)
            first = await self.take_one(queue, lease=SHORT_LEASE)
            await self.pass_time(SHORT_LEASE + 0.2)
            second = await self.take_one(queue)
            assert bodies([first, second]) == bodies(sent) * 2
            assert (first.attempt, second.attempt) == (1, 2)
            assert first.receipt != second.receipt, "two hand-overs need two receipts"
            assert first.enqueued_at == second.enqueued_at

    @proves("counts")
    async def test_deliveries_to_a_client_that_is_gone_are_counted_too(self) -> None:
        async with self.make_queue() as queue:
            await self.put(queue)
            first = await self.take_one(queue)
            await queue.release([first.receipt])
            if not queue.capabilities.counts:
                assert (await self.take_one(queue)).attempt == 2, "one that lives counts for itself"
                return
            await queue.close()
            other = self.twin(queue)
            await other.open()
            try:
                second = await self.take_one(other)
                assert (first.attempt, second.attempt) == (1, 2)
            finally:
                await other.close()

    async def test_a_waiting_receive_is_woken_by_a_publish(self) -> None:
        async with self.make_queue() as queue:
            message = outgoing()
            got: list[Delivery] = []

            async def consume() -> None:
                got.extend(await queue.receive(1, lease=LONG_LEASE, wait=8.0))

            with anyio.fail_after(6):
                async with anyio.create_task_group() as group:
                    group.start_soon(consume)
                    await anyio.lowlevel.checkpoint()
                    await queue.publish([message])
            assert bodies(got) == [message.body]

    async def test_a_cancelled_wait_ends_at_once_and_takes_nothing_with_it(self) -> None:
        async with self.make_queue() as queue:
            started = time.monotonic()
            with anyio.move_on_after(0.3) as scope:
                await queue.receive(1, lease=LONG_LEASE, wait=20.0)
            assert scope.cancelled_caught
            assert time.monotonic() - started < 1.5, "the cancelled receive went on waiting"
            sent = await self.put(queue)
            with anyio.fail_after(12):
                again = await queue.receive(1, lease=LONG_LEASE, wait=10.0)
            assert bodies(again) == bodies(sent), "the abandoned receive took the message with it"

    async def test_concurrent_consumers_never_hold_the_same_message(self) -> None:
        async with self.make_queue() as queue:
            sent = await self.put(queue, 60)
            held: list[bytes] = []

            async def consume(client: Queue) -> None:
                while deliveries := await client.receive(7, lease=LONG_LEASE, wait=self.patience):
                    held.extend(bodies(deliveries))
                    await client.ack(receipts(deliveries))

            twins = [self.twin(queue) for _ in range(3)]
            async with anyio.create_task_group() as group:
                for client in twins:
                    await client.open()
                    group.start_soon(consume, client)
            for client in twins:
                await client.close()
            held += bodies(await self.take(queue, 60))
            assert sorted(held) == sorted(bodies(sent))
