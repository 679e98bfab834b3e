"""Alerts: when they fire and when they are over, in virtual time; silence when all is well; and everybody told once."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.books import episodes, sql
from crossfoot.books.entry import Kind
from crossfoot.books.losing import Memory
from crossfoot.books.posting import post_all
from crossfoot.clock import SECOND, Micros
from crossfoot.errors import UsageError
from crossfoot.outcomes import invariant as invariants
from crossfoot.outcomes.alerts import machine, watching
from crossfoot.outcomes.alerts.machine import IDLE, Change, Sample, Seen, step
from crossfoot.outcomes.alerts.rules import ALERTS, FAST, HOUR, MINUTE, SLOW, Arrivals, Burn, Level, Rule
from crossfoot.outcomes.alerts.signs import life_left
from crossfoot.outcomes.alerts.telling import LOST, Command, Webhook, deliver
from crossfoot.outcomes.alerts.watching import Turn, look
from crossfoot.outcomes.evaluating import evaluate, register
from crossfoot.outcomes.expectation import expect
from crossfoot.outcomes.invariant import invariant
from tests.unit.alert_rig import DAY, Hook, Watch, died, noted, published, vanish
from tests.unit.book_rig import CAUSE, QUEUE, Desk, Lectern

pytest_plugins = ["tests.servers.postgres_fixtures", "tests.unit.desk_fixtures", "tests.unit.alert_fixtures"]

AT: Micros = 1_700_000_000 * SECOND


# ---- the machine ---------------------------------------------------------------------------------------------------


def played(rule: Rule, story: Sequence[tuple[float, Seen | None]]) -> list[tuple[float, Change]]:
    """What a story of (second, what is seen) makes of a rule: (second, what changed)."""
    state = IDLE
    changes: list[tuple[float, Change]] = []
    for second, seen in story:
        state, change = step(rule, state, seen, AT + round(second * SECOND))
        if change is not None:
            changes.append((second, change))
    return changes


LEVEL = Level(fire=10, clear=5, sustain=60 * SECOND, calm=120 * SECOND)


def values(*pairs: tuple[float, float]) -> list[tuple[float, Seen | None]]:
    return [(second, Seen(value=value)) for second, value in pairs]


class TestLevel:
    def test_it_fires_when_it_has_lasted_and_is_over_when_calm_has_lasted(self) -> None:
        story = values((0, 11), (59, 11), (60, 11), (100, 4), (219, 4), (220, 4))
        assert played(LEVEL, story) == [(60, Change.opened), (220, Change.closed)]

    def test_a_short_excess_does_not_fire(self) -> None:
        assert played(LEVEL, values((0, 11), (59, 11), (59.5, 10), (61, 11), (120, 11))) == []

    def test_what_swings_or_stays_between_the_bounds_neither_fires_again_nor_is_over(self) -> None:
        swings = [(70.0 + 10 * n, 6.0 + 5 * (n % 2)) for n in range(100)]
        stays = [(1100.0 + 10 * n, 7.0) for n in range(200)]
        assert played(LEVEL, values((0, 11), (60, 11), *swings, *stays)) == [(60, Change.opened)]

    def test_a_short_calm_does_not_end_it(self) -> None:
        assert played(LEVEL, values((0, 11), (60, 11), (70, 0), (180, 0), (185, 11), (190, 0), (300, 0))) == [
            (60, Change.opened)
        ]

    def test_what_is_gone_is_calm(self) -> None:
        assert played(LEVEL, [*values((0, 11), (60, 11)), (70, None), (190, None)])[-1] == (190, Change.closed)

    def test_a_clock_that_is_set_back_makes_nothing_last_longer(self) -> None:
        assert played(LEVEL, values((0, 11), (-3600, 11), (-3550, 11))) == []
        assert played(LEVEL, values((0, 11), (-3600, 11), (-3540, 11))) == [(-3540, Change.opened)]

    def test_small_values_may_be_the_bad_ones(self) -> None:
        rule = Level(fire=0.25, clear=0.5, sustain=0, calm=0, below=True)
        assert played(rule, values((0, 0.3), (1, 0.2), (2, 0.4), (3, 0.5))) == [(1, Change.opened), (3, Change.closed)]

    @given(st.lists(st.tuples(st.floats(0, 500), st.floats(0, 20)), max_size=60))
    def test_openings_and_closings_take_turns(self, steps: list[tuple[float, float]]) -> None:
        second = 0.0
        story: list[tuple[float, float]] = []
        for gap, value in steps:
            second += gap
            story.append((second, value))
        kinds = [change for _, change in played(LEVEL, values(*story))]
        assert kinds == [Change.opened, Change.closed] * (len(kinds) // 2) + [Change.opened] * (len(kinds) % 2)


BURN = Burn(allowed=0.001, windows=(FAST, SLOW))


def traffic(seconds: int, bad: Any, every: int = 15, rate: float = 100.0) -> list[tuple[float, Seen | None]]:
    """Counters of a steady traffic, of which `bad(second)` are bad a second."""
    story: list[tuple[float, Seen | None]] = []
    total = wrong = 0.0
    for second in range(0, seconds, every):
        story.append((second, Seen(bad=wrong, all=total)))
        total += rate * every
        wrong += bad(second) * every
    return story


class TestBurn:
    def test_a_share_that_is_allowed_never_fires(self) -> None:
        assert played(BURN, traffic(24 * 3600, lambda _: 0.1, every=60)) == []

    def test_a_fast_burn_fires_soon_and_is_over_soon_after_its_end(self) -> None:
        changes = played(BURN, traffic(3 * 3600, lambda second: 5.0 if 3600 <= second < 5400 else 0.0))
        assert [change for _, change in changes] == [Change.opened, Change.closed]
        assert 3600 < changes[0][0] < 3600 + 1200
        assert 5400 < changes[1][0] < 5400 + 3600

    def test_a_slow_burn_fires_later(self) -> None:
        changes = played(BURN, traffic(8 * 3600, lambda second: 0.7 if second >= 3600 else 0.0, every=60))
        assert [change for _, change in changes] == [Change.opened]
        assert changes[0][0] > 2 * 3600

    def test_a_burst_of_seconds_in_much_traffic_does_not_fire(self) -> None:
        assert played(BURN, traffic(3 * 3600, lambda second: 20.0 if 5400 <= second < 5460 else 0.0)) == []

    def test_one_in_a_quiet_system_fires(self) -> None:
        story = [(0.0, Seen(bad=0, all=1)), (15.0, Seen(bad=1, all=1))]
        assert played(BURN, story) == [(15.0, Change.opened)]

    def test_what_was_there_before_anybody_looked_does_not_fire(self) -> None:
        assert played(BURN, [(n * 15.0, Seen(bad=500, all=1000)) for n in range(100)]) == []

    def test_counters_that_begin_anew_are_no_burn(self) -> None:
        story = [(0.0, Seen(bad=50, all=100_000)), (15.0, Seen(bad=3, all=20)), (30.0, Seen(bad=3, all=40))]
        assert played(BURN, story) == []

    def test_it_remembers_no_more_than_a_sample_a_minute_of_its_longest_window(self) -> None:
        state = IDLE
        for second, seen in traffic(24 * 3600, lambda _: 0.0):
            state, _ = step(BURN, state, seen, AT + round(second * SECOND))
        assert len(state.samples) <= BURN.longest // MINUTE + 3
        assert state.samples[0].at <= state.samples[-1].at - BURN.longest

    def test_the_share_of_a_window_begins_with_the_sample_before_it(self) -> None:
        samples = [Sample(0, 0, 0), Sample(60 * SECOND, 5, 10), Sample(120 * SECOND, 5, 30)]
        assert machine.share(samples, 60 * SECOND, 120 * SECOND) == (0, 0.0)
        assert machine.share(samples, 90 * SECOND, 120 * SECOND) == (5, 5 / 30)
        assert machine.rate(samples, 60 * SECOND, 120 * SECOND) == pytest.approx(20 / 60)


def test_arrivals_are_an_episode_until_none_has_come_for_a_while() -> None:
    rule = Arrivals(calm=30 * MINUTE)
    counts = ((0, 0), (60, 2), (120, 2), (1000, 3), (1015, 3), (2900, 3), (4000, 3), (4100, 4))
    story = [(second, Seen(bad=count)) for second, count in counts]
    assert played(rule, story) == [(60, Change.opened), (2900, Change.closed), (4100, Change.opened)]


@pytest.mark.parametrize(
    ("age", "count", "rate", "left"),
    [(0, 10, 1.0, 1.0), (90, 5, 1.0, 1.0), (90, 50, 1.0, 0.1), (90, 1, 0.0, 0.1), (200, 1, 1.0, 0.0), (0, 1, 0.0, 1.0)],
)
def test_life_is_left_unless_the_queue_drains_in_time(age: float, count: int, rate: float, left: float) -> None:
    assert life_left(age, count, rate, 100.0) == pytest.approx(left)


# ---- each on its scenario ---------------------------------------------------------------------------------------------


def worker(desk: Lectern) -> int:
    return desk.book.start_worker("worker-1", "billing")


class TestScenarios:
    def test_dead_letters_by_their_share_and_then_by_their_age(self, desk: Lectern) -> None:
        watch = Watch(desk)
        watch.look()
        published(desk, "a", "b")
        desk.write("a", (Kind.RECEIVED, 1), (Kind.COMMITTED, 1))
        desk.write("b", (Kind.RECEIVED, 1), (Kind.FAILED, 1, {"cause": CAUSE.fingerprint}), (Kind.DEAD_LETTERED, 1))
        desk.clock.advance(15)
        (turn,) = watch.look()
        assert (turn.alert, turn.about, turn.told.ids, turn.told.severity) == ("dead letters", QUEUE, ("b",), "page")
        assert turn.told.step == "crossfoot dead list --by-cause"
        watch.wait(4 * 3600 + 60, every=600)
        assert watch.opened()["dead letter age"].told.ids == ("b",)

    def test_dead_letters_before_their_queue_forgets_them(self, desk: Lectern) -> None:
        watch = Watch(desk, dead=14 * DAY, since_origin=True)
        died(desk, "a")
        watch.wait(10 * DAY, every=6 * 3600)
        assert "dead letter loss" not in watch.opened()
        watch.wait(DAY, every=6 * 3600)
        turn = watch.opened()["dead letter loss"]
        assert (turn.about, turn.told.ids, turn.told.step) == (QUEUE, ("a",), f"crossfoot check --queue {QUEUE}")

    def test_what_nobody_receives(self, desk: Lectern) -> None:
        watch = Watch(desk, held=1)
        published(desk, "a")
        watch.wait(15 * 60)
        assert watch.turns == [], "it may wait for a quarter of an hour"
        watch.wait(6 * 60)
        turn = watch.opened()["stranded"]
        assert (turn.about, turn.told.ids, turn.told.step) == (QUEUE, ("a",), "crossfoot why a")

    def test_a_delivery_without_an_end(self, desk: Lectern) -> None:
        watch = Watch(desk)
        published(desk, "a")
        desk.write("a", (Kind.RECEIVED, 1, {"due": desk.now + 30 * SECOND}))
        watch.wait(7 * 60)
        assert watch.opened()["stalled"].told.ids == ("a",)

    def test_what_vanished(self, desk: Lectern) -> None:
        watch = Watch(desk)
        published(desk, "a", "b")
        desk.write("a", (Kind.VANISHED, 0))
        (turn,) = watch.look()
        assert (turn.alert, turn.told.ids) == ("vanished", ("a",))
        assert watch.wait(1800)[-1].change is Change.closed, "it is there for ever, and the episode is not"
        desk.write("b", (Kind.VANISHED, 0))
        (again,) = watch.look()
        assert (again.alert, again.episode > turn.episode, again.told.ids[0]) == ("vanished", True, "b")

    def test_what_has_no_fate(self, desk: Lectern) -> None:
        watch = Watch(desk)
        desk.register("blank")
        watch.wait(180)
        turn = watch.opened()["unaccounted"]
        assert (turn.told.ids, turn.told.step) == (("blank",), "crossfoot balance")

    def test_messages_that_will_be_forgotten_before_their_turn(self, desk: Lectern) -> None:
        watch = Watch(desk, messages=3600.0, held=50)
        worker(desk)
        published(desk, *(f"m{number}" for number in range(50)))
        watch.wait(44 * 60)
        assert "time to loss" not in watch.opened()
        watch.wait(8 * 60)
        turn = watch.opened()["time to loss"]
        assert turn.told.count == 50
        assert turn.told.ids[0] == "m0"

    def test_a_queue_that_drains_in_time_loses_nothing(self, desk: Lectern) -> None:
        watch = Watch(desk, messages=3600.0)
        published(desk, *(f"m{number}" for number in range(40)))
        desk.clock.advance(46 * 60)
        for number in range(40):
            watch.look()
            desk.write(f"m{number}", (Kind.RECEIVED, 1), (Kind.COMMITTED, 1))
            desk.clock.advance(20)
        watch.look()
        assert "time to loss" not in watch.opened()

    def test_an_outcome_that_does_not_come(self, desk: Lectern) -> None:
        register(desk.book, [expect("invoice.issued", after="case.released", within="5m")])
        watch = Watch(desk)
        published(desk, "a")
        watch.wait(300)
        assert watch.turns == []
        watch.wait(60)
        turn = watch.opened()["expectation breach"]
        assert (turn.about, turn.told.ids) == ("invoice.issued after case.released", ("a",))
        assert turn.told.step == "crossfoot outcomes"

    def test_outcomes_that_come_late(self, desk: Lectern) -> None:
        register(desk.book, [expect("invoice.issued", after="case.released", within="1s", by="message")])
        watch = Watch(desk)
        watch.look()
        published(desk, "a", "b", "c")
        desk.clock.advance(10)
        for id_ in ("a", "b", "c"):
            desk.execute(sql.INSERT_OUTCOME, desk.keys[id_], "invoice.issued", None, desk.now, None)
            desk.write(id_, (Kind.RECEIVED, 1), (Kind.COMMITTED, 1))
        watch.look()
        assert set(watch.opened()) == {"expectation late"}
        assert set(watch.opened()["expectation late"].told.ids) == {"a", "b", "c"}

    def test_an_invariant_that_is_broken(self, desk: Lectern) -> None:
        desk.execute("CREATE TABLE invoices (case_id TEXT)")
        try:
            invariants.register(
                desk.book,
                [
                    invariant(
                        "billed once", "SELECT case_id FROM invoices GROUP BY 1 HAVING count(*) > 1", ids="case_id"
                    )
                ],
            )
            watch = Watch(desk)
            assert watch.look() == []
            desk.execute("INSERT INTO invoices VALUES ('4711'), ('4711'), ('4712')")
            (turn,) = watch.look()
            assert (turn.alert, turn.about, turn.told.ids) == ("invariant broken", "billed once", ("4711",))
            desk.execute("DELETE FROM invoices")
            assert [turn.change for turn in watch.look()] == [Change.closed]
        finally:
            desk.execute("DROP TABLE invoices")

    def test_one_that_somebody_else_has_closed_meanwhile_is_not_opened_again(
        self, desk: Lectern, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        desk.execute("CREATE TABLE invoices (case_id TEXT)")
        try:
            twice = "SELECT case_id FROM invoices GROUP BY 1 HAVING count(*) > 1"
            invariants.register(desk.book, [invariant("billed once", twice, ids="case_id")])
            watch, other = Watch(desk), Watch(desk)
            watch.look()
            desk.execute("INSERT INTO invoices VALUES ('4711'), ('4711')")
            assert len(watch.look()) == 1
            observe = watching.observe

            def overtaken(*seen: Any, **known: Any) -> Any:
                found = observe(*seen, **known)
                monkeypatch.setattr(watching, "observe", observe)
                desk.clock.advance(1)
                desk.execute("DELETE FROM invoices")
                assert [turn.change for turn in other.look()] == [Change.closed]
                return found

            monkeypatch.setattr(watching, "observe", overtaken)
            assert watch.look() == []
            with desk.book.reading() as connection:
                assert len(episodes.episodes(connection, limit=10)) == 1
        finally:
            desk.execute("DROP TABLE invoices")

    def test_an_invariant_that_nobody_can_answer(self, desk: Lectern) -> None:
        desk.execute("CREATE TABLE invoices (case_id TEXT)")
        stated = invariant("billed once", "SELECT case_id FROM invoices GROUP BY 1 HAVING count(*) > 1", ids="case_id")
        invariants.register(desk.book, [stated])
        watch = Watch(desk)
        desk.execute("INSERT INTO invoices VALUES ('4711'), ('4711')")
        watch.look()
        desk.execute("DROP TABLE invoices")
        watch.wait(360)
        turn = watch.opened()["invariant not known"]
        assert (turn.about, turn.told.step) == ("billed once", "crossfoot outcomes")
        assert [turn.alert for turn in watch.turns if turn.change is Change.closed] == [], "no answer is no good news"
        desk.execute("CREATE TABLE invoices (case_id TEXT)")
        try:
            assert {turn.alert for turn in watch.look()} == {"invariant broken", "invariant not known"}
        finally:
            desk.execute("DROP TABLE invoices")

    def test_failures_that_explode(self, desk: Lectern) -> None:
        watch = Watch(desk)
        watch.look()
        for minute in range(10):
            for number in range(10):
                published(desk, f"m{minute}-{number}")
                desk.write(f"m{minute}-{number}", (Kind.RECEIVED, 1), (Kind.FAILED, 1, {"due": desk.now + HOUR}))
            desk.clock.advance(60)
            watch.look()
        turn = watch.opened()["retry explosion"]
        assert turn.told.ids[0].startswith("m")
        assert turn.told.count >= 20

    def test_workers_that_are_too_few(self, desk: Lectern) -> None:
        watch = Watch(desk)
        number = worker(desk)
        for minute in range(18):
            published(desk, f"m{minute}")
            desk.clock.advance(60)
            desk.book.see_worker(number)
            watch.look()
            if minute >= 6:
                desk.write(f"m{minute - 6}", (Kind.RECEIVED, 1), (Kind.COMMITTED, 1))
        assert set(watch.opened()) == {"worker saturation"}
        assert len(watch.opened()["worker saturation"].told.ids) >= 5

    def test_entries_that_nobody_posts(self, desk: Lectern) -> None:
        published(desk, "a")
        turns: list[Turn] = []
        for _ in range(8):
            turns += look(desk.book)
            desk.clock.advance(60)
        assert [(turn.alert, turn.told.count) for turn in turns] == [("balance lag", 2)]

    def test_every_alert_has_a_scenario_here(self) -> None:
        source = Path(__file__).read_text(encoding="utf-8")
        scenarios = source[
            source.index("class TestScenarios") : source.index("def test_every_alert_has_a_scenario_here")
        ]
        assert [name for name in ALERTS if f'"{name}"' not in scenarios] == []


# ---- silence ------------------------------------------------------------------------------------------------------------


class Service:
    """A healthy service in virtual time: messages come, wait for their turn, and are settled; one in 2,000 fails once.

    Args:
        desk: a book and an embedded queue.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.worker = desk.book.start_worker("worker-1", "billing")
        self.working = True
        self.count = 0
        self.open: list[str] = []
        self.failed: set[str] = set()

    def second(self, arrivals: int, at_most: int) -> None:
        """A second passes."""
        desk = self.desk
        for _ in range(arrivals):
            self.count += 1
            id_ = f"m{self.count}"
            desk.register(id_, subject=id_)
            desk.write(id_, (Kind.INTENDED, 0, {"due": desk.now}), (Kind.PUBLISHED, 0, {"due": desk.now}))
            self.open.append(id_)
        if self.working:
            now, self.open = self.open[:at_most], self.open[at_most:]
            for id_ in now:
                self._handle(id_)
        desk.clock.advance(1)

    def _handle(self, id_: str) -> None:
        desk, key = self.desk, self.desk.keys[id_]
        if int(id_[1:]) % 500 == 0 and id_ not in self.failed:
            self.failed.add(id_)
            desk.write(
                id_, (Kind.RECEIVED, 1, {"due": desk.now + 30 * SECOND}), (Kind.FAILED, 1, {"due": desk.now + SECOND})
            )
            self.open.append(id_)
            return
        attempt = 2 if id_ in self.failed else 1
        with desk.book.writing() as connection:
            connection.execute(sql.INSERT_OPERATION, (f"bill:{id_}", key, int(Kind.COMMITTED), desk.now))
            connection.execute(sql.INSERT_OUTCOME, (key, "invoice.issued", id_, desk.now, None))
        desk.write(
            id_,
            (Kind.RECEIVED, attempt, {"due": desk.now + 30 * SECOND}),
            (Kind.COMMITTED, attempt),
            (Kind.ACKED, attempt),
        )


