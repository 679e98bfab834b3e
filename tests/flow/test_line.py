"""The laws of the line, over random schedules, and seeded bugs that they catch."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.flow.line import LOWEST_EVERY, PRIORITIES, Line, State, Waiter

Schedule = list[tuple[str, int]]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "leave", "give back", "give back", "expire", "resize"]),
        st.integers(0, 99),
    ),
    max_size=80,
)


class Scene:
    """Runs a schedule on a line, and checks every law after each step, by an account of its own."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.waiters: list[Waiter] = []
        self.ends: dict[Waiter, State] = {}
        self.over: set[Waiter] = set()
        self.holders: list[Waiter | None] = []

    def run(self, schedule: Schedule) -> None:
        for step, number in schedule:
            {
                "ask": self.ask,
                "leave": self.leave,
                "give back": self.give_back,
                "expire": self.expire,
                "resize": self.resize,
            }[step](number)
            self.check()
        for waiter in [one for one in self.waiters if one.state is State.WAITING]:
            assert waiter.state is not State.WAITING or self.line.in_use >= self.line.size
        while self.holders:
            self.give_back(0)
            self.check()
        assert self.line.in_use == 0, "every permit came back"
        assert self.line.waiting == 0, "nobody is left in line"

    def ask(self, number: int) -> None:
        if self.line.take():
            assert self.waiting() == 0, "nobody overtakes the line"
            self.holders.append(None)
            return
        waiter = Waiter(number % PRIORITIES, lambda: False)
        waiter.over = lambda: waiter in self.over
        before = self.waiting()
        self.waiters.append(waiter)
        put_out = self.line.join(waiter)
        assert (put_out is not None or waiter.state is State.SHED) == (before >= self.line.room)
        if put_out is not None:
            assert put_out.state is State.SHED
            assert put_out.priority <= waiter.priority, "only a higher priority puts anybody out"

    def leave(self, number: int) -> None:
        if self.waiters:
            waiter = self.waiters[number % len(self.waiters)]
            held = waiter.state is State.GRANTED and waiter in self.holders
            if waiter.state is State.GRANTED and not held:
                return
            if held:
                self.holders.remove(waiter)  # granted and cancelled in one tick
            self.woken(self.line.leave(waiter), permits=1 if held else 0)

    def give_back(self, number: int) -> None:
        if self.holders:
            self.holders.pop(number % len(self.holders))
            self.woken(self.line.give_back(), permits=1)

    def expire(self, number: int) -> None:
        if self.waiters:
            self.over.add(self.waiters[number % len(self.waiters)])

    def resize(self, number: int) -> None:
        free = max(0, (number % 4 + 1) - self.line.in_use)
        self.woken(self.line.resize(number % 4 + 1), permits=free)

    def woken(self, woken: list[Waiter], *, permits: int) -> None:
        granted = [one for one in woken if one.state is State.GRANTED]
        assert len(woken) == len(set(woken)), "nobody is woken twice"
        assert len(granted) <= permits, "a wake-up a permit: no herd"
        assert {one.state for one in woken} <= {State.GRANTED, State.EXPIRED}
        assert all((one in self.over) == (one.state is State.EXPIRED) for one in woken), (
            "no permit for those whose time is over"
        )
        self.holders += granted

    def check(self) -> None:
        assert self.line.in_use == len(self.holders), "permits are conserved"
        assert self.line.waiting == self.waiting()
        assert self.line.waiting <= self.line.room
        if self.line.in_use < self.line.size:
            assert self.waiting() == 0, "no permit lies idle while somebody waits"
        for waiter in self.waiters:
            end = self.ends.setdefault(waiter, waiter.state) if waiter.state is not State.WAITING else None
            assert end in (None, waiter.state) or (end is State.GRANTED and waiter.state is State.LEFT), "one end"

    def waiting(self) -> int:
        return sum(one.state is State.WAITING for one in self.waiters)


@given(schedule=STEPS, size=st.integers(1, 4), room=st.integers(0, 5), newest=st.booleans())
def test_permits_are_conserved_and_nobody_is_forgotten_whatever_happens(
    schedule: Schedule, size: int, room: int, newest: bool
) -> None:
    Scene(Line(size, room, newest_first=newest)).run(schedule)


def served(line: Line, priorities: list[int]) -> list[int]:
    """In which order the waiters of those priorities are served, by their number."""
    assert line.take()
    waiters = [Waiter(priority, lambda: False) for priority in priorities]
    for waiter in waiters:
        line.join(waiter)
    order = []
    while line.waiting:
        (woken,) = line.give_back()
        order.append(waiters.index(woken))
    return order


