"""Erasing what the messages of one subject carried, from the book and from the archive: for whoever has the right to be forgotten.

Facts stay: that there was a message, of which type and subject, and what became of it. What it carried goes. In the archive payloads
lie in a file of their own, which is written anew without them; no digest in the chain is over it, so every seal stays true. Before a
file is replaced, the book notes the digest of the new one: a process that is killed leaves the old file or the new one, and the book
knows either.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec

from crossfoot.books.archive import parquet, prune
from crossfoot.books.archive.folder import PART, PAYLOADS, Folder
from crossfoot.books.archive.past import Past
from crossfoot.books.archive.seal import Seal
from crossfoot.books.fate import Fate
from crossfoot.books.grouped import grouped, keys_text
from crossfoot.books.store import Book
from crossfoot.boundaries import ArchiveBoundary, reach
from crossfoot.connection import Connection
from crossfoot.errors import ArchiveBroken

ERASING = "erasing "
"""Begins the fact that holds the digest of a seal's new file of payloads, while it takes the old one's place."""

_BEGUN = f"SELECT name, value FROM crossfoot_facts WHERE name LIKE '{ERASING}%'"
_FORGET = "DELETE FROM crossfoot_facts WHERE name = ?"
_REPLACED = "UPDATE crossfoot_closed SET payloads = ? WHERE number = ?"

_ERASE = f"""
UPDATE crossfoot_messages SET body = NULL WHERE subject = ? AND fate >= {Fate.SETTLED.value} AND body IS NOT NULL
"""
_OPEN = (
    f"SELECT count(*) FROM crossfoot_messages WHERE subject = ? AND fate < {Fate.SETTLED.value} AND body IS NOT NULL"
)
_DEAD = f"SELECT count(*) FROM crossfoot_messages WHERE subject = ? AND fate = {Fate.DEAD.value}"
_IN_REPLAYS = grouped(
    "UPDATE crossfoot_replay_members SET before = NULL, after = NULL WHERE message IN {keys} "
    "AND (before IS NOT NULL OR after IS NOT NULL)"
)
"""What a plan had mended, and what its message carried before: both are what the subject's messages carried."""
_ENDED = f"SELECT key FROM crossfoot_messages WHERE subject = ? AND fate >= {Fate.SETTLED.value}"
_NOTE = "INSERT INTO crossfoot_erased (at, subject, who, reason, payloads) VALUES (?, ?, ?, ?, ?)"
_WAS_ERASED = "SELECT max(at) FROM crossfoot_erased WHERE subject = ?"


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What was erased.

    Attributes:
        book, archive: payloads that were erased in each; `seals` are those whose file was written anew.
        open: messages that are still open, whose payload is needed and was left.
        dead: dead letters: their queue still holds what they carried, where crossfoot erases nothing.
    """

    subject: str
    book: int
    archive: int
    seals: tuple[int, ...]
    open: int
    dead: int


def erase(book: Book, folder: Folder, subject: str, *, who: str, reason: str) -> Erased:
    """Erase the payloads of a subject's messages that have ended.

    Raises:
        ArchiveUnavailable, ArchiveBroken, DiskFull: what is erased by then stays erased, and nothing else is changed: do it again.
    """
    with folder.turn():
        finish(book, folder)
        with book.reading() as connection:
            seals = prune.seals(connection)
        found: dict[int, set[int]] = {}
        for seal, story in Past(folder, seals).everywhere("subject", subject):
            found.setdefault(seal.number, set()).add(story.key)
        archived, touched = 0, []
        for seal in seals:
            count = _rewrite(book, folder, seal, found[seal.number]) if seal.number in found else 0
            archived += count
            touched += [seal.number] if count else []
        note = (book.clock.now(), subject, who, reason)
        keys = {key for theirs in found.values() for key in theirs}
        here, left, dead = book.write(lambda connection: _in_book(connection, note, archived, keys))
        _empty_log(book)
    return Erased(subject=subject, book=here, archive=archived, seals=tuple(touched), open=left, dead=dead)


def begun(connection: Connection) -> dict[int, str]:
    """Seals whose file of payloads was being replaced when somebody was killed, and the digest of the new one."""
    return {int(name.removeprefix(ERASING)): str(value) for name, value in connection.execute(_BEGUN)}


def when(connection: Connection, subject: str | None) -> int | None:
    """When payloads of a subject were last erased."""
    row = connection.execute(_WAS_ERASED, (subject,)).fetchone()
    return row[0] if row else None


def finish(book: Book, folder: Folder) -> None:
    """What somebody who was killed had begun: the book is to say which of the two files is there. In the folder's turn."""
    with book.reading() as connection:
        seals, left = {seal.number: seal for seal in prune.seals(connection)}, begun(connection)
    for number, digest in left.items():
        there = folder.digest(seals[number].name, PAYLOADS)
        book.write(_settle(number, digest if there == digest else seals[number].payloads))


def _settle(number: int, digest: str) -> Callable[[Connection], None]:
    def settle(connection: Connection) -> None:
        connection.execute(_REPLACED, (digest, number))
        connection.execute(_FORGET, (f"{ERASING}{number}",))

    return settle


def _rewrite(book: Book, folder: Folder, seal: Seal, keys: set[int]) -> int:
    """Replace one seal's file of payloads. Returns how many are erased."""
    path = folder.file(seal.name, PAYLOADS)
    if folder.digest(seal.name, PAYLOADS) != seal.payloads:
        raise ArchiveBroken(f"{path} is not what was sealed, so it is not written anew: restore it from a backup")
    with folder.writing(seal.name, PAYLOADS) as file:
        count = parquet.without_bodies(path, file, keys)
    if not count:
        folder.discard(seal.name, PAYLOADS)
        return 0
    digest = folder.digest(seal.name, PAYLOADS + PART) or ""
    book.write(lambda connection: connection.execute(prune.KEEP, (f"{ERASING}{seal.number}", digest)))
    reach(ArchiveBoundary.BEFORE_ERASED)
    folder.place(seal.name, PAYLOADS)
    folder.flush()
    reach(ArchiveBoundary.AFTER_ERASED)
    book.write(_settle(seal.number, digest))
    return count


def _in_book(
    connection: Connection, note: tuple[Any, ...], archived: int, keys: Collection[int]
) -> tuple[int, int, int]:
    """Erase in the book, and keep who asked for it. Returns what was erased, what is open, and what is dead.

    Args:
        keys: of the subject's messages that are archived, which replays may have mended before.
    """
    at, subject, who, reason = note
    if connection.dialect == "sqlite":
        connection.execute(
            "PRAGMA secure_delete = ON"
        )  # or what was erased would lie in the file until its page is used again
    erased = connection.execute(_ERASE, (subject,)).rowcount
    ended = {key for (key,) in connection.execute(_ENDED, (subject,))}
    connection.execute(_IN_REPLAYS, {"keys": keys_text(sorted({*keys, *ended}))})
    connection.execute(_NOTE, (at, subject, who, reason, erased + archived))
    left, dead = (connection.execute(query, (subject,)).fetchone()[0] for query in (_OPEN, _DEAD))
    reach(ArchiveBoundary.DURING_ERASE)
    return erased, left, dead


def _empty_log(book: Book) -> None:
    """SQLite's write-ahead log holds the pages as they were; where readers allow it, it is emptied at once."""
    with book.reading() as connection:
        if connection.dialect == "sqlite":
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
