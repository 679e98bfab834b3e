"""The boundaries at which a process may die, by name.

The code calls `reach(Boundary.X)` at each of them. Nothing happens there unless a test has installed a hook, which then
kills the process for real (see tests/crash). The list is also what the documentation and the crash matrix cover.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any


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


class ArchiveBoundary(StrEnum):
    """The same on the way into the archive."""

    DURING_WRITE = "while the archive's files are written"
    BEFORE_NAME = "after the archive's files are written, before they have their names"
    BETWEEN_NAMES = "between the names of two of the archive's files"
    BEFORE_SEAL = "after the archive's files are in place, before the book says so"
    DURING_SEAL = "within the transaction that seals"
    AFTER_SEAL = "after the seal, before anything is pruned"
    DURING_PRUNE = "within a transaction that prunes"
    BETWEEN_PRUNES = "between two transactions that prune"
    DURING_DROP = "within the transaction that drops a range"
    DURING_FORGET = "within the transaction that forgets operation keys"
    DURING_GATHER = "within the transaction that moves archived tallies to their day"
    DURING_ERASE = "within the transaction that erases in the book"
    BEFORE_ERASED = "after a file without the payloads is written, before it takes the other one's place"
    AFTER_ERASED = "after it has taken that place, before the book says so"


Hook = Callable[[Any], None]
"""Called with the boundary; a test may know only those of one kind."""

_hook: Hook | None = None


def reach(boundary: Boundary | ArchiveBoundary) -> None:
    """Say that execution is here."""
    if _hook is not None:
        _hook(boundary)


def install(hook: Hook | None) -> None:
    """Call `hook` at every boundary from now on; `None` removes it."""
    global _hook  # noqa: PLW0603 - one process, one hook
    _hook = hook
