"""Measure peers and limits on this machine, all in one run; rounds go over all of them in turn, so that a slow minute of the
machine does not fall on one alone."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import catalog, load, measure, report, venvs
from benchmarks.peers.services import Services, running

SHORT = (
    "crossfoot-postgres,crossfoot-postgres-batch,crossfoot-postgres-optimistic,crossfoot-postgres-list,crossfoot-redis,"
    "crossfoot-redis-optimistic,crossfoot-amqp,crossfoot-amqp-optimistic,crossfoot-nats,crossfoot-nats-optimistic,pgqueuer,dbos,"
    "dramatiq-redis-prefetch,huey-redis,dramatiq-amqp,faststream-amqp,faststream-nats"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peers", default=SHORT, help="names with commas, or all; NAME+aof: on Redis with appendfsync=always"
    )
    parser.add_argument(
        "--limits", default="pg-skiplocked-1,pg-skiplocked-multirow100", help="names with commas, all, or none"
    )
    parser.add_argument("--workload", default="noop,effect", help="noop, effect, or both with a comma")
    parser.add_argument("--n", type=int, help="messages a run (default: each row's own, see catalog.py)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=180, help="seconds after which a peer is given up")
    parser.add_argument(
        "--quiet", type=float, default=0.10, metavar="SHARE", help="wait until others use less of the machine"
    )
    parser.add_argument("--patience", type=float, default=60, help="but no longer than so many seconds")
    parser.add_argument("--slow-commit", type=int, default=0, metavar="US", help="PostgreSQL waits so many microseconds before "
                        "each flush of its log (commit_delay), as on a disk whose fsync takes that long")  # fmt: skip
    parser.add_argument("--base", default="crossfoot-postgres", help="the row that ratios are taken to")
    parser.add_argument("--json", help="write everything here, too")


def main(asked: argparse.Namespace) -> int:
    chosen = [
        *names(asked.limits, catalog.LIMITS),
        *names(asked.peers, catalog.PEERS),
    ]
    entries = {name: catalog.find(name) for name in chosen}
    venvs.make(entry.venv for entry in entries.values())
    results: dict[str, dict[str, list[Any]]] = {workload: {} for workload in asked.workload.split(",")}
    about = {**machine(), "commit_delay_us": asked.slow_commit}
    with running(catalog.services_of(chosen)) as services:
        if "postgres" in services.names:
            services.delay_commits(asked.slow_commit)
        for number in range(asked.rounds):
            for workload, rows in results.items():
                for name, entry in entries.items():
                    if isinstance(entry, catalog.Limit) and workload != "effect":
                        continue
                    load.wait_for_quiet(services.pids, asked.quiet, asked.patience)
                    result = _measured(entry, name, workload, services, asked)
                    rows.setdefault(name, []).append(result)
                    _tell(number + 1, workload, name, result)
                    if asked.json:
                        Path(asked.json).write_text(json.dumps({"machine": about, "results": results}, indent=1))
    print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}; {asked.rounds} rounds, median (range)\n")
    print_tables(results, asked.base)
    return int(any(run["check"] != "ok" for rows in results.values() for runs in rows.values() for run in runs))


def print_tables(results: dict[str, dict[str, list[Any]]], base: str) -> None:
    guarantees = {entry.name: entry.guarantee for entry in catalog.PEERS}
    for workload, rows in results.items():
        print(report.table(rows, workload, base, guarantees) + "\n")


def names(option: str, everything: list[Any]) -> list[str]:
    """The rows that an option names."""
    if option in ("all", "none", ""):
        return [entry.name for entry in everything] if option == "all" else []
    return option.split(",")


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S")}  # fmt: skip


def _measured(
    entry: catalog.Peer | catalog.Limit, name: str, workload: str, services: Services, asked: argparse.Namespace
) -> measure.Result:
    try:
        if isinstance(entry, catalog.Limit):
            return measure.limit(entry, asked.n or entry.n, services)
        n = asked.n or entry.n[0 if workload == "noop" else 1]
        return measure.peer(entry, name, workload, n, services, asked.timeout)
    except Exception as error:  # noqa: BLE001 - one peer's failure must not end the run: it is in the table
        return {"n": 0, "per_s": 0.0, "check": f"failed: {str(error)[-300:]}"}


def _tell(number: int, workload: str, name: str, result: measure.Result) -> None:
    print(
        f"round {number} {workload:6} {name:26} {result['per_s']:10,.0f}/s  {result.get('seconds', 0):5.1f} s  "
        f"others {result.get('others', 0):4.0%}  {result['check']}",
        file=sys.stderr,
        flush=True,
    )
