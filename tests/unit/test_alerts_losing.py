"""The alert of dead letters that their queue is about to forget: before they are lost, and silent where nobody can lose anything."""

from __future__ import annotations

from typing import Any

import pytest

from crossfoot.books import losing as booked
from crossfoot.books.entry import Kind
from crossfoot.books.failures import standing
from crossfoot.books.fate import Fate
from crossfoot.clock import SECOND, micros
from crossfoot.outcomes.alerts.machine import Change
from crossfoot.queues.telling import Told
from crossfoot.recover.checklist.survey import Attached, Service, survey
from crossfoot.recover.checklist.walk import walk
from tests.unit.alert_rig import DAY, Watch, died
from tests.unit.book_rig import CAUSE, QUEUE, Lectern

pytest_plugins = ["tests.servers.postgres_fixtures", "tests.unit.desk_fixtures"]

LOSS = "dead letter loss"

FORGETS: dict[str, Any] = {"dead": 14 * DAY, "since_origin": True}


def woken(watch: Watch) -> list[tuple[Change, tuple[str, ...]]]:
    return [(turn.change, turn.told.ids) for turn in watch.turns if turn.alert == LOSS]


class TestWhenItFires:
    @pytest.mark.parametrize("retention", [3_600.0, 4 * DAY, 14 * DAY])
    def test_a_quarter_of_the_retention_before_the_loss(self, desk: Lectern, retention: float) -> None:
        watch = Watch(desk, dead=retention, since_origin=True)
        died(desk, "a")
        desk.clock.advance(0.75 * retention)
        watch.look()
        assert woken(watch) == []
        desk.clock.advance(1)
        watch.look()
        assert woken(watch) == [(Change.opened, ("a",))]

    @pytest.mark.parametrize(("origin", "wakes"), [(True, True), (False, False)], ids=["standard SQS", "FIFO"])
    def test_it_counts_from_the_first_send_where_the_queue_does(self, desk: Lectern, origin: bool, wakes: bool) -> None:
        watch = Watch(desk, dead=4 * DAY, since_origin=origin)
        desk.story("dies late", (Kind.PUBLISHED, 0))
        desk.clock.advance(3.5 * DAY)
        failure = {"cause": CAUSE.fingerprint}
        desk.write("dies late", (Kind.RECEIVED, 1), (Kind.FAILED, 1, failure), (Kind.DEAD_LETTERED, 1))
        watch.look()
        assert bool(woken(watch)) is wakes

    def test_it_names_the_first_to_go_their_causes_and_what_the_book_keeps(self, desk: Lectern) -> None:
        watch = Watch(desk, **FORGETS)
        died(desk, "first")
        desk.clock.advance(DAY)
        died(desk, "second", body=None)
        desk.clock.advance(8 * DAY)
        died(desk, "young")
        desk.clock.advance(3 * DAY)
        watch.look()
        (turn,) = [turn for turn in watch.turns if turn.alert == LOSS]
        assert (turn.told.ids, turn.told.count, turn.told.severity) == (("first", "second"), 2, "page")
        assert turn.told.text == (
            f"2 dead letters of queue {QUEUE} are forgotten by it, the first in 2 d: {CAUSE.title} (2); the book does not keep what 1 of "
            "them carried"
        )

    def test_it_is_of_all_dead_letters_however_many_came_after(
        self, desk: Lectern, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        few = 3

        def read(connection: Any, fates: Any, **options: Any) -> Any:
            return standing(connection, fates, **{**options, "limit": few})

        monkeypatch.setattr(booked, "standing", read)
        watch = Watch(desk, **FORGETS)
        died(desk, "old")
        desk.clock.advance(11 * DAY)
        died(desk, *(f"new-{number}" for number in range(5)))
        watch.look()
        assert woken(watch) == [(Change.opened, ("old",))]


class TestWhenItIsSilent:
    def test_where_the_queue_keeps_dead_letters_until_somebody_deletes_them(self, desk: Lectern) -> None:
        watch = Watch(desk, dead=None)
        died(desk, "a")
        watch.wait(400 * DAY, every=20 * DAY)
        assert woken(watch) == []

    def test_where_all_were_brought_back_in_time(self, desk: Lectern) -> None:
        watch = Watch(desk, **FORGETS)
        died(desk, "a")
        desk.write("a", (Kind.REPLAYED, 1), (Kind.RECEIVED, 2), (Kind.COMMITTED, 2))
        watch.wait(20 * DAY, every=DAY)
        assert woken(watch) == []

    def test_what_was_forgotten_long_ago_wakes_nobody(self, desk: Lectern) -> None:
        died(desk, "a")
        desk.clock.advance(30 * DAY)
        watch = Watch(desk, **FORGETS)
        watch.wait(DAY, every=3_600)
        assert woken(watch) == []

    def test_of_another_queues_dead_letters_it_does_not_speak(self, desk: Lectern) -> None:
        watch = Watch(desk, **FORGETS)
        died(desk, "a", queue="elsewhere")
        watch.wait(13 * DAY, every=DAY)
        assert woken(watch) == []


class TestWhenItIsOver:
    def test_when_they_were_brought_back(self, desk: Lectern) -> None:
        watch = Watch(desk, **FORGETS)
        died(desk, "a")
        watch.wait(12 * DAY, every=DAY)
        desk.write("a", (Kind.REPLAYED, 1), (Kind.RECEIVED, 2), (Kind.COMMITTED, 2))
        watch.wait(20 * 60)
        assert woken(watch) == [(Change.opened, ("a",)), (Change.closed, ("a",))]

    def test_not_by_the_loss_itself_but_a_day_after_it_so_that_the_next_loss_wakes_again(self, desk: Lectern) -> None:
        watch = Watch(desk, **FORGETS)
        died(desk, "a")
        watch.wait(14 * DAY + 20 * 3600, every=4 * 3_600)
        assert woken(watch) == [(Change.opened, ("a",))]
        died(desk, "b")
        watch.wait(6 * 3600, every=1_800)
        assert woken(watch)[1:] == [(Change.closed, ("a",))]
        last = [turn for turn in watch.turns if turn.alert == LOSS][-1]
        assert "the first by now" in last.told.text
        watch.wait(11 * DAY, every=6 * 3_600)
        assert woken(watch)[2:] == [(Change.opened, ("b",))]

    def test_not_while_nobody_can_say_how_long_the_queue_remembers(self, desk: Lectern) -> None:
        watch = Watch(desk, **FORGETS)
        died(desk, "a")
        watch.wait(12 * DAY, every=DAY)
        watch.memory = {}
        watch.wait(3_600)
        assert woken(watch) == [(Change.opened, ("a",))]


def test_the_alert_and_the_checklist_tell_of_the_same_dead_letters(desk: Lectern) -> None:
    """Both go by one rule: asked within the same time, they name the same ids."""
    died(desk, "a", "b")
    desk.clock.advance(6 * DAY)
    died(desk, "c")
    desk.clock.advance(5 * DAY)
    watch = Watch(desk, **FORGETS)
    watch.look()
    told = Service(attached={QUEUE: Attached(name=QUEUE, told=Told(dead_retention=14 * DAY, since_origin=True))})
    with desk.book.reading() as connection:
        report = walk(survey(connection, desk.now, service=told, recovery=14 * DAY / 4))
    (finding,) = [one for one in report.findings if one.code == "loss-ahead"]
    assert (Change.opened, finding.ids) == woken(watch)[0] == (Change.opened, ("a", "b"))


def test_what_died_of_no_failure_counts_from_when_it_was_sent(desk: Lectern) -> None:
    desk.story("moved by the broker", (Kind.PUBLISHED, 0), (Kind.DEAD_LETTERED, 0))
    desk.clock.advance(3 * DAY)
    Watch(desk).look()
    with desk.book.reading() as connection:
        dead = standing(connection, [Fate.DEAD])
    (found,) = booked.ahead(dead, 4 * DAY, since_origin=False, now=desk.now, within=micros(2 * DAY))
    assert found.left == 86_400 * SECOND
