"""Which event loop a worker runs on."""

from __future__ import annotations

from typing import Any

from crossfoot.errors import UsageError, missing_extra
from crossfoot.settings import Loop


def options_of(loop: Loop) -> dict[str, Any]:
    """The options for `anyio.run`.

    Raises:
        UsageError: uvloop is wanted, and is not installed.
    """
    if loop is Loop.asyncio:
        return {}
    try:
        import uvloop
    except ImportError as error:
        if loop is Loop.uvloop:
            raise UsageError(
                f"{missing_extra('--loop uvloop', 'uvloop')} ({error}). It exists for CPython on Linux and macOS; --loop auto does without"
            ) from error
        return {}
    return {"loop_factory": uvloop.new_event_loop}
