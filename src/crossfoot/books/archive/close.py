"""Closing: what has ended goes from the book into the archive.

In this order, so that a process that is killed anywhere leaves the book as it was or closed:

1. what a killed one left is finished or taken away;
2. stories are read in one snapshot, and written to files under names that nobody looks for, flushed to the disk;
3. the files get their names, the folder is flushed, and what is in them is read back and compared;
4. one transaction adds the seal, if it is still the next one;
5. messages are pruned, a piece a transaction (see `prune`), and past the horizon their tallies are kept by the day (see `days`).

Whoever reads finds a message in the book, or in the archive, or in both, and then they say the same. Closers of one archive take turns
by a lock in its folder; where two use two folders, the seal that comes second is not the next one any more, and its files go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain, islice
from typing import NamedTuple
from uuid import uuid4

import msgspec

from crossfoot.books.archive import days, erase, parquet, prune, stories
from crossfoot.books.archive.folder import FACTS, NAMES, PART, PAYLOADS, SUFFIXES, Folder
from crossfoot.books.archive.names import filter_of
from crossfoot.books.archive.seal import BEGINNING, Cell, Facts, Seal, Story, add_up, chain_of, digest_of_sums, merge
from crossfoot.books.posting import post_all
from crossfoot.books.ranges import HIGHEST
from crossfoot.books.store import Book
from crossfoot.boundaries import ArchiveBoundary, reach
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.errors import ArchiveBroken

MESSAGES = 100_000
"""Messages of a seal, at most: some ten megabytes, and some hundred in memory while their names are gathered."""

Progress = Callable[[int, int], None]
"""Told how many messages are done, and of how many."""

PLACE = "archive"
"""The fact that holds where the archive is, as it was last said."""


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """What a closing did.

    Attributes:
        seals: numbers of those that were added, with `messages` and `entries` in them, of so many `buckets`.
        pruned: messages that left the book, those of earlier seals that had stayed in it, too.
        open: older buckets with open messages, of which nothing was taken.
        forgotten: operation keys past the deduplication horizon; `gathered` is the number of tallies that are kept by the day now.
        removed: names of files that a killed closing had left.
        dropped: ranges of keys that PostgreSQL had tables for, and that hold nothing any more.
    """

    before: Micros
    seals: tuple[int, ...] = ()
    messages: int = 0
    entries: int = 0
    buckets: int = 0
    pruned: int = 0
    open: int = 0
    forgotten: int = 0
    gathered: int = 0
    removed: tuple[str, ...] = ()
    dropped: int = 0


def close(
    book: Book, folder: Folder, before: Micros, *, horizon: Micros, most: int = MESSAGES, progress: Progress = lambda done, of: None
) -> Closed:  # fmt: skip
    """Archive and prune what ended before a time.

    Args:
        horizon: until when operation keys of archived messages are forgotten, and what these come to is kept by the day.
        most: messages of a seal.

    Raises:
        DiskFull: nothing of the seal that was being written is in the book, and nothing was pruned for it.
        ArchiveUnavailable, ArchiveBroken: likewise.
        DatabaseUnavailable: the book cannot be written.
    """
    parquet.arrow()
    identity = book.identity()
    post_all(book)
    with folder.turn():
        removed = _take_away(book, folder)
        erase.finish(book, folder)
        pruned = sum(_pruned(book, folder, seal) for seal in _all(book) if not seal.is_pruned)
        with book.reading() as connection, connection.snapshot():
            found = stories.candidates(connection, before)
        made: list[Seal] = []
        for first in range(0, len(found.keys), most):
            progress(first, len(found.keys))
            seal = _seal(book, folder, found.keys[first : first + most], before, identity)
            if seal is not None:
                made.append(seal)
                pruned += _pruned(book, folder, seal)
        forgotten = _forgotten(book, horizon)
        gathered = _gathered(book, horizon)
        dropped = _dropped(book)
        progress(len(found.keys), len(found.keys))
    return Closed(
        before=before, seals=tuple(seal.number for seal in made), messages=sum(seal.messages for seal in made),
        entries=sum(seal.entries for seal in made), buckets=found.buckets, pruned=pruned, open=found.open, forgotten=forgotten,
        gathered=gathered, removed=tuple(removed), dropped=dropped,
    )  # fmt: skip


def _all(book: Book) -> list[Seal]:
    with book.reading() as connection:
        return prune.seals(connection)


def _take_away(book: Book, folder: Folder) -> list[str]:
    """Files of this book that no seal names: a closing was killed before it had sealed them."""
    known, own = {seal.name for seal in _all(book)}, _prefix(book.identity())
    left = sorted(name for name in folder.names() if name.startswith(own) and name not in known)
    for name in left:
        folder.remove(name)
    if left:
        folder.flush()
    return left


def _prefix(identity: str) -> str:
    """What a book's files begin with, so that several may use one folder."""
    return f"{identity[:8]}-"


def _seal(book: Book, folder: Folder, keys: Sequence[int], before: Micros, identity: str) -> Seal | None:
    """Write, compare and seal; `None` where nothing was left to be sealed, or somebody else was faster."""
    earlier = _all(book)
    if any(
        not seal.is_pruned for seal in earlier
    ):  # in another folder: what it holds is still in the book, and would be sealed twice
        return None
    number = earlier[-1].number + 1 if earlier else 1
    name = f"{_prefix(identity)}{number:06d}-{uuid4().hex[:8]}"
    try:
        seal = _write(book, folder, _Draft(number, name, identity), keys, before)
        if seal is None:
            return None
        for suffix in SUFFIXES:
            folder.place(name, suffix)
            reach(ArchiveBoundary.BETWEEN_NAMES)
        folder.flush()
        _compare(folder, seal)
    except BaseException:
        folder.remove(name)
        raise
    seal = msgspec.structs.replace(seal, chain=chain_of(earlier[-1].chain if earlier else BEGINNING, seal, identity))
    reach(ArchiveBoundary.BEFORE_SEAL)
    # Where this gives no answer, the files stay: the next closing sees whether they were sealed.
    if not book.write(lambda connection: _add(connection, seal, folder)):
        folder.remove(name)
        return None
    reach(ArchiveBoundary.AFTER_SEAL)
    return seal


