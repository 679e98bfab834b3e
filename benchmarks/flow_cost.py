"""What bounds cost: a guarded call beside the bare one, and a fan-out of four beside asyncio.TaskGroup. In one process, in turns.

    python benchmarks/flow_cost.py [--calls 300] [--rounds 200]

Goals: 15 µs added by a guarded call (deadline, limit and fate), 40 µs by a fan-out of four.

Processor time does not count the neighbours' turns, but it does count what they do to caches and clock. So there are many short rounds,
and the goals are judged by their fastest tenth; the medians stand beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from crossfoot import flow

GOALS = {"call": 15.0, "fan-out": 40.0}
"""Microseconds."""


async def nothing() -> int:
    await asyncio.sleep(0)
    return 1


async def bare() -> None:
    await nothing()


def guarded(limit: flow.Limit, ledger: flow.Ledger) -> Callable[[], Awaitable[object]]:
    async def one() -> None:
        await flow.call(nothing, name="nothing", deadline=60.0, limit=limit, ledger=ledger)

    return one


async def grouped() -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(nothing())


def fanned(ledger: flow.Ledger) -> Callable[[], Awaitable[object]]:
    async def one() -> None:
        async with flow.fan_out(deadline=60.0, name="four", ledger=ledger) as group:
            for name in ("a", "b", "c", "d"):
                group.branch(name, nothing)

    return one


async def micros(function: Callable[[], Awaitable[object]], calls: int) -> float:
    """Processor time a call takes: it does not count the neighbours."""
    began = time.process_time()
    for _ in range(calls):
        await function()
    return (time.process_time() - began) / calls * 1e6


async def measure(calls: int, rounds: int) -> dict[str, dict[str, float]]:
    ledger, limit = flow.Ledger(), flow.Limit(100)
    pairs = {"call": (bare, guarded(limit, ledger)), "fan-out": (grouped, fanned(ledger))}
    found = {}
    for name, (without, with_bounds) in pairs.items():
        samples = [(await micros(without, calls), await micros(with_bounds, calls)) for _ in range(rounds)]
        least, most = (sorted(column) for column in zip(*samples, strict=True))
        tenth = rounds // 10
        found[name] = {
            "bare": round(least[tenth], 2),
            "bounded": round(most[tenth], 2),
            "added": round(most[tenth] - least[tenth], 2),
            "added_median": round(statistics.median(most) - statistics.median(least), 2),
            "goal": GOALS[name],
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = asyncio.run(measure(asked.calls, asked.rounds))
    if asked.json:
        print(json.dumps(found))
    else:
        print(f"{'µs a call':10} {'bare':>8} {'bounded':>8} {'added':>8} {'goal':>6} {'added, median':>14}")
        for name, one in found.items():
            row = f"{name:10} {one['bare']:8.1f} {one['bounded']:8.1f} {one['added']:8.1f} {one['goal']:6.0f}"
            print(f"{row} {one['added_median']:14.1f}")
    return int(any(one["added"] > one["goal"] for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
