"""A real NATS server with JetStream, on a free port of 127.0.0.1 and a folder of its own; and a proxy that loses answers.

`python -m tests.servers.nats PID COMMAND...` keeps one server: it writes the server's process id to the file PID, and ends it
when standard input ends, which is when the test process ends, however that happens.

`NATS_SERVER=/path/to/nats-server` in the environment has the tests run on that one instead.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HOST = "127.0.0.1"
STARTING_SECONDS = 30.0
ATTEMPTS = 3
"""A port that was free may be taken before the server binds it."""

ROOT = Path(__file__).parents[2]


class NatsServer:
    """A server that can be killed, frozen and started again on what it has stored.

    Args:
        configuration: more lines for its configuration file: users, limits.
    """

    def __init__(self, folder: Path, configuration: str = "") -> None:
        self.folder = folder
        self.port = 0
        self._configuration = configuration
        self._keeper: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    def start(self) -> None:
        """Start it, again on the same port if it ran before.

        Raises:
            RuntimeError: it did not start. The message ends with what it said.
        """
        for _ in range(ATTEMPTS):
            if self._run(self.port or _free_port()):
                return
            self.kill()
        raise RuntimeError(f"nats-server did not start:\n{(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._signal(signal.SIGKILL)
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            assert keeper.stdin is not None
            with suppress(BrokenPipeError):
                keeper.stdin.close()
            keeper.wait()

    def freeze(self) -> None:
        """Stop it in its tracks: connections are taken, requests are not answered. Blocks for a moment."""
        self._signal(signal.SIGSTOP)
        time.sleep(0.1)  # its threads stop one after the other

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _run(self, port: int) -> bool:
        config, pid = self.folder / "server.conf", self.folder / "pid"
        config.write_text(f"jetstream {{ store_dir: '{self.folder / 'store'}' }}\n{self._configuration}\n")
        pid.unlink(missing_ok=True)
        binary = os.environ.get("NATS_SERVER") or str(Path(sys.executable).parent / "nats-server")
        command = [binary, "--addr", HOST, "--port", str(port), "--config", str(config)]
        with (self.folder / "log").open("ab") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "tests.servers.nats", str(pid), *command],
                stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=ROOT,
            )  # fmt: skip
        until = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < until and self._keeper.poll() is None:
            with suppress(OSError), socket.create_connection((HOST, port), timeout=1) as connection:
                if pid.exists() and connection.recv(5) == b"INFO ":
                    self.port = port
                    return True
            time.sleep(0.02)
        return False

    def _signal(self, number: int) -> None:
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.kill(int((self.folder / "pid").read_text()), number)


@contextmanager
def running_nats(folder: Path, configuration: str = "") -> Iterator[NatsServer]:
    """A server, ready; killed on leaving."""
    server = NatsServer(folder, configuration)
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Proxy:
    """Between client and server: passes everything on, until it is told to lose the answers, or to cut the line."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server((HOST, 0))
        self.url = f"nats://{HOST}:{self._listener.getsockname()[1]}"
        self._lines: list[socket.socket] = []
        self._cut_at: bytes | None = None
        self.deaf = False
        """Whether what the server says is lost on the way."""
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_once_sent(self, text: bytes) -> None:
        """Once a request with this text went through: lose its answer, and cut the line."""
        self._cut_at = text

    def cut(self) -> None:
        """End every connection."""
        lines, self._lines = self._lines, []
        for line in lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection((HOST, self._upstream))
            except OSError:
                return
            self._lines += [client, server]
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if answers and self.deaf:
                    continue
                if not answers and self._cut_at is not None and self._cut_at in data:
                    self._cut_at, self.deaf = None, True
                    target.sendall(data)
                    time.sleep(0.2)  # the server has it by then
                    self.deaf = False
                    self.cut()
                    return
                target.sendall(data)
        for line in (source, target):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy_to(server: NatsServer) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    try:
        yield proxy
    finally:
        proxy.close()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


def _keep(pid: str, *command: str) -> None:
    """Run the server until it ends or standard input does."""
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    written = Path(f"{pid}.part")
    written.write_text(str(server.pid))
    written.rename(pid)

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        server.kill()

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.wait()
    os._exit(0)


if __name__ == "__main__":
    _keep(*sys.argv[1:])
