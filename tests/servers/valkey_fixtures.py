"""One Valkey server per test process, ended with it.

A test module has it by `pytest_plugins = ["tests.servers.valkey_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.valkey import Valkey, valkey_running


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One for many tests, which must leave it running; quick, for nothing it holds needs to survive."""
    with valkey_running(tmp_path_factory.mktemp("valkey"), appendonly="no") as server:
        yield server
