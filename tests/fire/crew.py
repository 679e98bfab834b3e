"""The processes of a fire test: workers, a publisher of live traffic, a replayer; all are programs of their own, and may be killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class Crew:
    """Starts programs in the service's environment, and ends all of them."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._environment = {**os.environ, **environment, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
        self._log = (folder / "log").open("ab")
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        made = subprocess.Popen(
            command, cwd=self.folder, env=self._environment, stdout=self._log, stderr=self._log, start_new_session=True
        )
        self._running.append(made)
        return made

    def crossfoot(self, *arguments: str) -> subprocess.Popen[bytes]:
        return self.start(str(BIN / "crossfoot"), *arguments)

    def ask(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        """What a command of crossfoot's prints."""
        done = subprocess.run(
            [str(BIN / "crossfoot"), *arguments],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in codes, f"{arguments} exited with {done.returncode}:\n{done.stderr}"
        return done.stdout

    def worker(self) -> subprocess.Popen[bytes]:
        return self.crossfoot("worker", "tests.fire.service:app")

    def said(self, lines: int = 20) -> str:
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End all, in order where they can."""
        for one in self._running:
            if one.poll() is None:
                one.send_signal(signal.SIGINT)
        until = time.monotonic() + 15
        for one in self._running:
            while one.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            if one.poll() is None:
                one.kill()
                one.wait()
        self._log.close()


class Kept(threading.Thread):
    """Keeps one program running, and kills it so often at random moments.

    Args:
        start: starts it; it is started again when it was killed.
        kills: how often it is killed, after `least` to `most` seconds of life each.
        done: whether an exit code is its end, and not a death to be followed by another life.
    """

    def __init__(
        self, start: Callable[[], subprocess.Popen[bytes]], chance: random.Random, *, kills: int, least: float, most: float,
        done: Callable[[int], bool],
    ) -> None:  # fmt: skip
        super().__init__(daemon=True)
        self._start_one = start
        self._chance = chance
        self._kills = kills
        self._least, self._most = least, most
        self._is_done = done
        self._over = threading.Event()
        self.killed = 0
        self.code: int | None = None

    def run(self) -> None:
        while not self._over.is_set():
            process = self._start_one()
            if self.killed < self._kills:
                self._over.wait(self._chance.uniform(self._least, self._most))
                if process.poll() is None and not self._over.is_set():
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    self.killed += 1
                    continue
            while process.poll() is None and not self._over.is_set():
                time.sleep(0.02)
            if self._over.is_set() and process.poll() is None:
                process.send_signal(signal.SIGINT)
            self.code = process.wait()
            if self._is_done(self.code):
                return

    def end(self) -> None:
        self._over.set()
        self.join(30)
