"""The main job in full, over seeds, books and queues: `python -m tests.demos [--messages 49951] [--seeds 7,8,9,10,11]`.

`--books sqlite,postgres --queues redis,nats` chooses; the servers are those of the tests, one of each for all runs.

Each run is `crossfoot demo --json` in a process of its own. The table says what was injected and found, what is unaccounted for,
which identities do not hold and how many final states differ from the log's own. Exits with 1 when any run found anything that it
should not have.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from tests.servers.postgres import postgres_running
from tests.servers.rabbitmq import running_rabbit

STARTED_BY_THE_DEMO = ("embedded", "sqs", "redis", "nats", "kafka")

CROSSFOOT = Path(sys.executable).with_name("crossfoot")


def demo(where: Sequence[str], seed: int, messages: int) -> tuple[int, dict[str, Any], str]:
    command = [str(CROSSFOOT), "demo", "--messages", str(messages), "--seed", str(seed), *where, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1_800)
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        document = {}
    return done.returncode, document, done.stderr


class Servers:
    """Those of the tests, each started when it is first needed."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._started: dict[str, str] = {}

    def options(self, book: str, queue: str) -> list[str]:
        """What `crossfoot demo` is told of the pair."""
        database = ["--database", self._url("postgres")] if book == "postgres" else []
        if queue in STARTED_BY_THE_DEMO or (queue == "postgres" and book == "postgres"):
            return [*database, "--queue", queue]
        return [*database, "--queue", queue, "--endpoint", self._url(queue)]

    def _url(self, kind: str) -> str:
        if kind not in self._started:
            self._started[kind] = self._start(kind)
        return self._started[kind]

    def _start(self, kind: str) -> str:
        if kind == "postgres":
            return self._stack.enter_context(postgres_running()).url()
        assert kind == "rabbitmq", f"no such queue: {kind}"
        return self._stack.enter_context(running_rabbit(self._folder / kind)).url


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
    parser.add_argument("--books", default="sqlite,postgres")
    parser.add_argument("--queues", default="embedded,sqs,postgres,redis,nats,rabbitmq,kafka")
    asked = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print("book      queue     seed  injected found  kinds  unaccounted  identities   different  seconds  exit")
    all_well = True
    with ExitStack() as stack:
        servers = Servers(stack, Path(stack.enter_context(TemporaryDirectory(prefix="demos-"))))
        for book, queue, seed in product(
            asked.books.split(","), asked.queues.split(","), map(int, asked.seeds.split(","))
        ):
            where = servers.options(book, queue)
            began = time.monotonic()
            code, told, said = demo(where, seed, asked.messages)
            well, text = row(code, told)
            all_well &= well
            console.print(f"{book:9} {queue:9} {seed:4}  {text} {time.monotonic() - began:8.0f} {code:5}")
            if not well:
                console.print(said[-3_000:])
    return 0 if all_well else 1


if __name__ == "__main__":
    sys.exit(main())
