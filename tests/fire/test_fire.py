"""A replay under fire, small: nothing doubled, nothing lost, the same members, and a stop when the cause is there still.

`make fire` does the same with twenty thousand dead letters, and looks at the times of live traffic, too, which a machine that does
other things at once cannot tell.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fire.run import Fire, Plan


@pytest.mark.crash
def test_a_replay_goes_on_whatever_is_killed(tmp_path: Path) -> None:
    told: list[str] = []
    plan = Plan(
        dead=360,
        kills=3,
        worker_kills=2,
        live_seconds=2.0,
        windows=1,
        rate=15.0,
        window=5,
        stage=40,
        reappears=2,
        patience=240.0,
    )

    outcome = Fire(tmp_path, plan, told.append).run()

    assert outcome.problems == [], told
    assert outcome.killed_replayers >= 1
    assert outcome.aborted_in_stage >= outcome.reappeared_in_stage == 2
    assert 0 < outcome.hopeless_in_stage <= 2
