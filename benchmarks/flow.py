"""The incident: a page asks four services at 80 ms, and pricing takes 1.5 s for ten seconds. Real HTTP on loopback, an open loop.

    python benchmarks/flow.py                                   # every variant, and the partial outage
    python benchmarks/flow.py --variants adaptive --healthy 3 --ill 5 --after 3 --json
    python benchmarks/flow.py --picture docs/pictures/incident.svg

Requests arrive by a Poisson process and wait for nobody. Figures of a variant are those of requests that arrived in the outage, but for
*healthy*, the share of degraded answers before it, and *recovery*, the seconds after it until all answers of a quarter of a second are
full. *Wasted* are calls of pricing that were asked and whose answer nobody took; *useless* are those asked since the outage began, until
the last request had ended, that led to no full answer within the deadline, which is how long a caller waits. The clients, the services
and the arrivals share the machine: where the arrivals of the variant that is judged came late, the figures are the machine's, and no goal
is judged by them. Others may be late by their own doing, as whatever floods the loop that they arrive in.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.flow_kit import services
from benchmarks.flow_kit.pages import DEADLINE, PATIENCE, Variant
from benchmarks.flow_kit.picture import Ended, draw
from benchmarks.flow_kit.variants import VARIANTS

UNBOUNDED, BEST = "unbounded gather", "crossfoot, optional, adaptive"

LATE_MS = 50
"""By how much an arrival may be late before the figures are the machine's."""

WINDOW = 0.25
"""Seconds over which recovery is judged."""


@dataclass
class Run:
    """What became of one variant's requests: arrival, seconds, end."""

    ended: list[Ended] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    under_way: int = 0
    most: int = 0
    lag: float = 0.0
    """By how much the generator itself was late, at worst."""

    def between(self, begins: float, ends: float) -> list[Ended]:
        return [one for one in self.ended if begins <= one[0] < ends]


