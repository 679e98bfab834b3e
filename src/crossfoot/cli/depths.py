"""Asking queues outside the book's file what they hold: message by message where they can be listed, in numbers where not."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import anyio
import msgspec

from crossfoot import settings
from crossfoot.books.contents import MOST_COMPARED, Contents, Seen
from crossfoot.books.custody import Depth
from crossfoot.books.place import place_of
from crossfoot.books.whereabouts import BESIDE, noted
from crossfoot.connection import is_postgres
from crossfoot.errors import EnvelopeInvalid, QueueUnavailable
from crossfoot.message import decode
from crossfoot.queues.choosing import queue_to_ask
from crossfoot.queues.queue import DepthIs, Held, KeepsExpired, Queue

T = TypeVar("T")

ASK_SECONDS = 10.0
"""How long a queue may take to answer."""


LIST_SECONDS = 60.0
"""How long it may take to list what is in it."""

MOST_ASIDE = 10_000
"""Messages that it set aside for their age, and that are looked at."""


def contents_of(queue: str, path: str) -> Contents | Depth | None:
    """What a queue that does not live in the book's file `path` holds; `None` if no setting leads to it.

    Numbers, where it cannot be listed exactly, or holds more than `MOST_COMPARED`.

    Raises:
        QueueUnavailable: it could not be asked; `--no-queue` does without.
    """
    return _asked(queue, path, partial(_ask, again=lambda: _asked(queue, path, _letters)))


def depth_of(queue: str, path: str) -> Depth | None:
    """The same, in numbers only."""
    return _asked(queue, path, _ask_depth)


def _asked(queue: str, path: str, ask: Callable[[Queue], Awaitable[T]]) -> T | None:
    found = queue_by_settings(queue, settings.load(database=path))
    if found is None:
        return None
    with quiet(logging.getLogger("crossfoot.queues")):
        return anyio.run(_closing, found, ask)


def queue_by_settings(name: str, stated: settings.Settings) -> Queue | None:
    """The queue to be asked, as `queue_to_ask`; `None`, too, where the book knows that the one of that name lies elsewhere."""
    if stated.queue.partition(":")[0] == "embedded" and is_postgres(stated.database):
        connection = place_of(stated.database).look_in()
        try:
            if noted(connection, name) not in (BESIDE, None):
                return None
        finally:
            connection.close()
    return queue_to_ask(name, stated)


@contextmanager
def quiet(logger: logging.Logger) -> Iterator[None]:
    """Without warnings: how a queue's server is set up is for workers to complain of."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


async def _closing(queue: Queue, ask: Callable[[Queue], Awaitable[T]]) -> T:
    try:
        return await ask(queue)
    except QueueUnavailable as error:
        raise QueueUnavailable(f"{error}; --no-queue balances the book alone") from error
    finally:
        with anyio.CancelScope(shield=True):
            await queue.close()


async def _ask_depth(queue: Queue) -> Depth:
    try:
        with anyio.fail_after(ASK_SECONDS):
            await queue.open()
            depth = await queue.depth()
    except TimeoutError:
        raise QueueUnavailable(
            f"queue {queue.name} did not say what it holds within {ASK_SECONDS:.0f} s: check it"
        ) from None
    return Depth(held=depth.held, in_flight=depth.in_flight, dead=depth.dead, as_of=depth.as_of)


async def _letters(queue: Queue) -> frozenset[str] | None:
    """Names of the messages whose dead letters lie there, as their envelopes have them and as the book may call them; `None` if they
    cannot be listed in time, or some hide."""
    names: set[str] = set()
    count = 0
    with anyio.move_on_after(LIST_SECONDS):
        await queue.open()
        depth = await queue.depth()
        async for held in queue.dead_letters():
            seen = _seen(queue, held)
            names |= {seen.identity, seen.named}
            count += 1
        return frozenset(names) if count >= depth.dead else None
    return None


def _seen(queue: Queue, held: Held) -> Seen:
    named = f"queue:{queue.name}|{held.broker_id}"
    try:
        return Seen(decode(held.body).key, named)
    except EnvelopeInvalid:
        return Seen(named, named)


async def _ask(queue: Queue, again: Callable[[], frozenset[str] | None]) -> Contents | Depth:
    depth = await _ask_depth(queue)
    can = queue.capabilities
    if not can.browsing or can.depth is not DepthIs.EXACT:
        return msgspec.structs.replace(depth, letters=again) if depth.dead <= MOST_COMPARED else depth
    if depth.held + depth.dead > MOST_COMPARED:
        return msgspec.structs.replace(depth, why=f"more than {MOST_COMPARED:,} messages are not compared by id")
    with anyio.move_on_after(LIST_SECONDS):
        if (found := await _list(queue)) is not None:
            return found
        return msgspec.structs.replace(depth, why=f"not by id: over {MOST_ASIDE:,} were set aside for their age")
    return msgspec.structs.replace(depth, why=f"not by id: it could not be listed within {LIST_SECONDS:.0f} s")


async def _list(queue: Queue) -> Contents | None:
    """What is in it, page by page, of which only names are kept; `None` where too many were set aside for their age."""
    seen = partial(_seen, queue)
    # In this order: what is on its way to the dead letters meanwhile is seen there, or twice.
    held = [seen(one) async for one in queue.browse()]
    aside = await queue.expired(MOST_ASIDE) if isinstance(queue, KeepsExpired) else []
    if len(aside) == MOST_ASIDE:
        return None
    return Contents(held, [seen(one) for one in aside], [seen(one) async for one in queue.dead_letters()])
