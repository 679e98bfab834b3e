"""What ack, release, extend and dead_letter promise: one answer per receipt, in order, and the truth about each."""

from __future__ import annotations

from crossfoot.errors import UsageError
from crossfoot.queues.queue import Accepted, Done, LocalQueue, NotDone
from crossfoot.testing.queues.suite import (
    LONG_LEASE,
    SHORT_LEASE,
    QueueSuite,
    all_done,
    bodies,
    error_of,
    is_lost,
    outgoing,
    proves,
    receipts,
)


class Settling(QueueSuite):
    """How a delivery ends."""

    async def test_an_acked_message_never_comes_back(self) -> None:
        async with self.make_queue() as queue:
            await self.put(queue)
            delivery = await self.take_one(queue, lease=SHORT_LEASE)
            assert all_done(await queue.ack([delivery.receipt]), [delivery])
            await self.pass_time(SHORT_LEASE + 0.2)
            assert await self.take(queue, 1) == []

    async def test_answers_come_one_per_receipt_in_the_order_given(self) -> None:
        async with self.make_queue() as queue:
            await self.put(queue, 23)
            taken = await self.take(queue, 23)
            assert len(taken) == 23
            assert all_done(await queue.extend(receipts(taken), lease=LONG_LEASE), taken)
            assert all_done(await queue.release(receipts(taken)), taken)
            again = (await self.take(queue, 23))[::-1]
            assert all_done(await queue.ack(receipts(again)), again)
            assert await self.take(queue, 1) == []

    async def test_settling_nothing_answers_nothing(self) -> None:
        async with self.make_queue() as queue:
            assert await queue.ack([]) == []
            assert await queue.release([]) == []
            assert await queue.extend([], lease=LONG_LEASE) == []
            assert await queue.dead_letter([], reason="nothing") == []

    async def test_a_second_ack_is_an_answer_not_an_error(self) -> None:
        async with self.make_queue() as queue:
            await self.put(queue)
            delivery = await self.take_one(queue)
            await queue.ack([delivery.receipt])
            (again,) = await queue.ack([delivery.receipt])
            assert again == Done(delivery.receipt) or is_lost(again), again

    async def test_a_receipt_nobody_gave_is_lost_and_its_neighbours_are_done(self) -> None:
        async with self.make_queue() as queue:
            await self.put(queue, 2)
            one, two = await self.take(queue, 2)
            answers = await queue.ack([one.receipt, "no such receipt", two.receipt])
            assert [answers[0], answers[2]] == [Done(one.receipt), Done(two.receipt)]
            assert is_lost(answers[1]), answers[1]
            assert answers[1].receipt == "no such receipt"

    async def test_the_same_receipt_twice_in_one_call_gets_two_answers(self) -> None:
        async with self.make_queue() as queue:
            await self.put(queue)
            delivery = await self.take_one(queue)
            first, second = await queue.ack([delivery.receipt, delivery.receipt])
            assert first.receipt == second.receipt == delivery.receipt
            assert Done(delivery.receipt) in (first, second)

    async def test_a_released_message_is_delivered_again_at_once_and_counted(self) -> None:
        async with self.make_queue() as queue:
            sent = await self.put(queue)
            first = await self.take_one(queue)
            assert all_done(await queue.release([first.receipt]), [first])
            second = await self.take_one(queue)
            assert bodies([second]) == bodies(sent)
            assert second.attempt == 2

    @proves("transactional_ack")
    async def test_only_a_queue_that_is_a_table_has_an_ack_that_rides_in_a_transaction(self) -> None:
        async with self.make_queue() as queue:
            assert isinstance(queue, LocalQueue) == queue.capabilities.transactional_ack

    @proves("max_release_delay")
    async def test_a_message_released_with_a_delay_comes_back_after_it(self) -> None:
        async with self.make_queue() as queue:
            limit = queue.capabilities.max_release_delay
            await self.put(queue)
            first = await self.take_one(queue)
            if limit is not None and limit < SHORT_LEASE:
                await error_of(queue.release([first.receipt], delay=SHORT_LEASE), UsageError)
                return
            assert all_done(await queue.release([first.receipt], delay=SHORT_LEASE), [first])
            assert await self.take(queue, 1) == [], "delivered before the delay was over"
            await self.pass_time(SHORT_LEASE + 0.2)
            assert (await self.take_one(queue)).attempt == 2

    @proves("max_release_delay")
    async def test_a_release_delay_over_the_limit_is_wrong_use(self) -> None:
        async with self.make_queue() as queue:
            limit = queue.capabilities.max_release_delay
            await self.put(queue)
            delivery = await self.take_one(queue)
            if limit is None:
                assert all_done(await queue.release([delivery.receipt], delay=10_000_000.0), [delivery])
            else:
                await error_of(queue.release([delivery.receipt], delay=limit + 1), UsageError)

    async def test_an_extended_lease_outlives_the_first_one(self) -> None:
        async with self.make_queue() as queue:
            await self.put(queue)
            delivery = await self.take_one(queue, lease=SHORT_LEASE)
            assert all_done(await queue.extend([delivery.receipt], lease=LONG_LEASE), [delivery])
            await self.pass_time(SHORT_LEASE + 0.2)
            assert await self.take(queue, 1) == []
            assert all_done(await queue.ack([delivery.receipt]), [delivery])

    async def test_extending_an_acked_message_is_lost(self) -> None:
        async with self.make_queue() as queue:
            await self.put(queue)
            delivery = await self.take_one(queue)
            await queue.ack([delivery.receipt])
            (answer,) = await queue.extend([delivery.receipt], lease=LONG_LEASE)
            assert is_lost(answer), answer

    @proves("receipts_fenced")
    async def test_an_earlier_receipt_is_void_once_the_message_was_delivered_again(self) -> None:
        async with self.make_queue() as queue:
            await self.put(queue)
            first = await self.take_one(queue)
            await queue.release([first.receipt])
            second = await self.take_one(queue)
            (answer,) = await queue.ack([first.receipt])
            assert isinstance(answer, Done | NotDone)
            if queue.capabilities.receipts_fenced:
                assert is_lost(answer), answer
                assert is_lost((await queue.extend([first.receipt], lease=LONG_LEASE))[0])
                assert all_done(await queue.ack([second.receipt]), [second])

    async def test_a_dead_lettered_message_is_among_the_dead_and_nowhere_else(self) -> None:
        async with self.make_queue() as queue:
            sent = await self.put(queue, 2)
            dying, living = await self.take(queue, 2)
            assert all_done(await queue.dead_letter([dying], reason="unknown type"), [dying])
            await queue.release([living.receipt])
            assert bodies(await self.take(queue, 2)) == [living.body]
            dead = [held async for held in queue.dead_letters()]
            assert bodies(dead) == [dying.body]
            assert dead[0].dead
            assert sorted([dying.body, living.body]) == sorted(bodies(sent))

    async def test_a_dead_letter_is_known_by_the_id_that_its_message_had(self) -> None:
        """What has no name of its own is booked under the broker's id, and would be booked twice under two."""
        async with self.make_queue() as queue:
            await self.put(queue, 3)
            first, *dying = await self.take(queue, 3)
            assert all_done(await queue.dead_letter(dying, reason="poison"), dying)
            dead = [(held.body, held.broker_id) async for held in queue.dead_letters()]
            assert sorted(dead) == sorted((one.body, one.broker_id) for one in dying)
            assert all_done(await queue.ack([first.receipt]), [first])

    async def test_a_dead_letter_and_what_is_held_show_what_they_were_published_with(self) -> None:
        """A message that is sent again says there how often it was delivered before."""
        async with self.make_queue() as queue:
            sent = outgoing(b"again", attributes={"crossfoot-base": "7", "note": "grün ✓"})
            assert isinstance((await queue.publish([sent]))[0], Accepted)
            if queue.capabilities.browsing:
                assert [held.attributes async for held in queue.browse()] == [sent.attributes]
            taken = await self.take(queue, 1)
            assert all_done(await queue.dead_letter(taken, reason="poison"), taken)
            (dead,) = [held async for held in queue.dead_letters()]
            assert {name: dead.attributes.get(name) for name in sent.attributes} == sent.attributes
            assert dead.attempt == 1, "deliveries of this copy"

    async def test_dead_lettering_a_long_list_answers_in_order(self) -> None:
        async with self.make_queue() as queue:
            sent = await self.put(queue, 13)
            taken = await self.take(queue, 13)
            assert all_done(await queue.dead_letter(taken, reason="poison"), taken)
            assert sorted(bodies([held async for held in queue.dead_letters()])) == sorted(bodies(sent))
