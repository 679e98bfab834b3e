"""What the guide on replaying says is so: its example runs, and its tables are the code's."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from crossfoot.books.replays import CLASSES, MOVES
from crossfoot.recover.replay.policy import Policy
from tests.acceptance.pages import GUIDES, blocks, python_of, table
from tests.acceptance.shell import run

(PAGE,) = [guide for guide in GUIDES if guide.name == "replaying.md"]


def test_the_example_does_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "billing.py").write_text(python_of(PAGE), encoding="utf-8")
    (block,) = [one for one in blocks(PAGE) if one.marker == "run"]

    done = run(["bash", "-uo", "pipefail", "-c", block.text], tmp_path)

    assert done.returncode == 0, done.stderr
    assert "schema invalid" in done.stdout
    assert "REPLAY 2 FINISHED" in done.stdout
    assert "amounts came as text" in done.stdout
    with closing(sqlite3.connect(tmp_path / "crossfoot.db")) as connection:
        invoices = connection.execute("SELECT case_id, amount FROM invoices ORDER BY 1").fetchall()
    assert invoices == [("case-1", 120), ("case-2", 80)]


def test_all_classes_are_told_with_whether_they_are_moved() -> None:
    rows = table(PAGE, "The plan")

    assert {row[0]: row[1] == "yes" for row in rows} == {name: name in MOVES for name in CLASSES}


def test_the_bounds_and_their_defaults_are_the_code_s() -> None:
    told = {row[0].strip("`").removeprefix("--").replace("-", "_"): row[1] for row in table(PAGE, "The run")}
    defaults = {field.name: field.default for field in msgspec.structs.fields(Policy)}

    assert told == {
        name: "none" if value is None else f"{value:g}"
        for name, value in defaults.items()
        if name not in ("canary", "stage")
    }
