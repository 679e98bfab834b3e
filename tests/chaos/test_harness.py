"""The harness can fail: what is broken in crossfoot on purpose it reports as damage; and what it reports, it has seen."""

from __future__ import annotations

import shutil
from itertools import pairwise

import pytest

from tests.chaos.hands import chaos, had
from tests.chaos.schedule import KINDS, Target, schedule

SLOW = [pytest.mark.crash, pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(400)]


BROKEN = ("--pair", "postgres/redis", "--seed", "1", "--patience", "30", "--sabotage")


class TestSchedule:
    TARGETS = (Target("worker 1", ("kill", "freeze"), (1.0, 3.0)), Target("database", ("crash", "hang"), (5.0, 12.0)))

    def test_a_seed_repeats_it_and_another_one_does_not(self) -> None:
        assert schedule(7, 60, self.TARGETS) == schedule(7, 60, self.TARGETS)
        assert schedule(7, 60, self.TARGETS) != schedule(8, 60, self.TARGETS)

    def test_what_befalls_a_target_does_not_depend_on_who_else_is_there(self) -> None:
        alone = schedule(7, 60, self.TARGETS[:1])
        assert alone == [fault for fault in schedule(7, 60, self.TARGETS) if fault.target == "worker 1"]

    def test_a_target_recovers_before_it_is_struck_again(self) -> None:
        for target in self.TARGETS:
            faults = [fault for fault in schedule(7, 600, self.TARGETS) if fault.target == target.name]
            assert {fault.kind for fault in faults} == set(target.kinds)
            for one, next_one in pairwise(faults):
                assert target.gap[0] <= next_one.at - one.at - one.seconds <= target.gap[1]
            assert all(KINDS[fault.kind][0] <= fault.seconds <= KINDS[fault.kind][1] for fault in faults)


class TestSabotage:
    pytestmark = SLOW

    def test_without_operation_keys_effects_are_doubled(self, request: pytest.FixtureRequest) -> None:
        report = had(request, "redis", chaos(*BROKEN, "no operation key"))
        assert report.verdict.doubled
        assert not report.verdict.lost
        shutil.rmtree(report.folder)

    def test_with_the_ack_moved_before_the_commit_effects_are_lost(self, request: pytest.FixtureRequest) -> None:
        report = had(request, "redis", chaos(*BROKEN, "ack before commit"))
        assert report.verdict.lost
        assert report.verdict.unaccounted or report.verdict.problems
        shutil.rmtree(report.folder)
