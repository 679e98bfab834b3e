"""Where the demo's queues are: in the book's file, or on an SQS server of its own."""

from __future__ import annotations

import http.client
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from crossfoot.demo.emulator import HOST
from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Queue

SERVICE = "billing"
LATE = "billing-late"
"""The queue whose consumer comes too late."""

LIMIT_BYTES = 65_536
"""The largest message of the demo's embedded queue."""

STARTING_SECONDS = 30.0
REGION = "eu-central-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo"}
"""The emulator takes any."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The queues of one demo.

    Attributes:
        main, late: for the publisher.
        settings: what a worker's service must know to find the main queue; `late_settings` the other.
        environment: for worker processes.
        late_retention: seconds after which the late queue forgets.
        lease: seconds.
    """

    main: Queue
    late: Queue
    settings: dict[str, Any]
    late_settings: dict[str, Any]
    late_retention: float
    lease: float
    environment: dict[str, str] = {}


@asynccontextmanager
async def embedded(path: Path) -> AsyncIterator[Place]:
    """Both queues in the book's file, which must exist."""
    common: dict[str, Any] = {"max_bytes": LIMIT_BYTES, "ordered": False, "synchronous": SYNCHRONOUS}
    retention = 3.0
    yield Place(
        main=EmbeddedQueue(path, SERVICE, **common),
        late=EmbeddedQueue(path, LATE, retention=retention, **common),
        settings={"queue": f"embedded:{SERVICE}", **common},
        late_settings={"queue": f"embedded:{LATE}", "retention": retention, **common},
        late_retention=retention,
        lease=8.0,
    )


SYNCHRONOUS = "NORMAL"
"""The demo kills processes and not the machine: what is committed survives that without a flush to the disk."""


@asynccontextmanager
async def sqs(folder: Path) -> AsyncIterator[Place]:
    """An SQS server in a process of its own, with both queues and their dead letters.

    Raises:
        UsageError: the server or the client is not installed; with the remedy.
        QueueUnavailable: it does not start.
    """
    for package, remedy in (("boto3", "pip install 'crossfoot[sqs]'"), ("ministack", "pip install ministack")):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"--queue sqs needs the package {package}: {remedy}, or in a clone: make setup")
    import boto3

    from crossfoot.queues.sqs import SqsQueue, ensure

    session = boto3.Session("demo", "demo", region_name=REGION)
    with (folder / "ministack.log").open("ab") as output:
        process, url = await anyio.to_thread.run_sync(_start, output, abandon_on_cancel=False)
        try:
            options: dict[str, Any] = {"endpoint_url": url, "region": REGION, "session": session}
            retention = 60.0
            await ensure(SERVICE, **options)
            await ensure(LATE, retention=retention, **options)
            shared = {"endpoint": url, "region": REGION, "synchronous": SYNCHRONOUS}
            yield Place(
                main=SqsQueue(SERVICE, **options),
                late=SqsQueue(LATE, **options),
                settings={"queue": f"sqs:{SERVICE}", **shared},
                late_settings={"queue": f"sqs:{LATE}", **shared},
                late_retention=retention,
                lease=8.0,
                environment=CREDENTIALS,
            )
        finally:
            _end(process)


def _start(output: Any) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server on a free port, and wait until it answers."""
    port = _free_port()
    command = [sys.executable, "-m", "crossfoot.demo.emulator", str(port)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True, env=dict(os.environ)
    )
    until = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if _answers(port):
            return process, f"http://{HOST}:{port}"
        time.sleep(0.05)
    _end(process)
    raise QueueUnavailable(f"MiniStack did not start within {STARTING_SECONDS:g} s: see {output.name}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/_ministack/health")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port
