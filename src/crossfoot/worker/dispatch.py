"""From the receive loop to the lanes and back: which delivery may begin, and what its end means for its neighbours.

A queue that keeps the order of a partition may hand over several messages of one partition at once. They are handled
one after the other, whatever lanes are free; when one fails, those behind it are handed back, because it must come
again before they do.

A handler that takes events in order has such lines too, whatever its queue: of what is in hand, the events of one
subject are handled by rising sequence. Otherwise two free lanes would decide by chance which of two events that arrived
together is the stale one. When one fails, those behind it go on: whether they wait for it is the sequence guard's to say.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from crossfoot.books.entry import Kind
from crossfoot.worker.held import Held
from crossfoot.worker.lanes import Load, Result
from crossfoot.worker.settling import Settling

Stream = MemoryObjectSendStream[Held]


class Dispatch:
    """Hands deliveries to lanes.

    Args:
        ordered: whether the queue keeps the order of a partition.
        in_order: whether a handler takes its events in order.
        settled: called with deliveries that came to an end.
    """

    def __init__(
        self, settling: Settling, *, ordered: bool, in_order: bool, settled: Callable[[Sequence[Result]], None]
    ) -> None:  # fmt: skip
        self._settling = settling
        self._ordered = ordered
        self._in_order = in_order
        self._settled = settled
        self._lines: dict[str, deque[Held]] = {}
        self.load = Load()
        self.threads: Stream
        self.loops: Stream

    @property
    def starved(self) -> bool:
        """Whether a lane is idle, and nothing waits for it."""
        waiting = sum(stream.statistics().current_buffer_used for stream in (self.threads, self.loops))
        return not waiting and self.load.working < self.load.lanes

    async def take(self, helds: Sequence[Held]) -> None:
        """Send deliveries on; those that cannot be handled at all are settled when their turn has come."""
        hopeless: list[Result] = []
        lines = self._ordered or self._in_order
        if self._in_order and not self._ordered:
            helds = sorted(helds, key=_sequence)
        for held in helds:
            if not lines or self._may_begin(held):
                self._begin(held, hopeless)
        if hopeless:
            await self.settle(hopeless)

    async def settle(self, results: Sequence[Result]) -> None:
        """What lanes call when a chunk has come to its end."""
        while results:
            await self._settling.settle(results)
            self._settled(results)
            if not self._lines:
                return
            further: list[Result] = []
            for held, end in results:
                if end is not None and (isinstance(end, Kind) or not self._ordered):
                    for follower in self._followers(held):
                        self._begin(follower, further)
                else:
                    further += [(follower, None) for follower in self._lines.pop(self._line(held), ())]
            results = further

    def _begin(self, held: Held, ended: list[Result]) -> None:
        """Send one on; add it to `ended` if it cannot be handled, or the worker stops."""
        if held.problem is not None:
            ended.append((held, held.problem))
            return
        assert held.handler is not None
        try:
            (self.loops if held.handler.is_async else self.threads).send_nowait(held)
        except anyio.ClosedResourceError:  # the worker stops
            ended.append((held, None))

    def _may_begin(self, held: Held) -> bool:
        """Whether nobody of its partition is before it; else it stands in line."""
        line = self._line(held)
        if not line:
            return True
        if line in self._lines:
            if self._ordered:
                self._lines[line].append(held)
            else:
                insort(self._lines[line], held, key=_sequence)
            return False
        self._lines[line] = deque()
        return True

    def _followers(self, held: Held) -> list[Held]:
        """The next of its partition, whose turn it is now."""
        line = self._line(held)
        if line not in self._lines:
            return []
        if not self._lines[line]:
            del self._lines[line]
            return []
        return [self._lines[line].popleft()]

    def _line(self, held: Held) -> str:
        """The name of the line it stands in; empty where it waits for nobody."""
        if self._ordered:
            return (held.hold.partition or "") if held.hold is not None else ""
        if held.handler is None or held.handler.in_order is None or held.message is None or held.problem is not None:
            return ""
        return f"{held.handler.name}|{held.message.subject}"


def _sequence(held: Held) -> int:
    return (held.message.sequence or 0) if held.message is not None else 0
