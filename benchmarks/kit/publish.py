"""Fills a queue, in a process of its own: what measures then begins as small as a worker does.

python -m benchmarks.kit.publish DATABASE MESSAGES [FIRST]
"""

from __future__ import annotations

import subprocess
import sys

import anyio
import anyio.to_thread

from benchmarks.kit.workload import SERVICE, TYPE, subject
from crossfoot import Crossfoot
from crossfoot.books.posting import post_all


async def publish(path: str, messages: int, first: int) -> None:
    """Publish messages numbered from `first`, a thousand a call, and post what that wrote."""
    app = Crossfoot(SERVICE, database=path, synchronous="NORMAL")
    for start in range(first, first + messages, 1_000):
        numbers = range(start, min(start + 1_000, first + messages))
        await app.publish(*[app.message(TYPE, subject=subject(n), data={"amount": n}) for n in numbers])
    await anyio.to_thread.run_sync(post_all, app.book)
    await app.aclose()


def publish_elsewhere(path: str, messages: int, first: int = 0) -> None:
    """The same, in another process; returns when it is done."""
    subprocess.run([sys.executable, "-m", "benchmarks.kit.publish", path, str(messages), str(first)], check=True)


if __name__ == "__main__":
    anyio.run(publish, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
