"""The boundaries at which a process may die, by name.

The code calls `reach(Boundary.X)` at each of them. Nothing happens there unless a test has installed a hook, which then
kills the process for real (see tests/crash). The list is also what the documentation and the crash matrix cover.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Boundary(StrEnum):
    """A place between two durable steps."""

    AFTER_RECEIVE = "after receive"
    AFTER_RECEIVED_ENTRY = "after the received entry"
    INSIDE_HANDLER = "inside the handler"
    BEFORE_COMMIT = "before commit"
    AFTER_COMMIT = "after commit, before ack"
    AFTER_ACK = "after ack, before its entry"
    INSIDE_BATCH = "in the middle of a batch"
    DURING_EXTENSION = "during lease extension"
    BEFORE_SEND = "in the outbox, before send"
    AFTER_SEND = "in the outbox, after send"
    DURING_MIGRATION = "during migration"
    DURING_POSTING = "during posting"
    BEFORE_DEAD_LETTER = "before dead-lettering"
    AFTER_DEAD_LETTER = "after dead-lettering, before its entry"
    PLANNING_REPLAY = "between two parts of a replay's plan"
    BEFORE_MOVE = "in a replay, before some are moved"
    AFTER_MOVE = "in a replay, after some were moved"
    BETWEEN_STAGES = "in a replay, between two stages"
    BEFORE_FORGET = "in a replay, before dead letters are forgotten"
    AFTER_FORGET = "in a replay, after dead letters were forgotten"


_hook: Callable[[Boundary], None] | None = None


def reach(boundary: Boundary) -> None:
    """Say that execution is here."""
    if _hook is not None:
        _hook(boundary)


def install(hook: Callable[[Boundary], None] | None) -> None:
    """Call `hook` at every boundary from now on; `None` removes it."""
    global _hook  # noqa: PLW0603 - one process, one hook
    _hook = hook
