"""Which event loop a worker runs on."""

from __future__ import annotations

from typing import Any

from crossfoot.errors import UsageError
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
                f"--loop uvloop: it cannot be imported ({error}): pip install 'crossfoot[uvloop]', which exists for CPython on "
                "Linux and macOS, or leave the choice to --loop auto"
            ) from error
        return {}
    return {"loop_factory": uvloop.new_event_loop}
