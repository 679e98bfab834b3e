"""A notice is sent until it is heard: as long as its episode lasts and a day longer, once, and what was not heard can be seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.books import episodes
from crossfoot.cli.exposition import notices
from crossfoot.clock import SECOND, Micros
from crossfoot.outcomes.alerts.telling import Target, Webhook, deliver
from crossfoot.outcomes.alerts.trying import AFTER_THE_END, LONGEST_DOUBT, LONGEST_WAIT, next_try
from crossfoot.outcomes.alerts.watching import look
from tests.unit.alert_rig import DAY, Hook, noted, vanish
from tests.unit.book_rig import Lectern

pytest_plugins = ["tests.servers.postgres_fixtures", "tests.unit.desk_fixtures", "tests.unit.alert_fixtures"]

HOURS = 3_600.0
DOWN = [503] * 10_000


def watched(desk: Lectern, target: Target, seconds: float, every: float = 300.0) -> None:
    """Tell as a watch does, and look every half an hour."""
    for step in range(round(seconds / every)):
        if step * every % 1_800 == 0:
            look(desk.book, targets=[target.name])
        deliver(desk.book, [target])
        desk.clock.advance(every)


def open_for_ever(desk: Lectern, target: Target) -> None:
    """An episode that lasts: a message without a fate."""
    desk.register("blank")
    look(desk.book, targets=[target.name])
    desk.clock.advance(180)
    look(desk.book, targets=[target.name])


def unheard(desk: Lectern) -> list[tuple[str, str, int]]:
    with desk.book.reading() as connection:
        found = episodes.unheard(connection, desk.now)
    return [(one.notice.what, one.notice.state, one.notice.tries) for one in found]


class TestNextTry:
    @given(st.integers(1, 100_000), st.integers(0, 10**16), st.booleans(), st.none() | st.integers(0, 10**16))
    def test_it_is_given_up_only_a_day_after_the_end_and_no_pause_is_long(
        self, tries: int, now: Micros, in_doubt: bool, closed_at: Micros | None
    ) -> None:
        again = next_try(tries, now, in_doubt=in_doubt, closed_at=closed_at)
        assert (again is None) is (closed_at is not None and now - closed_at >= AFTER_THE_END)
        if again is not None:
            assert 0 < again - now <= (LONGEST_DOUBT if in_doubt else LONGEST_WAIT)

    def test_pauses_grow(self) -> None:
        waits = [(next_try(n, 0, in_doubt=True, closed_at=None) or 0) // SECOND for n in range(1, 12)]
        assert waits == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]


class TestAsLongAsItLasts:
    def test_a_webhook_that_was_down_for_hours_hears_soon_after_it_is_back_and_once(
        self, desk: Lectern, hook: Hook
    ) -> None:
        target = Webhook(hook.url)
        hook.answers = list(DOWN)
        open_for_ever(desk, target)
        watched(desk, target, 6 * HOURS)
        tried = len(hook.letters)
        assert tried > 60, "every five minutes"
        assert unheard(desk) == [("opened", "refused", tried)]
        hook.answers = []
        watched(desk, target, 300, every=60)
        assert len(hook.letters) == tried + 1
        watched(desk, target, 2 * HOURS)
        assert len(hook.letters) == tried + 1, "once"
        assert noted(desk) == [("opened", "sent", tried + 1)]
        assert unheard(desk) == []
        assert len(set(hook.keys)) == 1
        assert not any(letter["repeat"] for letter in hook.letters)

    def test_who_may_have_heard_is_asked_again_every_hour_at_last(self, desk: Lectern, hook: Hook) -> None:
        target = Webhook(hook.url)
        hook.answers = [500] * 1_000
        open_for_ever(desk, target)
        watched(desk, target, 6 * HOURS)
        first = len(hook.letters)
        watched(desk, target, 12 * HOURS)
        assert len(hook.letters) - first in (11, 12)
        assert {letter["repeat"] for letter in hook.letters[1:]} == {True}

    def test_the_end_is_told_a_day_long_and_then_given_up(self, desk: Lectern, hook: Hook) -> None:
        target = Webhook(hook.url)
        vanish(desk, target)
        deliver(desk.book, [target])
        hook.answers = list(DOWN)
        watched(desk, target, DAY)
        assert [letter["event"] for letter in hook.letters[:2]] == ["opened", "closed"]
        (_, (what, state, tries)) = noted(desk)
        assert (what, state) == ("closed", "refused")
        assert tries > 200
        watched(desk, target, HOURS)
        assert noted(desk)[1][:2] == ("closed", "given up")
        given_up = len(hook.letters)
        hook.answers = []
        watched(desk, target, DAY)
        assert len(hook.letters) == given_up

    def test_an_end_that_is_heard_the_day_after_is_heard_once(self, desk: Lectern, hook: Hook) -> None:
        target = Webhook(hook.url)
        hook.answers = list(DOWN)
        vanish(desk, target)
        watched(desk, target, 23 * HOURS)
        hook.answers = []
        watched(desk, target, 3 * HOURS)
        heard = [letter["event"] for letter in hook.letters][-2:]
        assert heard == ["opened", "closed"]
        assert [(what, state) for what, state, _ in noted(desk)] == [("opened", "sent"), ("closed", "sent")]

    def test_what_comes_up_when_everything_is_over_is_tried_once_at_least(self, desk: Lectern, hook: Hook) -> None:
        target = Webhook(hook.url)
        vanish(desk, target)
        for _ in range(2):
            desk.clock.advance(1_800)
            look(desk.book)
        desk.clock.advance(3 * DAY)  # nobody watched
        for _ in range(2):
            deliver(desk.book, [target])
        assert [letter["event"] for letter in hook.letters] == ["opened", "closed"]


class TestWhatIsSeenOfIt:
    def test_what_was_given_up_is_seen_for_a_week(self, desk: Lectern) -> None:
        target = Webhook("http://127.0.0.1:9/")
        vanish(desk, target)
        watched(desk, target, DAY + 2 * HOURS, every=600)
        assert [(what, state) for what, state, _ in unheard(desk)] == [("opened", "given up"), ("closed", "given up")]
        with desk.book.reading() as connection:
            (metric,) = notices(episodes.unheard(connection, desk.now))
        assert [(sample.labels["target"], sample.value) for sample in metric.samples] == [(target.name, 2)]
        desk.clock.advance(7 * DAY)
        assert unheard(desk) == []

    @pytest.mark.parametrize("state", [episodes.REFUSED, episodes.IN_DOUBT, episodes.GIVEN_UP])
    def test_what_was_not_heard_is_seen_at_once(self, desk: Lectern, state: str) -> None:
        target = Webhook("http://127.0.0.1:9/")
        vanish(desk, target)
        with desk.book.writing() as connection:
            (notice,) = episodes.waiting(connection, target.name, desk.now, 0)
            episodes.note(connection, notice, state, desk.now + 1, "no")
        assert unheard(desk) == [("opened", state, 0)]

    def test_a_target_that_no_watch_has_any_more_is_seen(self, desk: Lectern) -> None:
        vanish(desk, Webhook("http://127.0.0.1:9/"))
        assert unheard(desk) == [], "it is about to be sent"
        desk.clock.advance(300)
        assert unheard(desk) == [("opened", "decided", 0)]

    def test_what_is_being_sent_and_what_was_heard_is_not(self, desk: Lectern, hook: Hook) -> None:
        target = Webhook(hook.url)
        vanish(desk, target)
        with desk.book.writing() as connection:
            (notice,) = episodes.waiting(connection, target.name, desk.now, 0)
            assert episodes.claim(connection, notice, desk.now)
        assert unheard(desk) == []
        desk.clock.advance(300)
        assert unheard(desk) == [("opened", "sending", 1)], "who claimed it has died"
        deliver(desk.book, [target])
        assert unheard(desk) == []


@pytest.mark.parametrize("tries", [1, 8, 9, 100])
def test_there_is_no_last_try_while_it_lasts(tries: int) -> None:
    assert next_try(tries, 0, in_doubt=False, closed_at=None) is not None