@given(count=st.integers(1, 30))
def test_first_come_first_served(count: int) -> None:
    assert served(Line(1, 30), [5] * count) == list(range(count))


@given(count=st.integers(1, 30))
def test_or_the_newest_first(count: int) -> None:
    assert served(Line(1, 30, newest_first=True), [5] * count) == list(reversed(range(count)))


def test_a_higher_priority_goes_first_and_every_eighth_turn_is_the_lowest_s() -> None:
    order = served(Line(1, 30), [1] * 2 + [9] * 18)

    assert [order.index(0), order.index(1)] == [LOWEST_EVERY - 1, 2 * LOWEST_EVERY - 1]


def test_no_priority_starves_while_higher_ones_keep_coming() -> None:
    line = Line(1, 10)
    assert line.take()
    poor = Waiter(0, lambda: False)
    line.join(poor)
    for _ in range(LOWEST_EVERY):
        line.join(Waiter(9, lambda: False))
        line.give_back()

    assert poor.state is State.GRANTED


def test_a_full_line_puts_out_the_last_of_a_lower_priority() -> None:
    line = Line(1, 2)
    assert line.take()
    low = [Waiter(2, lambda: False), Waiter(2, lambda: False)]
    for waiter in low:
        line.join(waiter)
    equal, higher = Waiter(2, lambda: False), Waiter(3, lambda: False)

    assert line.join(equal) is None
    assert equal.state is State.SHED
    assert line.join(higher) is low[1]
    assert [one.state for one in (*low, higher)] == [State.WAITING, State.SHED, State.WAITING]


def test_a_line_full_of_those_who_left_does_not_grow() -> None:
    line = Line(1, 2, newest_first=True)
    assert line.take()
    for _ in range(1000):
        waiter = Waiter(5, lambda: False)
        line.join(waiter)
        line.leave(waiter)

    assert sum(map(len, line._lanes)) < 20


# ---- seeded bugs ------------------------------------------------------------------------------------------------------


class LosesAPermitOnCancel(Line):
    def leave(self, waiter: Waiter) -> list[Waiter]:
        if waiter.state is State.GRANTED:
            waiter.state = State.LEFT
            return []
        return super().leave(waiter)


class WakesEverybody(Line):
    def _serve(self) -> list[Waiter]:
        woken = super()._serve()
        return woken + [one for lane in self._lanes for one in lane if one.state is State.WAITING]


class GrantsToTheExpired(Line):
    def _next(self) -> Waiter | None:
        waiter = super()._next()
        if waiter is not None:
            waiter.over = lambda: False
        return waiter


class ForgetsTheLine(Line):
    def give_back(self) -> list[Waiter]:
        self.in_use -= 1
        return []


class LetsOvertake(Line):
    def take(self) -> bool:
        if self.in_use >= self.size and self.waiting < 2:
            return False
        self.in_use += 1
        return True


class StopsAtTheFirstExpired(Line):
    def _serve(self) -> list[Waiter]:
        if self.in_use < self.size and (waiter := self._next()) is not None:
            over = waiter.over()
            self._end(waiter, State.EXPIRED if over else State.GRANTED)
            self.in_use += not over
            return [waiter]
        return []


class CountsThoseWhoLeft(Line):
    def leave(self, waiter: Waiter) -> list[Waiter]:
        if waiter.state is State.WAITING:
            waiter.state = State.LEFT
            return []
        return super().leave(waiter)


class GivesBackTwice(Line):
    def leave(self, waiter: Waiter) -> list[Waiter]:
        woken = super().leave(waiter)
        return woken + (self.give_back() if self.in_use and not woken else [])


BUGS: list[Callable[[int, int], Line]] = [
    LosesAPermitOnCancel, WakesEverybody, GrantsToTheExpired, ForgetsTheLine, LetsOvertake, StopsAtTheFirstExpired,
    CountsThoseWhoLeft, GivesBackTwice,
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_seeded_bug_is_caught(bug: Callable[[int, int], Line]) -> None:
    chance = random.Random(4)
    steps = ["ask", "ask", "ask", "leave", "give back", "give back", "expire", "resize"]
    schedules = [[(chance.choice(steps), chance.randrange(100)) for _ in range(60)] for _ in range(200)]

    with pytest.raises(AssertionError):
        for schedule in schedules:
            Scene(bug(2, 4)).run(schedule)
