"""The sequence guard: events of one subject take effect in order, whatever order they arrive in.

A handler that asks for it (`in_order=InOrder(...)`) sees each subject's events by rising sequence: the stale one is
superseded, the early one is parked in the book until its predecessor was applied or until its patience is over.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from crossfoot.errors import UsageError


class InOrder(msgspec.Struct, frozen=True, kw_only=True):
    """How a handler wants its subject's events.

    Attributes:
        wait: seconds that an early event waits for its predecessor; then the gap is accepted and booked.
        contiguous: sequences of a subject rise by one; an event that does not name its `predecessor` then waits for
            the one before it. Otherwise only a named predecessor is waited for.
        first: where sequences begin; a predecessor below it is none. Say 0 if yours begin there.
    """

    wait: float = 600.0
    contiguous: bool = False
    first: int = 1

    def __post_init__(self) -> None:
        if not self.wait > 0:
            raise UsageError(f"InOrder(wait={self.wait}): an early event must wait some time; give seconds above zero")


class Turn(Enum):
    """Whether an event may take effect now."""

    APPLY = "apply"
    SUPERSEDE = "supersede"
    PARK = "park"


def turn_of(last: int | None, sequence: int, predecessor: int | None, order: InOrder) -> Turn:
    """Compare an event with the last one applied of its subject.

    Args:
        last: the highest sequence applied, `None` when none was.
        sequence: the event's own.
        predecessor: the sequence that must be applied before it, if the publisher said so.
    """
    if last is not None and sequence <= last:
        return Turn.SUPERSEDE
    before = awaited(sequence, predecessor, order)
    if before is None or (last is not None and last >= before):
        return Turn.APPLY
    return Turn.PARK


def awaited(sequence: int, predecessor: int | None, order: InOrder) -> int | None:
    """The sequence an event waits for, `None` when it is a first one or waits for nothing."""
    if predecessor is not None:
        return predecessor if predecessor >= order.first else None
    return sequence - 1 if order.contiguous and sequence > order.first else None
