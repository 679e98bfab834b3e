"""A look at the book: what alerts see is compared with what they remember, and what begins or ends by that is written down.

All of a look is one transaction, and those who look take turns. So an episode is opened once, however many look; and who is told of it
is decided with it, before anybody is told.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

import msgspec

from crossfoot.books import counted, episodes
from crossfoot.books.balance import Balance
from crossfoot.books.episodes import Episode
from crossfoot.books.fate import Fate
from crossfoot.books.losing import Memory
from crossfoot.books.stock import take_stock
from crossfoot.books.store import Book
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.outcomes.alerts import machine
from crossfoot.outcomes.alerts.machine import IDLE, Change, Sample, Seen, State
from crossfoot.outcomes.alerts.rules import ALERTS, HOUR, MINUTE, Alert, Arrivals, Burn, said
from crossfoot.outcomes.alerts.signs import Sign, read, signs_of
from crossfoot.outcomes.summary import Summary, summarize

DRAIN = "drain"
"""Under this name is remembered how many messages each queue had finished, and when; about nothing, when the last look was."""

LOOKED = (DRAIN, "")

OVER: Micros = 10 * MINUTE
"""What a queue finishes a second is measured over that."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of an episode: the book keeps it, as of the last look while it was open.

    Attributes:
        step: the command that shows more.
    """

    severity: str
    text: str
    count: int
    ids: tuple[str, ...]
    step: str


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """An episode that began or ended by a look."""

    episode: int
    alert: str
    about: str
    change: Change
    told: Told


def look(
    book: Book,
    *,
    targets: Sequence[str] = (),
    memory: Mapping[str, Memory] | None = None,
    alerts: Mapping[str, Alert] = ALERTS,
) -> list[Turn]:
    """Look once. What is new should be posted and evaluated before.

    Args:
        targets: who is to be told of what is open, and of its end.
        memory: how long queues remember, by their names; of those that it does not have nobody knows.

    Returns:
        What began, and what ended. Nothing, where somebody else has looked meanwhile: an episode that they ended is not opened again by
        what was seen before.
    """
    count_new(book)
    now = book.clock.now()
    with closing(book.place.look_in()) as connection:
        last = episodes.states(connection).get(LOOKED)
        balance = take_stock(connection, now, depth_of=None)
        found, remembered = observe(connection, balance, summarize(connection, now), memory=memory or {})

    def write(connection: Connection) -> list[Turn]:
        connection.alone(episodes.TURN)
        kept = episodes.states(connection)
        if kept.get(LOOKED) != last:  # somebody has looked meanwhile, and what they saw may be newer
            episodes.decide_opened(connection, targets, now)
            return []
        states = {at: msgspec.json.decode(text, type=State) for at, text in kept.items()}
        turns = []
        for sign in [*found, *_gone(states, found, alerts)]:
            if sign.alert in alerts and sign.known:
                turns += _step(connection, alerts[sign.alert], sign, states, now)
        for queue, samples in remembered.items():
            states[DRAIN, queue] = State(samples=samples)
        states[LOOKED] = State(samples=(Sample(now, 0, 0),))
        episodes.remember(connection, [(*at, msgspec.json.encode(state).decode()) for at, state in states.items()])
        episodes.decide_opened(connection, targets, now)
        for turn in turns:
            if turn.change is Change.closed:
                episodes.decide_closed(connection, turn.episode, now)
        return turns

    return book.write(write)


def count_new(book: Book) -> None:
    """Count the deliveries that are new."""
    while book.write(counted.count):
        pass


def observe(
    connection: Connection, balance: Balance, summary: Summary, *, memory: Mapping[str, Memory]
) -> tuple[list[Sign], dict[str, tuple[Sample, ...]]]:
    """What alerts see.

    Args:
        balance, summary: drawn up just before.

    Returns:
        The signs, and what each queue had finished, when.
    """
    now, drained = balance.as_of, _drained(episodes.states(connection))
    finished = {
        queue: sum(count for fate, count in one.fates.items() if fate in _CLOSED) for queue, one in balance.queues.items()
    }  # fmt: skip
    remembered = {
        queue: machine.remembered(drained.get(queue, ()), Seen(all=count), now, HOUR)
        for queue, count in finished.items()
    }
    rates = {queue: machine.rate(samples, OVER, now) for queue, samples in remembered.items()}
    looked = read(connection, balance, summary, now, memory=memory, rate=rates)
    return list(signs_of(looked)), remembered


_CLOSED = frozenset(fate.label for fate in Fate if fate.closed)


def _drained(states: Mapping[tuple[str, str], str]) -> dict[str, tuple[Sample, ...]]:
    return {
        about: msgspec.json.decode(text, type=State).samples
        for (alert, about), text in states.items()
        if alert == DRAIN
    }


def _gone(states: Mapping[tuple[str, str], State], found: Iterable[Sign], alerts: Mapping[str, Alert]) -> list[Sign]:
    """What was seen before and is not there any more: a queue where nothing waits, an expectation that was forgotten."""
    there = {(sign.alert, sign.about) for sign in found}
    return [
        Sign(alert=alert, about=about, seen=None) for alert, about in states if alert in alerts and (alert, about) not in there
    ]  # fmt: skip


def _step(
    connection: Connection, alert: Alert, sign: Sign, states: dict[tuple[str, str], State], now: Micros
) -> list[Turn]:
    at = (sign.alert, sign.about)
    before = states.get(at) or _beginning(alert, states)
    state, change = machine.step(alert.rule, before, sign.seen, now)
    states[at] = state
    if change is Change.closed:
        over = episodes.close_episode(connection, *at, now)
        # What is not there any more has no words: what was told last is what is over.
        return [_turn(over, sign, change, msgspec.json.decode(over.told, type=Told))] if over is not None else []
    if not state.firing:
        return []
    if change is None:
        if sign.count:  # what was the matter is told while it is over, too
            episodes.retell(connection, *at, msgspec.json.encode(told_of(alert, sign, state, now)).decode())
        return []
    told = told_of(alert, sign, state, now)
    opened = episodes.open_episode(connection, *at, now, msgspec.json.encode(told).decode())
    return [_turn(opened, sign, change, told)]


def _turn(episode: Episode, sign: Sign, change: Change, told: Told) -> Turn:
    return Turn(episode=episode.number, alert=sign.alert, about=sign.about, change=change, told=told)


def _beginning(alert: Alert, states: Mapping[tuple[str, str], State]) -> State:
    """What is remembered of what was not there at the last look: of a share, that there was nothing then."""
    if isinstance(alert.rule, Burn) and LOOKED in states:
        return State(samples=states[LOOKED].samples)
    return IDLE


def told_of(alert: Alert, sign: Sign, state: State, now: Micros) -> Told:
    """What is the matter, in words."""
    seen = sign.seen or Seen()
    value: Any = seen.value or 0.0
    over = ""
    if isinstance(alert.rule, Burn):
        shares = [(machine.share(state.samples, window.long, now)[1], window.long) for window in alert.rule.windows]
        value, window = max(shares, key=lambda one: one[0])
        over = f"{window // HOUR} h"
    elif isinstance(alert.rule, Arrivals):
        value = seen.bad
    first = sign.ids[0] if sign.ids else None
    queue = shlex.quote(sign.about)
    step = alert.step.format(id=first, queue=queue) if first or "{id}" not in alert.step else "crossfoot balance"
    return Told(
        severity=alert.severity, text=said(alert, about=sign.about, count=sign.count, value=value, over=over, **sign.words),
        count=sign.count, ids=sign.ids, step=step,
    )  # fmt: skip
