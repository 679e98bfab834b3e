"""The two Kafka brokers as fixtures: one of each per test process, ended with it.

A test module has them by `pytest_plugins = ["tests.servers.kafka_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.kafka import MockCluster, Tansu, running_mock, running_tansu


@pytest.fixture(scope="session")
def kafka_mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockCluster]:
    with running_mock(tmp_path_factory.mktemp("kafka-mock")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def tansu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tansu]:
    with running_tansu(tmp_path_factory.mktemp("tansu")) as broker:
        yield broker
