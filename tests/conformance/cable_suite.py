"""What holds behind any cable that loses answers and cuts requests: what was done, what was not, and what nobody knows are never
confused. For queues whose requests are done once and whole; a file names the classes, and has a fixture `scene`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable

import anyio
import pytest

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Accepted, Delivery, Done, Doubtful, Held, NotDone, Queue, ReceiptAnswer
from crossfoot.testing.queues import outgoing
from tests.servers.cable import Cable

Settle = Callable[[], Awaitable[list[ReceiptAnswer]]]


class CableScene:
    """One queue.

    Args:
        subject: its client behind the cable; `direct` another one, past it.
    """

    def __init__(self, subject: Queue, direct: Queue, cable: Cable) -> None:
        self.subject = subject
        self.direct = direct
        self.cable = cable

    @abstractmethod
    async def prepared(self) -> None:
        """Whatever goes before a client's first request is done: the next one is what was asked for."""

    @abstractmethod
    async def settled(self) -> None:
        """The server has come to an end with what it was asked by those who do not listen any more."""

    @abstractmethod
    def end_sessions(self) -> None:
        """As the server's operator does it."""

    async def stored(self) -> int:
        return (await self.direct.depth()).held

    async def dead(self) -> list[Held]:
        return [held async for held in self.direct.dead_letters()]

    async def delivered(self, count: int = 1, *, lease: float = 30.0) -> list[Delivery]:
        """Fresh messages in the subject's hands."""
        await self.direct.publish([outgoing() for _ in range(count)])
        taken = await self.subject.receive(count, lease=lease)
        assert len(taken) == count
        return taken


class AnswersLost:
    """The request is done, its answer is not delivered."""

    async def test_a_publish_is_in_doubt_and_stored_once(self, scene: CableScene) -> None:
        scene.cable.lose_answers()
        messages = [outgoing() for _ in range(5)]
        answers = await scene.subject.publish(messages)
        assert [type(answer) for answer in answers] == [Doubtful] * 5
        assert [answer.key for answer in answers] == [message.key for message in messages]
        await scene.settled()
        assert await scene.stored() == 5, "the client repeated a publish behind our back"

    async def test_publishing_the_doubtful_message_again_is_a_second_copy(self, scene: CableScene) -> None:
        message = outgoing()
        scene.cable.lose_answers()
        await scene.subject.publish([message])
        scene.cable.heal()
        await scene.settled()
        assert isinstance((await scene.subject.publish([message]))[0], Accepted)
        assert await scene.stored() == 2

    async def test_an_ack_is_not_known_to_be_done_and_a_second_one_ends_the_matter(self, scene: CableScene) -> None:
        (delivery,) = await scene.delivered()
        await scene.prepared()
        scene.cable.lose_answers()
        (answer,) = await scene.subject.ack([delivery.receipt])
        assert isinstance(answer, NotDone)
        assert not answer.lost
        await scene.settled()
        assert await scene.stored() == 0
        scene.cable.heal()
        (again,) = await scene.subject.ack([delivery.receipt])
        assert isinstance(again, NotDone)
        assert again.lost

    async def test_a_move_to_the_dead_letters_happens_once_however_often_it_is_asked(self, scene: CableScene) -> None:
        (delivery,) = await scene.delivered()
        await scene.prepared()
        scene.cable.lose_answers()
        (answer,) = await scene.subject.dead_letter([delivery], reason="poison")
        assert isinstance(answer, NotDone)
        assert not answer.lost
        await scene.settled()
        assert (await scene.stored(), len(await scene.dead())) == (0, 1)
        scene.cable.heal()
        await scene.subject.dead_letter([delivery], reason="poison")
        assert (await scene.stored(), len(await scene.dead())) == (0, 1)

    async def test_extensions_and_releases_are_not_known_to_be_done(self, scene: CableScene) -> None:
        one, two = await scene.delivered(2)
        await scene.prepared()
        calls: list[Settle] = [
            lambda: scene.subject.extend([one.receipt], lease=60.0),
            lambda: scene.subject.release([two.receipt]),
        ]
        for settle in calls:
            scene.cable.lose_answers()
            (answer,) = await settle()
            assert isinstance(answer, NotDone)
            assert not answer.lost
            scene.cable.heal()
            await scene.subject.depth()  # the connection is made anew

    async def test_what_a_receive_leased_without_an_answer_comes_again(self, scene: CableScene) -> None:
        await scene.prepared()
        await scene.direct.publish([outgoing()])
        scene.cable.lose_answers()
        with pytest.raises(QueueUnavailable, match=scene.subject.name):
            await scene.subject.receive(1, lease=0.3)
        scene.cable.heal()
        (delivery,) = await scene.subject.receive(1, lease=30.0, wait=5.0)
        assert delivery.attempt == 2


class RequestsCut:
    """The request does not arrive; nobody here can know that."""

    async def test_a_publish_is_in_doubt_and_not_stored(self, scene: CableScene) -> None:
        scene.cable.cut_requests()
        assert isinstance((await scene.subject.publish([outgoing()]))[0], Doubtful)
        assert await scene.stored() == 0

    async def test_an_ack_succeeds_when_repeated(self, scene: CableScene) -> None:
        (delivery,) = await scene.delivered()
        scene.cable.cut_requests()
        (answer,) = await scene.subject.ack([delivery.receipt])
        assert isinstance(answer, NotDone)
        assert not answer.lost
        scene.cable.heal()
        assert await scene.subject.ack([delivery.receipt]) == [Done(delivery.receipt)]

    async def test_a_connection_the_server_has_closed_is_noticed_before_anything_is_sent(
        self, scene: CableScene
    ) -> None:
        (delivery,) = await scene.delivered()
        scene.end_sessions()
        await anyio.sleep(0.05)
        answers = await scene.subject.publish([outgoing()])
        assert isinstance(answers[0], Accepted), answers
        scene.end_sessions()
        await anyio.sleep(0.05)
        assert await scene.subject.ack([delivery.receipt]) == [Done(delivery.receipt)]