class _Draft(NamedTuple):
    """What a seal will be called."""

    number: int
    name: str
    book: str

    @property
    def metadata(self) -> dict[str, str]:
        return {"version": "1", "book": self.book, "seal": str(self.number)}


def _write(book: Book, folder: Folder, draft: _Draft, keys: Sequence[int], before: Micros) -> Seal | None:
    """Write the three files, under names that nobody looks for."""
    facts, names, rows, entries = Facts(), set[str](), list[tuple[int, int]](), 0
    sums: dict[Cell, list[int]] = {}
    lowest_entry = HIGHEST
    with ExitStack() as stack:
        files = {suffix: stack.enter_context(folder.writing(draft.name, suffix)) for suffix in SUFFIXES}
        writer = stack.enter_context(parquet.Writer(files[FACTS], files[PAYLOADS], draft.metadata))
        connection = stack.enter_context(book.reading())
        stack.enter_context(connection.snapshot())
        for told in stories.stories(connection, keys, before):
            for story in told:
                facts.add(story)
                names.update(story.names)
                rows.append((story.key, story.row[11]))
                entries += len(story.entries)
                lowest_entry = min(lowest_entry, story.entries[0][0])
            merge(sums, add_up(told))
            if told:
                writer.write(told)
            reach(ArchiveBoundary.DURING_WRITE)
        files[NAMES].write(filter_of(names))
    if not rows:
        folder.remove(draft.name)
        return None
    reach(ArchiveBoundary.BEFORE_NAME)
    digests = {suffix: folder.digest(draft.name, suffix + PART) or "" for suffix in SUFFIXES}
    return Seal(
        number=draft.number, at=book.clock.now(), name=draft.name, chain="", digest=facts.digest, sums=digest_of_sums(sums),
        facts=digests[FACTS], names=digests[NAMES], payloads=digests[PAYLOADS],
        first_bucket=min(bucket for _, bucket in rows), last_bucket=max(bucket for _, bucket in rows), lowest=rows[0][0],
        highest=rows[-1][0], lowest_entry=lowest_entry, messages=len(rows), entries=entries, pruned_upto=rows[0][0] - 1,
    )  # fmt: skip


def _compare(folder: Folder, seal: Seal) -> None:
    """Read back what was written, before anything is pruned for it.

    Raises:
        ArchiveBroken: it is something else.
    """
    facts = Facts()
    for told in parquet.all_stories(folder.file(seal.name, FACTS)):
        for story in told:
            facts.add(story)
    bodies = sum(len(keys) for keys in parquet.keys_in(folder.file(seal.name, PAYLOADS)))
    if facts.digest != seal.digest or bodies != seal.messages:
        raise ArchiveBroken(
            f"{folder.file(seal.name, FACTS)} was read back, and is not what was written: look to the disk; nothing was pruned"
        )


def _add(connection: Connection, seal: Seal, folder: Folder) -> bool:
    """Seal, unless somebody else has added that number. Within the caller's transaction."""
    connection.alone("closing")
    latest = connection.execute("SELECT coalesce(max(number), 0) FROM crossfoot_closed").fetchone()[0]
    if latest != seal.number - 1:
        return False
    prune.add(connection, seal)
    connection.execute(prune.KEEP, (PLACE, str(folder.path.absolute())))
    reach(ArchiveBoundary.DURING_SEAL)
    return True


def _pruned(book: Book, folder: Folder, seal: Seal) -> int:
    """Take a seal's messages out of the book, as they are in its file. Returns how many there were.

    Raises:
        ArchiveBroken: the file is not there, or not what was sealed: nothing more is pruned for it.
    """
    if folder.digest(seal.name, FACTS) != seal.facts or folder.digest(seal.name, PAYLOADS) != seal.payloads:
        raise ArchiveBroken(
            f"the files of seal {seal.number} ({seal.name}) in {folder.path} are not what was sealed, so nothing is pruned for it: "
            "restore them from a backup, and see `crossfoot archive verify`"
        )
    before = seal.pruned
    for told in _pieces(chain.from_iterable(parquet.all_stories(folder.file(seal.name, FACTS))), seal.pruned_upto):
        seal = book.write(partial(prune.piece, seal=seal, archived=told))
        reach(ArchiveBoundary.BETWEEN_PRUNES)
    return seal.pruned - before


def _pieces(told: Iterable[Story], after: int) -> Iterator[list[Story]]:
    rest = iter(story for story in told if story.key > after)
    while part := list(islice(rest, prune.PIECE)):
        yield part


def _forgotten(book: Book, horizon: Micros) -> int:
    total, after = 0, ""
    while True:
        done = book.write(partial(prune.forget, before=horizon, after=after))
        total += done.keys
        if done.upto is None:
            return total
        after = done.upto


def _gathered(book: Book, horizon: Micros) -> int:
    total = 0
    while done := book.write(partial(days.gather, before=horizon)):
        total += done
    return total


def _dropped(book: Book) -> int:
    """PostgreSQL's empty ranges, whose tables go as a whole: that gives their space back, and there are no more of them than weeks kept."""
    with book.reading() as connection:
        if connection.dialect != "postgres":
            return 0
    from crossfoot.books.cutting import drop_empty

    with closing(book.place.connect()) as own:
        return drop_empty(own)
