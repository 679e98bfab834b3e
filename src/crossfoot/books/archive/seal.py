"""A seal: which messages were archived, in which files, and what everything before it was.

Its *digest* is over the facts (rows, entries, operations, outcomes), in the order of the messages' keys, and not over what messages
carried: payloads lie in a file of their own, and can be erased without a seal becoming untrue. The *chain* of a seal is a hash over
the one before it, the digest and everything else that the seal states for good; whoever changes one seal has to change all later
ones. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from crossfoot.books.digest import lanes
from crossfoot.books.entry import PROOF_MARKS, RANKS, Kind
from crossfoot.books.fate import FATE_OF_PROOF, NOTHING, Fate, Summary, join, posted_fate
from crossfoot.books.measures import MEASURED_KINDS, OPERATION, entry_measure, fate_measure
from crossfoot.clock import Micros

FINAL = tuple(FATE_OF_PROOF.values())
"""Fates that nothing can change which is observed later. Other closed ones (dead, expired, ...) end with the next attempt, and
somebody may still want to look at them: these messages stay in the book."""

BEGINNING = "0" * 64
"""The chain before the first seal."""

Cell = tuple[int, str, str, str]
"""Bucket, queue, type and measure."""

Sums = Mapping[Cell, list[int]]
"""Count and the two lanes of the digest."""


class Story(msgspec.Struct, frozen=True):
    """All that a book knows of one message.

    Attributes:
        row: key, queue, source, id, type, subject, operation, correlation, causation, sequence, at, bucket, marks, latest, due, fate.
        entries: id, kind, attempt, delivery, at, due, worker, cause, details of each, in the order of their ids.
        operations: number, key, kind and time of those that it completed.
        outcomes: number, name, subject, time and facts.
        body: as the book keeps it; `None` where it does not, or not any more.
    """

    row: tuple[Any, ...]
    entries: tuple[tuple[Any, ...], ...]
    operations: tuple[tuple[Any, ...], ...]
    outcomes: tuple[tuple[Any, ...], ...]
    body: bytes | None = None

    @property
    def key(self) -> int:
        return int(self.row[0])

    @property
    def names(self) -> list[str]:
        """Everything that it may be asked for by."""
        _, _, _, id_, _, subject, operation, correlation, *_ = self.row
        keys = [row[1] for row in self.operations]
        return [name for name in (id_, subject, operation, correlation, *keys) if name is not None]

    @property
    def ended(self) -> bool:
        """Whether it has its final fate, and everything that says so is posted."""
        marks, latest, due, fate = self.row[12:16]
        summary = fold_rows(self.entries)
        final = bool(marks & PROOF_MARKS) and (posted_fate(summary) or 0) == fate
        return final and fate in FINAL and (summary.marks, summary.latest, summary.due) == (marks, latest, due)

    @property
    def last_at(self) -> Micros:
        return max(int(entry[4]) for entry in self.entries)


def fold_rows(entries: Iterable[tuple[Any, ...]]) -> Summary:
    """`fate.fold`, over rows."""
    summary = NOTHING
    for _, kind, attempt, _, _, due, *_ in entries:
        summary = join(summary, Summary(1 << kind, attempt * RANKS + kind, due or 0))
    return summary


def add_up(stories: Iterable[Story]) -> dict[Cell, list[int]]:
    """What the tallies have of these messages: as `verify` rebuilds it."""
    sums: dict[Cell, list[int]] = defaultdict(lambda: [0, 0, 0])
    for story in stories:
        _, queue, source, id_, type_, *_ = story.row
        bucket, marks, fate = story.row[11], story.row[12], story.row[15]
        measures = [entry_measure(kind) for kind in MEASURED_KINDS if marks & (1 << kind)]
        measures.append(fate_measure(Fate(fate)))
        if any(kind == Kind.COMMITTED for _, _, kind, _ in story.operations):
            measures.append(OPERATION)
        d0, d1 = lanes(f"{source}|{id_}")
        for measure in measures:
            total = sums[bucket, queue, type_, measure]
            total[0] += 1
            total[1] += d0
            total[2] += d1
    return dict(sums)


def merge(one: dict[Cell, list[int]], other: Sums) -> None:
    """Add `other` to `one`."""
    for cell, sums in other.items():
        mine = one.setdefault(cell, [0, 0, 0])
        for lane in range(3):
            mine[lane] += sums[lane]


class Facts:
    """The digest of the facts, as they go by in the order of their keys."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=32)
        self._encode = msgspec.json.Encoder().encode

    def add(self, story: Story) -> None:
        told = self._encode((story.row, story.entries, story.operations, story.outcomes))
        self._hash.update(len(told).to_bytes(8, "big"))
        self._hash.update(told)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def digest_of_sums(sums: Sums) -> str:
    told = msgspec.json.encode(sorted((*cell, *three) for cell, three in sums.items()))
    return blake2b(told, digest_size=32).hexdigest()


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `crossfoot_closed`.

    Attributes:
        number: 1 for the first, without gaps.
        name: what its files are called: `NAME.facts.parquet`, `NAME.payloads.parquet`, `NAME.names`.
        digest: of the facts; `sums` of what they come to in the tallies; `facts`, `names` and `payloads` of the files' bytes. The last
            of them changes when payloads are erased, and is not in the chain.
        first_bucket, last_bucket: of the messages in it. There may be others of these buckets in the book and in other seals.
        lowest, highest: of the messages' keys; `lowest_entry` of their entries' numbers.
        pruned_upto: up to this key its messages were taken out of the book, `pruned` of them, with `pruned_entries`.
        skipped: a JSON list of keys that were not, because something was written about them since: they are archived again.
    """

    number: int
    at: Micros
    name: str
    chain: str
    digest: str
    sums: str
    facts: str
    names: str
    payloads: str
    first_bucket: int
    last_bucket: int
    lowest: int
    highest: int
    lowest_entry: int
    messages: int
    entries: int
    pruned_upto: int
    pruned: int = 0
    pruned_entries: int = 0
    skipped: str = "[]"

    @property
    def is_pruned(self) -> bool:
        return self.pruned_upto >= self.highest

    @property
    def left(self) -> frozenset[int]:
        """Keys of messages that are in its files, and were left in the book."""
        return frozenset(msgspec.json.decode(self.skipped, type=list[int]))


COLUMNS = Seal.__struct_fields__

CHAINED = (
    "number", "at", "name", "digest", "sums", "facts", "names", "first_bucket", "last_bucket", "lowest", "highest", "lowest_entry",
    "messages", "entries",
)  # fmt: skip
"""What a seal states for good."""


def chain_of(before: str, seal: Seal, book: str) -> str:
    """The chain of a seal.

    Args:
        before: the chain of the seal before it.
        book: the book's own id.
    """
    told = msgspec.json.encode([before, book, *(getattr(seal, name) for name in CHAINED)])
    return blake2b(told, digest_size=32).hexdigest()
