"""A balance as metrics, in Prometheus' words.

Everything is read from the book, so the figures are those of all workers together, they survive restarts, and one
exporter beside the database serves a whole service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from crossfoot.books.balance import Balance
from crossfoot.books.queries import WorkerRow
from crossfoot.clock import SECOND
from crossfoot.recover.timeline import SILENT

FORGOTTEN = 24 * 3600 * SECOND
"""A worker that has been silent for so long is no longer counted."""


class Books(Collector):
    """What is read when Prometheus asks.

    Args:
        draw: draws up the balance, and reads who works.
    """

    def __init__(self, draw: Callable[[], tuple[Balance, list[WorkerRow]]]) -> None:
        self._draw = draw

    def collect(self) -> Iterable[Metric]:
        balance, workers = self._draw()
        yield from families(balance, workers)


def families(balance: Balance, workers: Iterable[WorkerRow]) -> Iterable[Metric]:
    """All metrics of one balance."""
    messages = GaugeMetricFamily("crossfoot_messages", "Messages by their fate now.", labels=("queue", "fate"))
    passed = CounterMetricFamily(
        "crossfoot_boundary_messages", "Messages that ever passed a boundary, each once.", labels=("queue", "boundary")
    )
    copies = CounterMetricFamily(
        "crossfoot_queue_copies",
        "Copies as the queue itself counts them, apart from the books.",
        labels=("queue", "what"),
    )
    for name, queue in balance.queues.items():
        for fate, count in queue.fates.items():
            messages.add_metric((name, fate), count)
        for boundary, count in queue.boundaries.items():
            passed.add_metric((name, boundary), count)
        for what, count in (queue.queue or {}).items():
            copies.add_metric((name, what), count)
    yield from (messages, passed, copies)

    identities = GaugeMetricFamily(
        "crossfoot_identity_holds", "1 where two counts of the same messages agree, 0 where not.", labels=("identity",)
    )
    for name, identity in balance.identities.items():
        if identity.holds is not None:
            identities.add_metric((name,), int(identity.holds))
    yield identities

    attention = GaugeMetricFamily("crossfoot_attention", "Messages that somebody should look at.", labels=("why",))
    for why, found in balance.attention.items():
        attention.add_metric((why,), found.count)
    yield attention

    yield GaugeMetricFamily("crossfoot_balanced", "1 when the books balance.", value=int(balance.balanced))
    yield GaugeMetricFamily(
        "crossfoot_unaccounted", "Messages of which nothing tells the fate.", value=balance.unaccounted
    )
    yield GaugeMetricFamily("crossfoot_entries_waiting", "Entries that are not posted yet.", value=balance.waiting)
    yield GaugeMetricFamily("crossfoot_as_of_seconds", "When this was read.", value=balance.as_of / SECOND)

    counts = {"working": 0, "silent": 0}
    for worker in workers:
        age = balance.as_of - worker.seen_at
        if worker.stopped_at is None and age < FORGOTTEN:
            counts["silent" if age > SILENT else "working"] += 1
    states = GaugeMetricFamily("crossfoot_workers", "Workers that have not stopped in order.", labels=("state",))
    for state, count in counts.items():
        states.add_metric((state,), count)
    yield states
