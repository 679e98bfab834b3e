"""Looking without taking: counts, the open entries, the dead letters, and what is past its retention. Page by page."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

from crossfoot.clock import Clock, Micros
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Depth, Held
from crossfoot.queues.redis.answers import NoAnswer, Rejected
from crossfoot.queues.redis.client import Argument, Client
from crossfoot.queues.redis.entries import held_of, text_of, unpacked
from crossfoot.queues.redis.scripts import DEPTH, EXPIRE, OLDEST, Script

PAGE = 100


class Watcher:
    """Looks at one queue.

    Raises:
        QueueUnavailable: no answer, or a refusal.
    """

    def __init__(self, client: Client, clock: Clock, *, retention: float | None) -> None:
        self._client = client
        self._address = client.address
        self._clock = clock
        self._retention = math.ceil((retention or 0) * 1_000)

    async def depth(self) -> Depth:
        """All counts as of one moment."""
        as_of = self._clock.now()
        ready, in_flight, delayed, dead = await self._run(DEPTH)
        return Depth(ready=ready, in_flight=in_flight, delayed=delayed, dead=dead, as_of=as_of)

    async def oldest(self) -> Micros | None:
        """Since when what is delivered next has been ready. The server tells for how long, so that its clock does not matter."""
        now = self._clock.now()
        age: int = await self._run(OLDEST)
        return now - age * 1_000 if age >= 0 else None

    async def browse(self) -> AsyncIterator[Held]:
        """Everything open. The delayed come first: what enters the stream meanwhile is seen there, at its end."""
        if not await self._ask("EXISTS", self._address.stream):
            raise self._client.no_stream()
        cursor = "0"
        while True:
            cursor, members = await self._ask("ZSCAN", self._address.delayed, cursor, "COUNT", PAGE)
            for member in members[::2]:
                nonce, *fields = unpacked(member)
                yield held_of(fields, broker_id=f"delayed:{text_of(nonce)}", attempt=0)
            if text_of(cursor) == "0":
                break
        async for page in self._pages(self._address.stream):
            attempts = await self._attempts(page)
            for entry_id, fields in page:
                yield held_of(fields, broker_id=text_of(entry_id), attempt=attempts.get(entry_id, 0))

    async def dead_letters(self) -> AsyncIterator[Held]:
        """Every dead letter."""
        async for page in self._pages(self._address.dead):
            for entry_id, fields in page:
                yield held_of(fields, broker_id=text_of(entry_id), attempt=0, dead=True)

    async def expired(self, limit: int) -> list[Held]:
        """Entries past the retention. They are kept until `purge`; several callers may be told of the same ones."""
        start = "-"
        while start and self._retention:
            start = text_of(await self._run(EXPIRE, self._retention, start))
        found: list[Held] = []
        cursor = "0"
        while True:
            cursor, pairs = await self._ask("HSCAN", self._address.expired, cursor, "COUNT", limit)
            for entry_id, entry in zip(pairs[::2], pairs[1::2], strict=True):
                found.append(held_of(unpacked(entry), broker_id=text_of(entry_id), attempt=0))
            if found or text_of(cursor) == "0":
                return found[:limit]

    async def purge(self, messages: Sequence[Held]) -> int:
        """Forget what `expired` told; how many were still there."""
        if not messages:
            return 0
        return int(await self._ask("HDEL", self._address.expired, *(one.broker_id for one in messages)))

    async def forget_dead(self, broker_ids: Sequence[str]) -> int:
        """Delete dead letters, which bear the ids that their entries had in the queue; how many were still there."""
        wanted, gone = set(broker_ids), 0
        if not wanted:
            return 0
        async for page in self._pages(self._address.dead):
            found = [
                text_of(entry_id) for entry_id, fields in page
                if held_of(fields, broker_id=text_of(entry_id), attempt=0, dead=True).broker_id in wanted
            ]  # fmt: skip
            if found:
                gone += int(await self._ask("XDEL", self._address.dead, *found))
        return gone

    async def _pages(self, stream: str) -> AsyncIterator[list[tuple[bytes, list[bytes]]]]:
        start = "-"
        while page := await self._ask("XRANGE", stream, start, "+", "COUNT", PAGE):
            yield [(entry_id, fields) for entry_id, fields in page]
            start = f"({text_of(page[-1][0])}"

    async def _attempts(self, page: Sequence[tuple[bytes, Any]]) -> dict[bytes, int]:
        """How often those of a page that are not acked were delivered."""
        first, last = page[0][0], page[-1][0]
        pending = await self._ask("XPENDING", self._address.stream, self._address.group, first, last, PAGE)
        return {one[0]: one[3] for one in pending}

    async def _ask(self, *command: Argument) -> Any:
        try:
            return await self._client.ask(*command)
        except (NoAnswer, Rejected) as error:
            raise self._unread(error) from error

    async def _run(self, script: Script, *arguments: Argument) -> Any:
        try:
            return await self._client.run(script, *arguments)
        except (NoAnswer, Rejected) as error:
            raise self._unread(error) from error

    def _unread(self, error: Exception) -> QueueUnavailable:
        return QueueUnavailable(f"queue {self._address.name} could not be read: {error}. Try again")
