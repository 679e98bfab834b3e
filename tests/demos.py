"""The main job in full, over seeds and queues: `python -m tests.demos [--messages 49951] [--seeds 7,8,9,10,11]`.

Each run is `crossfoot demo --json` in a process of its own and in a fresh folder. The table says what was injected and
found, what is unaccounted for, which identities do not hold and how many final states differ from the log's own. Exits
with 1 when any run found anything that it should not have.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

CROSSFOOT = Path(sys.executable).with_name("crossfoot")


def demo(queue: str, seed: int, messages: int, folder: str) -> tuple[int, dict[str, Any], str]:
    command = [str(CROSSFOOT), "demo", "--messages", str(messages), "--seed", str(seed), "--queue", queue, "--json"]
    done = subprocess.run(
        [*command, "--db", f"{folder}/demo.db"], capture_output=True, text=True, check=False, timeout=1_800
    )
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        document = {}
    return done.returncode, document, done.stderr


def row(code: int, told: dict[str, Any]) -> tuple[bool, str]:
    """Whether all is well, and what the table says of it."""
    if not told:
        return False, f"ended with {code} and no result"
    faults = told["faults"].values()
    injected, found = sum(one["injected"] for one in faults), sum(one["found"] for one in faults)
    wrong = [name for name, one in told["faults"].items() if one["missing"] or one["unexpected"] or not one["injected"]]
    broken = [name for name, one in told["identities"].items() if one["holds"] is not True]
    different = len(told["final_states"]["different"])
    well = code == 0 and injected == found and not (wrong or broken or different or told["unaccounted"])
    text = (
        f"{injected:>5} {found:>5} {len(told['faults']):>6} {told['unaccounted']:>11}  {', '.join(broken) or 'all hold':12}"
        f" {different:>9}"
    )
    return well, text + (f"  {', '.join(wrong)} {told['problems']}" if not well else "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demos", description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=49_951)
    parser.add_argument("--seeds", default="7,8,9,10,11")
    parser.add_argument("--queues", default="embedded,sqs")
    asked = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print("queue     seed  injected found  kinds  unaccounted  identities   different  seconds  exit")
    all_well = True
    for queue, seed in product(asked.queues.split(","), map(int, asked.seeds.split(","))):
        with TemporaryDirectory(prefix="demos-") as folder:
            began = time.monotonic()
            code, told, said = demo(queue, seed, asked.messages, folder)
            well, text = row(code, told)
        all_well &= well
        console.print(f"{queue:9} {seed:4}  {text} {time.monotonic() - began:8.0f} {code:5}")
        if not well:
            console.print(said[-3_000:])
    return 0 if all_well else 1


if __name__ == "__main__":
    sys.exit(main())
