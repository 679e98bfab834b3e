"""The folder of an archive: a file is there as a whole, on the disk, or not at all; and one at a time works in it.

A file is written under a name that nobody looks for, flushed, renamed, and its folder flushed. What a killed process left under such
names, or in place without a seal, the next one takes away, in its own turn.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import IO

from crossfoot.connection import is_postgres
from crossfoot.errors import ArchiveUnavailable, DiskFull, UsageError

FULL = (errno.ENOSPC, errno.EDQUOT)

FACTS, PAYLOADS, NAMES = ".facts.parquet", ".payloads.parquet", ".names"
SUFFIXES = (FACTS, PAYLOADS, NAMES)

PART = ".part"
"""Ends the name of a file that is being written."""

LOCK = ".turn"

CHUNK = 1 << 20


def folder_of(database: str, stated: str | None) -> Path:
    """Where the archive of a book is: as stated, or beside its file.

    Raises:
        UsageError: the book is in PostgreSQL, and nothing is stated.
    """
    if stated:
        return Path(stated)
    if is_postgres(database):
        raise UsageError(
            "the book is in PostgreSQL, so its archive needs a folder: name it with --archive, CROSSFOOT_ARCHIVE or `archive` in "
            "crossfoot.toml"
        )
    return Path(f"{database}.archive")


class Folder:
    """One folder.

    Raises (any method that touches the disk):
        DiskFull, ArchiveUnavailable
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, name: str, suffix: str) -> Path:
        return self.path / f"{name}{suffix}"

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Nobody else works in this folder meanwhile; waits for who does. Makes it where it is not there."""
        with told(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = open(self.path / LOCK, "ab")  # noqa: SIM115 - it is closed below, after what was done under it
        with file:
            with told(self.path):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def writing(self, name: str, suffix: str) -> Iterator[IO[bytes]]:
        """A file that has its name once `place` gives it; it is on the disk when the block ends, and gone if that raises."""
        part = self.file(name, suffix + PART)
        with told(part):
            try:
                with part.open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def place(self, name: str, suffix: str) -> None:
        """Give a written file its name, in the place of another one of that name. To be followed by `flush`."""
        with told(self.path):
            self.file(name, suffix + PART).replace(self.file(name, suffix))

    def discard(self, name: str, suffix: str) -> None:
        """Take away a written file that was not given its name."""
        with told(self.path):
            self.file(name, suffix + PART).unlink(missing_ok=True)

    def flush(self) -> None:
        """What was placed or removed stays so when the power goes."""
        with told(self.path):
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def remove(self, name: str) -> None:
        """All files of that name, under whichever."""
        with told(self.path):
            for suffix in SUFFIXES:
                self.file(name, suffix).unlink(missing_ok=True)
                self.file(name, suffix + PART).unlink(missing_ok=True)

    def names(self) -> set[str]:
        """What the files there are called, those that are being written, too."""
        with told(self.path):
            there = [entry.name.removesuffix(PART) for entry in self.path.iterdir()] if self.path.is_dir() else []
        return {name.removesuffix(suffix) for name in there for suffix in SUFFIXES if name.endswith(suffix)}

    def digest(self, name: str, suffix: str) -> str | None:
        """Of a file's bytes; `None` where it is not there."""
        digest = blake2b(digest_size=32)
        path = self.file(name, suffix)
        with told(path):
            try:
                with path.open("rb") as file:
                    while chunk := file.read(CHUNK):
                        digest.update(chunk)
            except FileNotFoundError:
                return None
        return digest.hexdigest()


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What the disk says, in words.

    Raises:
        DiskFull, ArchiveUnavailable
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(
                f"the disk of {path} is full: nothing was taken out of the book; make room and do it again"
            ) from error
        raise ArchiveUnavailable(f"{path} cannot be used: {error.strerror or error}") from error
