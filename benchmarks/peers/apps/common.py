"""What every peer's module shares: the settings, the completion counter, the effect.

A peer's worker runs in its own process or processes, so completions are
counted in a small memory-mapped file: one slot a process, written without
locks between processes and read by run.py while the worker runs.  One mark
costs well under a microsecond, and every peer pays the same.

CLOCK_MONOTONIC is one clock for all processes of a machine, so the time
between the first and the last completion is taken inside the workers and
start-up is not in it.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import mmap
import os
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

WORKLOAD = os.environ.get("PEER_WORKLOAD", "noop")  # noop | effect | crash
CONCURRENCY = int(os.environ.get("PEER_CONCURRENCY", "32"))
MARKS = os.environ.get("PEER_MARKS", "")
PG_DSN = os.environ.get("PG_DSN", "")
REDIS_URL = os.environ.get("REDIS_URL", "")
AMQP_URL = os.environ.get("AMQP_URL", "")
NATS_URL = os.environ.get("NATS_URL", "")
CRASH_SLEEP = 0.020  # crash.py: 20 ms of work, the effect, and 20 ms more before the acknowledgement

# The effect: one row keyed by the business key.  'crash' writes to a table
# without a key instead, so that a second run of a handler leaves a second row.
EFFECT_SQL = "INSERT INTO effects (key, value) VALUES ({0}, {1}) ON CONFLICT (key) DO NOTHING"
CRASH_SQL = "INSERT INTO effects_log (key, value) VALUES ({0}, {1})"


def sql(a: str, b: str) -> str:
    return (CRASH_SQL if WORKLOAD == "crash" else EFFECT_SQL).format(a, b)


# ---------------------------------------------------------------- completions
SLOT = struct.Struct("<qqqq")  # pid, count, first_ns, last_ns
_lock = threading.Lock()
_view: mmap.mmap | None = None
_base = 0
_pid = 0
_count = 0
_first = 0


def _claim() -> None:
    """Take this process's slot (again after a fork)."""
    global _view, _base, _pid, _count
    fd = os.open(MARKS, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    _view = mmap.mmap(fd, 0)
    for base in range(0, len(_view), SLOT.size):
        if SLOT.unpack_from(_view, base)[0] == 0:
            break
    _base, _pid, _count = base, os.getpid(), 0
    SLOT.pack_into(_view, _base, _pid, 0, 0, 0)
    fcntl.flock(fd, fcntl.LOCK_UN)  # mmap keeps a copy of fd, so close() alone would not
    os.close(fd)


def mark() -> None:
    """Count one completed handler."""
    global _count, _first
    if not MARKS:
        return
    with _lock:
        if _pid != os.getpid():
            _claim()
        now = time.monotonic_ns()
        if _count == 0:
            _first = now
        _count += 1
        assert _view is not None
        SLOT.pack_into(_view, _base, _pid, _count, _first, now)


def read_marks(path: str) -> tuple[int, int, int]:
    """(count, first_ns, last_ns) over all processes."""
    with open(path, "rb") as f:
        data = f.read()
    rows = [r for r in SLOT.iter_unpack(data) if r[0] and r[1]]
    if not rows:
        return 0, 0, 0
    return sum(r[1] for r in rows), min(r[2] for r in rows), max(r[3] for r in rows)


def new_marks(path: str, slots: int = 64) -> None:
    with open(path, "wb") as f:
        f.write(bytes(SLOT.size * slots))


# -------------------------------------------------------------------- messages
FRESH = os.environ.get("PEER_KEEP") != "1"  # enqueue() empties the queue first, unless told to add to it
PREFIX = os.environ.get("PEER_PREFIX", "order")


def keys(n: int) -> list[str]:
    return [f"{PREFIX}-{i:07d}" for i in range(n)]


# ---------------------------------------------------------------- the handlers
class SyncEffect:
    """The handler for threaded and forking peers: psycopg, one autocommit connection a thread."""

    def __init__(self) -> None:
        self.local = threading.local()

    def _cursor(self) -> Any:
        if getattr(self.local, "pid", None) != os.getpid():
            import psycopg

            self.local.conn = psycopg.connect(PG_DSN, autocommit=True)
            self.local.cur = self.local.conn.cursor()
            self.local.pid = os.getpid()
            self.local.sql = sql("%s", "%s")
        return self.local.cur

    def __call__(self, key: str, value: int) -> None:
        if WORKLOAD == "crash":
            time.sleep(CRASH_SLEEP)
        if WORKLOAD != "noop":
            self._cursor().execute(self.local.sql, (key, value), prepare=True)
        mark()
        if WORKLOAD == "crash":
            time.sleep(CRASH_SLEEP)


class AsyncEffect:
    """The handler for asyncio peers: an asyncpg pool shared by the process."""

    def __init__(self, size: int = 16) -> None:
        self.size = size
        self.pool: Any = None
        self.opening: asyncio.Future[Any] | None = None
        self.sql = sql("$1", "$2")

    async def _open(self) -> None:
        asyncpg = importlib.import_module("asyncpg")
        if self.opening is None:
            self.opening = asyncio.ensure_future(asyncpg.create_pool(PG_DSN, min_size=self.size, max_size=self.size))
        self.pool = await self.opening

    async def __call__(self, key: str, value: int) -> None:
        if WORKLOAD == "crash":
            await asyncio.sleep(CRASH_SLEEP)
        if WORKLOAD != "noop":
            if self.pool is None:
                await self._open()
            await self.pool.execute(self.sql, key, value)
        mark()
        if WORKLOAD == "crash":
            await asyncio.sleep(CRASH_SLEEP)


async def windowed(make: Callable[[str, int], Awaitable[Any]], items: Sequence[str], width: int = 100) -> float:
    """Enqueue with at most `width` calls in flight: what an asyncio producer would do."""
    start = time.perf_counter()
    for i in range(0, len(items), width):
        await asyncio.gather(*(make(k, i + j) for j, k in enumerate(items[i : i + width])))
    return time.perf_counter() - start
