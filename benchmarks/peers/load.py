"""How much of the machine was somebody else's while we measured.

Every worker leads a session of its own, and every service is a process whose children are its own (PostgreSQL's backends each have
a session), so the processor time of 'ours' is the sum over those sessions, processes and children. The rest of the busy
time belongs to other programs, and a figure taken beside them is a lower one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

HZ = os.sysconf("SC_CLK_TCK")


class Sample(NamedTuple):
    """Seconds of all cores since boot: busy, busy or idle, and those of ours."""

    busy: float
    total: float
    ours: float


def sample(leaders: AbstractSet[int]) -> Sample:
    """Args: leaders: processes whose time, and whose children's and sessions', is ours."""
    with Path("/proc/stat").open() as file:
        fields = [int(word) for word in file.readline().split()[1:9]]  # user nice system idle iowait irq softirq steal
    total = sum(fields) / HZ
    return Sample(total - (fields[3] + fields[4]) / HZ, total, _of(leaders))


def others(before: Sample, after: Sample) -> float:
    """The share of the machine's time that went to others in between."""
    busy, ours = after.busy - before.busy, after.ours - before.ours
    return max(0.0, (busy - ours) / max(after.total - before.total, 0.01))


def wait_for_quiet(leaders: AbstractSet[int], limit: float, patience: float) -> float:
    """Wait until others use less than `limit` of the machine, or for `patience` seconds; their share by then."""
    deadline = time.monotonic() + patience
    while True:
        before = sample(leaders)
        time.sleep(1.0)
        share = others(before, sample(leaders))
        if share <= limit or time.monotonic() > deadline:
            return share


def children(pid: int) -> set[int]:
    """The processes that a process, any thread of it, has started and that run."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found.update(int(word) for word in (task / "children").read_text().split())
    return found


def _of(leaders: AbstractSet[int]) -> float:
    """Their seconds so far, with those of children that were waited for."""
    ticks = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if leaders & {int(folder.name), int(fields[1]), int(fields[3])}:  # itself, its parent, its session
            ticks += sum(int(word) for word in fields[11:15])  # utime stime cutime cstime
    return ticks / HZ
