"""What is asked of the archive, by name: which messages there are, and their stories.

Seals are looked through from the newest; a file is opened only when its names may hold what is asked for (see `names`).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from crossfoot.books.archive import parquet, prune
from crossfoot.books.archive.folder import FACTS, NAMES, PAYLOADS, Folder, folder_of, told
from crossfoot.books.archive.names import among, hashes
from crossfoot.books.archive.seal import Seal, Story
from crossfoot.books.entry import Kind
from crossfoot.books.queries import Fact, OperationRow, OutcomeRow, Row
from crossfoot.connection import Connection, is_postgres
from crossfoot.errors import ArchiveBroken

COLUMNS = {
    "message id": ("id",), "subject": ("subject",), "correlation id": ("correlation",), "operation key": ("operation", "operations"),
    "message key": ("id",),
}  # fmt: skip
"""Where a name of each kind (see `queries.KINDS_OF_NAME`) stands."""


class Past:
    """The archive of a book, for reading.

    Attributes:
        unread: why nothing is found in it, where its folder is not there; the book answers for the rest.
    """

    def __init__(
        self, folder: Folder, seals: Sequence[Seal], locate: Callable[[Connection], Path] | None = None
    ) -> None:  # fmt: skip
        self._folder = folder
        self._locate = locate
        self._take(seals)

    def renew(self, connection: Connection) -> None:
        """Take the seals as they are in the caller's snapshot: what has left the book by then is under one of them."""
        seals = prune.seals(connection)
        if seals and self._locate is not None:
            self._folder = Folder(self._locate(connection))
        self._take(seals)

    def _take(self, seals: Sequence[Seal]) -> None:
        self.unread = ""
        self._intact: dict[tuple[int, str], bool] = {}
        if seals and not self._folder.path.is_dir():
            messages = sum(seal.pruned for seal in seals)
            self.unread = f"the archive is not at {self._folder.path}, and {messages:,} messages lie in it: name its folder with --archive"
        self._seals = [] if self.unread else list(reversed(seals))
        self._known: dict[int, tuple[Seal, Story]] = {}
        self._found: dict[tuple[str, str], list[Story]] = {}

    def named(self, kind: str, name: str, queue: str | None = None) -> list[Story]:
        """Messages of that name, newest first.

        Raises:
            ArchiveBroken: a file that may hold some cannot be read.
        """
        source, bar, id_ = name.partition("|")
        if kind == "message key":
            return [one for one in self.named("message id", id_, queue) if bar and one.row[2] == source]
        if (kind, name) not in self._found:
            self._found[kind, name] = sorted(self._look_for(kind, name), key=lambda story: -story.key)
        return [one for one in self._found[kind, name] if queue in (None, one.row[1])]

    def of(self, row: Row) -> list[Story]:
        """What the archive has of a message, the first first: more than one where it came again after it was archived."""
        found = self.named("message id", row.id, row.queue)
        return [one for one in reversed(found) if one.row[2] == row.source]

    def keyed(self, key: int) -> Story | None:
        """The message of that key."""
        if key not in self._known:
            for seal in self._seals:
                if seal.lowest <= key <= seal.highest and (found := parquet.find(self._facts(seal), "key", [key])):
                    self._remember(seal, found[0])
                    break
        return self._known[key][1] if key in self._known else None

    def seal_of(self, story: Story) -> Seal:
        """Where a story that was found lies."""
        return self._known[story.key][0]

    def body_of(self, story: Story) -> bytes | None:
        """What the message carried, as far as the archive has it.

        Raises:
            ArchiveBroken: the file with the payloads cannot be read.
        """
        path = self._folder.file(self.seal_of(story).name, PAYLOADS)
        return parquet.bodies_of(path, {story.key}).get(story.key)

    def everywhere(self, kind: str, name: str) -> Iterator[tuple[Seal, Story]]:
        """Messages of that name in every seal that has them; one that was archived again is in several."""
        for seal in self._seals:
            if self._among(seal, {name: hashes(name)}):
                for column in COLUMNS[kind]:
                    for story in parquet.find(self._facts(seal), column, [name]):
                        yield seal, story

    def having(self, column: str, names: Collection[str]) -> list[Story]:
        """Messages that have one of many names, each as it was archived last: the id, or of `operations` one that they completed.

        Whoever asks this does again what is not found. So files are believed only where they are what was sealed.

        Raises:
            ArchiveBroken: a file that may hold some cannot be read, or is not what was sealed.
        """
        wanted, found = {name: hashes(name) for name in names}, dict[int, Story]()
        for seal in self._seals if wanted else []:
            here = self._among(seal, wanted) if self._as_sealed(seal, NAMES) else wanted
            if here and not self._as_sealed(seal, FACTS):
                raise ArchiveBroken(
                    f"{self._facts(seal)} is not what was sealed, and may hold what is asked for: restore it from a backup, and see "
                    "`crossfoot archive verify`"
                )
            for story in parquet.find(self._facts(seal), column, set(here)) if here else []:
                self._remember(seal, story)
                found.setdefault(story.key, story)
        return [found[key] for key in sorted(found)]

    def _look_for(self, kind: str, name: str) -> Iterator[Story]:
        seen: set[int] = set()
        for seal, story in self.everywhere(kind, name):
            if story.key not in seen:
                seen.add(story.key)
                self._remember(seal, story)
                yield story

    def _remember(self, seal: Seal, story: Story) -> None:
        if story.key not in self._known or self._known[story.key][0].number < seal.number:
            self._known[story.key] = seal, story

    def _as_sealed(self, seal: Seal, suffix: str) -> bool:
        """Whether that file is what was sealed, or is not there, which is told where it is opened. Each is read once."""
        if (seal.number, suffix) not in self._intact:
            wanted = seal.names if suffix == NAMES else seal.facts
            self._intact[seal.number, suffix] = self._folder.digest(seal.name, suffix) in (wanted, None)
        return self._intact[seal.number, suffix]

    def _facts(self, seal: Seal) -> Path:
        return self._folder.file(seal.name, FACTS)

    def _among(self, seal: Seal, names: Mapping[str, tuple[int, int]]) -> Collection[str]:
        """Those of the names that the seal may have."""
        path = self._folder.file(seal.name, NAMES)
        if not path.exists():
            if not self._facts(seal).exists():
                raise ArchiveBroken(
                    f"the archive's file {self._facts(seal)} is not there: name its folder with --archive, or restore it from a backup"
                )
            return names
        with told(path), path.open("rb") as file:
            try:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    return among(data, names)
            except (
                ValueError
            ):  # an empty or damaged file of names: `archive verify` tells; here it is looked for without it
                return names


