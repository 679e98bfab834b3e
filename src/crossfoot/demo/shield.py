"""Kills fall at any moment but one: while the injector is at work inside a worker, from its act to the entry it causes.

Otherwise nobody could say what had been injected: a worker killed between "raise" and the entry of the failure leaves
no trace of the exception, and that is as it should be. A shield is a lock on a file: raised by the worker, asked by
whoever wants to kill it, released by the kernel when the worker is dead.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

EVERYONE = "everyone"
"""The shield that covers all workers."""


class Shield:
    """A worker's shields: over itself, and over all workers. Each is up as long as it is under any name.

    Args:
        folder: where the shields of one demo are.
        worker: whose it is.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self._mine = _Lock(_path(folder, worker), fcntl.LOCK_EX)
        self._all = _Lock(_path(folder, EVERYONE), fcntl.LOCK_SH)

    def up(self, name: str, *, everyone: bool = False) -> None:
        """Until `down(name)`: no kill. Waits for one that is on its way, and does not return from that."""
        self._mine.take(name)
        if everyone:
            self._all.take(name)

    def down(self, name: str) -> None:
        """Kills are welcome again, as far as that name goes."""
        self._all.give_back(name)
        self._mine.give_back(name)

    @contextmanager
    def over(self, name: str) -> Iterator[None]:
        self.up(name)
        try:
            yield
        finally:
            self.down(name)


@contextmanager
def aim(folder: Path, worker: str) -> Iterator[bool]:
    """Whether the worker may be killed inside the block."""
    with ExitStack() as stack:
        yield all(_taken(_path(folder, name), stack) for name in (worker, EVERYONE))


class _Lock:
    """A lock on a file, held as long as anybody in this process wants it."""

    def __init__(self, path: Path, kind: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._kind = kind
        self._lock = threading.Lock()
        self._names: set[str] = set()

    def take(self, name: str) -> None:
        with self._lock:
            if not self._names:
                fcntl.flock(self._fd, self._kind)
            self._names.add(name)

    def give_back(self, name: str) -> None:
        with self._lock:
            if name in self._names:
                self._names.remove(name)
                if not self._names:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.shield"


def _taken(path: Path, stack: ExitStack) -> bool:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
