"""Every law that the page states names its tests, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.acceptance.pages import DOCS, table

HERE = Path(__file__).parent
TESTS = [*HERE.glob("test_*.py"), HERE.parent / "acceptance" / "test_worker_bounds.py"]


def test_every_law_has_its_test() -> None:
    written = {name for path in TESTS for name in re.findall(r"def (test_\w+)", path.read_text())}
    stated = [(law, re.findall(r"`(test_\w+)`", tests)) for law, tests in table(DOCS / "flow.md", "Laws")]

    assert [law for law, tests in stated if not tests] == []
    assert {test for _, tests in stated for test in tests} - written == set()
