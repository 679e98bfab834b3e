"""When a range of keys is made, how wide it is, when it ends, and which may go: decided by numbers and the clock alone."""

from __future__ import annotations

from typing import Any

import pytest

from crossfoot.books.ranges import (
    GROWTH,
    LEAST,
    LOWEST,
    PERIOD,
    STEP,
    Cut,
    Range,
    Since,
    finished,
    left_over,
    noted,
    quiet_below,
    wanted,
)
from crossfoot.clock import SECOND

NOW = 1_790_000_000 * SECOND
HOUR = 3_600 * SECOND

FIRST, SECOND_ONE, THIRD = Range(LOWEST, 1_000_000), Range(1_000_000, 2_000_000), Range(2_000_000, 3_000_000)


def cut(next_key: int, *ranges: Range, since: Since | None = None) -> Cut:
    return Cut(ranges=ranges or (FIRST, SECOND_ONE, THIRD), next_key=next_key, since=since)


class TestMaking:
    def test_none_is_made_while_a_whole_one_is_ahead(self) -> None:
        assert wanted(cut(1_999_999), 999_999, NOW) is None

    def test_the_next_begins_where_the_last_one_ends(self) -> None:
        made = wanted(cut(2_000_000), 1_999_999, NOW)
        assert made is not None
        assert made.lower == THIRD.upper

    def test_it_begins_well_beyond_the_keys_that_are_given(self) -> None:
        for next_key in (THIRD.upper - 1, THIRD.upper, THIRD.upper + 10 * LEAST):
            made = wanted(cut(next_key), next_key - 1, NOW)
            assert made is not None
            assert made.lower == next_key + LEAST

    def test_a_book_without_ranges_gets_one(self) -> None:
        assert wanted(Cut(ranges=(), next_key=5), 4, NOW) == Range(5 + LEAST, 5 + 2 * LEAST)

    @pytest.mark.parametrize(
        ("since", "width"),
        [
            (None, LEAST),
            (Since(1_000_000, 1_000_000, NOW - PERIOD), 1_000_000),
            (Since(1_000_000, 1_000_000, NOW - PERIOD // 4), 4_000_000),
            (Since(1_000_000, 1_000_000, NOW - HOUR), GROWTH * 1_000_000),
            (Since(1_000_000, 1_000_000, NOW), GROWTH * 1_000_000),
            (Since(1_000_000, 1_000_000, NOW + HOUR), GROWTH * 1_000_000),
            (Since(1_000_000, 1_999_990, NOW - PERIOD), LEAST),
        ],
    )
    def test_it_is_as_wide_as_a_period_takes_within_bounds(self, since: Since | None, width: int) -> None:
        made = wanted(cut(2_000_000, since=since), 1_999_999, NOW)
        assert made is not None
        assert made.upper - made.lower == width

    def test_keys_that_were_used_up_do_not_make_the_next_one_wide(self) -> None:
        made = wanted(cut(2_000_000, since=Since(1_000_000, 1_000_000, NOW - PERIOD)), 1_010_000, NOW)
        assert made is not None
        assert made.upper - made.lower == LEAST


class TestNoting:
    def test_it_is_noted_when_keys_of_another_range_are_given(self) -> None:
        former = Since(LOWEST, 1, NOW - PERIOD)
        assert noted(cut(1_000_005, since=former), NOW) == Since(SECOND_ONE.lower, 1_000_005, NOW)
        assert noted(cut(1_000_005), NOW) == Since(SECOND_ONE.lower, 1_000_005, NOW)

    def test_what_is_noted_stands(self) -> None:
        assert noted(cut(1_500_000, since=Since(SECOND_ONE.lower, 1_000_005, NOW - HOUR)), NOW) is None

    def test_keys_in_the_rest_are_not_noted(self) -> None:
        assert noted(cut(THIRD.upper), NOW) is None

    def test_a_note_of_the_future_is_made_anew(self) -> None:
        ahead = Since(SECOND_ONE.lower, 1_000_005, NOW + HOUR)
        assert noted(cut(1_500_000, since=ahead), NOW) == Since(SECOND_ONE.lower, 1_500_000, NOW)


class TestEnding:
    SINCE = Since(SECOND_ONE.lower, 1_000_000, NOW - PERIOD)

    def test_when_the_period_is_over_the_keys_that_are_left_are_used_up(self) -> None:
        assert left_over(cut(1_999_000, since=self.SINCE), NOW) == 1_000
        assert left_over(cut(1_999_000, since=self.SINCE), NOW - 1) == 0

    def test_no_more_at_once_than_takes_a_moment(self) -> None:
        wide = Range(3_000_000, 900_000_000), Range(900_000_000, 1_000_000_000)
        since = Since(3_000_000, 3_000_000, NOW - PERIOD)
        assert left_over(cut(3_000_001, FIRST, *wide, since=since), NOW) == STEP

    def test_a_range_with_nothing_in_it_does_not_end(self) -> None:
        assert left_over(cut(1_000_000, since=self.SINCE), NOW + PERIOD) == 0
        assert left_over(cut(1, since=Since(LOWEST, 1, NOW - PERIOD)), NOW) == 0

    def test_none_ends_before_the_next_one_is_there(self) -> None:
        assert left_over(cut(1_999_000, FIRST, SECOND_ONE, since=self.SINCE), NOW) == 0

    def test_none_ends_by_the_time_of_another_one(self) -> None:
        assert left_over(cut(1_999_000, since=Since(LOWEST, 1, NOW - PERIOD)), NOW) == 0

    def test_keys_in_the_rest_have_no_end(self) -> None:
        assert left_over(cut(THIRD.upper + 5, since=self.SINCE), NOW) == 0


def test_all_but_the_last_two_ranges_that_have_begun_are_quiet() -> None:
    assert quiet_below(cut(999_999)) == LOWEST
    assert quiet_below(cut(1_000_000)) == LOWEST
    assert quiet_below(cut(2_000_000)) == SECOND_ONE.lower
    assert quiet_below(cut(THIRD.upper + LEAST)) == SECOND_ONE.lower


class TestFinished:
    RANGES = (FIRST, SECOND_ONE, THIRD)
    ENDED = {FIRST.lower: NOW - 3 * PERIOD, SECOND_ONE.lower: NOW - 2 * PERIOD, THIRD.lower: NOW}  # noqa: RUF012 - not changed

    def test_ranges_that_lie_before_a_time_and_are_settled_may_go(self) -> None:
        asked: dict[str, Any] = {"before": NOW - PERIOD, "closed": 2_500_000, "unsettled": [2_000_007]}
        assert finished(self.RANGES, ended=self.ENDED, **asked) == [FIRST, SECOND_ONE]

    def test_one_to_which_something_was_added_since_stays(self) -> None:
        ended = self.ENDED | {FIRST.lower: NOW - PERIOD}
        assert finished(self.RANGES, ended=ended, before=NOW - PERIOD, closed=2_500_000, unsettled=()) == [SECOND_ONE]

    def test_one_with_an_unsettled_message_stays(self) -> None:
        asked: dict[str, Any] = {"before": NOW - PERIOD, "closed": 2_500_000, "unsettled": [7, 2_000_007]}
        assert finished(self.RANGES, ended=self.ENDED, **asked) == [SECOND_ONE]

    def test_one_that_is_not_posted_to_its_end_stays(self) -> None:
        asked: dict[str, Any] = {"ended": self.ENDED, "before": NOW - PERIOD, "unsettled": ()}
        assert finished(self.RANGES, closed=SECOND_ONE.upper - 2, **asked) == [FIRST]
        assert finished(self.RANGES, closed=SECOND_ONE.upper - 1, **asked) == [FIRST, SECOND_ONE]

    def test_an_empty_one_may_go_once_its_keys_are_given(self) -> None:
        ended = {FIRST.lower: NOW - 3 * PERIOD, THIRD.lower: NOW}
        assert finished(self.RANGES, ended=ended, before=NOW - PERIOD, closed=2_500_000, unsettled=()) == [
            FIRST,
            SECOND_ONE,
        ]
