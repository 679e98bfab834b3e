"""A balance as metrics, in Prometheus' words.

Everything is read from the book, so the figures are those of all workers together, they survive restarts, and one
exporter beside the database serves a whole service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from crossfoot.books.balance import Balance
from crossfoot.books.episodes import Episode, Unheard
from crossfoot.books.queries import WorkerRow
from crossfoot.clock import SECOND
from crossfoot.outcomes.alerts.rules import ALERTS, Level
from crossfoot.outcomes.alerts.signs import Sign
from crossfoot.outcomes.summary import Summary
from crossfoot.recover.timeline import SILENT

FORGOTTEN = 24 * 3600 * SECOND
"""A worker that has been silent for so long is no longer counted."""


class Drawn(NamedTuple):
    """What is read of the book at once.

    Attributes:
        signs: what alerts look at.
        episodes: those that are open.
        unheard: notices that did not reach whom they were for.
    """

    balance: Balance
    workers: list[WorkerRow]
    summary: Summary
    signs: list[Sign]
    episodes: list[Episode]
    unheard: list[Unheard]


class Books(Collector):
    """What is read when Prometheus asks.

    Args:
        draw: draws up the balance, and reads who works.
    """

    def __init__(self, draw: Callable[[], Drawn]) -> None:
        self._draw = draw

    def collect(self) -> Iterable[Metric]:
        drawn = self._draw()
        yield from families(drawn.balance, drawn.workers)
        yield from promises(drawn.summary)
        yield from alerts(drawn.signs, drawn.episodes)
        yield from notices(drawn.unheard)


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


def promises(summary: Summary) -> Iterable[Metric]:
    """How expectations and invariants stand."""
    expected = GaugeMetricFamily(
        "crossfoot_expected",
        "Messages of which an outcome is expected, by how they stand.",
        labels=("expectation", "standing"),
    )
    for one in summary.expectations:
        for standing in ("met", "waiting", "excused", "late", "missing"):
            expected.add_metric((one.name, standing), getattr(one, standing))
    yield expected
    holds = GaugeMetricFamily(
        "crossfoot_invariant_holds",
        "1 where an invariant held when it was asked last, 0 where not.",
        labels=("invariant",),
    )
    rows = GaugeMetricFamily("crossfoot_invariant_rows", "Rows that break an invariant.", labels=("invariant",))
    known = GaugeMetricFamily(
        "crossfoot_invariant_known", "1 where it could be told, 0 where not.", labels=("invariant",)
    )
    for statement in summary.invariants:
        result = statement.result
        if result is None:
            continue
        known.add_metric((statement.name,), int(result.holds is not None))
        if result.holds is not None:
            holds.add_metric((statement.name,), int(result.holds))
            rows.add_metric((statement.name,), result.count)
    yield from (holds, rows, known)


def alerts(signs: Iterable[Sign], episodes: Iterable[Episode]) -> Iterable[Metric]:
    """What alerts look at, and the episodes that are open: the rules of `crossfoot alerts rules` are over these."""
    levels = GaugeMetricFamily("crossfoot_sign", "What an alert compares with its bounds.", labels=("alert", "about"))
    bad = CounterMetricFamily("crossfoot_sign_bad", "Bad events, for alerts by their share.", labels=("alert", "about"))
    everything = CounterMetricFamily("crossfoot_sign_events", "All events, good and bad.", labels=("alert", "about"))
    for sign in signs:
        if sign.seen is None or not sign.known:
            continue
        if isinstance(ALERTS[sign.alert].rule, Level):
            if sign.seen.value is not None:
                levels.add_metric((sign.alert, sign.about), sign.seen.value)
            continue
        bad.add_metric((sign.alert, sign.about), sign.seen.bad)
        everything.add_metric((sign.alert, sign.about), sign.seen.all)
    yield from (levels, bad, everything)
    fired = GaugeMetricFamily(
        "crossfoot_episode",
        "Open episodes of alerts, as `crossfoot alerts watch` finds them.",
        labels=("alert", "about"),
    )
    for one in episodes:
        fired.add_metric((one.alert, one.about), 1)
    yield fired


def notices(unheard: Iterable[Unheard]) -> Iterable[Metric]:
    """What did not reach whom it was for."""
    missed = GaugeMetricFamily(
        "crossfoot_unheard_notices",
        "Notices of `crossfoot alerts watch` that nobody has confirmed, though they were tried or are late.",
        labels=("target",),
    )
    for target, count in Counter(one.notice.target for one in unheard).items():
        missed.add_metric((target,), count)
    yield missed
