"""Chaos by hand: `python -m tests.chaos [--minutes 30] [--pair postgres/postgres] [--seed 7] [--json]`.

Publishes and works under faults drawn from a seed, pair after pair, and prints what became of every message. Exits with 1
when anything was lost, doubled, not accounted for or not seen. A pair whose server cannot be had is named, and left out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console

from tests.chaos.disk import a_space_of_ones_own
from tests.chaos.faults import a_seed
from tests.chaos.report import LEFT_OUT, show
from tests.chaos.run import Report, run
from tests.chaos.stage import PAIRS, Options, a_folder
from tests.crash.sabotage import KINDS
from tests.servers.rabbitmq_packages import CannotBeHad


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break everything around a service.")
    parser.add_argument("--pair", action="append", choices=PAIRS, help="book/queue; may be repeated (all)")
    parser.add_argument("--minutes", type=float, default=0.5, help="for each pair (0.5)")
    parser.add_argument("--seed", type=int, help="repeats a schedule of faults")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (2)")
    parser.add_argument("--every", type=float, default=0.25, help="seconds between two publishes (0.25)")
    parser.add_argument("--together", type=int, default=4, help="messages of one publish, at most (4)")
    parser.add_argument("--handlers", type=int, default=2, help="at once, in each worker (2)")
    parser.add_argument(
        "--patience", type=float, default=120, help="seconds in which all must end when all is mended (120)"
    )
    parser.add_argument("--calm", action="store_true", help="no faults, to compare with")
    parser.add_argument("--sabotage", choices=sorted(KINDS), default="", help="break crossfoot on purpose, too")
    parser.add_argument("--keep", action="store_true", help="keep the logs of clean runs, too")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    asked = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 130, stderr=asked.json)
    seed = a_seed() if asked.seed is None else asked.seed
    pairs = asked.pair or list(PAIRS)
    if no_disk := a_space_of_ones_own(servers=any(pair.startswith("postgres") for pair in pairs)):
        console.print(f"no disk will be full, for there can be none of our own: {no_disk}")
    reports: list[Report] = []
    for pair in pairs:
        options = Options(
            pair=pair, seed=seed, seconds=asked.minutes * 60, workers=asked.workers, every=asked.every,
            together=asked.together, handlers=asked.handlers, sabotage=asked.sabotage, patience=asked.patience,
            disk=not no_disk, calm=asked.calm,
        )  # fmt: skip
        try:
            report = run(options, a_folder())
        except CannotBeHad as why:
            console.print(f"{pair} {LEFT_OUT}: {why}", soft_wrap=True, highlight=False)
            continue
        if report.clean and not asked.keep:
            shutil.rmtree(report.folder)
            report.folder = ""
        reports.append(report)
    if asked.json:
        sys.stdout.write(msgspec.json.encode(reports).decode() + "\n")
    else:
        show(console, reports)
    return 0 if reports and all(report.clean for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
