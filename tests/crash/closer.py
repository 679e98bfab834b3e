"""The process that closes and is killed: `python -m tests.crash.closer JOB`, a JSON of what is to be done.

It dies of a real SIGKILL, at a boundary the n-th time it is reached, or by whoever started it.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path

import msgspec

from crossfoot import boundaries
from crossfoot.books.archive.close import close
from crossfoot.books.archive.erase import erase
from crossfoot.books.archive.folder import Folder
from crossfoot.books.store import Book
from crossfoot.clock import Micros


class Job(msgspec.Struct, frozen=True):
    """What to do, and where to die."""

    place: str
    folder: str
    before: Micros
    horizon: Micros = 0
    most: int = 10
    boundary: str = ""
    nth: int = 1
    erase: str = ""


def die_at(job: Job) -> None:
    """Have this process killed at the boundary."""
    counter = itertools.count(1)

    def hook(boundary: boundaries.Boundary | boundaries.ArchiveBoundary) -> None:
        if boundary == job.boundary and next(counter) == job.nth:
            os.kill(os.getpid(), signal.SIGKILL)

    boundaries.install(hook)


def main(job: Job) -> None:
    if job.boundary:
        die_at(job)
    book = Book(job.place).open()
    sys.stdout.write("open\n")
    sys.stdout.flush()
    if job.erase:
        erase(book, Folder(Path(job.folder)), job.erase, who="test", reason="test")
    else:
        close(book, Folder(Path(job.folder)), job.before, horizon=job.horizon, most=job.most)
    book.close()


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Job))
