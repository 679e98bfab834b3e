"""What the book and its archive know of messages, as one: whoever asks need not know where a message lies.

A message lies in the book, in the archive, or in both: while it is being archived, and when it came again after it had been, under
another key. Its entries are then those of both, each once; the fate is that of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crossfoot.books import queries
from crossfoot.books.archive import past as archive
from crossfoot.books.archive.past import Past
from crossfoot.books.archive.seal import Seal, Story
from crossfoot.books.promised import Asked, Promise, promised
from crossfoot.books.queries import Fact, OperationRow, OutcomeRow, Row
from crossfoot.connection import Connection


class Records:
    """The book over a connection, within its read transaction, and its archive, where there is one."""

    def __init__(self, connection: Connection, past: Past | None = None) -> None:
        self.connection = connection
        self._past = past

    def named(self, kind: str, name: str, limit: int, queue: str | None = None) -> list[Row]:
        """Messages of that name, newest first, at most `limit`; one that came again once, as it came last."""
        rows = queries.named(self.connection, kind, name, limit, queue)
        if self._past is None or len(rows) >= limit or (rows and kind in ("message id", "message key")):
            return rows
        known = {_identity(row) for row in rows}
        for story in self._past.named(kind, name, queue):
            row = archive.row_of(story)
            if _identity(row) not in known:
                known.add(_identity(row))
                rows.append(row)
        return sorted(rows, key=lambda row: -row.key)[:limit]

    def count_named(self, kind: str, name: str, queue: str | None = None) -> int:
        """How many messages there are of that name."""
        count = queries.count_named(self.connection, kind, name, queue)
        return count + (len(self._past.named(kind, name, queue)) if self._past is not None else 0)

    def stories_of(self, row: Row) -> list[Story]:
        """What the archive has of a message, the first first."""
        return self._past.of(row) if self._past is not None else []

    def seal_of(self, row: Row) -> Seal | None:
        """The seal under which a message lies in the archive, the first where there are several."""
        stories = self.stories_of(row)
        return self._past.seal_of(stories[0]) if self._past is not None and stories else None

    def entries_of(self, row: Row) -> list[Fact]:
        """All entries of a message, in the order in which they were committed."""
        stories = self.stories_of(row)
        keys = dict.fromkeys([row.key, *(story.key for story in stories)])
        here = [entry for key in keys for entry in queries.entries_of(self.connection, key)]
        if not stories:
            return here
        then = [entry for story in stories for entry in archive.facts_of(story)]
        all_of_them = {entry.number: entry for entry in (*then, *here)}
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
        return found or next(filter(None, map(archive.operation_of, self.stories_of(row))), None)

    def outcomes_of(self, row: Row) -> list[OutcomeRow]:
        found = queries.outcomes_of(self.connection, row.key)
        return found or next(filter(None, map(archive.outcomes_of, self.stories_of(row))), [])

    def body_of(self, row: Row) -> bytes | None:
        """What a message carried; `None` where nobody keeps it."""
        body = queries.body_of(self.connection, row.key)
        if body is not None or self._past is None:
            return body
        return next(filter(None, map(self._past.body_of, self.stories_of(row))), None)

    def promises_of(self, rows: Sequence[Row]) -> dict[int, tuple[Promise, ...]]:
        """What is expected of messages, by their keys; of one that came again after it was archived, that of its first time, too."""
        keys = {row.key: list(dict.fromkeys([row.key, *(story.key for story in self.stories_of(row))])) for row in rows}
        found = promised(self.connection, [Asked(key, row.type, row.at) for row in rows for key in keys[row.key]])
        return {
            of: tuple({one.stated.name: one for key in reversed(own) for one in found.get(key, ())}.values())
            for of, own in keys.items()
        }

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


def _identity(row: Row) -> tuple[str, str, str]:
    """What makes two rows the same message."""
    return row.source, row.id, row.queue
