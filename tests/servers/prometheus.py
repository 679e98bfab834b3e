"""Prometheus and its `promtool`: the machine's, those below `PROMETHEUS_ROOT`, or Debian's package (see `debian`)."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.servers.debian import unpacked
from tests.servers.postgres import LEASH
from tests.servers.processes import ATTEMPTS, STARTING_SECONDS, free_port
from tests.servers.run import HOST

PROGRAMS = ("promtool", "prometheus")

CONFIGURATION = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
- job_name: crossfoot
  static_configs: [{{targets: ["{target}"]}}]
"""


class Promtool:
    """The checks that Prometheus brings along."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __call__(self, *arguments: str, folder: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run it; its exit code is for the caller to judge."""
        return subprocess.run(
            [str(self.place / "usr/bin/promtool"), *arguments],
            cwd=folder, input=text, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip


class Prometheus:
    """A running server."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, path: str) -> Any:
        """What its interface answers below `/api/v1/`, as JSON; nothing while it does not answer."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return json.loads(response.read()) if response.status == 200 else None
        finally:
            connection.close()


def promtool() -> Promtool:
    """Raises `CannotBeHad`, with why."""
    return Promtool(
        unpacked("prometheus", ["prometheus"], _is_complete, what="usr/bin/promtool and usr/bin/prometheus")
    )


def _is_complete(place: Path) -> bool:
    return all((place / "usr/bin" / name).exists() for name in PROGRAMS)


@contextmanager
def running_prometheus(tool: Promtool, folder: Path, *, rules: Path, target: str) -> Iterator[Prometheus]:
    """A server that scrapes `target` (HOST:PORT) and evaluates the rules, both once a second; ended on leaving.

    Raises:
        RuntimeError: it did not start. The message ends with what it said.
    """
    configuration, log = folder / "prometheus.yml", folder / "prometheus.log"
    configuration.write_text(CONFIGURATION.format(rules=rules, target=target), encoding="utf-8")
    for _ in range(ATTEMPTS):
        port = free_port()
        with log.open("ab") as output:
            process = subprocess.Popen(
                [
                    sys.executable, str(LEASH), str(tool.place / "usr/bin/prometheus"), f"--config.file={configuration}",
                    f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={HOST}:{port}",
                ],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder,
            )  # fmt: skip
        try:
            server = Prometheus(port)
            until = time.monotonic() + STARTING_SECONDS
            while time.monotonic() < until and process.poll() is None:
                with suppress(OSError):
                    if server.ask("/api/v1/status/buildinfo") is not None:
                        yield server
                        return
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
    raise RuntimeError(f"prometheus did not start:\n{log.read_text()[-2000:]}")
