"""What the answer to a commit shows, and since when, if several that asked for the same were under way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from crossfoot.queues.kafka.committing import Committer

SESSION = 10.0


async def turns() -> None:
    """So many that whoever can go on has gone on."""
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


class Rig:
    """A committer of one partition, whose broker answers when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[dict[int, int]] = []
        track = SimpleNamespace(partition=0, prefix=5, dirty=False)
        shelf: Any = SimpleNamespace(tracks={0: track}, confirm=lambda *_: [], find=lambda _: None)
        clock: Any = SimpleNamespace(monotonic=lambda: self.now)
        flow: Any = SimpleNamespace(passed={}, bytes_freed=0)
        member: Any = SimpleNamespace(commit=self.asked.append)
        self.committer = Committer(member, shelf, flow, clock, session=SESSION, timeout=0.2)

    async def vouch(self, *answers: str, lease: float = SESSION - 1) -> str:
        """Ask for it, with these answers coming once it was asked; none: nobody answers."""
        said: list[str] = []

        async def asking() -> None:
            said.append(await self.committer.vouch(lease))

        async with anyio.create_task_group() as tasks:
            before = len(self.asked)
            tasks.start_soon(asking)
            await turns()
            for answer in answers:
                if len(self.asked) > before:
                    self.committer.answered(answer, {0: 5})
                    await turns()
        return said[0]


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_an_answered_commit_is_good_for_a_session_from_when_it_was_asked(rig: Rig) -> None:
    assert await rig.vouch("") == ""
    rig.now = 1.0
    assert await rig.vouch("") == ""
    assert len(rig.asked) == 1


async def test_the_late_answer_to_an_earlier_commit_vouches_for_its_own_moment_only(rig: Rig) -> None:
    assert "no answer" in await rig.vouch()
    rig.now = 8.0

    assert "no answer" in await rig.vouch(""), "it is that of the one at 0 s, and shows nothing of 13 s"
    assert await rig.vouch("", lease=2.0) == ""
    assert len(rig.asked) == 3, "it does of 10 s"


async def test_who_is_vouched_for_by_less_than_its_lease_asks_again(rig: Rig) -> None:
    await rig.vouch()
    rig.now = 8.0

    assert await rig.vouch("", "", lease=5.0) == ""
    assert len(rig.asked) == 3


async def test_the_second_answer_is_the_latest_ones(rig: Rig) -> None:
    await rig.vouch()
    rig.now = 8.0
    await rig.vouch("")
    await rig.vouch("", "", lease=5.0)
    before = len(rig.asked)

    assert await rig.vouch("", lease=5.0) == ""

    assert len(rig.asked) <= before + 1


async def test_the_refusal_of_an_earlier_commit_is_not_the_latest_ones(rig: Rig) -> None:
    await rig.vouch()
    rig.now = 1.0

    assert await rig.vouch("(ILLEGAL_GENERATION) of the first", "") == ""


async def test_what_was_asked_longer_ago_than_a_session_says_nothing(rig: Rig) -> None:
    await rig.vouch()
    rig.now = SESSION + 1

    assert await rig.vouch("") == ""

    await rig.vouch("")
    assert len(rig.asked) == 2
