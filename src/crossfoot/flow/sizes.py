"""How many permits there should be: algorithms that find out from how the work ended. Pure: seconds and outcomes in, a size out.

`Aimd` goes by outcomes and is the one to use. `Gradient2` and `Vegas` go by times, and are here to compare: under a timeout every
slow call takes the same time, which a gradient takes for a stable service, so that it raises its limit as the outage lasts.
"""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import Protocol

from crossfoot.errors import UsageError

RARE = 0.001
"""How rarely chance alone may bring a row of overloads that is taken for an outage."""


class Outcome(Enum):
    """What one call says about the capacity of what was called."""

    GOOD = auto()
    OVERLOADED = auto()
    """It took too long, or was refused."""
    UNKNOWN = auto()
    """An error of another kind, or the caller lost interest."""


class Algorithm(Protocol):
    """Finds a limit's size."""

    @property
    def size(self) -> int:
        """Permits there should be now; at least 1."""
        ...

    def sample(self, outcome: Outcome, seconds: float, in_use: int) -> int:
        """Take one finished call into account.

        Args:
            outcome: how it ended.
            seconds: how long it had its permit.
            in_use: permits given out when it ended, its own included.

        Returns:
            the size from now on.
        """
        ...


class _Bounded:
    def __init__(self, initial: float, least: int, most: int) -> None:
        if not 1 <= least <= initial <= most:
            raise UsageError(
                f"a limit from {least} to {most}, at first {initial:g}: need 1 <= least <= initial <= most"
            )
        self._least = least
        self._most = most
        self._limit = float(initial)

    @property
    def size(self) -> int:
        return int(self._limit)

    def _set(self, limit: float) -> int:
        self._limit = max(float(self._least), min(float(self._most), limit))
        return self.size


class Aimd(_Bounded):
    """Additive increase, multiplicative decrease, by outcome (Chiu and Jain, *Analysis of the Increase and Decrease Algorithms for
    Congestion Avoidance*, 1989).

    It judges by rounds, which are as many calls as were under way when the round began: they all tell of the same moment, as losses
    within one round trip do in TCP. A round with too many overloads takes a share of what was under way, which may be far less than
    what was allowed (RFC 5681, section 3.1, goes by FlightSize for the same reason). Any other round adds permits, but only when at
    least half of them were used: a limit that nothing tests must not grow.

    Where nobody is answered any more there is no round to wait for: after so many overloads in a row as the tolerated share would
    bring once in a thousand, the limit falls to `least`, as TCP's window falls to one segment when an answer stays out (RFC 5681,
    section 3.1). From there each good round doubles it, until it is half of what was under way before: slow start.

    Args:
        share: what a decrease leaves.
        rise: permits that a good round adds. More recovers sooner, and tries a service that is still ill harder.
        tolerance: the share of overloads that a round may have. A service of which some calls are slow serves the others.
    """

    def __init__(
        self,
        initial: int = 20,
        *,
        least: int = 1,
        most: int = 1000,
        share: float = 0.5,
        rise: float = 1.0,
        tolerance: float = 0.5,
    ) -> None:
        super().__init__(initial, least, most)
        if not (0 < share < 1 and rise > 0 and 0 <= tolerance < 1):
            raise UsageError(
                f"Aimd(share={share}, rise={rise}, tolerance={tolerance}): shares between 0 and 1, and a rise of more than 0"
            )
        self._share, self._rise, self._tolerance = share, rise, tolerance
        self._silence = math.ceil(math.log(RARE) / math.log(tolerance)) if tolerance else 1
        self._left = self._calls = self._overloads = self._used = self._row = 0
        self._doubles_to = 0.0

    def sample(self, outcome: Outcome, seconds: float, in_use: int) -> int:
        if outcome is Outcome.UNKNOWN:
            return self.size
        if not self._left:
            self._left, self._calls, self._overloads, self._used = in_use, 0, 0, 0
        self._left -= 1
        self._calls += 1
        self._overloads += outcome is Outcome.OVERLOADED
        self._row = self._row + 1 if outcome is Outcome.OVERLOADED else 0
        self._used = max(self._used, in_use)
        if self._row >= self._silence:
            return self._fall()
        return self.size if self._left else self._judge()

    def _fall(self) -> int:
        if self._limit > self._least:
            self._doubles_to = min(self._limit, self._used) / 2
        self._left = self._row = 0
        return self._set(self._least)

    def _judge(self) -> int:
        if self._overloads > self._tolerance * self._calls:
            self._doubles_to = 0.0
            return self._set(min(self._limit, self._used) * self._share)
        if self._used * 2 < self._limit:
            return self.size
        rise = max(self._rise, min(self._limit, self._doubles_to - self._limit))
        return self._set(self._limit + rise)


