"""The memory of one worker over a million messages: sampled while it works, it must not grow with what it has done.

python benchmarks/memory.py [--messages 1000000] [--batch 100]

The queue is filled by another process, so that this one is never larger than a worker. The first tenth is warming up:
caches fill, and SQLite's page cache reaches its size.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.kit.ours import as_path, check, prepared, sync_handler

PAGE = os.sysconf("SC_PAGE_SIZE")
SAMPLES = 20


def resident_bytes() -> int:
    """What this process holds in memory. Linux only."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * PAGE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=100)
    asked = parser.parse_args()
    samples: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory(prefix="crossfoot-memory-") as folder:
        app, path = prepared(folder, asked.messages, sync_handler, as_path)
        every = max(1, asked.messages // SAMPLES)
        done = 0

        def count(_: object) -> None:
            nonlocal done
            done += 1
            if done % every == 0:
                samples.append((done, resident_bytes()))
                print(f"{done:>12,} messages  {samples[-1][1] / 1e6:8.1f} MB", flush=True)

        async def work() -> None:
            worker = app.worker(batch=asked.batch, concurrency=1)
            worker.on_settled = count
            await worker.run(until_idle=True)

        begun = time.perf_counter()
        anyio.run(work)
        seconds = time.perf_counter() - begun
        answer = check(app, path, asked.messages)
    warm = next(size for number, size in samples if number >= asked.messages / 10)
    growth = samples[-1][1] / warm - 1
    print(f"{asked.messages:,} messages in {seconds:.0f} s; check: {answer}")
    print(
        f"from the first tenth to the end: {warm / 1e6:.1f} MB to {samples[-1][1] / 1e6:.1f} MB, {growth:+.1%} (goal: flat)"
    )
    return 0 if answer == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
