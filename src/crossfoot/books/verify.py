"""Verifying: rebuild everything that was derived from the entries, and compare it with what is stored.

The rebuilding is the pure Python fold of `fate`, not the SQL of `posting`, so each checks the other. It streams: the
memory it needs does not grow with the messages, but with the tallies and with what was removed. It looks at one snapshot, up
to the entry that was posted last; in a book that is being written, later ones are left for the next time.

What was removed is noted by the book's triggers, see `triggers`: the rows that are left cannot tell when the newest message
went together with its entries before it was posted, for their numbers are given again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec

from crossfoot.books.archive.prune import archived_sums, operations_kept, seals, tally_of_operation
from crossfoot.books.archive.seal import merge
from crossfoot.books.digest import EMPTY, Tally, lanes
from crossfoot.books.entry import RANKS, Kind
from crossfoot.books.fate import NOTHING, Fate, Summary, join, posted_fate
from crossfoot.books.horizon import UPTO_ENTRY, UPTO_OPERATION
from crossfoot.books.measures import MEASURED_KINDS, OPERATION, entry_measure, fate_measure
from crossfoot.books.posting import backlog, fact, posted
from crossfoot.books.record import bucket_of
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.dialect import differs

MOST_SHOWN = 100
"""Differences of one kind that are told one by one; all of them are counted."""

STEP = 2_000
"""Messages between two reports of progress."""

_KINDS = {kind.value for kind in Kind}
TWICE = "two operations"
"""What nobody made who changed the tables: books before the ninth version allowed it."""

_MEASURED = sum(1 << kind for kind in MEASURED_KINDS)

_MESSAGES = """
SELECT key, queue, source, id, type, at, bucket, d0, d1, marks, latest, due, fate FROM crossfoot_messages ORDER BY key
"""
_ENTRIES = differs(
    """
SELECT message, kind, attempt, due, id <= CAST(:posted AS INTEGER)
FROM crossfoot_entries INDEXED BY crossfoot_entries_message ORDER BY message
""",
    postgres=f"SELECT message, kind, attempt, due, {UPTO_ENTRY} FROM crossfoot_entries ORDER BY message",
)
_REMOVED = "SELECT message, id, entry, kind FROM crossfoot_removed ORDER BY number"
_OPERATIONS = differs(
    """
SELECT message, kind, key, number <= CAST(:posted AS INTEGER)
FROM crossfoot_operations INDEXED BY crossfoot_operations_message ORDER BY message
""",
    postgres=f"SELECT message, kind, key, {UPTO_OPERATION} FROM crossfoot_operations ORDER BY message",
)

Key = tuple[int, str, str, str]
"""Bucket, queue, type and measure."""


class Difference(msgspec.Struct, frozen=True):
    """One thing that is stored differently from what the entries say.

    Attributes:
        what: the kind of difference, the same for all of its kind.
        id: the message's id, where it is about one.
        text: what is stored, and what it should be.
    """

    what: str
    text: str
    id: str | None = None


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, and every difference there was.

    Attributes:
        counts: number of differences by kind; `differences` holds the first of each kind.
        posted: entries up to this number were looked at.
        waiting: entries that are newer.
        archived: messages that lie in the archive, whose part of the tallies is taken as it was sealed: `crossfoot archive verify`
            looks into the files.
        late: entries about archived messages, that came after they were.
    """

    as_of: Micros
    posted: int
    waiting: int
    messages: int
    entries: int
    operations: int
    tallies: int
    counts: dict[str, int]
    differences: tuple[Difference, ...]
    archived: int = 0
    late: int = 0

    @property
    def clean(self) -> bool:
        return not self.counts


