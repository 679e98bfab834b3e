"""Permits for handlers that declared a limit: taken before anything of theirs begins, and given back after the commit.

A lane waits for a permit as long as the limit says. Without one in time the delivery is handed back untried, which is no failure of
its. In a batch the handlers run one after another, so that one permit of each limit is enough for all of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import TYPE_CHECKING

from crossfoot.errors import HandlerBusy, Rejected
from crossfoot.worker.held import Held

if TYPE_CHECKING:
    from crossfoot.flow.limits import Limit

NEEDS_NONE: nullcontext[None] = nullcontext()

Busy = list[tuple[Held, HandlerBusy]]


def admitted(held: Held) -> AbstractContextManager[None]:
    """For one delivery, in a thread.

    Raises on entering:
        HandlerBusy: no permit in time.
    """
    limit = _limit_of(held)
    return NEEDS_NONE if limit is None else _permitted(limit, held)


def aadmitted(held: Held) -> AbstractAsyncContextManager[None]:
    """The asynchronous twin."""
    limit = _limit_of(held)
    return NEEDS_NONE if limit is None else _apermitted(limit, held)


def admit(chunk: Sequence[Held], permits: ExitStack) -> tuple[Sequence[Held], Busy]:
    """For a batch, in a thread: those that may begin, and those that are handed back."""
    refused: dict[int, Rejected] = {}
    for limit in _limits_of(chunk):
        try:
            permits.enter_context(limit.permit())
        except Rejected as error:
            refused[id(limit)] = error
    return _parted(chunk, refused)


async def aadmit(chunk: Sequence[Held], permits: AsyncExitStack) -> tuple[Sequence[Held], Busy]:
    """The asynchronous twin."""
    refused: dict[int, Rejected] = {}
    for limit in _limits_of(chunk):
        try:
            await permits.enter_async_context(limit.permit())
        except Rejected as error:
            refused[id(limit)] = error
    return _parted(chunk, refused)


@contextmanager
def _permitted(limit: Limit, held: Held) -> Iterator[None]:
    with ExitStack() as permits:
        try:
            permits.enter_context(limit.permit())
        except Rejected as error:
            raise _busy(held, error) from error
        yield


@asynccontextmanager
async def _apermitted(limit: Limit, held: Held) -> AsyncIterator[None]:
    async with AsyncExitStack() as permits:
        try:
            await permits.enter_async_context(limit.permit())
        except Rejected as error:
            raise _busy(held, error) from error
        yield


def _limit_of(held: Held) -> Limit | None:
    return held.handler.limit if held.handler is not None else None


def _limits_of(chunk: Sequence[Held]) -> list[Limit]:
    """Each of them once, and in the same order in every lane, so that no two wait for each other."""
    found = {id(limit): limit for held in chunk if (limit := _limit_of(held)) is not None}
    return [found[key] for key in sorted(found)] if found else []


def _parted(chunk: Sequence[Held], refused: dict[int, Rejected]) -> tuple[Sequence[Held], Busy]:
    if not refused:
        return chunk, []
    busy = [(held, _busy(held, error)) for held in chunk if (error := refused.get(id(_limit_of(held)))) is not None]
    return [held for held in chunk if id(_limit_of(held)) not in refused], busy


def _busy(held: Held, error: Rejected) -> HandlerBusy:
    name = held.message.key if held.message is not None else held.delivery.broker_id
    return HandlerBusy(f"{name}: not begun, and handed back: {error}", error.retry_after or 0.0)
