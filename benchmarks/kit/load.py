"""What a measurement cost, and how much of the machine was somebody else's meanwhile."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

HZ = os.sysconf("SC_CLK_TCK")


def busy_and_total() -> tuple[float, float]:
    """Seconds over all cores since boot: busy, and busy with idle. Linux only."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(x) for x in file.readline().split()[1:9]]  # user nice system idle iowait irq softirq steal
    total = sum(fields) / HZ
    return total - (fields[3] + fields[4]) / HZ, total


@dataclass
class Meter:
    """Wall time and this process's processor time, between `start` and `stop`."""

    seconds: float = 0.0
    cpu: float = 0.0
    others: float = 0.0
    """Share of the machine's processors that other processes used meanwhile."""
    _began: tuple[float, float, float, float] = field(default=(0.0, 0.0, 0.0, 0.0), repr=False)

    def start(self) -> None:
        self._began = (time.perf_counter(), time.process_time(), *busy_and_total())

    def stop(self) -> None:
        wall, cpu, busy, total = self._began
        now_busy, now_total = busy_and_total()
        self.seconds = time.perf_counter() - wall
        self.cpu = time.process_time() - cpu
        self.others = max(0.0, (now_busy - busy - self.cpu) / max(now_total - total, 1 / HZ))


def flush_micros(folder: str, times: int = 40) -> float:
    """Microseconds that this disk takes now for one flushed write of a page: what a durable commit cannot go below."""
    path = os.path.join(folder, "flush-probe")
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.write(file, bytes(4096))
        os.fsync(file)
        took = []
        for _ in range(times):
            begun = time.perf_counter()
            os.pwrite(file, bytes(4096), 0)
            os.fdatasync(file)
            took.append(time.perf_counter() - begun)
        return sorted(took)[times // 2] * 1e6
    finally:
        os.close(file)
        os.unlink(path)
