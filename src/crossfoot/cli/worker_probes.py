"""What tells an orchestrator whether a worker lives, and whether it works."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

from crossfoot.cli.serving import Pages, probe
from crossfoot.worker.supervisor import IDLE, Silence

BEAT = 1.0
"""Seconds between two beats."""

DEAD = 30.0
"""Seconds without a beat after which an event loop is held up for good: leases are no longer extended either."""


class Pulse:
    """The event loop's heartbeat, and whether it works; read from another thread.

    Args:
        tell: called at every beat.
    """

    def __init__(self, tell: Callable[[], None] | None = None) -> None:
        self._beaten = time.monotonic()
        self._tell = tell
        self._matter: Callable[[], str] = lambda: IDLE
        self._silence: Callable[[], Silence | None] | None = None

    def follow(self, matter: Callable[[], str], silence: Callable[[], Silence | None] | None = None) -> None:
        """From now on `matter` tells why it is not ready, or nothing; and `silence` who of its processes was not heard of for
        longest."""
        self._matter = matter
        self._silence = silence

    async def beat(self) -> None:
        """Beat for as long as the event loop turns."""
        while True:
            self._beaten = time.monotonic()
            if self._tell is not None:
                self._tell()
            await anyio.sleep(BEAT)

    def live(self) -> str:
        """Why it must be ended; nothing when it lives."""
        still = time.monotonic() - self._beaten
        if still > DEAD:
            return f"the event loop has not turned for {still:.0f} s"
        silence = self._silence() if self._silence is not None else None
        if silence is not None and silence.seconds > DEAD:
            return f"the event loop of {silence.who} has not turned for {silence.seconds:.0f} s"
        return ""

    def ready(self) -> str:
        """Why it is not ready; nothing when it is."""
        return self._matter() or self.live()


@contextmanager
def probes(listen: str | None) -> Iterator[Pulse]:
    """A pulse, and pages that tell of it if somebody is to listen."""
    pulse = Pulse()
    if listen is None:
        yield pulse
        return
    pages = Pages(listen, {"/livez": probe(pulse.live), "/readyz": probe(pulse.ready)})
    try:
        yield pulse
    finally:
        pages.close()
