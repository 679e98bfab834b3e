"""MiniStack servers that can be stopped and started again over what they keep: SQS, or S3 as the storage of another server.

What is in its queues it writes down when it is stopped in order, and then only: a kill loses all of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.processes import ATTEMPTS, ROOT, STARTING_SECONDS, ServerClock, free_port, is_ready
from tests.servers.run import HOST

STOPPING_SECONDS = 30.0


class MiniStack:
    """One server.

    Args:
        services: which of AWS's it plays.
    """

    def __init__(self, folder: Path, services: str = "sqs") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = 0
        self._services = services
        self._process: subprocess.Popen[bytes] | None = None
        self._clock = folder / "ministack.clock"
        ServerClock(self._clock)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Start it, on the port it had before if there was one.

        Raises:
            RuntimeError: it did not start. The message ends with what it said.
        """
        kept = {"SERVICES": self._services, "PERSIST_STATE": "1", "STATE_DIR": str(self.folder / "state")}
        log = self.folder / "ministack.log"
        for _ in range(ATTEMPTS):
            port = self.port or free_port()
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.servers.leash", sys.executable, "-m", "tests.servers.run", "ministack",
                     str(port), str(self._clock)],
                    stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=ROOT, env={**os.environ, **kept},
                )  # fmt: skip
            if self._answers(port):
                self.port = port
                return
            self.kill()
        raise RuntimeError(f"ministack did not start:\n{log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End it in order: it writes down what it has."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(STOPPING_SECONDS)
            self.kill()

    def kill(self) -> None:
        """End it at once, with all that it holds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = None

    def freeze(self) -> None:
        """Stop it in its tracks: connections are taken, requests are not answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None, "the server is not running"
        self._process.send_signal(number)

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        until = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            if is_ready("ministack", port):
                return True
            time.sleep(0.05)
        return False


@contextmanager
def ministack_running(folder: Path, services: str = "sqs") -> Iterator[MiniStack]:
    """A server, ready; killed on leaving."""
    server = MiniStack(folder, services)
    server.start()
    try:
        yield server
    finally:
        server.kill()