def past_of(database: str, stated: str | None) -> Past:
    """The archive of a book, to be renewed in the snapshot in which it is asked.

    Args:
        database: the book's file or URL.
        stated: the folder, where somebody said so.
    """
    return Past(Folder(Path()), [], lambda connection: located(connection, database, stated))


def located(connection: Connection, database: str, stated: str | None) -> Path:
    """Where the archive is: as stated, beside the book, or where it was when something was last archived.

    Raises:
        UsageError: nobody said so, and the book is in PostgreSQL.
    """
    row = connection.execute("SELECT value FROM crossfoot_facts WHERE name = 'archive'").fetchone()
    if row is None or stated:
        return folder_of(database, stated)
    said = Path(row[0])
    beside = said if is_postgres(database) else folder_of(database, None)
    return beside if beside.is_dir() else said


def row_of(story: Story) -> Row:
    return Row(*story.row[:11])


def facts_of(story: Story) -> list[Fact]:
    """The entries, as the book would give them."""
    return [
        Fact(
            number=number, message=story.key, kind=Kind(kind), attempt=attempt, delivery=delivery, at=at, due=due, worker=worker,
            cause=cause, details=details,
        )
        for number, kind, attempt, delivery, at, due, worker, cause, details in story.entries
    ]  # fmt: skip


def operation_of(story: Story, key: str | None = None) -> OperationRow | None:
    """The operation that it completed, that of `key` where one is named."""
    found = [row for row in story.operations if key in (None, row[1])]
    return OperationRow(found[0][1], story.key, found[0][2], found[0][3]) if found else None


def outcomes_of(story: Story) -> list[OutcomeRow]:
    return [OutcomeRow(name, subject, at, facts) for _, name, subject, at, facts in story.outcomes]
