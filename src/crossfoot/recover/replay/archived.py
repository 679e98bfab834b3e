"""What a replay makes of messages that lie in the archive: these have ended for good, and are told, and not moved.

A message comes up in two ways. Somebody names its id: then it is a member that stays, and the plan says where it lies and whether a copy
of it would be suppressed. Or another message that died asks for the operation that it completed, a copy of it among them: while the
operation key is kept, that tells; past the horizon only the archive does, and such a member is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from crossfoot.books.archive.past import Past
from crossfoot.books.archive.prune import forgotten_before
from crossfoot.books.archive.seal import Story
from crossfoot.books.fate import Fate
from crossfoot.books.replays import ENDED, HORIZON
from crossfoot.books.store import completed
from crossfoot.connection import Connection
from crossfoot.errors import ArchiveBroken
from crossfoot.recover.replay.judging import Verdict


class Ended(NamedTuple):
    """A member that lies in the archive."""

    story: Story
    verdict: Verdict


def named(connection: Connection, past: Past, ids: Collection[str], queue: str) -> dict[str, Ended]:
    """Messages of these ids, as they were archived last. Within the caller's snapshot, of which the archive is.

    Raises:
        ArchiveBroken: a file that may hold some cannot be read.
    """
    stories = {str(story.row[3]): story for story in past.having("id", ids) if story.row[1] == queue}
    keys = {row[1] for story in stories.values() for row in story.operations}
    known = completed(connection, sorted(keys))
    return {id_: Ended(story, _told(story, past, known)) for id_, story in stories.items()}


def _told(story: Story, past: Past, known: Collection[str]) -> Verdict:
    operations = [row[1] for row in story.operations]
    where = f"it is {Fate(story.row[15]).label}, and lies in the archive under seal {past.seal_of(story).number}"
    if not operations:
        return Verdict(ENDED, where)
    if all(key in known for key in operations):
        return Verdict(ENDED, f"{where}; a copy of it would be suppressed")
    return Verdict(HORIZON, f"{where}; its operation key is past the horizon, and a copy of it would take effect again")


class Completed:
    """Tells members whose operation was completed by a message in the archive, and is not known in the book any more.

    Args:
        past: the archive, of the snapshot in which it is asked.
    """

    def __init__(self, connection: Connection, past: Past) -> None:
        self._past = past if forgotten_before(connection) else None  # while no key was forgotten, the book's tell it

    def among(self, operations: Mapping[int, str]) -> dict[int, Verdict]:
        """Of members with the operation that each would ask for.

        Raises:
            ArchiveBroken: a file that may hold some cannot be read, or the archive is not there.
        """
        if self._past is None:
            return {}
        if operations and self._past.unread:
            raise ArchiveBroken(f"what was completed past the horizon only the archive knows, and {self._past.unread}")
        done: dict[str, Verdict] = {}
        for story in self._past.having("operations", set(operations.values())):
            who = f"message {story.row[3]}, which is archived under seal {self._past.seal_of(story).number}"
            reason = (
                f"its operation was completed by {who}, and its key is past the horizon: it would take effect again"
            )
            done |= {row[1]: Verdict(HORIZON, reason) for row in story.operations}
        return {message: done[key] for message, key in operations.items() if key in done}
