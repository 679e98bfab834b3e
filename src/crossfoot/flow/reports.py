"""What went wrong with somebody's bounds, told with the place that caused it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

LOG = logging.getLogger("crossfoot.flow")


class Trouble(StrEnum):
    """What a report is about."""

    BLOCKED = "blocked"
    """Code that does not await held the event loop, and so the deadline passed unseen."""
    SWALLOWED = "swallowed"
    """A cancellation was caught, and the work went on."""
    LATE = "late"
    """Work ended after its deadline, and nothing could stop it: it was shielded, or in a thread."""
    NESTED_RETRY = "nested retry"
    """A retry ran inside a retry; the inner one tried once."""
    ABANDONED = "abandoned"
    """A thread went on after its caller had left."""


@dataclass(frozen=True, slots=True)
class Report:
    """One finding.

    Attributes:
        place: the line that caused it, as `module:line in function`.
        within: the place that set the bounds, or began the outer retry.
        seconds: by how much the deadline was overrun; 0 where there is none.
    """

    trouble: Trouble
    place: str
    within: str
    seconds: float = 0.0

    def __str__(self) -> str:
        over = f", {self.seconds:.3f} s over" if self.seconds else ""
        return f"{self.trouble}: {self.place} (within {self.within}){over}"


counts: Counter[Trouble] = Counter()
"""How often each trouble was reported in this process."""

LOG_EVERY = 1.0
"""Seconds in which one place is logged once: under load, everybody is late at the same places."""

MOST_PLACES = 1000

_logged: dict[tuple[Trouble, str], float] = {}

_listeners: list[Callable[[Report], object]] = []


def tell(report: Report) -> None:
    """Hand a report to everybody who listens; it is logged as a warning, too, each place once a second."""
    counts[report.trouble] += 1
    now, about = time.monotonic(), (report.trouble, report.place)
    if now - _logged.get(about, -LOG_EVERY) >= LOG_EVERY:
        if len(_logged) > MOST_PLACES:
            _logged.clear()
        _logged[about] = now
        LOG.warning("%s", report)
    for listener in tuple(_listeners):
        try:
            listener(report)
        except Exception:  # it is told in the midst of somebody's work, whose result must not be replaced
            LOG.exception("the listener %s raised", getattr(listener, "__qualname__", repr(listener)))


@contextmanager
def listen(listener: Callable[[Report], object]) -> Iterator[None]:
    """Have `listener` called with every report of this process, in the thread that found it, until the block ends."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
