"""Many requests under way at once, an answer for each, in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

Item = TypeVar("Item")
Answer = TypeVar("Answer")

AT_ONCE = 100
"""Requests of one call that wait for their answers at the same time."""


async def all_of(items: Sequence[Item], ask: Callable[[Item], Awaitable[Answer]]) -> list[Answer]:
    """Ask for every item; they leave in the order given."""
    if len(items) == 1:
        return [await ask(items[0])]
    got: list[Answer | None] = [None] * len(items)

    async def one(number: int) -> None:
        got[number] = await ask(items[number])

    for begin in range(0, len(items), AT_ONCE):
        async with anyio.create_task_group() as group:
            for number in range(begin, min(begin + AT_ONCE, len(items))):
                group.start_soon(one, number)
    return got  # type: ignore[return-value] # every place was filled, or the group raised
