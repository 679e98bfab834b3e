"""What follows from rates, times, limits and pools before anything runs: Little's law, and a little arithmetic. Pure.

Little (*A Proof for the Queuing Formula L = λW*, 1961): what is under way at once is what arrives in the time each of them takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, TypeVar

from crossfoot.errors import UsageError

T = TypeVar("T")

FULL_SHARE = 0.8
"""How much of a pool or of threads may be used on average; beyond it, waits grow without bounds as bursts come."""


class Weight(StrEnum):
    """How much a finding matters."""

    WRONG = "wrong"
    """It fails as it stands."""
    OUTAGE = "outage"
    """It fails when a dependency does."""
    NOTE = "note"


@dataclass(frozen=True, kw_only=True)
class Dependency:
    """Something that each request calls.

    Attributes:
        seconds: a call takes, on average.
        calls: of it per request.
        limit: calls at once; none for no limit.
        wait: seconds a call waits for its permit.
        pool: connections to it; none for any number.
        share: the part of the deadline a call has.
        outage: seconds a call takes when it is ill.
        required: without its answer there is none.
        attempts: tries per call.
    """

    name: str
    seconds: float
    calls: float = 1.0
    limit: int | None = None
    wait: float = 0.0
    pool: int | None = None
    share: float = 1.0
    outage: float = 30.0
    required: bool = False
    attempts: int = 1

    def __post_init__(self) -> None:
        if self.share > 1:
            raise UsageError(f"dependency {self.name}: share = {self.share:g}: 1 at most")


@dataclass(frozen=True, kw_only=True)
class Service:
    """What is planned.

    Attributes:
        rps: requests a second.
        deadline: seconds a request has; infinite for none.
        threads: those that requests are served in, each for the request's whole time; none where a request needs no thread.
        processes: that share the requests; limits, pools and threads are those of each.
    """

    rps: float
    deadline: float = math.inf
    threads: int | None = None
    processes: int = 1
    dependencies: tuple[Dependency, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Finding:
    """One thing that follows."""

    weight: Weight
    about: str
    text: str


def read(document: Mapping[str, Any]) -> Service:
    """A service, of a TOML document with `[service]` and `[[dependency]]`.

    Raises:
        UsageError: something is missing, unknown, or no number that makes sense.
    """
    unknown = set(document) - {"service", "dependency"}
    if unknown or "service" not in document:
        raise UsageError(f"a plan has [service] and [[dependency]]; {sorted(unknown) or 'no [service]'} found")
    dependencies = tuple(_made(Dependency, "dependency", one) for one in document.get("dependency", ()))
    return _made(Service, "service", {**document["service"], "dependencies": dependencies})


def _made(kind: Callable[..., T], name: str, given: Mapping[str, Any]) -> T:
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type] # a dataclass
    for key, value in given.items():
        if key not in known:
            near = get_close_matches(key, known, 1)
            raise UsageError(f"{name}: {key} is unknown" + (f"; did you mean {near[0]}?" if near else ""))
        if (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and not (value > 0 or (key == "wait" and value == 0))
        ):
            raise UsageError(f"{name}: {key} = {value}: more than 0")
    try:
        made = kind(**given)
    except TypeError as error:
        raise UsageError(f"{name}: {str(error).partition(') ')[2]}") from error
    return made


def check(service: Service) -> list[Finding]:
    """What follows, the worst first."""
    found = [finding for one in service.dependencies for finding in _of(service, one)]
    found += _threads(service)
    if service.deadline == math.inf:
        found.append(
            Finding(Weight.WRONG, "service", "there is no deadline: in an outage requests pile up without bounds")
        )
    order = list(Weight)
    return sorted(found, key=lambda finding: order.index(finding.weight))


def _of(service: Service, one: Dependency) -> Iterator[Finding]:
    rate = service.rps * one.calls / service.processes
    most = service.deadline * one.share
    usual, ill = rate * min(one.seconds, most), rate * min(one.outage, most)
    yield Finding(
        Weight.NOTE,
        one.name,
        f"{_n(usual)} calls are under way at once, and in an outage {_n(ill)}, if nothing limits them",
    )
    if one.seconds >= most:
        yield Finding(
            Weight.WRONG, one.name, f"a call takes {one.seconds:g} s and has {most:g} s: it never answers in time"
        )
    if one.limit is not None:
        if one.limit >= ill:
            yield Finding(
                Weight.NOTE, one.name,
                f"its limit of {one.limit} can never bind: at {_n(rate)} calls/s, each over after {min(one.outage, most):g} s "
                f"at most, {_n(ill)} are under way",
            )  # fmt: skip
        if one.limit < usual:
            shed = 1 - one.limit / usual
            yield Finding(
                Weight.WRONG, one.name, f"its limit of {one.limit} refuses {shed:.0%} of the calls when all is well"
            )
    if one.wait >= most:
        yield Finding(Weight.WRONG, one.name, f"it waits {one.wait:g} s for a permit, and has {most:g} s in all")
    if one.pool is not None:
        bound = min(ill, one.limit if one.limit is not None else math.inf)
        if usual > one.pool * FULL_SHARE:
            yield Finding(
                Weight.WRONG,
                one.name,
                f"its pool of {one.pool} will starve: {_n(usual)} connections are in use on average",
            )
        elif bound > one.pool:
            yield Finding(
                Weight.OUTAGE, one.name,
                f"its pool of {one.pool} starves in an outage: {_n(bound)} calls want a connection; a limit of {one.pool} at most "
                "would refuse them instead",
            )  # fmt: skip
    if one.attempts > 1:
        yield Finding(
            Weight.OUTAGE,
            one.name,
            f"when it is ill, {one.attempts} tries make {one.attempts} times the calls, unless a budget bounds them",
        )
    yield from _outage(service, one, rate, most)


def _outage(service: Service, one: Dependency, rate: float, most: float) -> Iterator[Finding]:
    """What its illness does to the answers."""
    if one.outage < most:
        return
    if one.required:
        yield Finding(
            Weight.OUTAGE,
            one.name,
            "it is required: while it is ill, there is no answer; give it a fallback if one can be had",
        )
    else:
        wasted = rate * most if one.limit is None else min(one.limit, rate * most)
        yield Finding(
            Weight.NOTE, one.name,
            f"while it is ill, answers are degraded, and {_n(wasted)} calls at once are for nothing"
            + ("" if one.limit is not None else "; a limit would bound them"),
        )  # fmt: skip


def _threads(service: Service) -> Iterator[Finding]:
    if service.threads is None:
        return
    rate = service.rps / service.processes
    usual = rate * min(service.deadline, max((one.seconds for one in service.dependencies), default=0.0))
    if usual > service.threads * FULL_SHARE:
        yield Finding(
            Weight.WRONG,
            "threads",
            f"{service.threads} threads will starve: {_n(usual)} requests are under way on average",
        )
    for one in service.dependencies:
        ill = rate * min(one.outage, service.deadline)
        if ill > service.threads:
            yield Finding(
                Weight.OUTAGE, one.name,
                f"when it is ill, {_n(ill)} requests want one of {service.threads} threads: everything waits, what does not call it, too",
            )  # fmt: skip


def _n(value: float) -> str:
    return "any number of" if value == math.inf else f"{value:,.1f}".removesuffix(".0")
