"""Which event suffers which fault: a pure function of the events and the seed.

No case suffers two, so that what follows from one fault (successors that wait for a dead event, for instance) is not
mistaken for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from random import Random

import msgspec

from crossfoot.demo.log import Event
from crossfoot.errors import UsageError


class Fault(StrEnum):
    """What goes wrong, as the table injected-versus-found calls it."""

    REFUSED = "publish refused"
    ANSWER_LOST = "publish answer lost"
    DUPLICATE = "duplicate publication"
    REDELIVERED = "redelivery while running"
    REORDERED = "reorder within a case"
    SWALLOWED = "exception swallowed"
    RAISES_ONCE = "handler raises once"
    RAISES_ALWAYS = "handler raises always"
    MALFORMED = "malformed payload"
    UNKNOWN_ENUM = "unknown enum value"
    UNKNOWN_TYPE = "unknown type"
    KILLED = "worker killed"
    OVERRUN = "lease overrun"
    ACK_LOST = "ack lost"
    EXPIRED = "retention expiry"
    DELETED = "deleted from the queue"
    REBALANCED = "partition taken away"


class Act(StrEnum):
    """What the injector does to one event."""

    REFUSE_FOR_NOW = "refuse for now"
    REFUSE_FOR_GOOD = "refuse for good"
    LOSE_ANSWER = "lose the publish's answer"
    PUBLISH_TWICE = "publish twice"
    COPY_OPERATION = "publish under a second id"
    REDELIVER = "deliver again while it runs"
    REORDER = "publish before its predecessor"
    SWALLOW = "swallow"
    RAISE_ONCE = "raise once"
    RAISE_ALWAYS = "raise always"
    MALFORM = "damage the payload"
    UNKNOWN_ENUM = "misspell the activity"
    UNKNOWN_TYPE = "misspell the type"
    OVERRUN = "outlast the lease"
    LOSE_ACK = "lose the ack"
    EXPIRE = "leave it beyond retention"
    DELETE = "delete it behind our back"
    REBALANCE = "have strangers join the group"


FAULT_OF: dict[Act, Fault] = {
    Act.REFUSE_FOR_NOW: Fault.REFUSED,
    Act.REFUSE_FOR_GOOD: Fault.REFUSED,
    Act.LOSE_ANSWER: Fault.ANSWER_LOST,
    Act.PUBLISH_TWICE: Fault.DUPLICATE,
    Act.COPY_OPERATION: Fault.DUPLICATE,
    Act.REDELIVER: Fault.REDELIVERED,
    Act.REORDER: Fault.REORDERED,
    Act.SWALLOW: Fault.SWALLOWED,
    Act.RAISE_ONCE: Fault.RAISES_ONCE,
    Act.RAISE_ALWAYS: Fault.RAISES_ALWAYS,
    Act.MALFORM: Fault.MALFORMED,
    Act.UNKNOWN_ENUM: Fault.UNKNOWN_ENUM,
    Act.UNKNOWN_TYPE: Fault.UNKNOWN_TYPE,
    Act.OVERRUN: Fault.OVERRUN,
    Act.LOSE_ACK: Fault.ACK_LOST,
    Act.EXPIRE: Fault.EXPIRED,
    Act.DELETE: Fault.DELETED,
    Act.REBALANCE: Fault.REBALANCED,
}

LEFT_OUT: dict[str, dict[Fault, str]] = {
    "kafka": {
        Fault.REDELIVERED: "while a consumer has a partition, nobody else can have its messages delivered again",
        Fault.DELETED: "no single message can be deleted from a topic",
    },
}
"""Faults that have no counterpart on a kind of queue, and why not."""

GROUPS = ("kafka",)
"""Kinds of queues whose consumers are a group that shares partitions; only those can be taken away."""


def faults_on(queue: str) -> list[Fault]:
    """What can go wrong on that kind of queue."""
    others = [] if queue in GROUPS else [Fault.REBALANCED]
    return [fault for fault in Fault if fault not in LEFT_OUT.get(queue, {}) and fault not in others]


SLOW = (Act.REDELIVER, Act.OVERRUN)
"""Acts that keep a handler busy for as long as a lease: fewer of them."""

ON_FIRST = (Act.LOSE_ACK, *SLOW, Act.REBALANCE)
"""Acts that need a case's first event: it is never early, so that its handler runs at its first delivery, and begins
before its transaction does."""

CANDIDATES = 6
"""Events of which one is to see its partition taken away. Whether it is, when strangers join, the group decides."""

EARLY: dict[Act, float] = {Act.EXPIRE: 0.35, Act.REDELIVER: 0.7, Act.OVERRUN: 0.7, Act.REBALANCE: 0.7}
"""Acts that need time to show, and therefore fall into the first part of the log."""


class Plan(msgspec.Struct, frozen=True):
    """What the injector is going to do.

    Attributes:
        acts: by the event's sequence.
        kills: at which parts of the work (0 to 1) a worker is killed.
    """

    acts: dict[int, Act]
    kills: tuple[float, ...]

    def of(self, act: Act) -> list[int]:
        return [sequence for sequence, planned in self.acts.items() if planned is act]


def make(events: Sequence[Event], seed: int, queue: str = "embedded") -> Plan:
    """Draw the plan.

    Args:
        events: in publish order, whole cases.
        queue: its kind, see `faults_on`.

    Raises:
        UsageError: there are too few cases for every fault to happen once.
    """
    chance = Random(f"crossfoot demo {seed}")
    order = list(enumerate(events))
    chance.shuffle(order)
    taken: set[str] = set()
    acts: dict[int, Act] = {}
    possible = [act for act in Act if FAULT_OF[act] in faults_on(queue)]
    for act in sorted(possible, key=lambda one: (one not in ON_FIRST, EARLY.get(one, 1.0))):  # the choosiest first
        for _ in range(count(act, len(events))):
            event = next(
                (e for at, e in order if e.case not in taken and _fits(act, e, at / len(events), events)), None
            )
            if event is None:
                raise UsageError(f"{len(events)} events are too few for every fault to happen: ask for more --messages")
            taken.add(event.case)
            acts[event.sequence] = act
    kills = sorted(chance.uniform(0.1, 0.9) for _ in range(kill_count(len(events))))
    return Plan(acts, tuple(kills))


def count(act: Act, size: int) -> int:
    """How often, among `size` events."""
    if act is Act.REBALANCE:
        return CANDIDATES
    if act in SLOW:
        return min(5, max(1, size // 8_000))
    return max(1, size // 4_000) if _is_half(act) else max(1 if size < 250 else 2, size // 2_500)


def kill_count(size: int) -> int:
    """How many workers are killed."""
    return min(8, max(2, size // 4_000))


def _is_half(act: Act) -> bool:
    """Whether another act causes the same fault."""
    return sum(fault is FAULT_OF[act] for fault in FAULT_OF.values()) > 1


def _fits(act: Act, event: Event, at: float, events: Sequence[Event]) -> bool:
    """Whether this can happen to that event, which stands at the part `at` of the log."""
    if at > EARLY.get(act, 1.0):
        return False
    return event.predecessor == 0 if act in ON_FIRST else act is not Act.REORDER or event.predecessor > 0
