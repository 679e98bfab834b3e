"""What became of members that were moved: by their entries, which need not be posted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from crossfoot.books import replays
from crossfoot.books.entry import PROOF_MARKS, Entry, Kind
from crossfoot.books.expected import Proven
from crossfoot.books.fate import Fate, fold, posted_fate
from crossfoot.books.grouped import keys_text
from crossfoot.books.identity import CAME_TO_NOTHING
from crossfoot.books.replays import DONE
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.recover.replay.moving import Moved
from crossfoot.recover.replay.policy import Tally


class End(msgspec.Struct, frozen=True):
    """A member that has ended."""

    message: int
    fate: Fate
    at: Micros


class Outstanding:
    """Members of a replay that are on their way, and what is known of the stage that they belong to."""

    def __init__(self) -> None:
        self.members: dict[int, Moved] = {}
        self.tally = Tally(again={}, breached={}, late={})
        self._again: set[int] = set()

    def __len__(self) -> int:
        return len(self.members)

    def begin(self) -> None:
        """A new stage."""
        self.tally = Tally(again={}, breached={}, late={})
        self._again.clear()

    def add(self, moved: Iterable[Moved]) -> None:
        for one in moved:
            self.members[one.message] = one
            self.tally.moved += 1

    def look(self, connection: Connection, now: Micros) -> list[End]:
        """Read what happened to them. Within the caller's read transaction; `ended` is to be written before they are let go."""
        if not self.members:
            return []
        entries: defaultdict[int, list[Entry]] = defaultdict(list)
        for message, kind, attempt, at, cause in connection.execute(
            replays.SEEN_SINCE, {"keys": keys_text(self.members)}
        ):
            entries[message].append(Entry(message=message, kind=Kind(kind), attempt=attempt, at=at, cause=cause))
        ends = []
        for message, member in self.members.items():
            self.tally.slowest = max(self.tally.slowest, now - member.moved_at)
            self._see_failures(member, entries[message])
            end = end_of(message, entries[message], member.base)
            if end is not None:
                ends.append(end)
        return ends

    def let_go(self, ends: Iterable[End]) -> list[Proven]:
        """Their ends are written. Returns them as what may be expected of them is told by."""
        gone = []
        for end in ends:
            member = self.members.pop(end.message)
            gone.append(Proven(end.message, member.moved_at, end.fate, end.at))
            self.tally.bad += end.fate in CAME_TO_NOTHING
            self.tally.slowest = max(self.tally.slowest, end.at - member.moved_at)
        return gone

    def _see_failures(self, member: Moved, entries: Iterable[Entry]) -> None:
        if member.cause is None or member.message in self._again:
            return
        if any(one.cause == member.cause and one.attempt > member.base for one in entries):
            self._again.add(member.message)
            self.tally.again[member.cause] = self.tally.again.get(member.cause, 0) + 1


def end_of(message: int, entries: Iterable[Entry], base: int) -> End | None:
    """How a member ended that was moved: with a closed fate, or parked for its predecessor; `None` while it is on its way."""
    known = list(entries)
    summary = fold(known)
    fate = posted_fate(summary)
    if fate is None or not (fate.closed or fate is Fate.PARKED):
        return None
    if not summary.marks & PROOF_MARKS and summary.attempts < base:
        return None  # what is known is of before the move
    return End(message, fate, max(one.at for one in known))


def write_ends(connection: Connection, number: int, ends: Iterable[End]) -> None:
    """Within the caller's transaction."""
    connection.executemany(replays.END_MEMBER, [(int(end.fate), end.at, number, end.message) for end in ends])


def of_stage(connection: Connection, number: int, stage: int) -> tuple[int, Tally]:
    """Members of a stage that were looked at so far, and how those that ended did: for a runner that goes on with it."""
    tally = Tally(again={}, breached={}, late={})
    taken = 0
    for state, ended, count, slowest in connection.execute(replays.OF_STAGE, (number, stage)):
        taken += count
        if state == DONE:
            tally.moved += count
            tally.bad += count if Fate(ended) in CAME_TO_NOTHING else 0
            tally.slowest = max(tally.slowest, slowest or 0)
    return taken, tally
