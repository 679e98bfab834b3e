"""The tests of `crossfoot.flow` run in virtual time, on asyncio and on trio."""

from __future__ import annotations

import pytest

from tests.flow.virtual import Backend, backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    return backend(request.param)
