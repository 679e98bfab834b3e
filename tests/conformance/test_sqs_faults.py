"""SQS when requests fail half-way: what was done, what was not, and what nobody knows are never confused.

A fault proxy stands between the client and the server. Each test reads the truth past the proxy.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import pytest
from boto3.session import Session

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Accepted, Delivery, Done, Doubtful, NotDone, Refused
from crossfoot.queues.sqs import SqsQueue, ensure
from crossfoot.testing.queues import outgoing
from tests.servers.processes import running

if TYPE_CHECKING:
    from tests.servers.scene import SceneOf

pytest_plugins = ["tests.servers.fixtures", "tests.servers.scene"]

pytestmark = [
    pytest.mark.server,
    pytest.mark.usefixtures("no_blocking_calls"),
    pytest.mark.xdist_group("ministack"),  # one process of each server is enough
]

LOST_ANSWER = {"response": {"abort_frac": 0}}
"""The request is done, its answer is not delivered."""

both_kinds = pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])


@both_kinds
async def test_a_publish_stored_without_an_answer_is_in_doubt_and_stored_once(scene_of: SceneOf, fifo: bool) -> None:
    async with scene_of(fifo=fifo) as scene:
        scene.broken("SendMessageBatch", LOST_ANSWER)
        messages = [outgoing() for _ in range(5)]
        answers = await scene.proxied.publish(messages)
        assert [type(answer) for answer in answers] == [Doubtful] * 5
        assert [answer.key for answer in answers] == [message.key for message in messages]
        assert scene.faults() == 1, "the client repeated a publish behind our back"
        assert await scene.stored() == 5


@both_kinds
async def test_publishing_the_doubtful_message_again_ends_as_a_copy_or_is_dropped(
    scene_of: SceneOf, fifo: bool
) -> None:
    async with scene_of(fifo=fifo) as scene:
        message = outgoing()
        scene.broken("SendMessageBatch", LOST_ANSWER)
        await scene.proxied.publish([message])
        scene.heal()
        assert isinstance((await scene.proxied.publish([message]))[0], Accepted)
        assert await scene.stored() == (1 if fifo else 2)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"response": {"truncate_frac": 0.5}}, id="cut short"),
        pytest.param({"response": {"corrupt_bytes": 40}}, id="garbled"),
    ],
)
async def test_an_answer_nobody_can_read_is_no_answer(scene_of: SceneOf, fault: dict[str, Any]) -> None:
    async with scene_of() as scene:
        scene.broken("SendMessageBatch", fault)
        (answer,) = await scene.proxied.publish([outgoing()])
        assert isinstance(answer, Doubtful), answer
        assert await scene.stored() == 1


@pytest.mark.parametrize("code", ["InternalError", "ServiceUnavailable"])
async def test_a_server_error_proves_nothing(scene_of: SceneOf, code: str) -> None:
    async with scene_of() as scene:
        scene.broken("SendMessageBatch", {"error": {"code": code, "status": 503}})
        (answer,) = await scene.proxied.publish([outgoing()])
        assert isinstance(answer, Doubtful), answer
        assert code in answer.reason
        assert scene.faults() == 1


async def test_an_answer_that_comes_too_late_is_in_doubt(scene_of: SceneOf) -> None:
    async with scene_of(give_up_after=0.5) as scene:
        scene.broken("SendMessageBatch", {"latency": 5_000})
        began = time.monotonic()
        (answer,) = await scene.proxied.publish([outgoing()])
        assert isinstance(answer, Doubtful), answer
        assert time.monotonic() - began < 2.0


async def test_being_throttled_is_a_refusal_for_now_and_nothing_is_stored(scene_of: SceneOf) -> None:
    async with scene_of() as scene:
        scene.broken("SendMessageBatch", {"error": {"code": "RequestThrottled", "status": 403}})
        answers = await scene.proxied.publish([outgoing(), outgoing()])
        assert all(isinstance(answer, Refused) and not answer.permanent for answer in answers), answers
        assert await scene.stored() == 0


@pytest.mark.parametrize("code", ["AccessDenied", "QueueDoesNotExist", "ExpiredToken"])
async def test_a_queue_that_takes_nothing_from_us_is_unavailable_and_named(scene_of: SceneOf, code: str) -> None:
    async with scene_of() as scene:
        delivery = await scene.delivered()
        for operation, call in (
            ("SendMessageBatch", lambda: scene.proxied.publish([outgoing()])),
            ("DeleteMessageBatch", lambda: scene.proxied.ack([delivery.receipt])),
            ("ReceiveMessage", lambda: scene.proxied.receive(1, lease=30)),
        ):
            scene.broken(operation, {"error": {"code": code, "status": 403}})
            with pytest.raises(QueueUnavailable, match=scene.direct.name):
                await call()
        assert await scene.stored() == 1


async def test_of_three_batches_one_unanswered_leaves_its_ten_in_doubt_and_the_others_accepted(
    scene_of: SceneOf,
) -> None:
    async with scene_of() as scene:
        scene.broken("SendMessageBatch", LOST_ANSWER, times=1)
        answers = await scene.proxied.publish([outgoing() for _ in range(30)])
        assert sum(isinstance(answer, Doubtful) for answer in answers) == 10
        assert sum(isinstance(answer, Accepted) for answer in answers) == 20
        assert await scene.stored() == 30


async def test_behind_a_doubtful_message_its_partition_waits_and_others_go_on(scene_of: SceneOf) -> None:
    async with scene_of(fifo=True) as scene:
        scene.broken("SendMessageBatch", {"reset": True}, times=1)
        case = [outgoing(partition="case-1") for _ in range(12)]
        answers = await scene.proxied.publish([*case, outgoing(partition="case-2")])
        assert [type(answer) for answer in answers] == [Doubtful] * 10 + [Refused] * 2 + [Accepted]
        assert not any(answer.permanent for answer in answers if isinstance(answer, Refused))
        assert await scene.stored() == 1, "a successor overtook the message in doubt"
        scene.heal()
        again = await scene.proxied.publish(case)
        assert all(isinstance(answer, Accepted) for answer in again)
        got: list[Delivery] = []
        while batch := await scene.direct.receive(10, lease=30):
            got += [delivery for delivery in batch if delivery.body in [message.body for message in case]]
            await scene.direct.ack([delivery.receipt for delivery in batch])
        assert [delivery.body for delivery in got] == [message.body for message in case]


@pytest.mark.parametrize("server", ["ministack", "moto"])
async def test_one_entry_the_server_refuses_does_not_spoil_its_neighbour(
    server: str,
    aws: Session,
    request: pytest.FixtureRequest,
) -> None:
    url = request.getfixturevalue(server).url
    name = await ensure(f"limited-{uuid4().hex[:12]}", endpoint_url=url, session=aws)
    async with SqsQueue(name, endpoint_url=url, session=aws) as queue:
        sqs = aws.client("sqs", endpoint_url=url)  # the limit is lowered after the queue was opened
        address = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        sqs.set_queue_attributes(QueueUrl=address, Attributes={"MaximumMessageSize": "1024"})
        fits, over = await queue.publish([outgoing(b"x" * 1024), outgoing(b"x" * 1025)])
        assert isinstance(fits, Accepted), fits
        assert isinstance(over, Refused), over
        assert over.permanent
        assert "1024" in over.reason
        assert (await queue.depth()).held == 1


@both_kinds
async def test_an_ack_without_an_answer_is_not_known_to_be_done_and_may_be_repeated(
    scene_of: SceneOf, fifo: bool
) -> None:
    async with scene_of(fifo=fifo) as scene:
        delivery = await scene.delivered()
        scene.broken("DeleteMessageBatch", LOST_ANSWER)
        (answer,) = await scene.proxied.ack([delivery.receipt])
        assert isinstance(answer, NotDone)
        assert not answer.lost
        assert scene.faults() == 1
        assert await scene.stored() == 0
        scene.heal()
        (again,) = await scene.proxied.ack([delivery.receipt])
        # AWS deletes what is gone without complaint; MiniStack calls the receipt void. Both end the matter.
        assert isinstance(again, Done) or again.lost


async def test_an_ack_that_never_arrived_succeeds_when_repeated(scene_of: SceneOf) -> None:
    async with scene_of() as scene:
        delivery = await scene.delivered()
        scene.broken("DeleteMessageBatch", {"reset": True})
        (answer,) = await scene.proxied.ack([delivery.receipt])
        assert isinstance(answer, NotDone)
        assert not answer.lost
        scene.heal()
        assert await scene.proxied.ack([delivery.receipt]) == [Done(delivery.receipt)]
        assert await scene.stored() == 0


async def test_an_extension_without_an_answer_is_not_known_to_be_done(scene_of: SceneOf) -> None:
    async with scene_of() as scene:
        delivery = await scene.delivered()
        scene.broken("ChangeMessageVisibilityBatch", LOST_ANSWER)
        (answer,) = await scene.proxied.extend([delivery.receipt], lease=60)
        assert isinstance(answer, NotDone)
        assert not answer.lost


@both_kinds
async def test_a_doubtful_move_to_the_dead_letters_deletes_nothing(scene_of: SceneOf, fifo: bool) -> None:
    async with scene_of(fifo=fifo) as scene:
        delivery = await scene.delivered()
        suffix = ".fifo" if fifo else ""
        scene.broken("SendMessageBatch", LOST_ANSWER, queue=f"{scene.direct.name.removesuffix('.fifo')}-dead{suffix}")
        (answer,) = await scene.proxied.dead_letter([delivery], reason="poison")
        assert isinstance(answer, NotDone)
        assert not answer.lost
        assert (await scene.stored(), len(await scene.dead())) == (1, 1)
        scene.heal()
        assert await scene.proxied.dead_letter([delivery], reason="poison") == [Done(delivery.receipt)]
        assert (await scene.stored(), len(await scene.dead())) == (0, 1 if fifo else 2)


async def test_a_move_whose_delete_got_no_answer_says_where_the_message_is(scene_of: SceneOf) -> None:
    async with scene_of() as scene:
        delivery = await scene.delivered()
        scene.broken("DeleteMessageBatch", {"reset": True})
        (answer,) = await scene.proxied.dead_letter([delivery], reason="poison")
        assert isinstance(answer, NotDone)
        assert "among the dead letters" in answer.reason
        assert (await scene.stored(), len(await scene.dead())) == (1, 1)


async def test_what_a_cancelled_receive_still_brings_is_given_back(scene_of: SceneOf) -> None:
    async with scene_of() as scene:
        with anyio.move_on_after(0.2):
            await scene.direct.receive(1, lease=30, wait=5.0)
        await scene.proxied.publish([outgoing()])
        await anyio.sleep(1.0)  # the server answers the abandoned request, which it polls for every 0.1 s
        (delivery,) = await scene.direct.receive(1, lease=30)
        assert delivery.attempt == 2, "the abandoned request should have had it first"


async def test_a_receive_without_an_answer_is_repeated_by_the_client(scene_of: SceneOf) -> None:
    async with scene_of() as scene:
        await scene.direct.publish([outgoing()])
        scene.broken("ReceiveMessage", {"reset": True}, times=1)
        assert len(await scene.proxied.receive(1, lease=30)) == 1
        scene.broken("ReceiveMessage", {"reset": True})
        with pytest.raises(QueueUnavailable, match=scene.direct.name):
            await scene.proxied.receive(1, lease=30)


async def test_a_frozen_server_leaves_a_publish_in_doubt_and_a_dead_one_refuses_it(
    tmp_path: Path, aws: Session
) -> None:
    with running("ministack", tmp_path) as server:
        name = await ensure("orders", endpoint_url=server.url, session=aws)
        async with SqsQueue(name, endpoint_url=server.url, timeout=1.0, session=aws) as queue:
            await queue.publish([outgoing()])
            (delivery,) = await queue.receive(1, lease=30)
            server.freeze()
            assert isinstance((await queue.publish([outgoing()]))[0], Doubtful)
            (unanswered,) = await queue.ack([delivery.receipt])
            assert isinstance(unanswered, NotDone)
            assert not unanswered.lost
            server.thaw()
            await anyio.to_thread.run_sync(server.kill)
            for call in (
                lambda: queue.publish([outgoing()]),
                lambda: queue.receive(1, lease=30),
                lambda: queue.ack([delivery.receipt]),
                queue.depth,
            ):
                with pytest.raises(QueueUnavailable, match="orders"):
                    await call()
            with pytest.raises(QueueUnavailable, match="orders"):
                await SqsQueue(name, endpoint_url=server.url, session=aws).open()