class _Removed:
    """What the book's triggers noted, by message."""

    def __init__(self, rows: Iterable[tuple[int, str | None, int | None, int | None]]) -> None:
        self.ids: dict[int, str] = {}
        """Of messages whose row was removed, by key."""
        self.kinds: dict[tuple[int, str | None], list[int]] = defaultdict(list)
        """Kinds of removed entries, by the message's key and id."""
        self.numbers: set[int] = set()
        """Of removed entries."""
        for message, id_, entry, kind in rows:
            if entry is None:
                assert id_ is not None
                self.ids[message] = id_
                self.kinds.setdefault((message, id_), [])
            else:
                self.numbers.add(entry)
                self.kinds[message, id_ or self.ids.get(message)].append(kind or 0)

    def row_of(self, message: int, id_: str | None) -> bool:
        """Whether the message's row was removed, too."""
        return id_ is not None and self.ids.get(message) == id_


class _Report:
    """Counts differences, and keeps the first of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.kept: list[Difference] = []

    def add(self, what: str, text: str, id_: str | None = None) -> None:
        self.counts[what] += 1
        if self.counts[what] <= MOST_SHOWN:
            self.kept.append(Difference(what, text, id_))


Progress = Callable[[int, int], None]
"""Told the messages done, and about how many there are."""


def verify(connection: Connection, now: Micros, progress: Progress = lambda done, of: None) -> Verification:
    """Rebuild and compare. Reads only; the snapshot keeps the write-ahead log from shrinking until it is done.

    Args:
        connection: on the book, in no transaction.
        progress: called every few thousand messages.
    """
    with connection.snapshot():
        return _Verifier(connection).run(now, progress)


class _Verifier:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._report = _Report()
        self._sums: dict[tuple[int, str, str, int, Fate | None, int], list[int]] = defaultdict(lambda: [0, 0, 0])
        self._posted = fact(connection, "posted entries")
        self._operated = fact(connection, "posted operations")
        self._removed = _Removed(connection.execute(_REMOVED))
        self._entries = self._operations = self._late = 0
        self._seals = seals(connection)
        self._of_archived = EMPTY
        """Count and digest of operations whose messages are archived, as they are found."""

    def run(self, now: Micros, progress: Progress) -> Verification:
        self._told_removed()
        if self._connection.dialect == "sqlite":
            self._numbers(self._one("SELECT max(id) FROM crossfoot_entries"))
        messages = self._walk(progress)
        self._archived_operations()
        tallies = self._tallies()
        return Verification(
            as_of=now, posted=posted(self._connection), waiting=backlog(self._connection), messages=messages,
            entries=self._entries, operations=self._operations, tallies=tallies,
            counts=dict(self._report.counts), differences=tuple(self._report.kept),
            archived=sum(seal.pruned for seal in self._seals), late=self._late,
        )  # fmt: skip

    def _numbers(self, last: int) -> None:
        """SQLite numbers entries without gaps, and nothing but removal makes one. What was noted is told by message."""
        if int(self._posted) > last:
            text = f"posted up to entry {self._posted}, but the last one is {last}"
            self._report.add("entries removed", text)
        first = min([self._one("SELECT min(id) FROM crossfoot_entries"), *(seal.lowest_entry for seal in self._seals)])
        count = self._one("SELECT count(*) FROM crossfoot_entries")
        pruned = sum(seal.pruned_entries for seal in self._seals)
        missing = last - first + (last > 0) - count - pruned
        if not missing:
            return
        if pruned:
            if missing != len(self._removed.numbers):
                text = f"{missing:,} entries are neither in the book nor archived, and {len(self._removed.numbers):,} removals were noted"
                self._report.add("entries removed", text)
            return
        previous = first - 1
        for (number,) in self._connection.execute("SELECT id FROM crossfoot_entries ORDER BY id"):
            if number != previous + 1 and not self._removed.numbers.issuperset(range(previous + 1, number)):
                gone = f"{previous + 1}" if number == previous + 2 else f"{previous + 1} to {number - 1}"
                self._report.add("entries removed", f"there is no entry {gone}")
            previous = number

    def _told_removed(self) -> None:
        for (message, id_), kinds in self._removed.kinds.items():
            if self._removed.row_of(message, id_):
                text = "its row" + (f", and {_entries(kinds)}: {_labels(kinds)}" if kinds else "")
                self._report.add("message removed", text, id_)
            else:
                self._report.add("entries removed", f"{_entries(kinds)} of message {message}: {_labels(kinds)}", id_)

    def _walk(self, progress: Progress) -> int:
        """One pass over messages, entries and operations, all in the order of the messages' keys."""
        about = self._one("SELECT max(key) FROM crossfoot_messages")
        stream = self._connection.stream
        entries = _Aside(stream(_ENTRIES, {"posted": self._posted}))
        operations = _Aside(stream(_OPERATIONS, {"posted": self._operated}))
        count = 0
        for count, row in enumerate(stream(_MESSAGES), 1):
            for stray in entries.before(row[0]):
                self._orphans(stray)
            for stray in operations.before(row[0]):
                self._ownerless(stray)
            self._message(row, entries.at(row[0]), operations.at(row[0]))
            if count % STEP == 0:
                progress(count, about)
        for stray in entries.before(None):
            self._orphans(stray)
        for stray in operations.before(None):
            self._ownerless(stray)
        progress(count, count)
        return count

    def _message(self, row: tuple[Any, ...], facts: list[Any], operations: list[Any]) -> None:
        key, queue, source, id_, type_, at, bucket, d0, d1, *stored = row
        self._entries += len(facts)
        self._operations += len(operations)
        summary = self._fold(facts, id_)
        fate = posted_fate(summary)
        rebuilt = [summary.marks, summary.latest, summary.due, fate or 0]
        if stored != rebuilt:
            self._report.add("fate", _told(stored, rebuilt), id_)
        if (bucket, d0, d1) != (bucket_of(at), *lanes(f"{source}|{id_}")):
            self._report.add("digest", f"message {key}: bucket or digest are not those of its time and identity", id_)
        complete = [operation for operation in operations if operation[1] == Kind.COMMITTED]
        for kind in (Kind.COMMITTED, Kind.NOOP):
            closed = any(operation[1] == kind for operation in operations)
            if closed != any(fact[1] == kind for fact in facts):
                have = (
                    f"an operation, and no {kind.label} entry" if closed else f"a {kind.label} entry, and no operation"
                )
                self._report.add("operation", f"it has {have}", id_)
        if len(operations) > 1:
            self._report.add(TWICE, f"it has {len(operations)} operations, and may have taken effect for each", id_)
        committed = sum(bool(operation[3]) for operation in complete)
        sums = self._sums[bucket_of(at), queue, type_, summary.marks & _MEASURED, fate, committed]
        sums[0] += 1
        sums[1] += d0
        sums[2] += d1

    def _fold(self, facts: list[Any], id_: str) -> Summary:
        """`fate.fold`, over the rows that are posted."""
        summary = NOTHING
        for _, kind, attempt, due, is_posted in facts:
            if not is_posted:
                continue
            if kind in _KINDS:
                summary = join(summary, Summary(1 << kind, attempt * RANKS + kind, due or 0))
            else:
                text = f"an entry is of kind {kind}, which this version does not know"
                self._report.add("unknown kind", text, id_)
        return summary

    def _archived(self, message: int) -> bool:
        """Whether a message that has no row may be in the archive: nobody noted that it was removed, and a seal has such keys."""
        return message not in self._removed.ids and any(
            seal.lowest <= message <= seal.pruned_upto for seal in self._seals
        )

    def _archived_operations(self) -> None:
        kept = operations_kept(self._connection)
        if self._of_archived != kept:
            text = f"{self._of_archived.count:,} operations of archived messages, and {kept.count:,} were left when these were archived"
            self._report.add("operation", text)

    def _orphans(self, facts: list[Any]) -> None:
        self._entries += len(facts)
        if self._archived(facts[0][0]):
            self._late += len(facts)
            return
        kinds, message = _labels([kind for _, kind, *_ in facts]), facts[0][0]
        text = f"{_entries(facts)} ({kinds}) of message {message}, which has no row"
        self._report.add("message removed", text, self._removed.ids.get(message))

    def _ownerless(self, operations: list[Any]) -> None:
        self._operations += len(operations)
        for message, _, key, _ in operations:
            if self._archived(message):
                self._of_archived += tally_of_operation(key, message)
                continue
            text = f"operation {key!r} was completed by message {message}, which has no row"
            self._report.add("message removed", text, self._removed.ids.get(message))

    def _tallies(self) -> int:
        rebuilt, stored = self._rebuilt(), 0
        sql = "SELECT bucket, queue, type, measure, count, d0, d1 FROM crossfoot_tallies"
        for bucket, queue, type_, measure, *sums in self._connection.execute(sql):
            stored += 1
            expected = rebuilt.pop((bucket, queue, type_, measure), [0, 0, 0])
            if sums != expected:
                self._tally((bucket, queue, type_, measure), sums, expected)
        for key, expected in rebuilt.items():
            self._tally(key, [0, 0, 0], expected)
        return stored

    def _rebuilt(self) -> dict[Key, list[int]]:
        """The tallies by the entries: messages of the same marks and fate were added up, and are now told apart."""
        result: dict[Key, list[int]] = defaultdict(lambda: [0, 0, 0])
        for (bucket, queue, type_, marks, fate, committed), sums in self._sums.items():
            measures = [entry_measure(kind) for kind in MEASURED_KINDS if marks & (1 << kind)]
            measures += [fate_measure(fate)] if fate is not None else []
            measures += [OPERATION] * committed
            for measure in measures:
                total = result[bucket, queue, type_, measure]
                for lane in range(3):
                    total[lane] += sums[lane]
        merge(result, archived_sums(self._connection))
        return result

    def _tally(self, key: Key, sums: list[int], expected: list[int]) -> None:
        bucket, queue, type_, measure = key
        same = "the same number of other messages" if sums[0] == expected[0] else f"{expected[0]}"
        digest = (Tally(*sums) - Tally(*expected)).digest
        text = (
            f"{measure!r} of {type_} on {queue} in bucket {bucket}: stored {sums[0]}, by the entries {same}; the digests differ "
            f"by {digest}"
        )
        self._report.add("tally", text)

    def _one(self, sql: str) -> int:
        return int(self._connection.execute(sql).fetchone()[0] or 0)


