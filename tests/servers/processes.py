"""Starting and ending the servers. Each runs in a process of its own, on a free port of 127.0.0.1."""

from __future__ import annotations

import http.client
import json
import mmap
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from crossfoot.clock import Micros, SystemClock, micros
from tests.servers.run import HOST

STARTING_SECONDS = 30.0
ATTEMPTS = 3
"""A port that was free may be taken before the server binds it."""

READY = {"ministack": "/_ministack/health", "moto": "/moto-api/", "microburst": "/_microburst/health"}


class ServerClock(SystemClock):
    """The clock of a server, ahead of the machine's by as much as tests have moved it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(struct.pack("d", 0.0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 8)

    @property
    def ahead(self) -> float:
        return float(struct.unpack_from("d", self._shared)[0])

    def now(self) -> Micros:
        return super().now() + micros(self.ahead)

    def advance(self, seconds: float) -> None:
        struct.pack_into("d", self._shared, 0, self.ahead + seconds)


class Server:
    """A running server."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes], clock: ServerClock) -> None:
        self.name = name
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self.clock = clock
        self._process = process

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def freeze(self) -> None:
        """Stop it in its tracks: connections are taken, requests are not answered."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the server's own control interface; the JSON it answers."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        assert response.status < 300, f"{self.name} answered {response.status} to {method} {path}: {answer[:200]!r}"
        return json.loads(answer)


class FaultProxy:
    """microburst between the client and a server: what is listed as a rule happens, everything else passes."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self._server = server

    def break_with(self, *rules: Mapping[str, Any]) -> None:
        """From now on these faults, and no others."""
        self._server.request("POST", "/_microburst/rules", list(rules))
        self._server.request("DELETE", "/_microburst/fired")

    def heal(self) -> None:
        self._server.request("POST", "/_microburst/rules", [])

    def fired(self) -> Sequence[Mapping[str, Any]]:
        """Every fault that happened since the rules were set."""
        return list(self._server.request("GET", "/_microburst/fired"))


@contextmanager
def running(name: str, folder: Path, upstream: str = "") -> Iterator[Server]:
    """The server `name`, ready; killed on leaving. Its output is in `folder`.

    Raises:
        RuntimeError: it did not start. The message ends with what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = _start(name, folder, upstream)
    try:
        yield server
    finally:
        server.kill()


def _start(name: str, folder: Path, upstream: str) -> Server:
    clock = ServerClock(folder / f"{name}.clock")
    log = folder / f"{name}.log"
    for _ in range(ATTEMPTS):
        port = free_port()
        command = [sys.executable, "-m", "tests.servers.run", name, str(port), upstream or str(clock.path)]
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=ROOT)
        server = Server(name, port, process, clock)
        if _wait_until_ready(server, process):
            return server
        server.kill()
    raise RuntimeError(f"{name} did not start within {STARTING_SECONDS:g} s:\n{log.read_text()[-2000:]}")


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if is_ready(server.name, server.port):
            return True
        time.sleep(0.05)
    return False


def is_ready(name: str, port: int) -> bool:
    """Whether that server answers there."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", READY[name])
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


ROOT = Path(__file__).parents[2]
"""The repository: the server process finds its script there."""
