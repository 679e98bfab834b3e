"""`promtool` as a fixture, fetched when first needed.

A test module has it by `pytest_plugins = ["tests.servers.prometheus_fixtures"]`. Where it cannot be had, the tests that want it are
skipped, and the run's last lines say so.
"""

from __future__ import annotations

import pytest

from tests.conftest import report_unavailable
from tests.servers.debian import CannotBeHad
from tests.servers.prometheus import Promtool
from tests.servers.prometheus import promtool as found


@pytest.fixture(scope="session")
def _promtool_or_why() -> Promtool | str:
    try:
        return found()
    except CannotBeHad as why:
        return str(why)


@pytest.fixture
def promtool(_promtool_or_why: Promtool | str, request: pytest.FixtureRequest) -> Promtool:
    if isinstance(_promtool_or_why, str):
        report_unavailable(request.config, "Prometheus", _promtool_or_why)
        pytest.skip(f"Prometheus cannot be had: {_promtool_or_why}")
    return _promtool_or_why
