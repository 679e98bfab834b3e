"""What a process of the run is told, and what it notes outside of the books."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

GOOD, POISON, MOVED, INVOICE = "case.released", "case.poison", "case.moved", "invoice.issued"

LIFE = "CHAOS_LIFE"
"""The environment variable that names the file of a `Life`."""


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """The service as one process sees it.

    Attributes:
        database, queue, endpoint: as `Crossfoot` takes them; through the cables, but for whoever looks at the end.
        clock: the file with the seconds that its clock is ahead; see `tests.servers.processes.ServerClock`.
        notes: the folder in which each process notes what it does.
        lease: seconds.
        pause: seconds a handler takes before it writes.
        every: seconds between two publishes.
        together: messages of one publish, at most.
        handlers: at once, in each worker.
        batch: messages per transaction.
        sabotage: what is broken on purpose, see `tests.crash.sabotage`.
    """

    database: str
    queue: str
    endpoint: str | None
    clock: str
    notes: str
    lease: float = 2.0
    pause: float = 0.02
    every: float = 0.25
    together: int = 4
    handlers: int = 2
    batch: int = 1
    sabotage: str = ""


def my_life() -> Life:
    return msgspec.json.decode(Path(os.environ[LIFE]).read_bytes(), type=Life)


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing a process did, by its own account.

    Attributes:
        what: a publisher's `asked` or its answer; a handler's `begun` or `done` (its part is: the commit follows).
        id: the message.
        at: seconds since the epoch, by a clock that no fault moves.
    """

    what: str
    id: str
    at: float
    pid: int = 0
    why: str = ""


class Notes:
    """A process's own file of notes. A line is with the kernel when `write` returns, and survives the process."""

    def __init__(self, folder: str, role: str) -> None:
        self._pid = os.getpid()
        for number in itertools.count():  # a process id may come back
            try:
                path = Path(folder) / f"{role}-{self._pid}-{number}.jsonl"
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            except FileExistsError:
                continue
            return

    def write(self, what: str, id: str, why: str = "") -> None:
        os.write(self._file, msgspec.json.encode(Note(what, id, time.time(), self._pid, why)) + b"\n")


def read_notes(folder: Path, role: str) -> Iterator[Note]:
    """All notes of all processes of a role, in each process's own order."""
    decode = msgspec.json.Decoder(Note).decode_lines
    for path in sorted(folder.glob(f"{role}-*.jsonl")):
        yield from decode(path.read_bytes())
