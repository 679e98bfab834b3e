"""Somebody who can be told, as the fixture `hook`: `pytest_plugins = ["tests.unit.alert_fixtures"]`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.alert_rig import Hook


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()
