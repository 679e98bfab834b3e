"""The comparison with other task queues: what of it is arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import cases, catalog, crash, load, report
from benchmarks.peers.apps import common
from benchmarks.peers.load import Sample


def run(per_s: float, **more: Any) -> dict[str, Any]:
    return {"n": 1000, "per_s": per_s, "check": "ok", **more}


def test_a_ratio_is_taken_round_by_round_and_not_between_medians() -> None:
    ours, base = [run(100), run(300), run(200)], [run(50), run(300), run(400)]

    assert report.ratios(ours, base) == [2.0, 1.0, 0.5]


def test_a_round_without_a_figure_on_either_side_has_no_ratio() -> None:
    assert report.ratios([run(0), run(100), run(100)], [run(50), run(0), run(50)]) == [2.0]


def test_the_table_has_the_fastest_first_with_its_ratio_and_names_who_gave_no_figure() -> None:
    results = {
        "slow": [run(100, worker_cpu_ms=1.0), run(120, worker_cpu_ms=3.0)],
        "fast+aof": [run(400), run(360, check="7 left in the queue")],
        "broken": [run(0, check="failed: it raised\nNo such queue")],
    }

    lines = report.table(results, "effect", "slow", {"fast": "effect exactly-once"}).splitlines()

    assert lines[0] == "### effect"
    assert lines[4] == (
        "| fast+aof | effect exactly-once | 1,000 | 380 (360-400) | 3.50 | - | - | - | - | 7 left in the queue; ok |"
    )
    assert lines[5] == "| slow | limit | 1,000 | 110 (100-120) | 1.00 | - | 2.00 | - | - | ok |"
    assert lines[-1] == "broken gave no figure: No such queue"


def test_every_row_of_the_table_has_as_many_cells_as_its_head() -> None:
    lines = report.table({"one": [run(1)]}, "noop", "one", {}).splitlines()

    assert {line.count("|") for line in lines[2:]} == {11}


def test_a_crash_table_tells_every_round_and_the_case_that_failed() -> None:
    one, other = cases.CASES[0], cases.CASES[1]
    ended = {"at_kill": 500, "lost": 0, "stranded": 0, "held": 0, "repeated": 1, "surplus": 2, "last_effect_s": 4.0}

    lines = crash.table(
        {one.name: [ended, {**ended, "lost": 3}], other.name: [{"error": "it took too long"}]}
    ).splitlines()

    assert lines[2] == f"| {one.name} | {one.note} | 500 500 | 0 3 | 0 0 | 0 0 | 1 (2) 1 (2) | 4.0 s | - |"
    assert lines[3] == f"| {other.name} | {other.note} | failed: it took too long |"


def test_the_load_of_others_is_the_busy_time_that_is_not_ours() -> None:
    assert load.others(Sample(10.0, 100.0, 4.0), Sample(16.0, 120.0, 7.0)) == pytest.approx(3.0 / 20.0)


def test_completions_are_counted_over_all_processes_from_the_first_to_the_last(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    common.new_marks(str(marks), slots=4)
    marks.write_bytes(
        common.SLOT.pack(11, 3, 100, 900) + common.SLOT.pack(12, 2, 50, 700) + common.SLOT.pack(13, 0, 0, 0)
    )

    assert common.read_marks(str(marks)) == (5, 50, 900)


def test_every_row_of_the_catalog_has_a_module_and_the_requirements_of_its_environment() -> None:
    here = Path(catalog.__file__).parent

    for entry in catalog.EVERYTHING:
        assert (here / "apps" / f"{entry.module}.py").exists(), entry.name
        assert entry.venv == "crossfoot" or (here / "requirements" / f"{entry.venv}.txt").exists(), entry.name
    assert {case.peer for case in cases.CASES} <= {entry.name for entry in catalog.PEERS}


def test_a_row_on_a_durable_redis_needs_that_one() -> None:
    assert catalog.services_of(["dramatiq-redis+aof"]) == {"redis-aof", "postgres"}
