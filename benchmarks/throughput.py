"""Messages a second with the effect once and full books, beside the limit, the same worker without books, and peers.

    python benchmarks/throughput.py                       all of it, five rounds
    python benchmarks/throughput.py --only plain,batch --rounds 9
    python benchmarks/throughput.py --json result.json

Every variant of a round runs in a process of its own, one after the other, on the same disk; a ratio is taken within a
round and reported as the median of the rounds, because a machine's own speed drifts. Every run is checked: one effect per
message, nothing left in the queue, and the posted books agree.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.kit.one import ALL  # noqa: E402 - the folder must be on the path first

GROUPS = {
    "plain": ("limit-plain", "crossfoot-plain", "crossfoot-plain-no-books"),
    "batch": ("limit-batch", "crossfoot-batch", "crossfoot-batch-no-books", "crossfoot-optimistic", "crossfoot-list"),
    "peers": ("crossfoot-plain", "crossfoot-batch", "huey", "huey-fsync", "dbos"),
    "forms": tuple(name for name in ALL if name.startswith("crossfoot-") and "no-books" not in name),
}

RATIOS = (
    ("plain mode, of the limit", "limit-plain", "crossfoot-plain", "at least 0.60"),
    ("batch mode, of the limit", "limit-batch", "crossfoot-batch", "at least 0.60"),
    ("optimistic batches, of the limit", "limit-batch", "crossfoot-optimistic", "at least 0.60"),
    ("a list handler, of the limit (one INSERT a message)", "limit-batch", "crossfoot-list", "at least 0.60"),
    ("books in plain mode, of no books", "crossfoot-plain-no-books", "crossfoot-plain", "at least 0.80 (25% more time)"),
    ("books in batch mode, of no books", "crossfoot-batch-no-books", "crossfoot-batch", "at least 0.80 (25% more time)"),
    ("plain mode, of Huey as its guide tunes it", "huey", "crossfoot-plain", "above 1"),
    ("plain mode, of Huey with fsync", "huey-fsync", "crossfoot-plain", "above 1"),
    ("batch mode, of Huey as its guide tunes it", "huey", "crossfoot-batch", "above 1"),
    ("plain mode, of DBOS", "dbos", "crossfoot-plain", "above 1"),
)  # fmt: skip
"""Name, the variant it is a ratio of, the variant, the goal."""

Run = dict[str, Any]


def run(name: str, messages: int, folder: str) -> Run:
    command = [sys.executable, "-m", "benchmarks.kit.one", name, str(messages), folder]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=1_800)
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stderr[-3_000:]}")
    result: Run = json.loads(done.stdout.splitlines()[-1])
    return result


def rate(one: Run) -> float:
    return float(one["messages"] / one["seconds"])


def say(runs: dict[str, list[Run]]) -> bool:
    """Print both tables. Returns whether every run did its job."""
    print(f"\n{platform.machine()}, {platform.python_version()}, medians of {max(map(len, runs.values()))} rounds\n")
    print(
        "| variant | guarantee when a worker is killed | messages/s, median (range) | CPU µs/message | others' load | check |"
    )
    print("|---|---|---:|---:|---:|---|")
    sound = True
    for name, of_name in runs.items():
        rates = sorted(map(rate, of_name))
        cpu = statistics.median(one["cpu"] / one["messages"] * 1e6 for one in of_name)
        others = max(one["others"] for one in of_name)
        checks = {one["check"] for one in of_name}
        sound &= checks == {"ok"}
        middle = f"{statistics.median(rates):,.0f} ({rates[0]:,.0f}-{rates[-1]:,.0f})"
        print(f"| {name} | {ALL[name].guarantee} | {middle} | {cpu:.0f} | {others:.0%} | {', '.join(sorted(checks))} |")
    print("\n| ratio | median (range) | goal |\n|---|---:|---|")
    for title, base, name, goal in RATIOS:
        if base in runs and name in runs:
            ratios = sorted(rate(b) / rate(a) for a, b in zip(runs[base], runs[name], strict=True))
            print(f"| {title} | {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}) | {goal} |")
    flush = statistics.median(one["flush_micros"] for of_name in runs.values() for one in of_name)
    print(f"\nOne flushed write of a page takes this disk {flush:.0f} µs.")
    return sound


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=40_000, help="per run; slow variants take a share of them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--only", default="plain,batch,peers", help=f"of {', '.join(GROUPS)}; default: plain,batch,peers"
    )
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the databases lie: the disk matters")
    parser.add_argument("--json", type=Path, help="write every run there, too")
    asked = parser.parse_args()
    names = list(dict.fromkeys(name for group in asked.only.split(",") for name in GROUPS[group]))
    runs: dict[str, list[Run]] = defaultdict(list)
    for number in range(1, asked.rounds + 1):
        for name in names:
            one = run(name, asked.messages, asked.folder)
            runs[name].append(one)
            print(f"round {number}: {name:32} {rate(one):>10,.0f}/s  {one['check']}", file=sys.stderr, flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(runs, indent=1))
    return 0 if say(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
