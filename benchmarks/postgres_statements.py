"""What the server spends on a message's statements in the book, step by step: its processor time, and bytes of its log.

    python benchmarks/postgres_statements.py
    python benchmarks/postgres_statements.py --beside ../before/src      # and the same of another checkout, in turns
    python benchmarks/postgres_statements.py --weeks 50                  # in a book of so many ranges of keys
    python benchmarks/postgres_statements.py --whole                     # beside tables that are not cut, step by step in turns

One session says everything, group after group, and the time is that of the server's process which serves it (as Linux counts it), so a
busy machine changes little. Two ways a message may go: published, posted, handled and posted again, as when much waits in the
queue; and posted once, after it was handled. Then what a redelivery asks, an entry in a transaction of its own, and a look for something
to post, of which there is one for each thousand messages.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from crossfoot.books import sql  # noqa: E402 - runs as a script, too
from crossfoot.books.entry import Kind  # noqa: E402
from crossfoot.books.posting import post_all  # noqa: E402
from crossfoot.books.record import Record  # noqa: E402
from crossfoot.books.store import Book, find_or_add_all, flat, write_rows  # noqa: E402
from crossfoot.clock import ManualClock  # noqa: E402
from tests.servers.postgres import Postgres, postgres_running  # noqa: E402

BATCH = 100


class Meter:
    """Adds up what a session's process spends between two looks."""

    def __init__(self, raw: Any, messages: int) -> None:
        self._raw, self._messages = raw, messages
        self.spent: dict[str, list[tuple[float, float]]] = {}

    def _look(self) -> tuple[int, int]:
        (log,) = self._raw.execute(b"SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
        return int(Path(f"/proc/{self._raw.info.backend_pid}/schedstat").read_text().split()[0]), int(log)

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        before = self._look()
        yield
        after = self._look()
        figures = (after[0] - before[0]) / 1e3 / self._messages, (after[1] - before[1]) / self._messages
        self.spent.setdefault(step, []).append(figures)


class Steps:
    """What is said of `messages` at a time."""

    def __init__(self, book: Book, messages: int) -> None:
        self.book, self.messages, self.now = book, messages, book.clock.now()

    def publish(self, first: int) -> list[int]:
        """Add messages, and that they were published. Returns their keys."""
        keys: list[int] = []
        for start in range(first, first + self.messages, BATCH):
            records = [
                Record("billing", "benchmark", f"{n:08x}-0000-7000-8000-{n:012x}", "case.opened", f"case-{n // 5}", None, None, None,
                       n, self.now, b"x" * 250)
                for n in range(start, start + BATCH)
            ]  # fmt: skip
            with self.book.writing() as connection:
                found = [known.key for known in find_or_add_all(connection, records)]
                rows = [(key, Kind.PUBLISHED, 0, 0, self.now, self.now, 0, None, None) for key in found]
                write_rows(connection, rows)
            keys += found
        return keys

    def go_through(self, first: int) -> None:
        """All of it, one batch after the other."""
        for start in range(first, first + self.messages, BATCH):
            one = Steps(self.book, BATCH)
            keys = one.publish(start)
            one.receive(keys)
            one.handle(keys)

    def receive(self, keys: Sequence[int]) -> None:
        for start in range(0, self.messages, BATCH):
            with self.book.writing() as connection:
                rows = [
                    (key, 1, 1 << 32 | key, self.now, self.now + 30_000_000, 1) for key in keys[start : start + BATCH]
                ]
                write_rows(connection, rows, each=sql.INSERT_RECEIVED, group=sql.INSERT_RECEIVED_GROUP)

    def handle(self, keys: Sequence[int]) -> None:
        """Operations, closings and acks, as a batch writes them."""
        for start in range(0, self.messages, BATCH):
            with self.book.writing() as connection:
                for first in range(start, start + BATCH, sql.GROUP):
                    some = keys[first : first + sql.GROUP]
                    connection.execute(sql.INSERT_OPERATIONS, flat((f"bill:{key}", key, 23, self.now) for key in some))
                    rows = [(key, 23, 1, 1 << 32 | key, self.now, 1, '{"rows":1}', key, 1, 1 << 32 | key, self.now, 1)
                            for key in some]  # fmt: skip
                    connection.execute(sql.INSERT_CLOSING_AND_ACK_GROUP, flat(rows))

    def ask(self, keys: Sequence[int]) -> None:
        """What is asked about messages that come again, one by one."""
        connection = self.book.connection
        for key in keys:
            connection.execute(sql.LAST_ATTEMPT, (key,)).fetchone()
            connection.execute(sql.FIND_PROOF, (key,)).fetchone()

    def write_singly(self, keys: Sequence[int]) -> None:
        """As a plain worker does, with a transaction for each."""
        for key in keys:
            self.book.connection.execute(
                sql.INSERT_RECEIVED, (key, 2, 1 << 32 | key, self.now, self.now + 30_000_000, 1)
            )


def grow_old(book: Book, clock: ManualClock, weeks: int) -> None:
    """A few messages each week, and the upkeep that a worker does."""
    for week in range(weeks):
        Steps(book, BATCH).go_through(10_000_000 + week * BATCH)
        post_all(book)
        clock.advance(7 * 24 * 3_600)
        while book.tidy():
            pass


def run(url: str, messages: int, rounds: int, weeks: int) -> None:
    """Print one JSON object: of each step the medians."""
    clock = ManualClock()
    book = Book(url, clock=clock).open()
    grow_old(book, clock, weeks)
    steps = Steps(book, messages)
    meter = Meter(book.connection.raw, messages)  # type: ignore[attr-defined]  # it is PostgreSQL's
    for number in range(rounds + 1):
        if number == 1:  # before, tables were empty, and statements not prepared
            meter.spent.clear()
        with meter.of("publishing"):
            keys = steps.publish(2 * number * messages)
        with meter.of("posting what was published"):
            post_all(book)
        with meter.of("receiving"):
            steps.receive(keys)
        with meter.of("operation, closing and ack"):
            steps.handle(keys)
        with meter.of("posting what was handled"):
            post_all(book)
        steps.go_through((2 * number + 1) * messages)
        with meter.of("posting all of it at once"):
            post_all(book)
        with meter.of("asking about it twice"):
            steps.ask(keys)
        with meter.of("an entry by itself"):
            steps.write_singly(keys)
        post_all(book)
        with meter.of("finding nothing to post, a thousandth"):
            for _ in range(max(1, messages // 1_000)):
                post_all(book)
    book.close()
    medians = {
        step: [statistics.median(column) for column in zip(*told, strict=True)] for step, told in meter.spent.items()
    }
    print(json.dumps(medians))


def measured(server: Postgres, name: str, source: Path, asked: argparse.Namespace) -> dict[str, list[float]]:
    """What `run` says in a process of the checkout `source`, on a new database."""
    server.run(f"CREATE DATABASE {name}")
    server.run("CHECKPOINT")
    command = [sys.executable, __file__, "--url", server.url(name)]
    for option in ("messages", "rounds", "weeks"):
        command += [f"--{option}", str(getattr(asked, option))]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(source)}, check=True, stdout=subprocess.PIPE)
    server.run(f"DROP DATABASE {name}")
    result: dict[str, list[float]] = json.loads(done.stdout)
    return result


WHOLE = """
CREATE TABLE whole_entries (LIKE crossfoot_entries INCLUDING DEFAULTS INCLUDING IDENTITY, PRIMARY KEY (xid, id));
CREATE INDEX ON whole_entries (message);
CREATE TABLE whole_payloads (LIKE crossfoot_payloads, PRIMARY KEY (key));
DROP TABLE crossfoot_entries, crossfoot_payloads CASCADE;
ALTER TABLE whole_entries RENAME TO crossfoot_entries;
ALTER TABLE whole_payloads RENAME TO crossfoot_payloads
"""


def beside_whole(server: Postgres, messages: int, rounds: int) -> None:
    """Print what each step costs in ranges and in whole tables, by the same statements; what disturbs one disturbs the other."""
    meters, steps = {}, {}
    for label in ("ranges", "whole"):
        server.run(f"CREATE DATABASE {label}")
        book = Book(server.url(label)).open()
        if label == "whole":
            for statement in WHOLE.split(";"):
                server.run(statement, database=label)
        steps[label] = Steps(book, messages)
        meters[label] = Meter(book.connection.raw, messages)  # type: ignore[attr-defined]  # it is PostgreSQL's
    keys: dict[str, list[int]] = {}
    for number in range(rounds + 1):
        jobs: dict[str, Callable[[str], Any]] = {
            "publishing": lambda label, first=number * messages: keys.update({label: steps[label].publish(first)}),  # type: ignore[misc]  # mypy infers no lambda with a default
            "posting what was published": lambda label: post_all(steps[label].book),
            "receiving": lambda label: steps[label].receive(keys[label]),
            "operation, closing and ack": lambda label: steps[label].handle(keys[label]),
            "posting what was handled": lambda label: post_all(steps[label].book),
            "asking about it twice": lambda label: steps[label].ask(keys[label]),
            "an entry by itself": lambda label: steps[label].write_singly(keys[label]),
        }
        for name, job in jobs.items():
            for label in list(steps)[:: 1 if number % 2 else -1]:
                with meters[label].of(name):
                    job(label)
        if number == 0:
            for meter in meters.values():
                meter.spent.clear()
    print("| step | ranges, µs | whole, µs | ratio of pairs | bytes of log, both |\n|---|---:|---:|---:|---:|")
    for name, told in meters["ranges"].spent.items():
        other = meters["whole"].spent[name]
        ratio = statistics.median(a[0] / b[0] for a, b in zip(told, other, strict=True))
        figures = [statistics.median(one[0] for one in some) for some in (told, other)]
        log = " / ".join(f"{statistics.median(one[1] for one in some):,.0f}" for some in (told, other))
        print(f"| {name} | {figures[0]:.1f} | {figures[1]:.1f} | {ratio:.2f} | {log} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=5_000, help="of each round; hundreds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=1, help="of each checkout; the least of them is told")
    parser.add_argument("--weeks", type=int, default=0, help="how old the book is")
    parser.add_argument("--beside", type=Path, metavar="SRC", help="the src folder of another checkout")
    parser.add_argument("--whole", action="store_true", help="beside the same tables, not cut into ranges")
    parser.add_argument("--url", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.url:
        run(asked.url, asked.messages, asked.rounds, asked.weeks)
        return 0
    if asked.whole:
        with postgres_running(shared_buffers="128MB", max_wal_size="4GB", autovacuum="off") as server:
            beside_whole(server, asked.messages, asked.rounds)
        return 0
    sources = {"this": ROOT / "src", **({"other": asked.beside.resolve()} if asked.beside else {})}
    found: dict[str, dict[str, list[float]]] = {label: {} for label in sources}
    with postgres_running(shared_buffers="128MB", max_wal_size="4GB", autovacuum="off") as server:
        for turn in range(asked.turns):
            for label, source in list(sources.items())[
                :: 1 if turn % 2 == 0 else -1
            ]:  # whoever is first has it no better
                for step, figures in measured(server, f"{label}_book_{turn}", source, asked).items():
                    least = found[label].get(step, figures)
                    found[label][step] = [min(pair) for pair in zip(least, figures, strict=True)]
    print(f"| step | {' | '.join(f'{label}, µs | bytes of log' for label in found)} |\n|---|{'---:|' * 2 * len(found)}")
    for step in found["this"]:
        told = " | ".join(f"{figures[step][0]:.1f} | {figures[step][1]:,.0f}" for figures in found.values())
        print(f"| {step} | {told} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
