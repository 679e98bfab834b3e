"""What would have happened: arrivals go through the real limits, deadlines and fan-outs, in virtual time."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import anyio

from crossfoot.errors import FlowError, UsageError
from crossfoot.flow.fanning import fan_out
from crossfoot.flow.fates import Fate
from crossfoot.flow.ledgers import Ledger, Waste
from crossfoot.flow.limits import Limit
from crossfoot.flow.planning import Dependency, Service
from crossfoot.flow.sizes import Aimd
from crossfoot.flow.virtual import run

RISE = 4.0
"""Permits that a round adds to a limit that finds its size: a planned limit is known to be borne, and is to be back soon."""


@dataclass(frozen=True)
class Outage:
    """A dependency is ill from one second to another.

    Attributes:
        share: of its calls that are slow meanwhile.
    """

    name: str
    begins: float
    ends: float
    share: float = 1.0


@dataclass
class Second:
    """What arrived in one second, and how it ended."""

    arrivals: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    under_way: int = 0
    """Requests, at most."""

    def late(self, share: float) -> float:
        """A quantile of how long they took."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


@dataclass
class Replay:
    """What would have happened.

    Attributes:
        limits: the size of each limit at the end of each second.
    """

    seconds: list[Second]
    limits: dict[str, list[int]]
    wasted: dict[Waste, tuple[int, float]]

    @property
    def fates(self) -> Counter[Fate]:
        """Of all requests; they sum to the arrivals."""
        return sum((one.fates for one in self.seconds), Counter[Fate]())


def poisson(rps: float, seconds: float, chance: random.Random) -> Iterator[float]:
    """Arrivals of an open loop: nobody waits for the answer to the one before."""
    at = chance.expovariate(rps)
    while at < seconds:
        yield at
        at += chance.expovariate(rps)


def replay(
    service: Service,
    arrivals: Iterable[float],
    outages: Sequence[Outage] = (),
    *,
    seed: int = 0,
    adaptive: bool = False,
) -> Replay:
    """Run arrivals through the service.

    Args:
        arrivals: seconds from the beginning, in order.
        seed: of the service times, drawn from a gamma distribution of shape 4: few take more than three times the mean.
        adaptive: limits find their size, from the planned one down, and back to it.

    Raises:
        UsageError: an outage of a dependency that there is not, or arrivals that go back in time.
    """
    known = {one.name for one in service.dependencies}
    for outage in outages:
        if outage.name not in known:
            raise UsageError(f"no dependency is called {outage.name!r}; there are {', '.join(sorted(known)) or 'none'}")
    ordered = list(arrivals)
    if ordered != sorted(ordered) or (ordered and ordered[0] < 0):
        raise UsageError("arrivals are seconds from the beginning, in order")
    return _Scene(service, ordered, outages, seed, adaptive).result()


class _Scene:
    def __init__(
        self, service: Service, arrivals: list[float], outages: Sequence[Outage], seed: int, adaptive: bool
    ) -> None:
        self._service, self._arrivals, self._outages = service, arrivals, outages
        self._chance = random.Random(seed)
        self._ledger = Ledger()
        self._limits = {
            one.name: Limit(
                Aimd(one.limit, most=one.limit, rise=RISE) if adaptive else one.limit,
                name=one.name,
                wait=one.wait,
                waiting=one.limit,
            )
            for one in service.dependencies
            if one.limit is not None
        }
        self._seconds = [Second() for _ in range(int(arrivals[-1]) + 1 if arrivals else 0)]
        self._sizes: dict[str, list[int]] = {name: [] for name in self._limits}
        self._under_way = 0

    def result(self) -> Replay:
        run(self._run)
        return Replay(self._seconds, self._sizes, self._ledger.wasted)

    async def _run(self) -> None:
        self._began = anyio.current_time()
        async with anyio.create_task_group() as group:
            group.start_soon(self._note)
            for at in self._arrivals:
                await anyio.sleep_until(self._began + at)
                group.start_soon(self._request, at)

    async def _note(self) -> None:
        for second in range(len(self._seconds)):
            await anyio.sleep_until(self._began + second + 1)
            for name, sizes in self._sizes.items():
                sizes.append(self._limits[name].size)

    async def _request(self, at: float) -> None:
        second = self._seconds[int(at)]
        second.arrivals += 1
        self._under_way += 1
        second.under_way = max(second.under_way, self._under_way)
        began = anyio.current_time()
        group = fan_out(deadline=self._service.deadline, name="request", ledger=self._ledger)
        with suppress(FlowError, ExceptionGroup):  # how it ended is in its fate
            async with group:
                for one in self._service.dependencies:
                    for _ in range(self._calls(one)):
                        group.branch(
                            one.name,
                            self._call,
                            one,
                            required=one.required,
                            limit=self._limits.get(one.name),
                            share=one.share,
                        )
        self._under_way -= 1
        assert group.fate is not None, "it has ended"
        second.fates[group.fate] += 1
        second.seconds.append(anyio.current_time() - began)

    def _calls(self, one: Dependency) -> int:
        whole = math.floor(one.calls)
        return whole + (self._chance.random() < one.calls - whole)

    async def _call(self, one: Dependency) -> None:
        at = anyio.current_time() - self._began
        ill = any(
            outage.name == one.name and outage.begins <= at < outage.ends and self._chance.random() < outage.share
            for outage in self._outages
        )
        await anyio.sleep(one.outage if ill else self._chance.gammavariate(4, one.seconds / 4))
