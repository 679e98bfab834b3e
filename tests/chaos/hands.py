"""Runs for tests: each in a process of its own, which may have mounts of its own."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from tests.chaos.report import LEFT_OUT
from tests.chaos.run import Report
from tests.conftest import report_unavailable
from tests.servers.processes import ROOT


def chaos(*arguments: str) -> Report | str:
    """The report of a run; why there is none, when its server cannot be had."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--json", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if LEFT_OUT in done.stderr:
        return done.stderr.strip()
    assert done.returncode in (0, 1), f"exit code {done.returncode}:\n{done.stderr}"
    (report,) = msgspec.json.decode(done.stdout, type=list[Report])
    return report


def had(request: pytest.FixtureRequest, name: str, report: Report | str) -> Report:
    """The report. Where there is none the test is skipped, and the run's last lines say so; likewise where no disk could be
    filled up."""
    if isinstance(report, str):
        report_unavailable(request.config, name, report)
        pytest.skip(report)
    if not report.disk:
        report_unavailable(request.config, "a small disk of one's own", "mounting one is not allowed here")
    return report