async def control(url: str, what: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/!{what}") as response:
        answer: dict[str, Any] = await response.json(content_type=None)
        return answer


async def measure(
    variant: Variant, url: str, asked: argparse.Namespace, *, share: float
) -> tuple[dict[str, Any], list[Ended]]:
    """One variant through health, outage and recovery."""
    run, chance = Run(), random.Random(asked.seed)
    begins, ends = asked.healthy, asked.healthy + asked.ill
    over = ends + asked.after
    await control(url, f"ill/{services.HEALTHY}/0")
    await control(url, "reset")
    async with aiohttp.ClientSession(timeout=PATIENCE, connector=aiohttp.TCPConnector(limit=100)) as session:
        page = variant(session, url)
        for _ in range(10):  # connections, and whatever is done at the first call
            await page()

        async def request(at: float) -> None:
            run.under_way += 1
            run.most = max(run.most, run.under_way)
            began = time.monotonic()
            try:
                end = "full" if await page() else "degraded"
            except Exception as error:  # noqa: BLE001 - whatever it is, there was no answer
                end = "none"
                run.errors[type(error).__name__] += 1
            run.under_way -= 1
            run.ended.append((at, time.monotonic() - began, end))

        counts = {}
        began, at, state = time.monotonic(), 0.0, 0
        async with asyncio.TaskGroup() as group:
            while at < over:
                at += chance.expovariate(asked.rps)
                late = time.monotonic() - began - at
                run.lag = max(run.lag, late)
                if late < 0:
                    await asyncio.sleep(-late)
                if state == 0 and at >= begins:
                    state, counts["before"] = 1, await control(url, f"ill/1.5/{share}")
                elif state == 1 and at >= ends:
                    state, counts["after"] = 2, await control(url, f"ill/{services.HEALTHY}/0")
                group.create_task(request(at))
    return _figures(run, counts, begins, ends, over, await control(url, "counts")), run.ended


def _figures(
    run: Run, counts: dict[str, Any], begins: float, ends: float, over: float, last: dict[str, Any]
) -> dict[str, Any]:
    ill, healthy = run.between(begins, ends), run.between(0, begins)
    times = sorted(seconds for _, seconds, _ in ill)
    fates = Counter(end for _, _, end in ill)
    before = Counter(end for _, _, end in healthy)
    return {
        "p50_ms": round(times[len(times) // 2] * 1000),
        "p99_ms": round(times[int(len(times) * 0.99)] * 1000),
        "max_ms": round(times[-1] * 1000),
        "arrivals": len(ill),
        "full_per_s": round(fates["full"] / (ends - begins), 1),
        "degraded_per_s": round(fates["degraded"] / (ends - begins), 1),
        "answered": round((fates["full"] + fates["degraded"]) / len(ill), 4),
        "under_way": run.most,
        "wasted": last["abandoned"].get("/pricing", 0),
        "useless": last["asked"].get("/pricing", 0)
        - counts["before"]["asked"].get("/pricing", 0)
        - sum(end == "full" and seconds <= DEADLINE for _, seconds, end in run.between(begins, over)),
        "abandoned": sum(last["abandoned"].values()),
        "pricing_asked": counts["after"]["asked"].get("/pricing", 0) - counts["before"]["asked"].get("/pricing", 0),
        "connections": last["connections"],
        "healthy_degraded": round(1 - before["full"] / max(1, len(healthy)), 4),
        "recovery_s": _recovery(run, ends, over),
        "generator_late_ms": round(run.lag * 1000),
        "errors": dict(run.errors),
    }


def _recovery(run: Run, ends: float, over: float) -> float | None:
    """Seconds after the outage from which on every window is full."""
    recovered = None
    for number in range(int((over - ends) / WINDOW)):
        begins = ends + number * WINDOW
        full = all(end == "full" for _, _, end in run.between(begins, begins + WINDOW))
        if not full:
            recovered = None
        elif recovered is None:
            recovered = round(begins - ends, 2)
    return recovered


COLUMNS = ("p50_ms", "p99_ms", "max_ms", "full_per_s", "degraded_per_s", "answered", "under_way", "wasted", "useless", "abandoned",
           "connections", "healthy_degraded", "recovery_s", "generator_late_ms")  # fmt: skip


def show(name: str, found: dict[str, dict[str, Any]]) -> None:
    print(f"\n{name}")
    print("  ".join([f"{'variant':30}", *(f"{column:>{max(8, len(column))}}" for column in COLUMNS)]))
    for variant, figures in found.items():
        print("  ".join([f"{variant:30}", *(f"{figures[column]!s:>{max(8, len(column))}}" for column in COLUMNS)]))


def goals(
    outage: dict[str, dict[str, Any]], partial: dict[str, dict[str, Any]], asked: argparse.Namespace
) -> list[tuple[str, bool]]:
    """What was to be shown, for the last variant."""
    best = outage.get(BEST)
    if best is None:
        return []
    found = [
        (f"p99 in the outage {best['p99_ms']} ms, 1.05 of the deadline at most", best["p99_ms"] <= DEADLINE * 1050),
        (f"answered {best['answered']:.2%}, 99.5% at least", best["answered"] >= 0.995),
        (f"healthy and degraded {best['healthy_degraded']:.2%}, 0.1% at most", best["healthy_degraded"] <= 0.001),
        (
            f"recovered after {best['recovery_s']} s, 1 s at most",
            best["recovery_s"] is not None and best["recovery_s"] <= 1,
        ),
    ]
    if (gather := outage.get(UNBOUNDED)) is not None:
        share = best["useless"] / max(1, gather["useless"])
        of_asked = best["wasted"] / max(1, gather["pricing_asked"])
        found.append(
            (
                f"calls of pricing that helped no page in time {share:.1%} of the unbounded variant's, 10% at most; given up "
                f"{of_asked:.1%} of what that one, with its 100 connections, asked in the outage",
                share <= 0.1,
            )
        )
    if (some := partial.get(BEST)) is not None:
        possible = some["arrivals"] * (1 - asked.share)
        share = some["full_per_s"] * asked.ill / possible
        found.append(
            (f"partial outage: {share:.1%} of the full answers that were possible, 95% at least", share >= 0.95)
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rps", type=float, default=200)
    parser.add_argument("--healthy", type=float, default=5)
    parser.add_argument("--ill", type=float, default=10)
    parser.add_argument("--after", type=float, default=6)
    parser.add_argument("--share", type=float, default=0.3, help="of pricing calls that are slow in the partial outage")
    parser.add_argument("--variants", default="", help="only those whose name has one of these in it, with commas")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--picture", type=Path, help="draw the incident without bounds and with them, as SVG")
    asked = parser.parse_args()
    process, url = services.begin()
    wanted = asked.variants.split(",")
    chosen = {name: variant for name, variant in VARIANTS.items() if any(part.strip() in name for part in wanted)}
    found: dict[str, dict[str, dict[str, Any]]] = {"outage": {}, "partial outage": {}}
    ended: dict[str, list[Ended]] = {}
    try:
        for name, variant in chosen.items():
            found["outage"][name], ended[name] = asyncio.run(measure(variant, url, asked, share=1.0))
        for name, variant in chosen.items():
            if name.startswith("crossfoot"):
                found["partial outage"][name], _ = asyncio.run(measure(variant, url, asked, share=asked.share))
    finally:
        process.terminate()
        process.join()
    if asked.picture:
        runs = {name: ended[name] for name in (UNBOUNDED, BEST) if name in ended}
        ends = asked.healthy + asked.ill
        drawn = draw(runs, begins=asked.healthy, ends=ends, over=ends + asked.after)
        asked.picture.write_text(drawn, encoding="utf-8")
    met = goals(found["outage"], found["partial outage"], asked)
    late = max((part[BEST]["generator_late_ms"] for part in found.values() if BEST in part), default=0)
    if asked.json:
        print(json.dumps({**found, "goals": [{"goal": text, "met": yes} for text, yes in met]}))
    else:
        for name, figures in found.items():
            show(name, figures)
        print()
        for text, yes in met:
            print(f"{'met    ' if yes else 'not met'}  {text}")
    if late > LATE_MS:
        print(
            f"the machine was not free: arrivals came up to {late} ms late, and nothing is judged by this",
            file=sys.stderr,
        )
        return 2
    return int(not all(yes for _, yes in met))


if __name__ == "__main__":
    sys.exit(main())
