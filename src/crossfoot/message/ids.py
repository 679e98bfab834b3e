"""Ids that sort by time: UUIDv7 (RFC 9562), increasing within a process."""

from __future__ import annotations

import os
import threading

from crossfoot.clock import Clock, SystemClock

_RANDOM_BITS = 74  # 12 of rand_a, 62 of rand_b
_STRIDE = (1 << 32) - 1


class Ids:
    """Makes ids, each greater than the one before, whatever threads and steps of the clock do."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Forget the last id and the lock: in a forked child both are copies of the parent's."""
        self._lock = threading.Lock()
        self._last = 0

    def next(self) -> str:
        random = int.from_bytes(os.urandom(10), "big") >> 6
        number = self._clock.now() // 1_000 << _RANDOM_BITS | random
        with self._lock:
            if number >> _RANDOM_BITS <= self._last >> _RANDOM_BITS:
                # The same millisecond, or the clock stepped back: stride on from the last id (RFC 9562, 6.2, method 2).
                # An overflow of the random bits moves on to the next millisecond, which keeps the order.
                number = self._last + 1 + (random & _STRIDE)
            self._last = number
        return _text(number)


def _text(number: int) -> str:
    """48 bits of milliseconds and 74 random bits, with version 7 and variant 0b10 in their places."""
    upper = f"{number >> 62:015x}"
    lower = f"{1 << 63 | number & (1 << 62) - 1:016x}"
    return f"{upper[:8]}-{upper[8:12]}-7{upper[12:]}-{lower[:4]}-{lower[4:]}"


_ids = Ids(SystemClock())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.restart)


def new_id() -> str:
    """A UUIDv7 as text. Each is greater than the one before in this process; threads and forks never share one."""
    return _ids.next()