class _Aside:
    """Rows in groups by their first column, walked along beside another walk in the same order."""

    def __init__(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._groups: Iterator[tuple[int, list[Any]]] = (
            (key, list(group)) for key, group in groupby(rows, itemgetter(0))
        )
        self._next = next(self._groups, None)

    def before(self, key: int | None) -> Iterator[list[Any]]:
        """Groups of smaller keys, which the other walk does not have; all that are left for `None`."""
        while self._next is not None and (key is None or self._next[0] < key):
            group = self._next[1]
            self._next = next(self._groups, None)
            yield group

    def at(self, key: int) -> list[Any]:
        """The group of this key."""
        if self._next is None or self._next[0] != key:
            return []
        group = self._next[1]
        self._next = next(self._groups, None)
        return group


def _entries(some: Sized) -> str:
    return "1 entry" if len(some) == 1 else f"{len(some):,} entries"


def _labels(kinds: list[int]) -> str:
    """The first few kinds in words."""
    rest = f" and {len(kinds) - 8} more" if len(kinds) > 8 else ""
    return ", ".join(Kind(kind).label if kind in _KINDS else str(kind) for kind in kinds[:8]) + rest


def _told(stored: list[int], rebuilt: list[int]) -> str:
    names = {fate.value: fate.label for fate in Fate} | {0: "none"}
    if stored[3] != rebuilt[3]:
        return f"stored as {names.get(stored[3], stored[3])}, and {names[rebuilt[3]]} by its entries"
    missing = [Kind(bit).label for bit in _KINDS if (stored[0] & ~rebuilt[0]) >> bit & 1]
    if missing:
        return f"its row knows of {', '.join(missing)}, and no entry says so"
    parts = ("marks", "latest", "due")
    told = [f"{name} {a}, by its entries {b}" for name, a, b in zip(parts, stored, rebuilt, strict=False) if a != b]
    attempt = f" (attempt {rebuilt[1] // RANKS})" if rebuilt[1] else ""
    return f"stored {'; '.join(told)}{attempt}"
