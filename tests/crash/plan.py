"""How each boundary is reached: by which process, how often at most, and with which messages."""

from __future__ import annotations

import msgspec

from crossfoot.boundaries import Boundary
from tests.crash.job import BROKEN, GOOD


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The way to one boundary.

    Attributes:
        times: the n of "the n-th time" is drawn from 1 to this; so often it is reached for certain.
        times_in_batches: the same where one transaction holds several messages.
        role: whose life leads there.
        by_publisher: whether a publisher gets there, too, on a queue that is not in the book's own file.
        mostly: the type most messages should be of.
        pause: seconds a handler takes.
    """

    times: int = 4
    times_in_batches: int = 2
    role: str = "work"
    by_publisher: bool = False
    mostly: str = GOOD
    pause: float = 0.0

    def roles(self, *, remote: bool) -> list[str]:
        return [self.role, "publish"] if self.by_publisher and remote else [self.role]

    def most(self, role: str, *, batch: bool) -> int:
        return self.times_in_batches if batch and role == "work" else self.times


PLANS: dict[Boundary, Plan] = {
    Boundary.AFTER_RECEIVE: Plan(times=3),
    Boundary.AFTER_RECEIVED_ENTRY: Plan(times=3),
    Boundary.INSIDE_HANDLER: Plan(times=8, times_in_batches=8),
    Boundary.BEFORE_COMMIT: Plan(times=5),
    Boundary.AFTER_COMMIT: Plan(times=5),
    Boundary.AFTER_ACK: Plan(times=3),
    Boundary.INSIDE_BATCH: Plan(times=5, times_in_batches=5),
    Boundary.DURING_EXTENSION: Plan(times=4, times_in_batches=2, pause=0.2),
    Boundary.BEFORE_SEND: Plan(times=2, by_publisher=True),
    Boundary.AFTER_SEND: Plan(times=2, by_publisher=True),
    Boundary.DURING_MIGRATION: Plan(times=1, times_in_batches=1, role="open"),
    Boundary.DURING_POSTING: Plan(times=1, times_in_batches=1),
    Boundary.BEFORE_DEAD_LETTER: Plan(mostly=BROKEN),
    Boundary.AFTER_DEAD_LETTER: Plan(mostly=BROKEN),
    Boundary.PLANNING_REPLAY: Plan(times=1, times_in_batches=1, mostly=BROKEN, role="replay"),
    Boundary.BEFORE_MOVE: Plan(times=3, mostly=BROKEN, role="replay"),
    Boundary.AFTER_MOVE: Plan(times=3, mostly=BROKEN, role="replay"),
    Boundary.BETWEEN_STAGES: Plan(times=2, mostly=BROKEN, role="replay"),
    Boundary.BEFORE_FORGET: Plan(times=1, mostly=BROKEN, role="replay"),
    Boundary.AFTER_FORGET: Plan(times=1, mostly=BROKEN, role="replay"),
}


def plan_of(boundary: Boundary) -> Plan:
    """The plan; a boundary without one is one that nobody crashes at.

    Raises:
        LookupError: there is none.
    """
    if boundary not in PLANS:
        raise LookupError(f"nobody crashes at {boundary.value!r} yet: add it to tests/crash/plan.py")
    return PLANS[boundary]


FORGETTING = (Boundary.BEFORE_FORGET, Boundary.AFTER_FORGET)


def boundaries(*, batch: bool, queue: str = "") -> list[Boundary]:
    """All there are in this mode. Only a batch has a middle, and Kafka forgets no single dead letter."""
    left_out = {*(() if batch else (Boundary.INSIDE_BATCH,)), *(FORGETTING if queue == "kafka" else ())}
    return [boundary for boundary in Boundary if boundary not in left_out]
