"""One measurement: N messages enqueued, then a worker timed from its first completion to its last, then the check."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.peers import load
from benchmarks.peers.apps import common
from benchmarks.peers.catalog import Limit, Peer
from benchmarks.peers.places import HOME
from benchmarks.peers.services import Services
from benchmarks.peers.workers import Row

Result = dict[str, Any]

LAST_ACKS_SECONDS = 1.0
"""After the last handler has returned: for the acks and entries that follow it."""


def peer(entry: Peer, name: str, workload: str, n: int, services: Services, timeout: float) -> Result:
    """Measure one peer. `check` of the result is `ok`, or what does not add up."""
    marks = HOME / f"marks-{name}"
    common.new_marks(str(marks))
    row = Row(entry, name, workload, services, str(marks))
    services.reset_database()
    enqueue_seconds = row.call("enqueue", str(n))
    services.ask("VACUUM ANALYZE")  # as autovacuum would have, had it had its minute
    begin = end = None
    with row.working(f"{name}-{workload}") as workers:
        leaders = {worker.pid for worker in workers}
        deadline = time.monotonic() + timeout
        done = 0
        while time.monotonic() < deadline and any(worker.poll() is None for worker in workers):
            time.sleep(0.05 if begin is None else 0.2)
            done = common.read_marks(str(marks))[0]
            if done and begin is None:
                begin = (done, load.sample(leaders), load.sample(services.pids))
            if done >= n:
                break
        end = (done, load.sample(leaders), load.sample(services.pids))
        time.sleep(LAST_ACKS_SECONDS)
        done, first, last = common.read_marks(str(marks))
    marks.unlink()
    result: Result = {"n": n, "done": done, "seconds": (last - first) / 1e9, "enqueue_per_s": n / enqueue_seconds}
    result["per_s"] = (done - 1) / result["seconds"] if done > 1 and last > first else 0.0
    if begin is not None and end[0] > begin[0]:
        worker, service = end[1].ours - begin[1].ours, end[2].ours - begin[2].ours
        result["worker_cpu_ms"] = 1000 * worker / (end[0] - begin[0])
        result["service_cpu_ms"] = 1000 * service / (end[0] - begin[0])
        busy, total = end[1].busy - begin[1].busy, end[1].total - begin[1].total
        result["others"] = max(0.0, (busy - worker - service) / max(total, 0.01))
    result["check"] = "; ".join(_problems(row, workload, n, done, services)) or "ok"
    return result


def limit(entry: Limit, n: int, services: Services) -> Result:
    """Measure one limit, whose module times itself."""
    row = Row(entry, entry.name, "effect", services)
    services.reset_database()
    ours = services.pids | {os.getpid()}
    before = load.sample(ours)
    result = row.call("run", entry.name, str(n))
    return {"n": n, "done": n, "others": load.others(before, load.sample(ours)), **result}


def _problems(row: Row, workload: str, n: int, done: int, services: Services) -> Sequence[str]:
    problems = []
    if done != n:
        problems.append(f"{done} handler runs for {n} messages")
    if left := row.call("pending"):
        problems.append(f"{left} left in the queue")
    if workload == "effect":
        ((rows,),) = services.ask("SELECT count(*) FROM effects")
        if rows != n:
            problems.append(f"{rows} rows")
    if row.entry.has_books:
        problems += row.call("check", str(n))
    return problems
