"""One parent of victims, one SQS, one Valkey and one PostgreSQL per test process, and the seed of this run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.crash.nursery import Nursery, a_nursery
from tests.servers.postgres import postgres_running
from tests.servers.processes import Server, running
from tests.servers.valkey import Valkey, valkey_running


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with a_nursery(tmp_path_factory.mktemp("victims")) as made:
        yield made


@pytest.fixture(scope="session")
def sqs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of its own: nobody else moves its clock."""
    with running("ministack", tmp_path_factory.mktemp("crash-sqs")) as server:
        yield server


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey_running(tmp_path_factory.mktemp("crash-redis"), appendonly="no") as server:
        yield server


class Endpoint:
    """A server as the tests here ask for it."""

    def __init__(self, url: str) -> None:
        self.url = url


@pytest.fixture(scope="session")
def postgres() -> Iterator[Endpoint]:
    """Its commits do not wait for the disk: it is the workers that are killed here, and never the server."""
    with postgres_running(fsync="off") as server:
        yield Endpoint(server.url())


@pytest.fixture(scope="session")
def seed() -> int:
    """Drawn anew in every run, and told by whatever fails; `CRASH_SEED` repeats one."""
    return int(os.environ.get("CRASH_SEED") or int.from_bytes(os.urandom(4), "big"))
