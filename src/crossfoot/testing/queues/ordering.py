"""What order a queue keeps, as it declares it."""

from __future__ import annotations

from crossfoot.queues.queue import Accepted, Delivery, Order, Queue
from crossfoot.testing.queues.suite import QueueSuite, bodies, outgoing, proves, receipts


class Ordering(QueueSuite):
    """Per partition key, or not at all."""

    @proves("order")
    async def test_one_partition_is_delivered_in_publish_order(self) -> None:
        async with self.make_queue() as queue:
            sent = await self.put(queue, 6, partition="case-1")
            seen = await self._drain(queue, 2)
            if queue.capabilities.order is Order.KEY:
                assert bodies(seen) == bodies(sent)
            assert sorted(bodies(seen)) == sorted(bodies(sent))

    @proves("order")
    async def test_a_partition_waits_while_one_of_it_is_out_and_others_go_on(self) -> None:
        async with self.make_queue() as queue:
            first, second = await self.put(queue, 2, partition="case-1")
            (other,) = await self.put(queue, 1, partition="case-2")
            out = await self.take_one(queue)
            now = bodies(await self.take(queue, 3))
            if queue.capabilities.order is Order.NONE:
                assert sorted([out.body, *now]) == sorted(bodies([first, second, other]))
                return
            if out.body == other.body:
                assert now[:1] == [first.body]
                return
            assert out.body == first.body
            assert now == [other.body], "its successor was delivered while it was out"
            await queue.ack([out.receipt])
            assert bodies(await self.take(queue, 2)) == [second.body]

    @proves("order")
    async def test_a_released_message_comes_before_its_successors(self) -> None:
        async with self.make_queue() as queue:
            sent = await self.put(queue, 3, partition="case-1")
            first = await self.take_one(queue)
            await queue.release([first.receipt])
            seen = await self._drain(queue, 1)
            if queue.capabilities.order is Order.KEY:
                assert first.body == sent[0].body
                assert bodies(seen) == bodies(sent)
            assert sorted(bodies(seen)) == sorted(bodies(sent))

    async def test_messages_without_a_partition_do_not_wait_for_each_other(self) -> None:
        async with self.make_queue() as queue:
            sent = await self.put(queue, 3)
            one = await self.take_one(queue)
            rest = await self.take(queue, 3)
            assert sorted(bodies([one, *rest])) == sorted(bodies(sent))

    @proves("order")
    async def test_a_dead_lettered_message_makes_way_for_its_successors(self) -> None:
        async with self.make_queue() as queue:
            sent = await self.put(queue, 2, partition="case-1")
            if queue.capabilities.order is Order.NONE:
                taken = await self.take(queue, 2)
                assert sorted(bodies(taken)) == sorted(bodies(sent))
                return
            first = await self.take_one(queue)
            await queue.dead_letter([first], reason="poison")
            assert bodies(await self.take(queue, 1)) == [sent[1].body]

    @proves("priorities")
    async def test_a_higher_priority_is_delivered_first_where_the_queue_knows_priorities(self) -> None:
        async with self.make_queue() as queue:
            levels = queue.capabilities.priorities
            sent = [outgoing(priority=priority) for priority in (0, levels - 1, 0, levels - 1)]
            assert all(isinstance(answer, Accepted) for answer in await queue.publish(sent))
            seen = await self._drain(queue, 1)
            assert sorted(bodies(seen)) == sorted(bodies(sent))
            if levels > 1:
                assert bodies(seen) == bodies([sent[1], sent[3], sent[0], sent[2]])

    async def _drain(self, queue: Queue, batch: int) -> list[Delivery]:
        """Receive and ack `batch` at a time until nothing is left."""
        seen: list[Delivery] = []
        while taken := await queue.receive(batch, lease=30.0, wait=self.patience):
            seen += taken
            await queue.ack(receipts(taken))
        return seen
