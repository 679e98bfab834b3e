"""Kill the worker in the middle, start it again, count lost and repeated effects.

Every message's handler works for 20 ms (sleeps), inserts a row, and takes 20 ms more before it returns and is acknowledged. The
rows go to a table without a key, so a handler that runs twice leaves two rows. When half of the effects are in, the
worker gets SIGKILL at a random moment: its whole process group (as when a container is killed or the machine dies), or
one child only (as the out-of-memory killer does). A new worker is started; when all is done, or nothing has moved for the
case's `wait` seconds, we count:

  lost       messages without a row, and the broker holds nothing for them
  stranded   messages without a row that the broker still holds: they come back only after a timeout longer than we waited, or never
  held       messages the broker still holds in all, with or without a row
  repeated   messages with more than one row, and the surplus rows
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import catalog, load, venvs
from benchmarks.peers.apps import common
from benchmarks.peers.cases import CASES, Case
from benchmarks.peers.places import HOME
from benchmarks.peers.run import machine
from benchmarks.peers.services import Services, running
from benchmarks.peers.workers import Row, stop

HALF_SECONDS = 60.0
"""In which half of the effects must be in."""

COUNT = """
SELECT count(*), count(*) FILTER (WHERE c > 1), coalesce(sum(c - 1), 0)::int
FROM (SELECT count(*) AS c FROM effects_log WHERE key LIKE 'order-%' GROUP BY key) x
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases", default="crossfoot", help="all; or words with commas: a case whose name has one of them runs"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", help="write everything here, too")


def main(asked: argparse.Namespace) -> int:
    words = asked.cases.split(",")
    chosen = [case for case in CASES if asked.cases == "all" or any(word in case.name for word in words)]
    if not chosen:
        sys.exit(f"no case has any of {asked.cases!r} in its name: `list` shows them")
    venvs.make(catalog.find(case.peer).venv for case in chosen)
    results: dict[str, list[dict[str, Any]]] = {}
    with running(catalog.services_of(case.peer for case in chosen)) as services:
        for _ in range(asked.rounds):
            for case in chosen:
                try:
                    result = crash(case, services)
                except Exception as error:  # noqa: BLE001 - one case's failure must not end the run: it is in the table
                    result = {"error": str(error)[-300:]}
                results.setdefault(case.name, []).append(result)
                print(f"{case.name:45} {json.dumps(result)}", file=sys.stderr, flush=True)
                if asked.json:
                    Path(asked.json).write_text(json.dumps({"machine": machine(), "results": results}, indent=1))
    print(table(results))
    return 0


def crash(case: Case, services: Services) -> dict[str, Any]:
    """Run one case."""
    entry = catalog.find(case.peer)
    marks = str(HOME / "marks-crash")
    common.new_marks(marks)
    row = Row(entry, case.peer, "crash", services, marks)
    row.env |= case.env
    services.reset_database()
    row.call("enqueue", str(case.n))
    with row.working(f"crash-{case.peer}-1") as workers:
        _wait_for(marks, case.n // 2)
        time.sleep(random.uniform(0, 0.05))  # hit any phase of the handler
        killed = _kill(case, workers)
        at_kill = _rows(services)
        if case.kill == "all":
            common.new_marks(marks)
            with row.working(f"crash-{case.peer}-2"):
                last_effect = _until_done(case, row, services)
        else:
            last_effect = _until_done(case, row, services)
        held = row.call("pending")
    ((distinct, repeated, surplus),) = services.ask(COUNT)
    missing = case.n - distinct
    stranded = min(missing, held)
    result = {
        "n": case.n, "at_kill": at_kill, "lost": missing - stranded, "stranded": stranded, "held": held, "repeated": repeated,
        "surplus": surplus, "last_effect_s": round((last_effect or killed) - killed, 1),
    }  # fmt: skip
    if entry.has_books:
        result["books"] = "; ".join(row.call("check", str(case.n))) or "ok"
    return result


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A line for each case; figures separated by blanks are rounds."""
    lines = [
        "| case | settings | effects at kill | lost | stranded | held | repeated (surplus rows) | last effect after kill | books |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for case in CASES:
        runs = [run for run in results.get(case.name, ()) if "error" not in run]
        if not runs:
            if results.get(case.name):
                lines.append(f"| {case.name} | {case.note} | failed: {results[case.name][-1]['error'][-120:]} |")
            continue
        told = [" ".join(str(run[field]) for run in runs) for field in ("at_kill", "lost", "stranded", "held")]
        told.append(" ".join(f"{run['repeated']} ({run['surplus']})" for run in runs))
        told.append(f"{statistics.median(run['last_effect_s'] for run in runs)} s")
        told.append("; ".join(sorted({run.get("books", "-") for run in runs})))
        lines.append(f"| {case.name} | {case.note} | {' | '.join(told)} |")
    return "\n".join(lines)


def _wait_for(marks: str, count: int) -> None:
    deadline = time.monotonic() + HALF_SECONDS
    while common.read_marks(marks)[0] < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"half of the effects took more than {HALF_SECONDS:g} s")
        time.sleep(0.005)


def _kill(case: Case, workers: Sequence[subprocess.Popen[bytes]]) -> float:
    """Kill, and return when."""
    if case.kill == "child":
        os.kill(max(load.children(workers[0].pid)), signal.SIGKILL)  # a child of the worker that we started
        return time.monotonic()
    stop(workers, signal.SIGKILL)
    killed = time.monotonic()
    time.sleep(0.3)  # commits of the dead that are on their way arrive
    return killed


def _until_done(case: Case, row: Row, services: Services) -> float | None:
    """Wait until every message has its row and the broker is empty, or nothing has changed for a while.

    Returns:
        When the last row came in; `None` if there was none.
    """
    started = time.monotonic()
    if case.traffic:
        time.sleep(8)
        row.call("enqueue", str(case.traffic), PEER_KEEP="1", PEER_PREFIX="late")
    last, quiet_since, change = _rows(services), started, None
    while True:
        now = _rows(services)
        if now != last:
            last, quiet_since = now, time.monotonic()
            change = quiet_since
        quiet = time.monotonic() - quiet_since
        if quiet > case.wait or (
            quiet > 3 and _distinct(services) == case.n + case.traffic and row.call("pending") == 0
        ):
            return change
        time.sleep(0.25)


def _rows(services: Services) -> int:
    return int(services.ask("SELECT count(*) FROM effects_log")[0][0])


def _distinct(services: Services) -> int:
    return int(services.ask("SELECT count(DISTINCT key) FROM effects_log")[0][0])
