"""What AWS answers, as recorded from it (LocalStack's snapshots) or documented, asked of the emulators.

The adapter is written for AWS; these tests say how far a green run on an emulator speaks for it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol
from uuid import uuid4

import pytest
from boto3.session import Session

from crossfoot.queues.queue import Accepted, Delivery, Done, Held, NotDone
from crossfoot.queues.sqs import SqsQueue, ensure
from crossfoot.testing.queues import outgoing
from tests.servers.differences import DIFFERENCES, expect_difference
from tests.servers.processes import Server

pytest_plugins = ["tests.servers.fixtures"]

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("no_blocking_calls")]

DAY = 86_400.0


class QueueOf(Protocol):
    def __call__(self, **settings: Any) -> AbstractAsyncContextManager[SqsQueue]: ...


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ("ministack", "moto")])
def server(request: pytest.FixtureRequest) -> Server:
    started: Server = request.getfixturevalue(request.param)
    return started


@pytest.fixture
def queue_of(server: Server, aws: Session, request: pytest.FixtureRequest) -> QueueOf:
    @asynccontextmanager
    async def make(**settings: Any) -> AsyncIterator[SqsQueue]:
        expect_difference(server.name, "fifo" if settings.get("fifo") else "standard", request)
        name = await ensure(f"recorded-{uuid4().hex[:12]}", endpoint_url=server.url, session=aws, **settings)
        async with SqsQueue(name, endpoint_url=server.url, clock=server.clock, session=aws) as queue:
            yield queue

    return make


async def one_delivery(queue: SqsQueue, *, lease: float = 30.0) -> Delivery:
    await queue.publish([outgoing()])
    (delivery,) = await queue.receive(1, lease=lease)
    return delivery


async def dead_of(queue: SqsQueue) -> list[Held]:
    return [held async for held in queue.dead_letters()]


async def test_a_fifo_receipt_is_void_when_its_lease_is_over(queue_of: QueueOf, server: Server) -> None:
    """Recorded: InvalidParameterValue, "The receipt handle has expired"."""
    async with queue_of(fifo=True) as queue:
        delivery = await one_delivery(queue, lease=1)
        server.clock.advance(2)
        (answer,) = await queue.ack([delivery.receipt])
        assert isinstance(answer, NotDone), answer
        assert answer.lost


async def test_a_standard_receipt_acks_after_its_lease_until_the_next_delivery(
    queue_of: QueueOf, server: Server
) -> None:
    async with queue_of() as queue:
        delivery = await one_delivery(queue, lease=1)
        server.clock.advance(2)
        assert await queue.ack([delivery.receipt]) == [Done(delivery.receipt)]
        assert (await queue.depth()).held == 0


async def test_a_standard_lease_can_be_extended_after_it_was_over(queue_of: QueueOf, server: Server) -> None:
    """Recorded: ChangeMessageVisibility after the timeout answers 200."""
    async with queue_of() as queue:
        delivery = await one_delivery(queue, lease=1)
        server.clock.advance(2)
        assert await queue.extend([delivery.receipt], lease=30) == [Done(delivery.receipt)]


async def test_deleting_twice_is_no_error(queue_of: QueueOf) -> None:
    async with queue_of() as queue:
        delivery = await one_delivery(queue)
        await queue.ack([delivery.receipt])
        assert await queue.ack([delivery.receipt]) == [Done(delivery.receipt)]


async def test_the_redrive_by_the_service_keeps_the_id_and_the_count(queue_of: QueueOf) -> None:
    async with queue_of(max_attempts=2) as queue:
        delivery = await one_delivery(queue)
        await queue.release([delivery.receipt])
        (again,) = await queue.receive(1, lease=30)
        await queue.release([again.receipt])
        assert await queue.receive(1, lease=30) == []
        for _ in range(3):  # each look is a receive for the service, and no delivery
            (held,) = await dead_of(queue)
            assert (held.broker_id, held.attempt) == (delivery.broker_id, 2)


async def test_a_dead_letter_of_ours_keeps_body_attributes_and_the_count_of_its_attempts(
    queue_of: QueueOf, server: Server, aws: Session
) -> None:
    async with queue_of() as queue:
        await queue.publish([outgoing(attributes={"note": "kept"})])
        (first,) = await queue.receive(1, lease=30)
        await queue.release([first.receipt])
        (second,) = await queue.receive(1, lease=30)
        await queue.dead_letter([second], reason="unknown type\x00 " + "x" * 1_000)
        for _ in range(2):  # looking at it does not count as an attempt
            (held,) = await dead_of(queue)
            assert (held.body, held.attempt, held.dead) == (first.body, 2, True)
        async with SqsQueue(f"{queue.name}-dead", endpoint_url=server.url, session=aws) as dead:
            (delivery,) = await dead.receive(1, lease=30)
        assert delivery.attributes["note"] == "kept"
        assert delivery.attributes["crossfoot-attempt"] == "2"
        assert delivery.attributes["crossfoot-reason"].startswith("unknown type? xxx")


async def test_a_standard_dead_letters_age_counts_from_its_first_publish(queue_of: QueueOf, server: Server) -> None:
    async with queue_of(max_attempts=1, retention=14 * DAY) as queue:
        delivery = await one_delivery(queue)
        await queue.release([delivery.receipt])
        server.clock.advance(13 * DAY)
        assert await queue.receive(1, lease=30) == []
        assert len(await dead_of(queue)) == 1
        server.clock.advance(2 * DAY)
        assert await dead_of(queue) == []


async def test_a_fifo_queue_takes_the_same_message_again_after_five_minutes(queue_of: QueueOf, server: Server) -> None:
    async with queue_of(fifo=True) as queue:
        message = outgoing()
        for advance, held in ((0, 1), (290, 1), (20, 2)):
            server.clock.advance(advance)
            await queue.publish([message])
            assert (await queue.depth()).held == held


async def test_a_long_list_of_large_messages_is_cut_to_what_one_request_may_carry(queue_of: QueueOf) -> None:
    async with queue_of() as queue:
        answers = await queue.publish([outgoing(b"x" * 200_000) for _ in range(7)])
        assert all(isinstance(answer, Accepted) for answer in answers), answers
        assert (await queue.depth()).held == 7


@pytest.mark.parametrize("partition", ["case 4711", "Fall-ä", "x" * 500])
async def test_a_partition_key_of_any_characters_keeps_its_order(queue_of: QueueOf, partition: str) -> None:
    async with queue_of(fifo=True) as queue:
        messages = [outgoing(partition=partition) for _ in range(3)]
        await queue.publish(messages)
        got = await queue.receive(10, lease=30)
        assert [delivery.body for delivery in got] == [message.body for message in messages]


async def test_another_producers_numbers_and_bytes_survive_dead_lettering(
    queue_of: QueueOf, server: Server, aws: Session
) -> None:
    async with queue_of() as queue:
        sqs = aws.client("sqs", endpoint_url=server.url)
        attributes: Any = {
            "count": {"DataType": "Number", "StringValue": "7"},
            "raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
        }
        address = sqs.get_queue_url(QueueName=queue.name)["QueueUrl"]
        sqs.send_message(QueueUrl=address, MessageBody="theirs", MessageAttributes=attributes)
        (delivery,) = await queue.receive(1, lease=30)
        assert delivery.attributes == {"count": "7"}, "bytes have no place among text attributes"
        await queue.dead_letter([delivery], reason="not ours")
        there = sqs.get_queue_url(QueueName=f"{queue.name}-dead")["QueueUrl"]
        (message,) = sqs.receive_message(QueueUrl=there, MessageAttributeNames=["All"])["Messages"]
        kept = {name: message["MessageAttributes"][name] for name in attributes}
        assert kept == attributes


async def test_dead_letters_of_one_fifo_group_beyond_ten_are_announced_not_hidden(
    queue_of: QueueOf, caplog: pytest.LogCaptureFixture
) -> None:
    async with queue_of(fifo=True) as queue:
        await queue.publish([outgoing(partition="case-1") for _ in range(12)])
        while taken := await queue.receive(10, lease=30):
            await queue.dead_letter(taken, reason="poison")
        with caplog.at_level(logging.WARNING, "crossfoot"):
            assert len(await dead_of(queue)) == 10
        assert "holds 12 messages and showed 10" in caplog.text


async def test_without_a_redrive_policy_nothing_is_moved_and_the_remedy_is_named(queue_of: QueueOf) -> None:
    async with queue_of(max_attempts=None) as queue:
        delivery = await one_delivery(queue)
        (answer,) = await queue.dead_letter([delivery], reason="poison")
        assert isinstance(answer, NotDone)
        assert "RedrivePolicy" in answer.reason
        assert not answer.lost
        assert await dead_of(queue) == []
        assert (await queue.depth()).held == 1


def test_every_declared_difference_names_a_test() -> None:
    from crossfoot.testing.queues import QueueConformance

    for one in DIFFERENCES:
        assert hasattr(QueueConformance, one.test) or one.test in globals(), one
