"""Everything around a service breaks for half a minute, on every pair of book and queue, and nothing is lost, doubled or unseen.

Longer ones by hand: `make chaos ARGS='--minutes 30 --pair postgres/postgres --seed 7'`.
"""

from __future__ import annotations

import pytest

from tests.chaos.hands import chaos, had
from tests.chaos.stage import PAIRS

pytestmark = [pytest.mark.crash, pytest.mark.server, pytest.mark.slow]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("pair", PAIRS)
def test_every_message_that_was_taken_has_its_effects_once(pair: str, request: pytest.FixtureRequest) -> None:
    report = had(request, pair, chaos("--pair", pair, "--minutes", "0.5"))

    story = f"repeat it with --pair {pair} --seed {report.seed}; {report.folder} has all that it left"
    assert report.verdict.clean, f"{report.verdict}; {story}"
    assert report.closing is not None, story
    assert report.verdict.accepted > 20, f"too few messages to say anything: {report}"
    assert sum(report.faults.values()) - report.missed >= 5, f"too few faults to say anything: {report.faults}"
