"""The processes of a run: workers and a publisher, each started again when it ends, as a service manager does."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.chaos.life import LIFE, Life
from tests.chaos.warm import Warm
from tests.crash.nursery import CREDENTIALS
from tests.servers.processes import ServerClock

WORKER = ("crossfoot", "worker", "tests.chaos.service:app")
PUBLISHER = ("tests.chaos.publisher",)

PAUSE = 0.5
"""Seconds before a process that ended is started again."""


class Ended(msgspec.Struct, frozen=True):
    """How a process ended: exit code, or minus the signal."""

    slot: str
    pid: int
    code: int
    at: float


class Slot:
    """A place for one process at a time. For any thread.

    Args:
        command: a module and its arguments, as after `python -m`.
        life: what each process in it is told.
    """

    def __init__(self, name: str, command: Sequence[str], life: Life, folder: Path, warm: Warm) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.clock = ServerClock(Path(life.clock))
        self.endings: list[Ended] = []
        self._command = command
        self._life = folder / f"{name}.json"
        self._life.write_bytes(msgspec.json.encode(life))
        self._warm = warm
        self._pid = 0
        self._again_at = 0.0
        self._lock = threading.RLock()
        self._open = True

    def keep(self) -> bool:
        """Take note of a process that ended, and start another when it is time. Whether one runs."""
        with self._lock:
            if self._pid and (code := self._warm.poll(self._pid)) is not None:
                self.endings.append(Ended(self.name, self._pid, code, time.time()))
                self._pid, self._again_at = 0, time.monotonic() + PAUSE
            if not self._pid and self._open and time.monotonic() >= self._again_at:
                module, *arguments = self._command
                self._pid = self._warm.start(module, arguments, {**CREDENTIALS, LIFE: str(self._life)}, self.log)
            return self._pid != 0

    def signal(self, number: int) -> int:
        """Send a signal to the process that runs; its id, 0 when there was none."""
        with self._lock:
            if self._pid:
                os.kill(self._pid, number)  # nobody else has its id: it was not waited for
            return self._pid

    def leave(self, patience: float) -> None:
        """End in order, and start no other; killed when that takes longer."""
        self._open = False
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        until = time.monotonic() + patience
        while self.keep():
            time.sleep(0.05)
            if time.monotonic() > until:
                self.signal(signal.SIGKILL)
