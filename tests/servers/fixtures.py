"""The servers as fixtures: one of each per test process, ended with it.

A test module has them by `pytest_plugins = ["tests.servers.fixtures"]`; `tests.servers.scene` has more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.servers.processes import FaultProxy, Server, running

if TYPE_CHECKING:
    from boto3.session import Session

REGION = "eu-central-1"


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("ministack", tmp_path_factory.mktemp("ministack")) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("moto", tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def _proxy(ministack: Server, aws: Session, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    with running("microburst", tmp_path_factory.mktemp("microburst"), ministack.url) as server:
        # The first request takes it seconds: it reads the descriptions of all services.
        aws.client("sqs", endpoint_url=server.url).list_queues()
        yield FaultProxy(server)


@pytest.fixture
def proxy(_proxy: FaultProxy) -> Iterator[FaultProxy]:
    """The way to MiniStack through microburst, in order at first and put in order afterwards."""
    _proxy.heal()
    yield _proxy
    _proxy.heal()


@pytest.fixture(scope="session")
def aws() -> Session:
    """Credentials any emulator takes."""
    import boto3

    return boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=REGION)
