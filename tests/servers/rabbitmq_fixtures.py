"""The RabbitMQ server as a fixture: one per test process, started when first needed, ended with it.

A test module has it by `pytest_plugins = ["tests.servers.rabbitmq_fixtures"]`. Where none can be had, the tests that want one
are skipped, and the run's last lines say so.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import report_unavailable
from tests.servers.rabbitmq import RabbitServer, running_rabbit
from tests.servers.rabbitmq_packages import CannotBeHad


@pytest.fixture(scope="session")
def _rabbit_or_why(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer | str]:
    try:
        with running_rabbit(tmp_path_factory.mktemp("rabbitmq")) as server:
            yield server
    except CannotBeHad as why:
        yield str(why)


@pytest.fixture
def rabbit(_rabbit_or_why: RabbitServer | str, request: pytest.FixtureRequest) -> RabbitServer:
    """One for many tests, which must leave it running and in order."""
    if isinstance(_rabbit_or_why, str):
        report_unavailable(request.config, "RabbitMQ", _rabbit_or_why)
        pytest.skip(f"RabbitMQ cannot be had: {_rabbit_or_why}")
    return _rabbit_or_why
