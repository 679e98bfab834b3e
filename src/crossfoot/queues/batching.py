"""Long lists in batches, one answer per item."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from crossfoot.errors import QueueUnavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def batches(
    items: Iterable[Item], size_of: Callable[[Item], int], *, most: int, most_bytes: int
) -> Iterator[list[Item]]:
    """The items in their order, in lists of at most so many; of so many bytes, unless a single item is larger."""
    batch: list[Item] = []
    room = most_bytes
    for item in items:
        size = size_of(item)
        if batch and (len(batch) == most or size > room):
            yield batch
            batch, room = [], most_bytes
        batch.append(item)
        room -= size
    if batch:
        yield batch


async def one_after_another(
    cut: Iterable[list[Item]],
    send: Callable[[list[Item]], Awaitable[list[Answer]]],
    untried: Callable[[Sequence[Item], str], list[Answer]],
) -> list[Answer]:
    """Send the batches; one answer per item, in order.

    Raises:
        QueueUnavailable: the first batch was not sent, or met a refusal that all would meet: nothing was done at all. When a
            later one is not, its items and those behind it get the answers of `untried`.
    """
    answers: list[Answer] = []
    failed = ""
    for batch in cut:
        if not failed:
            try:
                answers += await send(batch)
                continue
            except QueueUnavailable as error:
                if not answers:
                    raise
                failed = str(error)
        answers += untried(batch, failed)
    return answers
