"""The alerts, each with the rule by which it fires and by which it is over.

Pure data. Bounds are those of a service that handles messages within seconds; a program may state others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from crossfoot.clock import SECOND, Micros

MINUTE, HOUR = 60 * SECOND, 3_600 * SECOND


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """Fires when a value has been beyond `fire` for `sustain`, and is over when it has not been beyond `clear` for `calm`.

    Between `clear` and `fire` nothing changes: what swings there neither fires again nor is over.
    """

    fire: float
    clear: float
    sustain: Micros
    calm: Micros
    below: bool = False
    """Whether small values are the bad ones."""


class Window(msgspec.Struct, frozen=True):
    """A long window, a short one, and how many times faster than allowed both must burn."""

    long: Micros
    short: Micros
    factor: float


class Burn(msgspec.Struct, frozen=True, kw_only=True):
    """Fires when the share of bad events is `factor` times what is allowed, over a long window and a short one at once.

    The long one keeps a short burst from firing, the short one ends it soon after the burst has ended (after Beyer et al., *The Site
    Reliability Workbook*, chapter 5). Any of the pairs may fire.

    Attributes:
        allowed: the share of bad events that is accepted for good.
        least: bad events in the long window without which nothing fires.
    """

    allowed: float
    windows: tuple[Window, ...]
    least: int = 1
    calm: Micros = 15 * MINUTE

    @property
    def longest(self) -> Micros:
        return max(window.long for window in self.windows)


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """Fires when a count rises, and is over when it has not risen for `calm`: for what never goes away by itself."""

    calm: Micros


Rule = Level | Burn | Arrivals


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of alert.

    Attributes:
        text: what is the matter, with `{about}`, `{count}`, `{value}`, and what its sign says besides.
        severity: `page` wakes somebody, `ticket` waits for the morning.
        step: the command that shows more, with `{id}` for the first message or `{queue}` for what it is about.
    """

    name: str
    rule: Rule
    severity: str
    text: str
    step: str


LITTLE, ENOUGH = 0.25, 0.5
"""Shares of a retention that are left: with less of it somebody is woken, and with so much nobody need be."""

FAST, SLOW = Window(HOUR, 5 * MINUTE, 14.4), Window(6 * HOUR, 30 * MINUTE, 6.0)
"""A month's budget gone in two days, and in five."""

ALERTS: Mapping[str, Alert] = {
    one.name: one
    for one in (
        Alert(
            name="unaccounted", rule=Level(fire=0, clear=0, sustain=2 * MINUTE, calm=5 * MINUTE), severity="page",
            text="{count:,} messages have no fate", step="crossfoot balance",
        ),
        Alert(
            name="vanished", rule=Arrivals(calm=30 * MINUTE), severity="page",
            text="{count:,} messages left queue {about} and nothing proves that they were handled", step="crossfoot why {id}",
        ),
        Alert(
            name="stranded", rule=Level(fire=0, clear=0, sustain=5 * MINUTE, calm=10 * MINUTE), severity="page",
            text="{count:,} messages were published to queue {about} and nobody receives them", step="crossfoot why {id}",
        ),
        Alert(
            name="stalled", rule=Level(fire=0, clear=0, sustain=5 * MINUTE, calm=10 * MINUTE), severity="page",
            text="{count:,} deliveries of queue {about} have no end, and their lease is over", step="crossfoot why {id}",
        ),
        Alert(
            name="dead letters", rule=Burn(allowed=0.001, windows=(FAST, SLOW)), severity="page",
            text="{value:.2%} of what queue {about} received within {over} is in the dead letters",
            step="crossfoot dead list --by-cause",
        ),
        Alert(
            name="dead letter age", rule=Level(fire=4 * 3_600, clear=3_600, sustain=0, calm=5 * MINUTE), severity="ticket",
            text="{count:,} dead letters of queue {about}, and the oldest has waited for {value:,.0f} s",
            step="crossfoot dead list --by-cause",
        ),
        Alert(
            name="time to loss", rule=Level(fire=LITTLE, clear=ENOUGH, sustain=5 * MINUTE, calm=10 * MINUTE, below=True), severity="page",
            text="the first of {count:,} messages that wait in queue {about} has {value:.0%} of its retention left, and they drain slowly",
            step="crossfoot why {id}",
        ),
        Alert(
            name="dead letter loss", rule=Level(fire=LITTLE, clear=ENOUGH, sustain=0, calm=10 * MINUTE, below=True), severity="page",
            text="{count:,} dead letters of queue {about} are forgotten by it, the first {left}: {causes}; {kept}",
            step="crossfoot check --queue {queue}",
        ),
        Alert(
            name="expectation breach", rule=Level(fire=0, clear=0, sustain=0, calm=5 * MINUTE), severity="page",
            text="{count:,} messages are without what was expected of them: {about}", step="crossfoot outcomes",
        ),
        Alert(
            name="expectation late", rule=Burn(allowed=0.01, windows=(FAST, SLOW), least=3), severity="ticket",
            text="{value:.2%} of what was expected within {over} came late: {about}", step="crossfoot outcomes",
        ),
        Alert(
            name="invariant broken", rule=Level(fire=0, clear=0, sustain=0, calm=0), severity="page",
            text="{count:,} break the invariant: {about}", step="crossfoot outcomes",
        ),
        Alert(
            name="invariant not known", rule=Level(fire=0, clear=0, sustain=5 * MINUTE, calm=0), severity="ticket",
            text="nobody can tell whether the invariant holds, as its statement gets no answer: {about}", step="crossfoot outcomes",
        ),
        Alert(
            name="retry explosion",
            rule=Burn(allowed=0.02, windows=(Window(30 * MINUTE, 5 * MINUTE, 10.0),), least=20, calm=10 * MINUTE), severity="page",
            text="{value:.0%} of the deliveries of queue {about} in the last half hour failed", step="crossfoot why {id}",
        ),
        Alert(
            name="worker saturation", rule=Level(fire=120, clear=30, sustain=10 * MINUTE, calm=5 * MINUTE), severity="ticket",
            text="workers are at work, and the first of {count:,} messages has waited in queue {about} for {value:,.0f} s",
            step="crossfoot balance",
        ),
        Alert(
            name="balance lag", rule=Level(fire=60, clear=10, sustain=5 * MINUTE, calm=5 * MINUTE), severity="ticket",
            text="{count:,} entries cannot be posted, the first for {value:,.0f} s, so that the balance is that old",
            step="crossfoot balance",
        ),
    )
}  # fmt: skip
"""In the order in which they are shown."""


def said(alert: Alert, **facts: Any) -> str:
    """What is the matter, in a sentence."""
    return alert.text.format(**facts)
