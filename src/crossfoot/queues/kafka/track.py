"""One partition as this consumer has it: what was taken, what is settled, and how far the offset may be committed. Pure.

The committed offset says "everything before me is settled", and nothing else can be said to Kafka. So it stays at the first
message that is not, however many behind it are; those are kept in mind here, and forgotten when the offset has passed them.
Offsets may have holes, which compaction and the markers of transactions leave: what counts is what was taken, in its order.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from crossfoot.queues.kafka.messages import Came


class State(Enum):
    """Where a message in hand stands."""

    WAITING = "waiting"
    OUT = "out"
    SETTLED = "settled"


class Item(msgspec.Struct, eq=False):
    """One message in hand. Times by the monotonic clock, in seconds."""

    partition: int
    offset: int
    came: Came | None
    """`None` when it is settled: then only its place is kept."""
    line: bytes | None
    """The key: messages of one key are handed over one after the other."""
    state: State = State.WAITING
    due: float = 0.0
    lease_over: float = 0.0
    attempt: int = 0
    receipt: str = ""
    passed: bool = False
    """Whether the broker has the offset behind it."""

    @property
    def size(self) -> int:
        return self.came.size if self.came is not None else 0


class Track:
    """What was taken of one partition and is not behind the committed offset.

    Args:
        start: the offset it is read from.
    """

    def __init__(self, partition: int, start: int) -> None:
        self.partition = partition
        self.position = start
        """Everything before it was taken, or is not there."""
        self.committed: int | None = None
        """As the broker has confirmed it to us."""
        self.end: int | None = None
        """Where the partition was seen to end."""
        self.items: dict[int, Item] = {}
        """By offset, in order."""

    def take(self, came: Came, now: float) -> Item | None:
        """It was read; `None` if it had been before."""
        if came.offset < self.position:
            return None
        self.position = came.offset + 1
        self.items[came.offset] = item = Item(self.partition, came.offset, came, came.key, due=now)
        return item

    @property
    def prefix(self) -> int:
        """The offset that may be committed: that of the first message that is not settled."""
        for offset, item in self.items.items():
            if item.state is not State.SETTLED:
                return offset
        return self.position

    @property
    def dirty(self) -> bool:
        """Whether the committed offset may go on."""
        return self.committed is None or self.prefix > self.committed

    @property
    def caught_up(self) -> bool:
        return self.end is not None and self.position >= self.end

    def confirm(self, offset: int) -> list[Item]:
        """The broker has this as committed. Returns what is forgotten by that."""
        self.committed = offset
        passed = [item for item in self.items.values() if item.offset < offset and item.state is State.SETTLED]
        for item in passed:
            item.passed = True
            del self.items[item.offset]
        return passed

    def reached(self, end: int) -> None:
        """Everything up to there was read, markers of transactions included."""
        self.end = end
        self.position = max(self.position, end)

    def skip_to(self, start: int) -> None:
        """What was between is gone from the log; it is read on from here."""
        self.position, self.end = start, None
