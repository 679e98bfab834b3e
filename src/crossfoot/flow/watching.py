"""Sees what a thread is doing when it should be done: a watch, a thread that looks at every deadline that has passed.

Without it, a block that overran its deadline is reported with the place where it could be stopped at last; with it, with the line
that held it up. It costs one thread that wakes fifty times a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crossfoot.flow import places

if TYPE_CHECKING:
    from crossfoot.flow.deadlines import Deadline

PERIOD = 0.02
"""Seconds between two looks."""

running = 0
"""How many watches run."""

watched: dict[int, Deadline] = {}


@contextmanager
def watch(*, period: float = PERIOD, seen: Callable[[str], object] = lambda place: None) -> Iterator[None]:
    """Watch every deadline that begins within the block, in any thread.

    Args:
        period: seconds between two looks.
        seen: called in the watch's thread with each place it found.
    """
    global running  # noqa: PLW0603 - read at every deadline of the process, so it is as cheap as can be
    over = threading.Event()
    thread = threading.Thread(target=_look, args=(over, period, seen), name="crossfoot watch", daemon=True)
    running += 1
    thread.start()
    try:
        yield
    finally:
        running -= 1
        if not running:
            watched.clear()
        over.set()
        thread.join()


def _look(over: threading.Event, period: float, seen: Callable[[str], object]) -> None:
    while not over.wait(period):
        for one in tuple(watched.values()):
            if one.sample is None and one.remaining() < 0:
                place = places.blocked(one.thread)
                if place is not None:
                    one.sample = place
                    seen(place)