def test_nobody_is_woken_in_a_healthy_hour_nor_over_a_weekend(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "book.db")
    service = Service(desk)
    told: list[Turn] = []
    register(desk.book, [expect("invoice.issued", after="case.released", within="5m")])

    def watch() -> None:
        post_all(desk.book)
        evaluate(desk.book)
        told.extend(
            look(desk.book, memory={QUEUE: Memory(messages=14 * 86_400.0, dead=14 * 86_400.0, since_origin=True)})
        )

    try:
        for second in range(3600):
            doubled = 1200 <= second < 2400
            deploying = 2700 <= second < 2745 or 3000 <= second < 3045
            if service.working and deploying:
                desk.book.stop_worker(service.worker)
            if not service.working and not deploying:
                service.worker = desk.book.start_worker("worker-next", "billing")
            service.working = not deploying
            if second % 10 == 0 and service.working:
                desk.book.see_worker(service.worker)
            arrivals = (2 if doubled else 1) if second % 2 == 0 else 0
            service.second(arrivals, at_most=4)
            if second % 15 == 0:
                watch()
        for _ in range(62 * 4):  # a weekend without a message
            desk.clock.advance(900)
            desk.book.see_worker(service.worker)
            watch()
        service.second(3, at_most=3)
        desk.clock.advance(15)
        watch()
        assert service.count > 2000
        assert told == []
        # The same service is not silent when something is wrong: silence above is not deafness.
        published(desk, "lost")
        desk.write("lost", (Kind.VANISHED, 0))
        watch()
        assert [turn.alert for turn in told] == ["vanished"]
    finally:
        desk.close()


