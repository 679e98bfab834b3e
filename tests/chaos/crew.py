"""The processes of a run: workers and a publisher, each started again when it ends, as a service manager does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.chaos.life import LIFE, Life
from tests.crash.nursery import CREDENTIALS
from tests.servers.postgres import LEASH
from tests.servers.processes import ROOT, ServerClock

WORKER = (sys.executable, "-m", "crossfoot", "worker", "tests.chaos.service:app")
PUBLISHER = (sys.executable, "-m", "tests.chaos.publisher")

PAUSE = 0.5
"""Seconds before a process that ended is started again."""


class Ended(msgspec.Struct, frozen=True):
    """How a process ended: exit code, or minus the signal."""

    slot: str
    pid: int
    code: int
    at: float


class Slot:
    """A place for one process at a time.

    Args:
        life: what each process in it is told.
    """

    def __init__(self, name: str, command: Sequence[str], life: Life, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.clock = ServerClock(Path(life.clock))
        self.endings: list[Ended] = []
        self.spawned: list[int] = []
        self._command = command
        self._life = folder / f"{name}.json"
        self._life.write_bytes(msgspec.json.encode(life))
        self._process: subprocess.Popen[bytes] | None = None
        self._again_at = 0.0
        self._lock = threading.RLock()
        self._open = True

    @property
    def pid(self) -> int:
        """Of the process that runs, 0 without one."""
        with self._lock:
            running = self._process is not None and self._process.poll() is None
            return self._process.pid if running and self._process is not None else 0

    def keep(self) -> None:
        """Take note of a process that ended, and start another when it is time."""
        with self._lock:
            if self._process is not None and (code := self._process.poll()) is not None:
                self.endings.append(Ended(self.name, self._process.pid, code, time.time()))
                self._process, self._again_at = None, time.monotonic() + PAUSE
            if self._process is None and self._open and time.monotonic() >= self._again_at:
                with self.log.open("ab") as log:
                    self._process = subprocess.Popen(
                        [sys.executable, str(LEASH), *self._command], cwd=ROOT, env={**os.environ, **CREDENTIALS, LIFE: str(self._life)},
                        stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    )  # fmt: skip
                self.spawned.append(self._process.pid)

    def signal(self, number: int) -> int:
        """Send a signal to the process that runs; its id, 0 when there was none."""
        with self._lock:
            pid = self.pid
            if pid and self._process is not None:
                self._process.send_signal(number)
            return pid

    def leave(self, patience: float) -> bool:
        """End in order, and start no other. False when it had to be killed, because it took longer."""
        self._open = False
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        until = time.monotonic() + patience
        while self.pid and time.monotonic() < until:
            time.sleep(0.05)
        in_time = not self.pid
        self.signal(signal.SIGKILL)
        with self._lock:
            if self._process is not None:
                self._process.wait()
        self.keep()
        return in_time
