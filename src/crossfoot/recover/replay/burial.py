"""The dead letters of members: which they are, and that their queue forgets them once the messages were sent again.

Most brokers show dead letters by taking them, so that whoever looks hides them from others: a worker that compares its queue with the
book, or somebody who died while looking. What is not seen is looked for again, for a while. A dead letter that stays where it was
does no harm, but whoever compares counts finds one too many at every look.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

import anyio

from crossfoot.errors import EnvelopeInvalid, QueueUnavailable
from crossfoot.message import decode
from crossfoot.queues.queue import ForgetsDead

T = TypeVar("T")

HIDDEN_SECONDS = 15.0
"""For how long dead letters that the queue counts and does not show are looked for: longer than a look at some hundred takes."""

LOOK_AGAIN_SECONDS = 0.5

TRIES = 3
"""Of a request that the queue did not answer, and of forgetting what others may hide at the moment."""


async def _nothing() -> None:
    pass


async def letters_of(
    queue: ForgetsDead, names: Collection[str], *, meanwhile: Callable[[], Awaitable[None]] = _nothing
) -> dict[str, Sequence[str]]:
    """The broker's ids of dead letters, by the `source|id` of their messages. Without those that several messages' letters bear: who
    forgets one by such an id forgets another's, too.

    Args:
        names: the messages wanted, as `source|id`.
        meanwhile: called before each further look.

    Raises:
        QueueUnavailable: they could not be read.
    """
    give_up_at = anyio.current_time() + HIDDEN_SECONDS

    async def look() -> tuple[int, dict[str, list[str]]]:
        seen, found, bearers = 0, defaultdict(list), defaultdict[str, set[str]](set)
        async for held in queue.dead_letters():
            seen += 1
            bearers[held.broker_id].add(name := _name_of(held.body))
            if name in names:
                found[name].append(held.broker_id)
        return seen, {name: [one for one in ids if len(bearers[one]) == 1] for name, ids in found.items()}

    while True:
        seen, found = await _asked(look)
        complete = len(found) == len(names) or seen >= (await _asked(queue.depth)).dead
        if complete or anyio.current_time() >= give_up_at:
            return {**found}
        await anyio.sleep(LOOK_AGAIN_SECONDS)
        await meanwhile()


async def forget(queue: ForgetsDead, broker_ids: Sequence[str]) -> int:
    """Have the queue forget these; how many were still there, which are fewer where somebody before us has died over it.

    Raises:
        QueueUnavailable: it could not be asked, or it is not known whether it did.
    """
    gone = 0
    for attempt in range(TRIES):
        if attempt:
            await anyio.sleep(LOOK_AGAIN_SECONDS)
        gone += await _asked(lambda: queue.forget_dead(broker_ids))
        if gone >= len(broker_ids) or not (await _asked(queue.depth)).dead:
            break
    return gone


async def _asked(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer to what may be asked twice.

    Raises:
        QueueUnavailable: there was none, however often it was asked.
    """
    for attempt in range(1, TRIES):
        try:
            return await ask()
        except QueueUnavailable:
            await anyio.sleep(LOOK_AGAIN_SECONDS * attempt)
    return await ask()


def _name_of(body: bytes) -> str:
    try:
        return decode(body).key
    except EnvelopeInvalid:
        return ""
