"""The crash matrix in full: `python -m tests.crash [--kills 20] [--seed N] [--queue QUEUE] [--at BOUNDARY]`.

Every cell is crashed at `--kills` times at one boundary, over the database forms in turn, and audited. The table says
for each boundary and queue how many processes were killed there, and how many effects were lost, doubled or unaccounted for.
Exits with 1 when anything is, or when a boundary was not reached. A queue whose server cannot be had is named, and left out.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from rich.console import Console
from rich.table import Table

from crossfoot.boundaries import Boundary
from tests.crash.job import FORMS
from tests.crash.nursery import Nursery, a_nursery
from tests.crash.plan import boundaries
from tests.crash.scene import Outcome, Scene
from tests.servers.kafka import running_mock
from tests.servers.nats import running_nats
from tests.servers.postgres import postgres_running
from tests.servers.processes import running
from tests.servers.rabbitmq import running_rabbit
from tests.servers.rabbitmq_packages import CannotBeHad
from tests.servers.valkey import valkey_running

QUEUES = ("embedded", "sqs", "redis", "nats", "rabbitmq", "kafka", "postgres")

PER_SCENE = 5
"""Kills in one file, before it is set right and audited."""


class Cell(msgspec.Struct):
    """One boundary on one queue in one mode."""

    boundary: Boundary
    queue: str
    batch: int
    kills: int = 0
    missed: int = 0
    lost: int = 0
    doubled: int = 0
    unaccounted: int = 0
    problems: int = 0

    def add(self, outcome: Outcome) -> None:
        self.kills += len(outcome.kills) - len(outcome.missed)
        self.missed += len(outcome.missed)
        self.lost += len(outcome.audit.lost)
        self.doubled += len(outcome.audit.doubled)
        self.unaccounted += len(outcome.audit.unaccounted)
        self.problems += len(outcome.audit.problems)

    @property
    def clean(self) -> bool:
        return self.kills > 0 and not (self.missed or self.lost or self.doubled or self.unaccounted or self.problems)


class Matrix:
    """Runs the scenes of all cells, some at a time."""

    def __init__(self, folder: Path, endpoints: Mapping[str, str], seed: int, kills: int) -> None:
        self._folder = folder
        self._endpoints = endpoints
        self._seed = seed
        self._kills = kills
        self._mine = threading.local()
        self._nurseries = ExitStack()
        self._lock = threading.Lock()
        self.said: list[str] = []

    def run(self, cells: Sequence[Cell], jobs: int, console: Console) -> None:
        with self._nurseries, ThreadPoolExecutor(jobs) as pool, console.status("") as status:
            left = len(cells)
            for cell, outcomes in zip(cells, pool.map(self._crash, cells), strict=True):
                left -= 1
                for outcome in outcomes:
                    cell.add(outcome)
                status.update(f"{left} of {len(cells)} cells to go; last: {cell.boundary}, {cell.queue}")

    def _crash(self, cell: Cell) -> list[Outcome]:
        outcomes = []
        for number, start in enumerate(range(0, self._kills, PER_SCENE)):
            name = f"{cell.boundary.name}-{cell.queue}-{cell.batch}-{number}"
            chance = random.Random(f"{self._seed} {name}")
            folder = self._folder / name
            folder.mkdir()
            scene = Scene(
                self._nursery(), folder, seed=chance.randrange(2**32), batch=cell.batch,
                endpoint=self._endpoints.get(cell.queue), form=FORMS[number % len(FORMS)],
            )  # fmt: skip
            outcome = scene.run([cell.boundary] * min(PER_SCENE, self._kills - start), patience=60)
            if outcome.missed or not outcome.audit.clean:
                self.said.append(f"{name}: {outcome}")
            outcomes.append(outcome)
        return outcomes

    def _nursery(self) -> Nursery:
        """Each thread has its own."""
        if not hasattr(self._mine, "nursery"):
            with self._lock:
                folder = self._folder / f"nursery-{threading.get_ident()}"
                folder.mkdir()
                self._mine.nursery = self._nurseries.enter_context(a_nursery(folder))
        nursery: Nursery = self._mine.nursery
        return nursery


def table(cells: Sequence[Cell]) -> Table:
    made = Table(title="crash matrix")
    for title in ("boundary", "queue", "mode"):
        made.add_column(title, no_wrap=True)
    for title in ("kills", "not reached", "effects lost", "effects doubled", "unaccounted", "other"):
        made.add_column(title, justify="right")
    for cell in cells:
        mode = f"batch of {cell.batch}" if cell.batch > 1 else "plain"
        figures = (cell.kills, cell.missed, cell.lost, cell.doubled, cell.unaccounted, cell.problems)
        made.add_row(cell.boundary, cell.queue, mode, *map(str, figures), style=None if cell.clean else "bold red")
    return made


def served(queue: str, folder: Path, servers: ExitStack) -> str:
    """Where its server is, started if it has one.

    Raises:
        CannotBeHad: there is none on this machine.
    """
    if queue == "sqs":
        return servers.enter_context(running("ministack", folder)).url
    if queue == "redis":
        return servers.enter_context(valkey_running(folder, appendonly="no")).url
    if queue == "nats":
        return servers.enter_context(running_nats(folder)).url
    if queue == "kafka":
        return servers.enter_context(running_mock(folder)).url
    if queue == "rabbitmq":
        return servers.enter_context(running_rabbit(folder)).url
    if queue == "postgres":
        return servers.enter_context(postgres_running(fsync="off")).url()
    return ""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description="Kill processes at every boundary.")
    parser.add_argument("--kills", type=int, default=20, help="for each cell (20)")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"), help="repeats a run")
    parser.add_argument("--queue", choices=QUEUES, help="only this one")
    parser.add_argument("--at", type=Boundary, choices=list(Boundary), help="only at this boundary")
    parser.add_argument("--jobs", type=int, default=2, help="scenes at a time (2)")
    asked = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 130)
    started = time.monotonic()
    with TemporaryDirectory(prefix="crash-") as folder, ExitStack() as servers:
        queues = []
        endpoints = {}
        for queue in (asked.queue,) if asked.queue else QUEUES:
            try:
                endpoint = served(queue, Path(folder) / queue, servers)
            except CannotBeHad as why:
                console.print(f"{queue} is left out, its server cannot be had: {why}", soft_wrap=True, highlight=False)
                continue
            queues.append(queue)
            if endpoint:
                endpoints[queue] = endpoint
        cells = [
            Cell(boundary, queue, batch)
            for batch, queue in product((1, 4), queues)
            for boundary in boundaries(batch=batch > 1, queue=queue)
            if asked.at in (None, boundary)
        ]
        matrix = Matrix(Path(folder), endpoints, asked.seed, asked.kills)
        matrix.run(cells, asked.jobs, console)
    console.print(table(sorted(cells, key=lambda cell: (list(Boundary).index(cell.boundary), cell.queue, cell.batch))))
    for line in matrix.said:
        console.print(line, soft_wrap=True, highlight=False)
    kills, minutes = sum(cell.kills for cell in cells), (time.monotonic() - started) / 60
    console.print(f"seed {asked.seed}: {kills:,} processes killed in {minutes:.1f} min")
    return 0 if cells and all(cell.clean for cell in cells) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
