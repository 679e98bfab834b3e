"""The NATS server as a fixture: one per test process, ended with it.

A test module has it by `pytest_plugins = ["tests.servers.nats_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.nats import NatsServer, Proxy, proxy_to, running_nats


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def nats_proxy(nats_server: NatsServer) -> Iterator[Proxy]:
    with proxy_to(nats_server) as proxy:
        yield proxy
