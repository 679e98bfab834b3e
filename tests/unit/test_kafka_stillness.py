"""When a member of a group that hears nothing is taken to be left out."""

from __future__ import annotations

from crossfoot.queues.kafka.stillness import LOOKS, STILL_SECONDS, Stillness


def looked(stillness: Stillness, number: int, ends: dict[int, tuple[int, int]], reading: dict[int, int]) -> str:
    now = number * STILL_SECONDS
    assert stillness.is_due(now)
    return stillness.judge(now, ends, reading)


class TestAMemberWithPartitions:
    def test_that_has_read_all_there_is_stays(self) -> None:
        stillness = Stillness(0.0)
        for number in range(1, 20):
            assert not looked(stillness, number, {0: (3, 5), 1: (-1001, 0)}, {0: 5, 1: 0})

    def test_for_which_there_is_more_joins_anew(self) -> None:
        assert "partition 0" in looked(Stillness(0.0), 1, {0: (3, 5)}, {0: 4})

    def test_that_paused_what_has_more_stays(self) -> None:
        """What it paused is not among what it reads."""
        stillness = Stillness(0.0)
        for number in range(1, 20):
            assert not looked(stillness, number, {0: (3, 5), 1: (2, 2)}, {1: 2})


class TestAMemberWithoutAny:
    """Others may have them, and be at work."""

    def test_stays_while_the_group_moves(self) -> None:
        stillness = Stillness(0.0)
        for number in range(1, 20):
            assert not looked(stillness, number, {0: (number, 100)}, {})

    def test_stays_while_nothing_waits(self) -> None:
        stillness = Stillness(0.0)
        for number in range(1, 20):
            assert not looked(stillness, number, {0: (5, 5), 1: (-1001, 0)}, {})

    def test_joins_anew_when_the_group_stands_still_before_what_waits(self) -> None:
        stillness = Stillness(0.0)
        for number in range(1, LOOKS + 1):
            assert not looked(stillness, number, {0: (3, 5)}, {})
        assert "no partition" in looked(stillness, LOOKS + 1, {0: (3, 5)}, {})

    def test_begins_to_count_again_when_the_group_moved(self) -> None:
        stillness = Stillness(0.0)
        for number in range(1, LOOKS + 1):
            assert not looked(stillness, number, {0: (3, 5)}, {})
        for number in range(LOOKS + 1, 2 * LOOKS + 1):
            assert not looked(stillness, number, {0: (4, 5)}, {})

    def test_waits_for_a_group_that_never_committed(self) -> None:
        stillness = Stillness(0.0)
        for number in range(1, LOOKS + 1):
            assert not looked(stillness, number, {0: (-1001, 5)}, {})
        assert looked(stillness, LOOKS + 1, {0: (-1001, 5)}, {})


def test_nothing_is_asked_while_something_comes_or_nobody_answers() -> None:
    stillness = Stillness(0.0)
    assert not stillness.is_due(STILL_SECONDS - 1)
    stillness.heard(STILL_SECONDS - 1)
    assert not stillness.is_due(STILL_SECONDS + 1)
    assert stillness.is_due(2 * STILL_SECONDS)
    for _ in range(20):
        assert not stillness.judge(2 * STILL_SECONDS, {}, {0: 4})
