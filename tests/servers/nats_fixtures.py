"""The NATS server as a fixture: one per test process, ended with it.

A test module has it by `pytest_plugins = ["tests.servers.nats_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.nats import NatsServer, Proxy, nats_server, proxy_to


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def nats_proxy(nats: NatsServer) -> Iterator[Proxy]:
    with proxy_to(nats) as proxy:
        yield proxy
