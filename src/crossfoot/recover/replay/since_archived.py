"""What a report tells of members that have gone into the archive since: the same as when they were in the book."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from crossfoot.books import replays_reported
from crossfoot.books.archive.past import Past
from crossfoot.books.archive.seal import Story
from crossfoot.books.entry import Kind
from crossfoot.books.expected import Proven
from crossfoot.books.fate import Fate
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.recover.replay.expecting import PROVEN


class Lying(NamedTuple):
    """A member that lies in the archive; `base` and `moved_at` where it was moved."""

    story: Story
    base: int | None
    moved_at: Micros | None
    ended_at: Micros

    @property
    def id(self) -> str:
        return str(self.story.row[3])

    @property
    def fate(self) -> Fate:
        return Fate(self.story.row[15])


class Archived:
    """The members of a replay that lie in the archive. Within the caller's snapshot.

    Args:
        past: the archive; without it, or where its folder is not there, nothing is known of them.

    Raises:
        ArchiveBroken: a file that may hold some cannot be read.
    """

    def __init__(self, connection: Connection, number: int, past: Past | None) -> None:
        rows = connection.execute(replays_reported.NOT_IN_BOOK, (number,)).fetchall() if past is not None else []
        stories: Mapping[int, Story] = {}
        if past is not None and rows:
            past.renew(connection)
            stories = past.with_keys([int(row[0]) for row in rows])
        self.members = {key: Lying(stories[key], *rest) for key, *rest in rows if key in stories}

    def id_of(self, key: int) -> str:
        """Its id, also where nobody can tell it."""
        return self.members[key].id if key in self.members else f"(archived message {key})"

    def proven(self) -> list[Proven]:
        """Those that were moved and took effect."""
        return [
            Proven(key, one.moved_at, one.fate, one.ended_at, (str(one.story.row[4]), int(one.story.row[10])))
            for key, one in self.members.items() if one.base is not None and one.moved_at is not None and one.fate in PROVEN
        ]  # fmt: skip

    def failing(self) -> dict[str | None, int]:
        """By cause, how many failed after they were moved."""
        counts: dict[str | None, int] = {}
        for one in self.members.values():
            for cause in _failed_since(one):
                counts[cause] = counts.get(cause, 0) + 1
        return counts


def _failed_since(one: Lying) -> set[str | None]:
    if one.base is None:
        return set()
    return {
        cause for _, kind, attempt, _, _, _, _, cause, _ in one.story.entries if kind == Kind.FAILED and attempt >= one.base
    }  # fmt: skip
