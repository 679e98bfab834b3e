"""Many batches, one answer per item: what sending and settling have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from crossfoot.errors import QueueUnavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

Send = Callable[[Sequence[Item]], Awaitable[list[Answer] | QueueUnavailable]]
"""One request: an answer per item, or why it did not leave (returned, for the other batches may have got through)."""

Untried = Callable[[Sequence[Item], str], list[Answer]]
"""The answers of items whose request did not leave."""


async def side_by_side(cut: Sequence[list[Item]], send: Send[Item, Answer]) -> list[list[Answer] | QueueUnavailable]:
    """Send every batch; as many at once as the client has connections."""
    got: list[list[Answer] | QueueUnavailable] = [[] for _ in cut]

    async def one(number: int) -> None:
        got[number] = await send(cut[number])

    async with anyio.create_task_group() as group:
        for number in range(len(cut)):
            group.start_soon(one, number)
    return got


async def each_alone(batch: Sequence[Item], send: Send[Item, Answer], untried: Untried[Item, Answer]) -> list[Answer]:
    """A request for each item, after the service refused the batch: one of them may have spoilt it for all.

    The refusal is certain, nothing was done, so asking again does nothing twice.
    """
    answers: list[Answer] = []
    for item in batch:
        got = await send([item])
        answers += untried([item], str(got)) if isinstance(got, QueueUnavailable) else got
    return answers


def joined(
    cut: Sequence[list[Item]],
    got: Sequence[list[Answer] | QueueUnavailable],
    untried: Untried[Item, Answer],
) -> list[Answer]:
    """One answer per item, in order.

    Raises:
        QueueUnavailable: not one request left, so it is certain that nothing was done.
    """
    unreached = [one for one in got if isinstance(one, QueueUnavailable)]
    if unreached and len(unreached) == len(got):
        raise unreached[0]
    answers: list[Answer] = []
    for batch, one in zip(cut, got, strict=True):
        answers += untried(batch, str(one)) if isinstance(one, QueueUnavailable) else one
    return answers
