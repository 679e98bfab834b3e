"""Crossfoot: every message ends in exactly one provable fate, and the books balance."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossfoot.app import Crossfoot
    from crossfoot.effects.proof import Noop
    from crossfoot.effects.sequence import InOrder
    from crossfoot.errors import CrossfootError
    from crossfoot.message import Message
    from crossfoot.worker.retry import Retry

__all__ = ["Crossfoot", "CrossfootError", "InOrder", "Message", "Noop", "Retry"]

# Imported when they are asked for, because `crossfoot.flow` is to be had without the rest.
_HOMES = {
    "Crossfoot": "crossfoot.app",
    "CrossfootError": "crossfoot.errors",
    "InOrder": "crossfoot.effects.sequence",
    "Message": "crossfoot.message",
    "Noop": "crossfoot.effects.proof",
    "Retry": "crossfoot.worker.retry",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
