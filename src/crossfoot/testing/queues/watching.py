"""What can be seen without taking anything, and what the queue does by itself: redrive and retention."""

from __future__ import annotations

from collections.abc import Callable

from crossfoot.errors import UsageError
from crossfoot.queues.queue import Depth, DepthIs, ForgetsDead, Held, Queue
from crossfoot.testing.queues.suite import QueueSuite, bodies, error_of, outgoing, proves, receipts


class Watching(QueueSuite):
    """Depth, browsing, dead letters, redrive, retention."""

    @proves("depth", "hides")
    async def test_depth_counts_ready_in_flight_delayed_and_dead(self) -> None:
        async with self.make_queue() as queue:
            await self.put(queue, 5)
            dying, *_ = await self.take(queue, 2)
            await queue.dead_letter([dying], reason="poison")
            delayed = queue.capabilities.max_delay is None or queue.capabilities.max_delay >= 60
            if delayed:
                await queue.publish([outgoing(delay=60.0)])

            def right(depth: Depth) -> bool:
                counts = (depth.ready, depth.in_flight, depth.delayed, depth.dead)
                return counts == (3, 1, int(delayed), 1) and depth.held == 4 + int(delayed)

            depth = await self._settled(queue, right)
            assert right(depth), depth

    async def test_an_empty_queue_has_no_depth(self) -> None:
        async with self.make_queue() as queue:
            depth = await queue.depth()
            assert (depth.held, depth.dead) == (0, 0)
            assert depth.as_of > 0

    @proves("browsing")
    async def test_browsing_shows_every_message_and_takes_none(self) -> None:
        async with self.make_queue() as queue:
            sent = await self.put(queue, 3)
            if not queue.capabilities.browsing:
                await error_of(_browse(queue), UsageError)
                return
            out = await self.take_one(queue)
            for _ in range(2):
                held = await _browse(queue)
                assert sorted(bodies(held)) == sorted(bodies(sent))
                assert not any(one.dead for one in held)
            rest = await self.take(queue, 3)
            assert sorted(bodies([out, *rest])) == sorted(bodies(sent))
            assert [one.attempt for one in rest] == [1, 1], "browsing counted as a delivery"

    async def test_reading_the_dead_letters_leaves_them_where_they_are(self) -> None:
        async with self.make_queue() as queue:
            sent = await self.put(queue, 12)
            await queue.dead_letter(await self.take(queue, 12), reason="poison")
            for _ in range(2):
                dead = [held async for held in queue.dead_letters()]
                assert sorted(bodies(dead)) == sorted(bodies(sent))
                assert all(held.dead for held in dead)
            assert (await self._settled(queue, lambda depth: depth.dead == 12)).dead == 12

    async def test_a_dead_letter_is_forgotten_by_its_id_and_the_others_stay(self) -> None:
        async with self.make_queue() as queue:
            if not isinstance(
                queue, ForgetsDead
            ):  # what cannot be deleted one by one stays until its retention is over
                return
            sent = await self.put(queue, 3)
            await queue.dead_letter(await self.take(queue, 3), reason="poison")
            gone, *others = [held async for held in queue.dead_letters()]
            assert await queue.forget_dead([gone.broker_id, "no such id"]) == 1
            assert await queue.forget_dead([gone.broker_id]) == 0
            assert await queue.forget_dead([]) == 0
            left = [held async for held in queue.dead_letters()]
            assert sorted(bodies(left)) == sorted(bodies(others))
            assert sorted(bodies([gone, *left])) == sorted(bodies(sent))
            assert (await self._settled(queue, lambda depth: depth.dead == 2)).dead == 2

    async def test_it_does_not_matter_where_among_the_dead_letters_lies_what_is_forgotten(self) -> None:
        async with self.make_queue() as queue:
            if not isinstance(queue, ForgetsDead):
                return
            await self.put(queue, 5)
            await queue.dead_letter(await self.take(queue, 5), reason="poison")
            left = [held.broker_id async for held in queue.dead_letters()]
            for place in (-1, 1, 0):
                gone = left.pop(place)
                assert await queue.forget_dead([gone]) == 1, f"the one at {place}"
                assert sorted([held.broker_id async for held in queue.dead_letters()]) == sorted(left)

    async def test_what_is_held_is_no_dead_letter_to_be_forgotten(self) -> None:
        async with self.make_queue() as queue:
            if not isinstance(queue, ForgetsDead):
                return
            sent = await self.put(queue, 1)
            taken = await self.take_one(queue)
            assert await queue.forget_dead([taken.broker_id]) == 0
            await queue.release([taken.receipt])
            assert bodies(await self.take(queue, 1)) == bodies(sent)

    async def test_no_dead_letters_is_an_end_at_once(self) -> None:
        async with self.make_queue() as queue:
            await self.put(queue)
            assert [held async for held in queue.dead_letters()] == []

    @proves("redrive")
    async def test_a_message_delivered_too_often_is_moved_to_the_dead_letters_by_the_queue(self) -> None:
        async with self.make_queue(max_attempts=2) as queue:
            sent = await self.put(queue)
            for attempt in (1, 2):
                delivery = await self.take_one(queue)
                assert delivery.attempt == attempt
                await queue.release([delivery.receipt])
            if not queue.capabilities.redrive:
                assert queue.max_attempts is None, "a limit nobody keeps"
                assert (await self.take_one(queue)).attempt == 3
                return
            assert await self.take(queue, 1) == [], "delivered a third time"
            assert bodies([held async for held in queue.dead_letters()]) == bodies(sent)

    async def test_a_message_acked_at_its_last_attempt_is_not_dead(self) -> None:
        async with self.make_queue(max_attempts=1) as queue:
            await self.put(queue)
            delivery = await self.take_one(queue)
            await queue.ack(receipts([delivery]))
            assert await self.take(queue, 1) == []
            assert [held async for held in queue.dead_letters()] == []

    async def test_a_message_older_than_the_retention_is_forgotten(self) -> None:
        async with self.make_queue(retention=self.shortest_retention) as queue:
            await self.put(queue)
            await self.pass_time(self.shortest_retention + self.lateness)
            young = await self.put(queue)
            assert bodies(await self.take(queue, 2)) == bodies(young)

    async def _settled(self, queue: Queue, right: Callable[[Depth], bool]) -> Depth:
        """The depth once it is right; an approximate count is given some seconds to become so."""
        depth = await queue.depth()
        if queue.capabilities.depth is DepthIs.APPROXIMATE:
            for _ in range(10):
                if right(depth):
                    break
                await self.pass_time(0.5)
                depth = await queue.depth()
        return depth


async def _browse(queue: Queue) -> list[Held]:
    return [held async for held in queue.browse()]
