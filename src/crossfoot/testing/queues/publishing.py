"""What a publish promises: one answer per message, in order, and the message as it was given."""

from __future__ import annotations

from crossfoot.message import Message, decode, encode
from crossfoot.queues.queue import Accepted, Outgoing, Refused
from crossfoot.testing.queues.suite import (
    SHORT_LEASE,
    QueueSuite,
    bodies,
    is_refused_for_good,
    outgoing,
    proves,
    receipts,
)

TEXT = 'tab\t, newline\n, quote", äöü, 漢字, \U0001f9fe, \ufffd and a null escape \\u0000'


class Publishing(QueueSuite):
    """From the producer's side."""

    async def test_what_is_delivered_is_what_was_published(self) -> None:
        async with self.make_queue() as queue:
            message = outgoing(TEXT.encode(), attributes={"traceparent": "00-ab-cd-01", "note": "grün ✓"})
            answers = await queue.publish([message])
            delivery = await self.take_one(queue)
            assert [answer.key for answer in answers] == [message.key]
            assert delivery.body == message.body
            assert delivery.attributes == message.attributes

    async def test_a_trace_context_is_carried_unchanged_in_the_envelope(self) -> None:
        async with self.make_queue() as queue:
            message = Message(
                type="case.released",
                source="billing",
                subject="case-1",
                traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                tracestate="rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            )
            (answer,) = await queue.publish(
                [Outgoing(key=message.key, body=encode(message), partition=message.subject)]
            )
            assert isinstance(answer, Accepted), answer
            assert decode((await self.take_one(queue)).body) == message

    @proves("max_publish")
    async def test_answers_come_one_per_message_in_the_order_given(self) -> None:
        async with self.make_queue() as queue:
            count = 2 * queue.capabilities.max_publish + 3 if queue.capabilities.max_publish <= 100 else 203
            messages = [outgoing() for _ in range(count)]
            answers = await queue.publish(messages)
            assert [answer.key for answer in answers] == [message.key for message in messages]
            assert all(isinstance(answer, Accepted) for answer in answers), answers
            assert sorted(bodies(await self.take(queue, count))) == sorted(bodies(messages))

    async def test_publishing_nothing_answers_nothing(self) -> None:
        async with self.make_queue() as queue:
            assert await queue.publish([]) == []

    @proves("max_bytes")
    async def test_a_message_over_the_size_limit_is_refused_and_its_neighbours_are_not(self) -> None:
        async with self.make_queue() as queue:
            limit = queue.capabilities.max_bytes
            if limit is None:
                large = outgoing(b'"' + b"x" * 2_000_000 + b'"')
                assert isinstance((await queue.publish([large]))[0], Accepted)
                assert (await self.take_one(queue)).body == large.body
                return
            messages = [outgoing(), outgoing(b"x" * (limit + 1)), outgoing(b"y" * limit), outgoing()]
            before, over, just, after = await queue.publish(messages)
            assert isinstance(before, Accepted)
            assert isinstance(after, Accepted)
            assert isinstance(just, Accepted), f"{limit} bytes are within the limit: {just}"
            assert isinstance(over, Refused), f"{limit + 1} bytes are over it: {over}"
            assert over.permanent
            assert str(limit) in over.reason, f"the reason does not name the limit: {over.reason}"
            expected = [messages[0].body, messages[2].body, messages[3].body]
            assert sorted(bodies(await self.take(queue, 4))) == sorted(expected)

    @proves("max_bytes")
    async def test_attributes_count_towards_the_size_limit(self) -> None:
        async with self.make_queue() as queue:
            limit = queue.capabilities.max_bytes
            if limit is None:
                assert isinstance((await queue.publish([outgoing(attributes={"a": "x" * 100_000})]))[0], Accepted)
                return
            message = outgoing(b"x" * limit, attributes={"note": "one too many"})
            (answer,) = await queue.publish([message])
            assert is_refused_for_good(answer), answer
            assert await self.take(queue, 1) == []

    @proves("max_delay")
    async def test_a_delayed_message_is_not_delivered_before_its_time(self) -> None:
        async with self.make_queue() as queue:
            limit = queue.capabilities.max_delay
            message = outgoing(delay=SHORT_LEASE)
            (answer,) = await queue.publish([message])
            if limit is not None and limit < SHORT_LEASE:
                assert is_refused_for_good(answer), f"a delay nobody keeps: {answer}"
                assert await self.take(queue, 1) == []
                return
            assert isinstance(answer, Accepted)
            assert await self.take(queue, 1) == [], "delivered before its delay was over"
            await self.pass_time(SHORT_LEASE + 0.2)
            assert bodies(await self.take(queue, 1)) == [message.body]

    @proves("max_delay")
    async def test_a_delay_over_the_limit_is_refused_not_shortened(self) -> None:
        async with self.make_queue() as queue:
            limit = queue.capabilities.max_delay
            message = outgoing(delay=(limit if limit is not None else 1_000_000.0) + 1)
            (answer,) = await queue.publish([message])
            if limit is None:
                assert isinstance(answer, Accepted)
            else:
                assert is_refused_for_good(answer), answer
            assert await self.take(queue, 1) == []

    @proves("publish_dedup")
    async def test_a_second_publish_of_the_same_message_is_a_second_copy_unless_the_queue_drops_it(
        self,
    ) -> None:
        async with self.make_queue() as queue:
            message = outgoing()
            first = await queue.publish([message])
            second = await queue.publish([message])
            assert [type(answer) for answer in (*first, *second)] == [Accepted, Accepted]
            copies = 1 if queue.capabilities.publish_dedup > 0 else 2
            assert bodies(await self.take(queue, 3)) == [message.body] * copies

    @proves("publish_dedup")
    async def test_a_second_publish_is_dropped_even_after_the_first_was_acked(self) -> None:
        async with self.make_queue() as queue:
            message = outgoing()
            await queue.publish([message])
            await queue.ack(receipts([await self.take_one(queue)]))
            (answer,) = await queue.publish([message])
            assert isinstance(answer, Accepted)
            copies = 0 if queue.capabilities.publish_dedup > 0 else 1
            assert len(await self.take(queue, 2)) == copies

    async def test_two_messages_with_the_same_body_are_two_messages(self) -> None:
        async with self.make_queue() as queue:
            await queue.publish([outgoing(b'{"same": 1}'), outgoing(b'{"same": 1}')])
            assert bodies(await self.take(queue, 3)) == [b'{"same": 1}'] * 2
