"""Whether the archive is what was sealed: every byte of its files, and every row that the book keeps of it.

The seals are followed from the first; each file is compared by the digest of its bytes, and what the facts say is read, digested and
added up again. So a flipped bit is found wherever it is, and a file that was replaced by another one, too. Reads only.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from crossfoot.books.archive import days, erase, parquet, prune
from crossfoot.books.archive.folder import FACTS, NAMES, PAYLOADS, SUFFIXES, Folder
from crossfoot.books.archive.names import may_have
from crossfoot.books.archive.seal import BEGINNING, Cell, Facts, Seal, Story, add_up, chain_of, digest_of_sums, merge
from crossfoot.connection import Connection
from crossfoot.errors import ArchiveBroken

Progress = Callable[[int, int], None]
"""Told how many messages are done, and of how many."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it was sealed.

    Attributes:
        what: the kind of it.
        seal: its number, where it is about one.
    """

    what: str
    text: str
    seal: int | None = None
    file: str | None = None


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, and every fault there was.

    Attributes:
        head: the chain of the last seal: who notes it elsewhere can tell whether seals were taken off the end.
        left_over: files of this book that no seal names; a closing was killed, and the next one takes them away.
        erased: how often payloads of a subject were erased.
    """

    seals: int
    messages: int
    entries: int
    payloads: int
    head: str | None
    faults: tuple[Fault, ...]
    left_over: tuple[str, ...]
    erased: int

    @property
    def clean(self) -> bool:
        return not self.faults


def check(connection: Connection, folder: Folder, progress: Progress = lambda done, of: None) -> Checked:
    """Look at everything.

    Args:
        connection: on the book, in no transaction.

    Raises:
        ArchiveUnavailable: the folder cannot be read.
    """
    with connection.snapshot():
        row = connection.execute("SELECT value FROM crossfoot_facts WHERE name = 'book'").fetchone()
        found = _Checker(folder, prune.seals(connection), str(row[0]) if row else "", erase.begun(connection))
        upto = days.gathered_upto(connection)
        sums = days.by_day(prune.archived_sums(connection), upto)
        erased = int(connection.execute("SELECT count(*) FROM crossfoot_erased").fetchone()[0])
    return found.run(sums, upto, erased, progress)


class _Checker:
    def __init__(self, folder: Folder, seals: list[Seal], book: str, begun: dict[int, str]) -> None:
        self._folder = folder
        self._seals = seals
        self._book = book
        self._begun = begun
        self._faults: list[Fault] = []
        self._sums: dict[Cell, list[int]] = {}
        """What the files' pruned messages come to."""
        self._messages = self._entries = self._payloads = 0

    def run(self, sums: dict[Cell, list[int]], upto: int, erased: int, progress: Progress) -> Checked:
        self._chain()
        total = sum(seal.messages for seal in self._seals)
        whole = True
        for seal in self._seals:
            progress(self._messages, total)
            whole = self._files(seal) and whole
        progress(total, total)
        told = days.by_day(self._sums, upto)
        if whole and told != sums:
            wrong = sorted(cell for cell in {*sums, *told} if sums.get(cell) != told.get(cell))
            bucket, queue, type_, measure = wrong[0]
            text = f"{len(wrong):,} sums in the book are not those of the files, first {measure!r} of {type_} on {queue} in {bucket}"
            self._fault("sums", text)
        known = {seal.name for seal in self._seals}
        own = f"{self._book[:8]}-"
        return Checked(
            seals=len(self._seals), messages=self._messages, entries=self._entries, payloads=self._payloads,
            head=self._seals[-1].chain if self._seals else None, faults=tuple(self._faults),
            left_over=tuple(sorted(name for name in self._folder.names() if name.startswith(own) and name not in known)), erased=erased,
        )  # fmt: skip

    def _fault(self, what: str, text: str, seal: Seal | None = None, suffix: str = "") -> None:
        number = seal.number if seal is not None else None
        self._faults.append(
            Fault(what=what, text=text, seal=number, file=f"{seal.name}{suffix}" if seal is not None and suffix else None)
        )  # fmt: skip

    def _chain(self) -> None:
        before, expected = BEGINNING, 1
        for seal in self._seals:
            if seal.number != expected:
                self._fault("chain", f"seal {expected} is missing", seal)
            if chain_of(before, seal, self._book) != seal.chain:
                self._fault(
                    "chain", f"the chain breaks at seal {seal.number}: its row, or the one before, was changed", seal
                )
            before, expected = seal.chain, seal.number + 1

    def _files(self, seal: Seal) -> bool:
        """Whether all that can be known of the facts is what was sealed."""
        sealed = {FACTS: {seal.facts}, NAMES: {seal.names}, PAYLOADS: {seal.payloads, self._begun.get(seal.number, "")}}
        sound = dict.fromkeys(SUFFIXES, True)
        for suffix in SUFFIXES:
            found = self._folder.digest(seal.name, suffix)
            if found is None:
                self._fault("file missing", "it is not there", seal, suffix)
            elif found not in sealed[suffix]:
                self._fault("file changed", "its bytes are not those that were sealed", seal, suffix)
            sound[suffix] = found in sealed[suffix]
        try:
            keys, names = self._facts(seal) if sound[FACTS] else (None, None)
            if keys is not None and sound[PAYLOADS]:
                self._bodies(seal, keys)
        except ArchiveBroken as error:
            self._fault("file unreadable", str(error), seal)
            return False
        if names is not None and sound[NAMES]:
            data = self._folder.file(seal.name, NAMES).read_bytes()
            if not all(may_have(data, name) for name in names):
                self._fault("names", "it leaves out names that are in the facts", seal, NAMES)
        return sound[FACTS]

    def _facts(self, seal: Seal) -> tuple[list[int], set[str]]:
        facts, sums, keys, names = Facts(), dict[Cell, list[int]](), list[int](), set[str]()
        entries = pruned_entries = 0
        gone: list[Story] = []
        for told in parquet.all_stories(self._folder.file(seal.name, FACTS)):
            for story in told:
                facts.add(story)
                names.update(story.names)
            keys += [story.key for story in told]
            entries += sum(len(story.entries) for story in told)
            merge(sums, add_up(told))
            gone = [story for story in told if story.key <= seal.pruned_upto and story.key not in seal.left]
            pruned_entries += sum(len(story.entries) for story in gone)
            merge(self._sums, add_up(gone))
        pruned = sum(1 for key in keys if key <= seal.pruned_upto and key not in seal.left)
        if (facts.digest, digest_of_sums(sums), len(keys), entries) != (
            seal.digest,
            seal.sums,
            seal.messages,
            seal.entries,
        ):
            self._fault("facts", "what it says is not what was sealed", seal, FACTS)
        if (pruned, pruned_entries) != (seal.pruned, seal.pruned_entries):
            self._fault(
                "pruned",
                f"{seal.pruned:,} of its messages were pruned, says the book, and it has {pruned:,} up to there",
                seal,
            )
        self._messages += len(keys)
        self._entries += entries
        return keys, names

    def _bodies(self, seal: Seal, keys: list[int]) -> None:
        found = [key for group in parquet.keys_in(self._folder.file(seal.name, PAYLOADS)) for key in group]
        self._payloads += len(found)
        if found != keys:
            self._fault("payloads", "it is of other messages than the facts", seal, PAYLOADS)
