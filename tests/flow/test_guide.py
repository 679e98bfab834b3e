"""What the guide tells a reader to type works as it says, with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.acceptance.pages import DOCS, ROOT, blocks, python_of
from tests.acceptance.shell import crossfoot, run


def test_the_guide_of_bounded_work_does_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "guide.py").write_text(python_of(DOCS / "guides" / "flow.md"), encoding="utf-8")

    done = run([sys.executable, "guide.py"], tmp_path)

    assert done.returncode == 0, done.stderr


def test_its_commands_do_what_they_say() -> None:
    (block,) = [one for one in blocks(DOCS / "guides" / "flow.md") if one.marker == "run"]

    done = run(["bash", "-euo", "pipefail", "-c", block.text], ROOT / block.argument)

    assert done.returncode == 0, done.stderr
    assert "PLAN HOLDS" in done.stdout
    assert "~~~" in done.stdout


@pytest.mark.parametrize(("number", "arguments"), [(0, ["before.toml"]), (1, ["page.toml", "--adaptive"])])
def test_its_pictures_are_what_the_commands_draw(number: int, arguments: list[str]) -> None:
    drawn = [one.text for one in blocks(DOCS / "guides" / "flow.md") if one.language == "text"]

    done = crossfoot(
        ROOT / "examples" / "flow", "flow", "replay", *arguments, "--outage", "pricing:3:6", "--seconds", "9"
    )

    assert done.stdout == drawn[number]
