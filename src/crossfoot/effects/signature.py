"""How a handler is called: with a message, or with a message and its transaction."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from crossfoot.errors import UsageError


def takes_transaction(function: Callable[..., Any], name: str) -> bool:
    """Whether a handler wants the transaction beside the message.

    Raises:
        UsageError: it cannot be called with a message, or with a message and a transaction.
    """
    inner = inspect.unwrap(function)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise UsageError(
            f"handler {name} has a `yield` in it, so a call of it runs nothing: return, and send several messages with tx.send()"
        )
    parameters = [
        p for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]  # fmt: skip
    if len(parameters) not in (1, 2):
        raise UsageError(
            f"handler {name} takes {len(parameters)} arguments: write it as def {name}(message) or (message, tx)"
        )
    names = [parameter.name for parameter in parameters]
    if names[0] in ("tx", "transaction") or names[1:] in (["message"], ["messages"]):
        raise UsageError(
            f"handler {name} takes ({', '.join(names)}): the message comes first, as in def {name}(message, tx)"
        )
    return len(parameters) == 2
