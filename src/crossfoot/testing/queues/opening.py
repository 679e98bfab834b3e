"""Opening, closing, and what a queue says of itself."""

from __future__ import annotations

from crossfoot.errors import CrossfootError, UsageError
from crossfoot.testing.queues.suite import QueueSuite, bodies, error_of, proves


class Opening(QueueSuite):
    """The client's own life."""

    async def test_opening_twice_and_closing_twice_changes_nothing(self) -> None:
        async with self.make_queue() as queue:
            await queue.open()
            sent = await self.put(queue)
            assert bodies(await self.take(queue, 1)) == bodies(sent)
            await queue.close()
            await queue.close()

    async def test_a_message_outlives_the_client_that_published_it(self) -> None:
        async with self.make_queue() as queue:
            sent = await self.put(queue)
            await queue.close()
            other = self.twin(queue)
            await other.open()
            try:
                assert bodies(await self.take(other, 1)) == bodies(sent)
            finally:
                await other.close()

    async def test_a_queue_that_is_not_there_is_named_when_opened(self) -> None:
        queue = self.missing_queue()
        try:
            said = await error_of(queue.open(), self.missing)
            assert "nowhere" in said, f"the error does not name the queue: {said}"
        finally:
            await queue.close()

    @proves("max_lease")
    async def test_a_lease_over_the_limit_is_wrong_use(self) -> None:
        async with self.make_queue() as queue:
            limit = queue.capabilities.max_lease
            await self.put(queue)
            if limit is None:
                assert len(await self.take(queue, 1, lease=10_000_000.0)) == 1
                return
            assert queue.name in await error_of(queue.receive(1, lease=limit + 1), UsageError)
            (delivery,) = await self.take(queue, 1, lease=limit)
            await error_of(queue.extend([delivery.receipt], lease=limit + 1), UsageError)

    async def test_retention_is_told_as_it_was_set(self) -> None:
        async with self.make_queue(retention=86_400.0) as queue:
            assert queue.retention == 86_400.0

    async def test_using_a_queue_before_it_is_open_says_so(self) -> None:
        async with self.make_queue() as queue:
            other = self.twin(queue)
            assert queue.name in await error_of(other.receive(1, lease=1.0), CrossfootError)
