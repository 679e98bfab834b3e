"""What the book and its archive know of messages, as one: whoever asks need not know where a message lies.

A message lies in the book, in the archive, or in both: while it is being archived, and when it came again after it had been, under
another key. Its entries are then those of both, each once; the fate is that of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from crossfoot.books import queries
from crossfoot.books.archive import past as archive
from crossfoot.books.archive.past import Past
from crossfoot.books.archive.seal import Seal, Story
from crossfoot.books.queries import Fact, OperationRow, OutcomeRow, Row
from crossfoot.connection import Connection


class Records:
    """The book over a connection, within its read transaction, and its archive, where there is one."""

    def __init__(self, connection: Connection, past: Past | None = None) -> None:
        self.connection = connection
        self._past = past

    def named(self, kind: str, name: str, limit: int, queue: str | None = None) -> list[Row]:
        """Messages of that name, newest first, at most `limit`."""
        rows = queries.named(self.connection, kind, name, limit, queue)
        if self._past is None or len(rows) >= limit or (rows and kind in ("message id", "message key")):
            return rows
        here = {(row.source, row.id, row.queue) for row in rows}
        then = [archive.row_of(story) for story in self._past.named(kind, name, queue)]
        rows += [row for row in then if (row.source, row.id, row.queue) not in here]
        return sorted(rows, key=lambda row: -row.key)[:limit]

    def count_named(self, kind: str, name: str, queue: str | None = None) -> int:
        """How many messages there are of that name."""
        count = queries.count_named(self.connection, kind, name, queue)
        return count + (len(self._past.named(kind, name, queue)) if self._past is not None else 0)

    def story_of(self, row: Row) -> Story | None:
        """What the archive has of a message."""
        return self._past.of(row) if self._past is not None else None

    def seal_of(self, row: Row) -> Seal | None:
        """The seal under which a message lies in the archive."""
        story = self.story_of(row)
        return self._past.seal_of(story) if self._past is not None and story is not None else None

    def entries_of(self, row: Row) -> list[Fact]:
        """All entries of a message, in the order in which they were committed."""
        here = queries.entries_of(self.connection, row.key)
        story = self.story_of(row)
        if story is None:
            return here
        if story.key != row.key:  # it came again, after it had been archived
            here = [*here, *queries.entries_of(self.connection, story.key)]
        all_of_them = {entry.number: entry for entry in (*archive.facts_of(story), *here)}
        return [all_of_them[number] for number in sorted(all_of_them)]

    def rows_of(self, keys: Iterable[int]) -> dict[int, Row]:
        """Messages by key."""
        wanted = set(keys)
        rows = queries.rows_of(self.connection, wanted)
        for key in wanted - rows.keys():
            story = self._past.keyed(key) if self._past is not None else None
            if story is not None:
                rows[key] = archive.row_of(story)
        return rows

    def operation(self, key: str) -> OperationRow | None:
        """Who completed an operation."""
        found = queries.operation(self.connection, key)
        if found is not None or self._past is None:
            return found
        stories = self._past.named("operation key", key)
        return next(filter(None, (archive.operation_of(story, key) for story in stories)), None)

    def operation_of(self, row: Row) -> OperationRow | None:
        """The operation that a message completed."""
        found = queries.operation_of(self.connection, row.key)
        story = self.story_of(row) if found is None else None
        return archive.operation_of(story) if story is not None else found

    def outcomes_of(self, row: Row) -> list[OutcomeRow]:
        found, story = queries.outcomes_of(self.connection, row.key), self.story_of(row)
        return found or (archive.outcomes_of(story) if story is not None else [])

    def body_of(self, row: Row) -> bytes | None:
        """What a message carried; `None` where nobody keeps it."""
        body, story = queries.body_of(self.connection, row.key), self.story_of(row)
        return self._past.body_of(story) if self._past is not None and body is None and story is not None else body

    def parents_of(self, row: Row, limit: int = 5) -> list[Row]:
        """The message that caused this one, on whichever queues it travelled."""
        return self.named("message id", row.causation, limit) if row.causation else []

    def children_of(self, row: Row, limit: int = 50) -> list[Row]:
        """Messages that this one caused, oldest first."""
        here = queries.children_of(self.connection, row, limit)
        if self._past is None:
            return here
        flow = self._past.named("correlation id", row.correlation or row.id)
        then = [archive.row_of(story) for story in flow if story.row[8] == row.id]
        known = {one.key for one in here}
        return sorted([*here, *(one for one in then if one.key not in known)], key=lambda one: one.key)[:limit]
