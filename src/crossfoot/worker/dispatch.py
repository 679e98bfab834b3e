"""From the receive loop to the lanes and back: which delivery may begin, and what its end means for its neighbours.

A queue that keeps the order of a partition may hand over several messages of one partition at once. They are handled
one after the other, whatever lanes are free; when one fails, those behind it are handed back, because it must come
again before they do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from crossfoot.books.entry import Kind
from crossfoot.worker.held import Held
from crossfoot.worker.lanes import Result
from crossfoot.worker.settling import Settling

Stream = MemoryObjectSendStream[Held]


class Dispatch:
    """Hands deliveries to lanes.

    Args:
        ordered: whether the queue keeps the order of a partition.
        settled: called with the number of deliveries that came to an end.
    """

    def __init__(self, settling: Settling, *, ordered: bool, settled: Callable[[int], None]) -> None:
        self._settling = settling
        self._ordered = ordered
        self._settled = settled
        self._lines: dict[str, deque[Held]] = {}
        self.threads: Stream
        self.loops: Stream

    async def take(self, helds: Sequence[Held]) -> None:
        """Send deliveries on; those that cannot be handled at all are settled at once."""
        hopeless: list[Result] = [(held, held.problem) for held in helds if held.problem is not None]
        if hopeless:
            await self._settling.settle(hopeless)
            self._settled(len(hopeless))
        for held in helds:
            if held.problem is None and self._may_begin(held):
                self._begin(held)

    async def settle(self, results: Sequence[Result]) -> None:
        """What lanes call when a chunk has come to its end."""
        await self._settling.settle(results)
        self._settled(len(results))
        given_up: list[Result] = []
        for held, end in results:
            for follower in self._followers(held, ended_well=isinstance(end, Kind)):
                try:
                    self._begin(follower)
                except anyio.ClosedResourceError:  # the worker stops
                    self._lines.pop(_line(follower), None)
                    given_up.append((follower, None))
            if not isinstance(end, Kind):
                given_up += [(follower, None) for follower in self._lines.pop(_line(held), ())]
        if given_up:
            await self._settling.settle(given_up)

    def _begin(self, held: Held) -> None:
        assert held.handler is not None
        (self.loops if held.handler.is_async else self.threads).send_nowait(held)

    def _may_begin(self, held: Held) -> bool:
        """Whether nobody of its partition is before it; else it stands in line."""
        line = _line(held)
        if not self._ordered or not line:
            return True
        if line in self._lines:
            self._lines[line].append(held)
            return False
        self._lines[line] = deque()
        return True

    def _followers(self, held: Held, *, ended_well: bool) -> list[Held]:
        """The next of its partition, whose turn it is now."""
        line = _line(held)
        if line not in self._lines or not ended_well:
            return []
        if not self._lines[line]:
            del self._lines[line]
            return []
        return [self._lines[line].popleft()]


def _line(held: Held) -> str:
    return (held.hold.partition or "") if held.hold is not None else ""
