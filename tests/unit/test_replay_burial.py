"""Dead letters that somebody else holds at the moment, or whose queue does not answer at once, are found and forgotten all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import pytest
from msgspec import structs

from crossfoot import Crossfoot
from crossfoot.errors import QueueUnavailable
from crossfoot.message import Message, encode
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Accepted, Held, Outgoing
from crossfoot.recover.replay import burial
from crossfoot.recover.replay.burial import forget, letters_of

pytestmark = pytest.mark.anyio


class Shy(EmbeddedQueue):
    """Looks at its dead letters: how many they show, and how many of the next requests get no answer."""

    def __init__(self, path: Path) -> None:
        Crossfoot("other", database=path).book.open().close()
        super().__init__(path, "billing", ordered=False)
        self.shows: list[int] = []
        self.silent = 0
        self.looks = 0
        self.alike = 0
        """How many of those it shows bear one id."""
        self.keeps: list[int] = []
        """How many of those it is asked to forget somebody else holds, at the next requests."""

    async def dead_letters(self) -> AsyncIterator[Held]:
        self.looks += 1
        self._answer()
        held = [one async for one in super().dead_letters()]
        for place, one in enumerate(held[: self.shows.pop(0) if self.shows else len(held)]):
            yield structs.replace(one, broker_id="7") if place < self.alike else one

    async def forget_dead(self, broker_ids: Sequence[str]) -> int:
        self.looks += 1
        self._answer()
        kept = self.keeps.pop(0) if self.keeps else 0
        return await super().forget_dead(broker_ids[kept:])

    def _answer(self) -> None:
        if self.silent:
            self.silent -= 1
            raise QueueUnavailable("queue billing did not answer")


@pytest.fixture
async def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shy]:
    monkeypatch.setattr(burial, "LOOK_AGAIN_SECONDS", 0.001)
    queue = Shy(tmp_path / "queue.db")
    await queue.open()
    yield queue
    await queue.close()


async def died(queue: Shy, count: int) -> list[str]:
    """So many dead letters; the names of their messages."""
    messages = [Message(source="/billing", type="case.released", id=f"m{n}") for n in range(count)]
    answers = await queue.publish([Outgoing(key=one.key, body=encode(one)) for one in messages])
    assert all(isinstance(answer, Accepted) for answer in answers)
    await queue.dead_letter(await queue.receive(count, lease=60.0), reason="poison")
    return [message.key for message in messages]


async def test_what_somebody_else_looks_at_is_looked_for_again(queue: Shy) -> None:
    names = await died(queue, 3)
    queue.shows = [0, 2]
    renewed = []

    async def meanwhile() -> None:
        renewed.append(queue.looks)

    found = await letters_of(queue, names, meanwhile=meanwhile)
    assert sorted(found) == sorted(names)
    assert (queue.looks, renewed) == (3, [1, 2])


async def test_members_without_a_dead_letter_are_not_waited_for(queue: Shy) -> None:
    names = await died(queue, 2)
    found = await letters_of(queue, [names[0], "/billing|the queue has forgotten it"])
    assert list(found) == [names[0]]
    assert queue.looks == 1


async def test_what_stays_hidden_is_given_up(queue: Shy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burial, "HIDDEN_SECONDS", 0.02)
    names = await died(queue, 2)
    queue.shows = [1] * 10_000
    with anyio.fail_after(5):
        assert len(await letters_of(queue, names)) == 1


async def test_two_dead_letters_of_one_message_are_both_found(queue: Shy) -> None:
    (name,) = await died(queue, 1)
    await died(queue, 1)
    assert {key: len(ids) for key, ids in (await letters_of(queue, [name])).items()} == {name: 2}


async def test_an_id_that_letters_of_two_messages_bear_is_not_told(queue: Shy) -> None:
    names = await died(queue, 3)
    queue.alike = 2
    found = await letters_of(queue, names)
    assert sorted(len(ids) for ids in found.values()) == [0, 0, 1], "who forgets by it forgets the other's, too"


async def test_what_somebody_else_holds_is_forgotten_when_it_is_back(queue: Shy) -> None:
    names = await died(queue, 4)
    ids = [one for found in (await letters_of(queue, names)).values() for one in found]
    queue.keeps = [2]
    assert await forget(queue, ids) == 4
    assert (await queue.depth()).dead == 0


async def test_what_was_forgotten_by_one_that_died_over_it_is_not_asked_for_forever(queue: Shy) -> None:
    names = await died(queue, 2)
    ids = [one for found in (await letters_of(queue, names[:1])).values() for one in found]
    await queue.forget_dead(ids)
    queue.looks = 0
    assert await forget(queue, ids) == 0
    assert queue.looks == burial.TRIES


@pytest.mark.parametrize("silent", [1, 2, 3])
async def test_a_request_without_an_answer_is_asked_again_and_not_forever(queue: Shy, silent: int) -> None:
    names = await died(queue, 1)
    queue.silent = silent
    if silent < burial.TRIES:
        assert list(await letters_of(queue, names)) == names
    else:
        with pytest.raises(QueueUnavailable, match="did not answer"):
            await letters_of(queue, names)
