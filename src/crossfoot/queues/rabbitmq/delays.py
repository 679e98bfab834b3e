"""How a message waits: in a queue that nobody consumes from, until its time to live is over and the broker moves it on. Pure.

RabbitMQ cannot delay a message. It can let one expire, and send what has expired to another queue; but it looks at the head of a
queue only, so that a message of a second behind one of an hour would wait an hour. So there is a ladder of waiting queues, each
for delays up to twice those of the one below: whoever is ahead in it has been waiting longer already, and asked for less than
twice as long. Nothing comes early; what has to wait behind another comes late by less than its own delay.
"""

from __future__ import annotations

import math

SHORTEST = 0.25
"""Seconds that the lowest rung is for; the steps above are powers of two."""

RUNGS = 17

LONGEST = SHORTEST * 2 ** (RUNGS - 1)
"""Seconds: four and a half hours."""


def rungs_of(queue: str) -> list[str]:
    """The waiting queues of a queue, the shortest delays first."""
    return [f"{queue}.wait.{SHORTEST * 2**step:g}" for step in range(RUNGS)]


def rung_for(queue: str, delay: float) -> str:
    """Where a message waits so many seconds, up to `LONGEST`."""
    assert 0 < delay <= LONGEST
    step = max(0, math.ceil(math.log2(delay / SHORTEST)))
    return f"{queue}.wait.{SHORTEST * 2**step:g}"


def expiration_of(delay: float) -> str:
    """The time to live of a message that waits, as AMQP writes it: milliseconds, never too few."""
    return str(math.ceil(delay * 1000))