# ---- telling ------------------------------------------------------------------------------------------------------------


class TestTelling:
    def test_an_episode_is_told_once_when_it_begins_and_once_when_it_is_over(self, desk: Lectern, hook: Hook) -> None:
        target = Webhook(hook.url)
        vanish(desk, target)
        for _ in range(5):
            deliver(desk.book, [target])
            desk.clock.advance(600)
            look(desk.book, targets=[target.name])
        deliver(desk.book, [target])
        assert [letter["event"] for letter in hook.letters] == ["opened", "closed"]
        assert (hook.letters[0]["ids"], hook.letters[0]["step"], hook.letters[0]["repeat"]) == (
            ["gone"],
            "crossfoot why gone",
            False,
        )
        assert len(set(hook.keys)) == 2
        assert noted(desk) == [("opened", "sent", 1), ("closed", "sent", 1)]

    def test_what_was_not_heard_is_sent_again_and_is_no_repeat(self, desk: Lectern, hook: Hook) -> None:
        target = Webhook(hook.url)
        hook.answers = [503, 302]
        vanish(desk, target)
        for _ in range(4):
            deliver(desk.book, [target])
            desk.clock.advance(60)
        assert [letter["repeat"] for letter in hook.letters] == [False, False, False]
        assert len(set(hook.keys)) == 1
        assert noted(desk)[0] == ("opened", "sent", 3)

    def test_a_missing_answer_is_in_doubt_and_its_repeat_says_so_under_the_same_key(
        self, desk: Lectern, hook: Hook
    ) -> None:
        target = Webhook(hook.url)
        hook.answers = [0]
        vanish(desk, target)
        (notice,) = deliver(desk.book, [target])
        assert notice.state == "in doubt"
        desk.clock.advance(60)
        deliver(desk.book, [target])
        assert [letter["repeat"] for letter in hook.letters] == [False, True]
        assert len(set(hook.keys)) == 1

    def test_a_watch_that_dies_between_sending_and_noting_leaves_a_doubt(
        self, desk: Lectern, hook: Hook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = Webhook(hook.url)
        vanish(desk, target)
        note = episodes.note

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(episodes, "note", killed)
        with pytest.raises(KeyboardInterrupt):
            deliver(desk.book, [target])
        monkeypatch.setattr(episodes, "note", note)
        assert deliver(desk.book, [target]) == [], "who claimed it may be sending it"
        desk.clock.advance(LOST / SECOND)
        deliver(desk.book, [target])
        assert [letter["repeat"] for letter in hook.letters] == [False, True]
        assert len(set(hook.keys)) == 1
        assert deliver(desk.book, [target]) == []

    def test_several_watches_tell_once_together(
        self, desk: Lectern, hook: Hook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = Webhook(hook.url)
        vanish(desk, target)
        waiting, all_have_read = episodes.waiting, threading.Barrier(4, timeout=60)

        def read_together(*arguments: Any) -> list[episodes.Notice]:
            found = waiting(*arguments)
            all_have_read.wait()
            return found

        monkeypatch.setattr(episodes, "waiting", read_together)

        def tell() -> None:
            book = desk.book.another()
            try:
                deliver(book.open(), [Webhook(hook.url)])
                look(book, targets=[target.name])
            finally:
                book.close()

        threads = [threading.Thread(target=tell) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(hook.letters) == 1
        assert noted(desk) == [("opened", "sent", 1)]

    def test_whoever_begins_to_watch_is_told_of_what_is_open_however_it_was_opened(
        self, desk: Lectern, hook: Hook
    ) -> None:
        desk.story("gone", (Kind.PUBLISHED, 0), (Kind.VANISHED, 0))
        post_all(desk.book)
        look(desk.book)  # as `crossfoot alerts check` does, with nobody to tell
        first, second = Webhook(hook.url), Webhook(f"{hook.url}&second")
        for target in (first, second, first):
            look(desk.book, targets=[target.name])
            deliver(desk.book, [target])
        assert [letter["event"] for letter in hook.letters] == ["opened", "opened"]
        desk.clock.advance(1800)
        look(desk.book)
        deliver(desk.book, [first, second])
        assert [letter["event"] for letter in hook.letters[2:]] == ["closed", "closed"], (
            "whoever looked when it was over"
        )

    def test_the_end_is_not_told_before_the_beginning(self, desk: Lectern, hook: Hook) -> None:
        target = Webhook(hook.url)
        hook.answers = [503, 503, 503]
        vanish(desk, target)
        deliver(desk.book, [target])
        look(desk.book, targets=[target.name])
        desk.clock.advance(1800)
        (over,) = look(desk.book, targets=[target.name])
        assert over.change is Change.closed
        for _ in range(5):
            deliver(desk.book, [target])
            desk.clock.advance(600)
        assert [letter["event"] for letter in hook.letters] == ["opened", "opened", "opened", "opened", "closed"]

    @pytest.mark.parametrize(("status", "repeat"), [(500, True), (502, True), (504, True), (503, False), (429, False)])
    def test_an_error_after_which_it_may_have_been_heard_is_a_doubt(
        self, desk: Lectern, hook: Hook, status: int, repeat: bool
    ) -> None:
        target = Webhook(hook.url)
        hook.answers = [status]
        vanish(desk, target)
        for _ in range(2):
            deliver(desk.book, [target])
            desk.clock.advance(60)
        assert [letter["repeat"] for letter in hook.letters] == [False, repeat]

    def test_a_webhook_that_answers_byte_by_byte_has_its_time_as_a_whole(self, desk: Lectern) -> None:
        done = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as server:

            def trickle() -> None:
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    while not done.wait(0.05):
                        connection.sendall(b"H")

            thread = threading.Thread(target=trickle)
            thread.start()
            target = Webhook(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=0.5)
            vanish(desk, target)
            begun = time.monotonic()
            (notice,) = deliver(desk.book, [target])
            assert time.monotonic() - begun < 20
            assert notice.state == "in doubt"
            done.set()
            thread.join(20)

    def test_who_does_not_answer_is_asked_once_a_look_and_keeps_nobody_else_waiting(
        self, desk: Lectern, hook: Hook
    ) -> None:
        silent, listening = Webhook("http://127.0.0.1:9/"), Webhook(hook.url)
        for number in range(5):
            desk.story(f"gone-{number}", (Kind.PUBLISHED, 0), (Kind.VANISHED, 0), queue=f"q{number}")
        post_all(desk.book)
        look(desk.book, targets=[silent.name, listening.name])
        told = deliver(desk.book, [silent, listening])
        assert [notice.state for notice in told] == ["refused", *["sent"] * 5]

    def test_a_command_has_the_letter_on_its_standard_input(self, desk: Lectern, tmp_path: Path) -> None:
        script = tmp_path / "tell.sh"
        script.write_text(
            f'#!/bin/sh\necho "$CROSSFOOT_EVENT $CROSSFOOT_KEY" >> {tmp_path}/keys\ncat >> {tmp_path}/letters\n'
        )
        script.chmod(0o700)
        target = Command(str(script))
        vanish(desk, target)
        deliver(desk.book, [target])
        letter = json.loads((tmp_path / "letters").read_text())
        assert (tmp_path / "keys").read_text() == f"opened {letter['key']}\n"
        assert noted(desk) == [("opened", "sent", 1)]

    @pytest.mark.parametrize(
        ("line", "timeout", "state"),
        [
            ("false", 10.0, "refused"),
            ("sleep 60", 0.2, "in doubt"),
            ("/no/such/program", 10.0, "refused"),
            ("sh -c 'kill -9 $$'", 10.0, "in doubt"),
        ],
    )
    def test_a_command_that_fails_or_takes_too_long_is_told_of(
        self, desk: Lectern, line: str, timeout: float, state: str
    ) -> None:
        target = Command(line, timeout=timeout)
        vanish(desk, target)
        assert [notice.state for notice in deliver(desk.book, [target])] == [state]
        assert noted(desk) == [("opened", state, 1)]

    def test_the_book_keeps_no_secret_of_a_target(self, hook: Hook) -> None:
        assert "secret" not in Webhook(hook.url).name
        assert "secret" not in Command("curl -H 'Authorization: secret'").name

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://example.com/", "file:///etc/passwd", "example.com", "http://", "http://a..b/", "http://example.com:x/",
            "http://example.com/a b", "http://example.com/caf\u00e9", "http://[::1/",
        ],
    )  # fmt: skip
    def test_a_webhook_is_a_web_address(self, url: str) -> None:
        with pytest.raises(UsageError, match="--webhook takes an address"):
            Webhook(url)

    @pytest.mark.parametrize("line", ["", "'"])
    def test_a_command_is_one(self, line: str) -> None:
        with pytest.raises(UsageError, match="--command"):
            Command(line)
