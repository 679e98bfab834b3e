"""The books of requests as figures, for Prometheus and for OpenTelemetry; neither is imported before it is asked for.

flow.metrics.prometheus(REGISTRY, limits=[pricing])
flow.metrics.opentelemetry(meter, limits=[pricing])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from crossfoot.flow import reports
from crossfoot.flow.ledgers import LEDGER, Ledger
from crossfoot.flow.limits import Limit
from crossfoot.flow.threads import Threads

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from prometheus_client.registry import CollectorRegistry

PREFIX = "crossfoot_flow_"


class Kind(NamedTuple):
    """A figure: what it is, and whether it only grows."""

    text: str
    labels: tuple[str, ...]
    grows: bool = True


KINDS: Mapping[str, Kind] = {
    "arrivals": Kind("requests, branches and calls that arrived", ("kind", "name")),
    "ended": Kind("those that ended, by fate; with those under way they sum to the arrivals", ("kind", "name", "fate")),
    "under_way": Kind("those that have not ended", ("kind", "name"), grows=False),
    "wasted": Kind("calls whose work was for nothing, by cause", ("cause",)),
    "wasted_seconds": Kind("seconds of work that was for nothing, by cause", ("cause",)),
    "troubles": Kind("reports of overrun bounds", ("trouble",)),
    "limit_size": Kind("permits there are", ("limit",), grows=False),
    "limit_in_use": Kind("permits given out", ("limit",), grows=False),
    "limit_waiting": Kind("waiting for a permit", ("limit",), grows=False),
    "limit_asked": Kind("what became of those who asked for a permit", ("limit", "answer")),
    "threads_abandoned": Kind("threads that go on after their callers have left", ("threads",), grows=False),
}
"""Every figure there is."""

Sample = tuple[str, tuple[str, ...], float]
"""A figure's name, its labels' values, and it."""


def samples(ledger: Ledger, limits: Sequence[Limit], threads: Sequence[Threads]) -> Iterator[Sample]:
    """Everything, as of now."""
    for account in ledger.accounts:
        about = account.kind, account.name
        yield "arrivals", about, account.arrivals
        yield "under_way", about, account.under_way
        for fate, count in account.fates.items():
            yield "ended", (*about, fate), count
    for cause, (count, seconds) in ledger.wasted.items():
        yield "wasted", (cause,), count
        yield "wasted_seconds", (cause,), seconds
    for trouble, count in list(reports.counts.items()):
        yield "troubles", (trouble,), count
    for limit in limits:
        yield "limit_size", (limit.name,), limit.size
        yield "limit_in_use", (limit.name,), limit.in_use
        yield "limit_waiting", (limit.name,), limit.waiting
        for answer in ("granted", "shed", "expired", "would_refuse"):
            yield "limit_asked", (limit.name, answer.replace("_", " ")), getattr(limit.counts, answer)
    for one in threads:
        yield "threads_abandoned", (one.limit.name,), one.abandoned


def prometheus(
    registry: CollectorRegistry,
    *,
    ledger: Ledger = LEDGER,
    limits: Sequence[Limit] = (),
    threads: Sequence[Threads] = (),
) -> None:
    """Have a registry of prometheus_client collect them."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector

    class Figures(Collector):
        def collect(self) -> Iterator[Any]:
            families: dict[str, Any] = {
                name: (CounterMetricFamily if kind.grows else GaugeMetricFamily)(
                    PREFIX + name, kind.text, labels=kind.labels
                )
                for name, kind in KINDS.items()
            }
            for name, labels, value in samples(ledger, limits, threads):
                families[name].add_metric(labels, value)
            yield from families.values()

    registry.register(Figures())


def opentelemetry(
    meter: Meter, *, ledger: Ledger = LEDGER, limits: Sequence[Limit] = (), threads: Sequence[Threads] = ()
) -> None:
    """Have a meter of OpenTelemetry's observe them."""
    from opentelemetry.metrics import Observation

    def observe(wanted: str) -> Callable[[Any], Iterable[Observation]]:
        def observed(_: Any) -> Iterable[Observation]:
            return [
                Observation(value, dict(zip(KINDS[name].labels, labels, strict=True)))
                for name, labels, value in samples(ledger, limits, threads)
                if name == wanted
            ]

        return observed

    for name, kind in KINDS.items():
        create: Any = meter.create_observable_counter if kind.grows else meter.create_observable_gauge
        create((PREFIX + name).replace("_", ".", 2), callbacks=[observe(name)], description=kind.text)
