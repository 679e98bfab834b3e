"""Runs one server in this process: `python run.py ministack|moto|microburst PORT [CLOCK | UPSTREAM]`.

Two things a test needs and the servers do not offer. They end with the test process, however that ends: standard input
is a pipe from it, and its end is theirs. And their wall clock can be moved ahead, so that nobody waits for a lease, a
retention or a deduplication window: CLOCK is a file of one double, the seconds to add, shared with the test process.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

HOST = "127.0.0.1"


def offset_of(path: str) -> Callable[[], float]:
    """The seconds to add to the clock, as they are now."""
    with Path(path).open("rb") as file:
        shared = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    return lambda: float(struct.unpack_from("d", shared)[0])


def ministack(port: str, clock: str) -> None:
    offset, real = offset_of(clock), time.time
    time.time = lambda: real() + offset()
    os.environ |= {"BIND_HOST": HOST, "GATEWAY_PORT": port, "IOT_MTLS_ENABLED": "0"}
    os.environ.setdefault("SERVICES", "sqs")
    os.environ |= {"LOG_LEVEL": "WARNING"}
    from ministack import app

    start: Callable[[], None] = app.main
    sys.argv = ["ministack"]
    start()


def moto(port: str, clock: str) -> None:
    from moto.core import utils
    from moto.server import main

    offset, real = offset_of(clock), utils.utcnow
    utils.utcnow = lambda: real() + timedelta(seconds=offset())
    main(["-H", HOST, "-p", port])


def microburst(port: str, upstream: str) -> None:
    from microburst.cli import main

    sys.argv = ["microburst", "--host", HOST, "--port", port, "--upstream", upstream]
    main()


def end_with_parent() -> None:
    while os.read(0, 4096):  # not by `sys.stdin`, whose lock the interpreter wants when it ends
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    _, server, *arguments = sys.argv
    {"ministack": ministack, "moto": moto, "microburst": microburst}[server](*arguments)
