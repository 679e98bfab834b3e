"""The processes of one peer: its module called for an answer, and its workers started and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from benchmarks.peers.catalog import Limit, Peer
from benchmarks.peers.places import HERE, LOGS
from benchmarks.peers.services import Services
from benchmarks.peers.venvs import programs


class Row:
    """A row of the catalog as it is run: `name` may end with `+aof`."""

    def __init__(self, entry: Peer | Limit, name: str, workload: str, services: Services, marks: str = "") -> None:
        self.entry = entry
        self.name = name
        own = entry.env if isinstance(entry, Peer) else {}
        concurrency = entry.concurrency if isinstance(entry, Peer) else 1
        self.env: dict[str, str] = {
            **os.environ, **services.urls, **own,
            "PEER_WORKLOAD": workload, "PEER_MARKS": marks, "PEER_CONCURRENCY": str(concurrency),
            "PYTHONPATH": str(HERE), "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        if name.endswith("+aof"):
            self.env["REDIS_URL"] = services.urls["REDIS_AOF_URL"]

    def call(self, *arguments: str, timeout: float = 600, **more: str) -> Any:
        """Run its module's own command in its environment; what that returned.

        Raises:
            RuntimeError: it returned nothing; with the end of what it said.
        """
        python = str(programs(self.entry.venv) / "python")
        done = subprocess.run(
            [python, "-m", "apps", self.entry.module, *arguments],
            cwd=HERE, env={**self.env, **more}, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        for line in done.stdout.splitlines():
            if line.startswith("RESULT "):
                return json.loads(line[7:])
        raise RuntimeError(f"{self.name} {' '.join(arguments)}: {(done.stderr or done.stdout)[-1500:]}")

    def start(self, log: str) -> list[subprocess.Popen[bytes]]:
        """Start its workers. Each leads a session of its own, so only what we started is ever signalled."""
        assert isinstance(self.entry, Peer)
        LOGS.mkdir(parents=True, exist_ok=True)
        command = [word.replace("{bin}", str(programs(self.entry.venv))) for word in self.entry.worker]
        started = []
        for number in range(self.entry.procs):
            with (LOGS / f"{log}-{number}.log").open("wb") as output:
                env = {**self.env, "PEER_PROC": str(number)}
                started.append(
                    subprocess.Popen(
                        command, cwd=HERE, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )  # fmt: skip
        return started

    @contextmanager
    def working(self, log: str) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Its workers, stopped on leaving."""
        workers = self.start(log)
        try:
            yield workers
        finally:
            stop(workers)


def stop(workers: Sequence[subprocess.Popen[bytes]], number: int = signal.SIGTERM, patience: float = 20) -> None:
    """Stop them: with SIGTERM the leaders, which stop their children themselves; with another signal whole groups."""
    for worker in workers:
        with suppress(ProcessLookupError):
            if number == signal.SIGTERM:
                worker.send_signal(number)
            else:
                os.killpg(worker.pid, number)
    for worker in workers:
        with suppress(subprocess.TimeoutExpired):
            worker.wait(patience)
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)  # stragglers of our own group
        worker.wait()
