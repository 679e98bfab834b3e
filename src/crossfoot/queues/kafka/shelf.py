"""What is in hand of all partitions: who may have which message next, and under which receipt. Pure.

A message is handed over when its time has come and nobody has an earlier hand-over of its key in hand: of one key, a receive may
bring several in their order, and the next ones follow when all of these have an end. What is released waits here, with its due
time, in front of its successors; Kafka knows nothing of it but that the offset stays before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from uuid import uuid4

from crossfoot.queues.kafka.messages import Came
from crossfoot.queues.kafka.track import Item, State, Track


class Shelf:
    """The messages of one consumer."""

    def __init__(self) -> None:
        self.tracks: dict[int, Track] = {}
        self._id = uuid4().hex[:12]
        self._count = 0
        self._receipts: dict[str, Item] = {}
        """Of what is out, and of what is settled and not behind the committed offset yet."""
        self._out: Counter[tuple[int, bytes]] = Counter()
        """How many of each line are out."""
        self._turn = 0

    # ---- partitions --------------------------------------------------------------------------------------------------

    def assign(self, starts: dict[int, int]) -> None:
        for partition, start in starts.items():
            self.drop([partition])
            self.tracks[partition] = Track(partition, start)

    def drop(self, partitions: Iterable[int]) -> list[str]:
        """They are not ours any more. Returns the receipts that are void by that, of what was out."""
        void: list[str] = []
        for partition in partitions:
            track = self.tracks.pop(partition, None)
            for item in track.items.values() if track is not None else ():
                if self._receipts.pop(item.receipt, None) is not None and item.state is State.OUT:
                    void.append(item.receipt)
                    self._in(item)
        return void

    def take(self, partition: int, came: Came, now: float) -> Item | None:
        """A message was read; `None` if its partition is not ours, or it was read before."""
        track = self.tracks.get(partition)
        return track.take(came, now) if track is not None else None

    def confirm(self, partition: int, offset: int) -> list[Item]:
        """The offset is committed. Returns what is forgotten by that."""
        track = self.tracks.get(partition)
        passed = track.confirm(offset) if track is not None else []
        for item in passed:
            self._receipts.pop(item.receipt, None)
        return passed

    @property
    def caught_up(self) -> bool:
        """Whether all there is was read."""
        return all(track.caught_up for track in self.tracks.values())

    # ---- hand-overs --------------------------------------------------------------------------------------------------

    def deliver(self, limit: int, now: float, lease: float) -> list[Item]:
        """Hand over up to `limit`, leased until `now + lease`."""
        self._lapse(now)
        given: list[Item] = []
        tracks = list(self.tracks.values())
        self._turn += 1
        for number in range(len(tracks)):  # not always the same partition first
            self._deliver_of(tracks[(number + self._turn) % len(tracks)], given, limit, now)
            if len(given) == limit:
                break
        for item in given:
            self._count += 1
            item.state, item.attempt, item.lease_over = State.OUT, item.attempt + 1, now + lease
            item.receipt = f"{self._id}:{self._count}"
            self._receipts[item.receipt] = item
            if item.line is not None:
                self._out[item.partition, item.line] += 1
        return given

    def _deliver_of(self, track: Track, given: list[Item], limit: int, now: float) -> None:
        held_up: set[bytes] = set()
        for item in track.items.values():
            if len(given) == limit:
                return
            if item.state is not State.WAITING:
                continue
            line = item.line
            if line is not None and (line in held_up or self._out[track.partition, line]):
                continue
            if item.due <= now:
                given.append(item)
            elif line is not None:
                held_up.add(line)

    def next_at(self, now: float) -> float | None:
        """When something changes by itself: a message is due, or a lease over. `None`: never.

        What was due before and could not be handed over waits behind others of its key: their end changes that.
        """
        times = (
            item.lease_over if item.state is State.OUT else item.due
            for track in self.tracks.values()
            for item in track.items.values()
            if item.state is State.OUT or (item.state is State.WAITING and item.due > now)
        )
        return min(times, default=None)

    def find(self, receipt: str) -> Item | None:
        """What it names, if it is not void: out, or settled and not yet behind the committed offset."""
        return self._receipts.get(receipt)

    def out(self, receipt: str) -> Item | None:
        """What it names, if somebody has that in hand by it."""
        item = self._receipts.get(receipt)
        return item if item is not None and item.state is State.OUT else None

    @property
    def anything_out(self) -> bool:
        """Whether somebody has something in hand, or its end is not committed. May be asked by any thread."""
        return bool(self._receipts)

    def has_ready(self, now: float) -> bool:
        """Whether there may be something to hand over."""
        return any(
            (item.state is State.WAITING and item.due <= now) or (item.state is State.OUT and item.lease_over <= now)
            for track in self.tracks.values()
            for item in track.items.values()
        )

    def settle(self, item: Item) -> int:
        """It has its end. Returns the bytes that are free by that."""
        freed, item.came = item.size, None
        if item.state is State.OUT:
            self._in(item)
        item.state = State.SETTLED
        return freed

    def release(self, item: Item, due: float) -> None:
        """It comes again, at `due`."""
        self._receipts.pop(item.receipt, None)
        self._in(item)
        item.state, item.due, item.receipt = State.WAITING, due, ""

    def counts(self, now: float) -> tuple[int, int, int]:
        """How many are out, how many wait for a time to come, and how many are settled beyond the committed offset."""
        states: Counter[str] = Counter()
        for track in self.tracks.values():
            for item in track.items.values():
                later = item.state is State.WAITING and item.due > now
                states["later" if later else item.state.value] += 1
        return states["out"], states["later"], states["settled"]

    def settled(self) -> set[tuple[int, int]]:
        """Partition and offset of what is settled beyond the committed offset."""
        return {
            (item.partition, item.offset)
            for track in self.tracks.values()
            for item in track.items.values()
            if item.state is State.SETTLED
        }

    def _lapse(self, now: float) -> None:
        for item in list(self._receipts.values()):
            if item.state is State.OUT and item.lease_over <= now:
                self.release(item, now)

    def _in(self, item: Item) -> None:
        """It is not out any more."""
        if item.line is not None:
            self._out[item.partition, item.line] -= 1
            if not self._out[item.partition, item.line]:
                del self._out[item.partition, item.line]
