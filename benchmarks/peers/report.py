"""What a run's figures are made into: medians, ranges, and ratios taken round by round. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Runs = Sequence[Mapping[str, Any]]

HEAD = (
    "peer", "guarantee", "N", "messages/s, median (range)", "x {base}", "enqueue/s", "worker CPU ms/msg",
    "service CPU ms/msg", "others' load", "check",
)  # fmt: skip


def table(results: Mapping[str, Runs], workload: str, base: str, guarantees: Mapping[str, str]) -> str:
    """One workload's table, the fastest first; below it who gave no figure, and why.

    Args:
        results: by name, the rounds of each.
        base: the row that ratios are taken to.
    """
    lines = [f"### {workload}", "", _line(word.format(base=base) for word in HEAD), "|---|---|" + "---:|" * 7 + "---|"]
    measured = {name: [run for run in runs if run["per_s"]] for name, runs in results.items()}
    by_speed = sorted((name for name in measured if measured[name]), key=lambda name: -_median(measured[name], "per_s"))
    for name in by_speed:
        runs = measured[name]
        found = ratios(results[name], results.get(base, ()))
        lines.append(
            _line(
                (
                    name, guarantees.get(name.removesuffix("+aof"), "limit"), f"{runs[0]['n']:,}", spread([r["per_s"] for r in runs]),
                    f"{statistics.median(found):.2f}" if found else "-", _shown(runs, "enqueue_per_s", ",.0f"),
                    _shown(runs, "worker_cpu_ms", ".2f"), _shown(runs, "service_cpu_ms", ".2f"), _shown(runs, "others", ".0%"),
                    "; ".join(sorted({run["check"] for run in runs})),
                )
            )
        )  # fmt: skip
    failed = [name for name in measured if not measured[name]]
    lines += [f"\n{name} gave no figure: {results[name][-1]['check'].splitlines()[-1]}" for name in failed]
    return "\n".join(lines)


def ratios(runs: Runs, base: Runs) -> list[float]:
    """To the base's figure of the same round, because the machine's own speed drifts between rounds."""
    return [
        run["per_s"] / other["per_s"] for run, other in zip(runs, base, strict=False) if run["per_s"] and other["per_s"]
    ]


def spread(values: Sequence[float]) -> str:
    """The median, and the range."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def _median(runs: Runs, field: str) -> float:
    return float(statistics.median(run[field] for run in runs))


def _shown(runs: Runs, field: str, form: str) -> str:
    values = [run[field] for run in runs if run.get(field) is not None]
    return format(statistics.median(values), form) if values else "-"


def _line(words: Any) -> str:
    return f"| {' | '.join(words)} |"
