"""The schedule: which fault, when, on what, and for how long. Drawn from a seed before the run begins; pure."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

KINDS: dict[str, tuple[float, float]] = {
    # of a process
    "kill": (0.0, 0.0),
    "freeze": (3.0, 5.0),
    "stop": (0.0, 0.0),
    "clock step": (1.0, 6.0),
    # of a server
    "restart": (0.0, 1.0),
    "crash": (0.0, 2.0),
    "hang": (1.0, 4.0),
    "sessions ended": (0.0, 0.0),
    "memory full": (1.0, 3.0),
    # of a cable
    "cut": (0.0, 0.0),
    "stall": (0.5, 4.0),
    "answers late": (0.5, 2.0),
    "answers lost": (0.2, 1.0),
    "requests lost": (0.2, 1.0),
    # of a disk
    "disk full": (2.0, 5.0),
    "file locked": (0.5, 3.0),
}
"""Kinds of faults, and how many seconds they last, from and to. A freeze outlasts the lease."""


class Target(msgspec.Struct, frozen=True):
    """Something that suffers.

    Attributes:
        kinds: what can be done to it.
        gap: seconds from the end of one fault to the beginning of the next, from and to.
    """

    name: str
    kinds: tuple[str, ...]
    gap: tuple[float, float]


class Fault(msgspec.Struct, frozen=True):
    """One fault that is planned.

    Attributes:
        at: seconds from the beginning of the run.
        seconds: how long it lasts; 0 for a moment.
        chance: from 0 to 1, for what is left to decide: how far a clock steps.
    """

    at: float
    kind: str
    target: str
    seconds: float
    chance: float


def schedule(seed: int, seconds: float, targets: Sequence[Target]) -> list[Fault]:
    """Faults for so many seconds, in the order in which they begin. No target suffers two at once; different ones do.

    What befalls a target depends on the seed and its name only.
    """
    found: list[Fault] = []
    for target in targets:
        chance = random.Random(f"{seed} {target.name}")
        at = chance.uniform(*target.gap) / 2
        while at < seconds:
            kind = chance.choice(target.kinds)
            fault = Fault(at, kind, target.name, chance.uniform(*KINDS[kind]), chance.random())
            found.append(fault)
            at += fault.seconds + chance.uniform(*target.gap)
    return sorted(found, key=lambda fault: fault.at)
