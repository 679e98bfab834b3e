"""A replay under fire, in full: `python -m tests.fire [--dead 20000] [--kills 20] [--seed 1]`. Exits with 1 when anything is wrong."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from tests.fire.run import Fire, Plan

CEILING = 1.2
"""Times its 99th percentile without the replay, live traffic may take beside it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for field in msgspec.structs.fields(Plan):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    plan = Plan(**vars(parser.parse_args()))
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.1f} s  {text}\n")
        sys.stdout.flush()

    with TemporaryDirectory(prefix="crossfoot-fire-") as folder:
        outcome = Fire(Path(folder), plan, say).run()
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(outcome), indent=2).decode() + "\n")
    ratio = outcome.p99_beside / outcome.p99_alone if outcome.p99_alone else 0.0
    say(f"live p99 is {ratio:.2f} times what it was alone, {CEILING} at most")
    return 1 if outcome.problems or ratio > CEILING else 0


if __name__ == "__main__":
    sys.exit(main())
