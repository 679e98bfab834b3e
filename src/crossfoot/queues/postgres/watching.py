"""Looking without taking: counts, the messages held, the dead letters, and what is past its retention. Page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from crossfoot.clock import Clock, Micros
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.postgres import sql
from crossfoot.queues.postgres.answers import NoAnswer, Rejected
from crossfoot.queues.postgres.client import Client, Rows
from crossfoot.queues.postgres.messages import duration
from crossfoot.queues.postgres.places import columns
from crossfoot.queues.postgres.receiving import Receiver, instant
from crossfoot.queues.queue import Depth, Held

PAGE = 100

SWEEP = 1_000
"""Messages that one statement looks at to set them aside."""


class Watcher:
    """Looks at one queue.

    Raises:
        QueueUnavailable: no answer, or a refusal.
    """

    def __init__(self, client: Client, clock: Clock, receiver: Receiver, *, retention: float | None) -> None:
        self._client = client
        self._clock = clock
        self._receiver = receiver
        self._name = client.address.name
        self._retention = None if retention is None else duration(retention, f"retention of queue {self._name}")
        self._oldest_key = 0

    async def depth(self) -> Depth:
        """All counts as of one moment. A message behind another of its line counts as ready."""
        as_of = self._clock.now()
        ((ready, in_flight, delayed, dead),) = await self._ask(sql.DEPTH, retention=self._retention)
        return Depth(ready=ready, in_flight=in_flight, delayed=delayed, dead=dead, as_of=as_of)

    async def oldest(self) -> Micros | None:
        """Since when what has been ready longest is. The server tells for how long, so that its clock does not matter."""
        now = self._clock.now()
        places = self._receiver.places
        rows = await self._ask(sql.OLDEST, since=instant(places.since), **columns(places.ranges()))
        return now - rows[0][0] if rows else None

    async def browse(self) -> AsyncIterator[Held]:
        async for held in self._pages(sql.PAGE_OF_HELD, dead=False, retention=self._retention):
            yield held

    async def dead_letters(self) -> AsyncIterator[Held]:
        async for held in self._pages(sql.PAGE_OF_DEAD, dead=True):
            yield held

    async def expired(self, limit: int) -> list[Held]:
        """Messages past the retention. They are kept until `purge`; several callers may be told of the same ones."""
        aside = SWEEP
        while aside == SWEEP and self._retention is not None:
            ((aside, oldest),) = await self._ask(
                sql.EXPIRE, retention=self._retention, first=self._oldest_key, limit=SWEEP
            )
            self._oldest_key = oldest or 0
        return [_seen(row, dead=False) for row in await self._ask(sql.PAGE_OF_EXPIRED, limit=limit)]

    async def purge(self, messages: Sequence[Held]) -> int:
        """Forget what `expired` told; how many were still there."""
        keys = [int(one.broker_id) for one in messages]
        return len(await self._ask(sql.PURGE, keys=keys)) if keys else 0

    async def forget_dead(self, broker_ids: Sequence[str]) -> int:
        """Delete dead letters; how many were still there."""
        keys = [int(one) for one in broker_ids if one.isascii() and one.isdecimal()]
        gone = 0
        for first in range(0, len(keys), SWEEP):
            gone += len(await self._ask(sql.FORGET_DEAD, keys=keys[first : first + SWEEP]))
        return gone

    async def _pages(self, statement: str, *, dead: bool, **more: Any) -> AsyncIterator[Held]:
        after = 0
        while page := await self._ask(statement, after=after, limit=PAGE, **more):
            for row in page:
                yield _seen(row, dead=dead)
            after = page[-1][0]

    async def _ask(self, statement: str, **parameters: Any) -> Rows:
        try:
            return await self._client.ask(statement, {"queue": self._name, **parameters})
        except (NoAnswer, Rejected) as error:
            raise QueueUnavailable(f"queue {self._name} could not be read: {error}. Try again") from error


def _seen(row: Sequence[Any], *, dead: bool) -> Held:
    key, attempts, enqueued_at, attributes, body = row
    return Held(
        body=body, attempt=attempts, enqueued_at=enqueued_at, broker_id=str(key), dead=dead,
        attributes=msgspec.json.decode(attributes, type=dict[str, str]) if attributes else {},
    )  # fmt: skip