class Gradient2(_Bounded):
    """By the ratio of the usual time to the latest (Netflix, *Performance Under Load*, 2018, and the README of
    Netflix/concurrency-limits).

    Args:
        tolerance: how much longer than usual is no sign of a queue.
        queue: permits added at every step, so that there is always something to test the limit with.
        window: samples over which the usual time is averaged.
        smoothing: how much a new estimate counts against the last limit.
    """

    def __init__(
        self,
        initial: int = 20,
        *,
        least: int = 1,
        most: int = 200,
        tolerance: float = 1.5,
        queue: int = 4,
        window: int = 600,
        smoothing: float = 0.2,
    ) -> None:
        super().__init__(initial, least, most)
        if not (tolerance >= 0 and queue >= 0 and window >= 1 and 0 < smoothing <= 1):
            raise UsageError(
                f"Gradient2(tolerance={tolerance}, queue={queue}, window={window}, smoothing={smoothing}): need 0 or more, a sample, "
                "and a smoothing of more than 0 and 1 at most"
            )
        self._tolerance, self._queue, self._smoothing = tolerance, queue, smoothing
        self._weight = 2 / (window + 1)
        self._usual = 0.0

    def sample(self, outcome: Outcome, seconds: float, in_use: int) -> int:
        if seconds <= 0:
            return self.size
        self._usual = self._usual + (seconds - self._usual) * self._weight if self._usual else seconds
        if self._usual > 2 * seconds:  # an outage has ended: forget it faster than the average would
            self._usual *= 0.95
        if in_use * 2 < self._limit:
            return self.size
        gradient = max(0.5, min(1.0, self._tolerance * self._usual / seconds))
        aimed = self._limit * gradient + self._queue
        return self._set(self._limit * (1 - self._smoothing) + aimed * self._smoothing)


class Vegas(_Bounded):
    """By how many calls seem to stand in line where they are served (Brakmo and Peterson, *TCP Vegas*, 1995): with the shortest time
    seen taken for the time without a line, a limit of L has L * (1 - shortest / latest) of them waiting.

    Args:
        forget: samples after which the shortest time is measured anew, as the service may have become slower for good.
    """

    def __init__(self, initial: int = 20, *, least: int = 1, most: int = 1000, forget: int = 1000) -> None:
        super().__init__(initial, least, most)
        if not forget >= 1:
            raise UsageError(f"Vegas(forget={forget}): at least 1 sample")
        self._forget = forget
        self._samples = 0
        self._shortest = math.inf

    def sample(self, outcome: Outcome, seconds: float, in_use: int) -> int:
        self._samples += 1
        if self._samples % self._forget == 0:
            self._shortest = math.inf
            if in_use * 2 >= self._limit:  # measured under a full limit, a line would be taken for the way things are
                self._set(self._limit / 2)
        step = max(1.0, math.log10(self._limit))
        if outcome is Outcome.OVERLOADED:
            return self._set(self._limit - step)
        if outcome is Outcome.UNKNOWN or seconds <= 0:
            return self.size
        self._shortest = min(self._shortest, seconds)
        if in_use * 2 < self._limit:
            return self.size
        in_line = self._limit * (1 - self._shortest / seconds)
        if in_line <= step:
            return self._set(self._limit + 6 * step)
        if in_line < 3 * step:
            return self._set(self._limit + step)
        if in_line > 6 * step:
            return self._set(self._limit - step)
        return self.size
