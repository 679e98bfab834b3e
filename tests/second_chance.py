"""A test that talks to servers and processes may fail because the machine gave them no time: it runs once more.

Nothing is hidden by that: whoever passes at the second try is named at the end of the run, with what was said at the
first, and more than `MOST` of them fail the run. Tests that meet neither a server nor another process have no excuse,
and no second chance.
"""

from __future__ import annotations

from pathlib import Path

import pytest

ROOMS = ("acceptance", "chaos", "conformance", "crash", "fire")
"""The folders of `tests/` whose tests start servers and processes."""

MOST = 10
"""Second chances in one run; more than these are a fault of the project, not of the machine."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        place = item.path.relative_to(config.rootpath) if item.path.is_relative_to(config.rootpath) else Path()
        if place.parts[:1] == ("tests",) and place.parts[1] in ROOMS:
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if len(_first_tries(session.config)) > MOST and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tries = _first_tries(config)
    if not tries:
        return
    terminalreporter.section("did not pass at the first try", yellow=True)
    for report in tries:
        terminalreporter.line(report.nodeid, bold=True)
        terminalreporter.line(report.longreprtext)
    verdict = "which fails the run" if len(tries) > MOST else "which a run may have"
    terminalreporter.line(f"{len(tries)} of at most {MOST}, {verdict}: {', '.join(report.nodeid for report in tries)}")


def _first_tries(config: pytest.Config) -> list[pytest.TestReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return list(reporter.stats.get("rerun", ())) if reporter is not None else []
