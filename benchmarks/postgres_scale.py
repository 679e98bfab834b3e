"""Messages a second through PostgreSQL by worker processes, and what a million of them leave behind.

    python benchmarks/postgres_scale.py                                  1, 2 and 4 processes, then a million messages
    python benchmarks/postgres_scale.py --processes 2 --messages 100000 --long 0
    python benchmarks/postgres_scale.py --url postgresql://me@host/postgres --batch 1

Book, queue and effect are in one database, whose commits wait for the disk. All messages are published before the clock
starts, by as many processes as there are cores; then `crossfoot worker --processes N` works them until the queue is empty. The
clock runs while effects appear, from the first thousand on. Afterwards there must be one effect for each message, and the books
must balance.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import psycopg
from psycopg import sql

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.large_book import measure
from benchmarks.postgres_large_book import weigh
from crossfoot.postgres import connect
from tests.servers.postgres import postgres_running

APP = """
import os
import sys

import anyio

from crossfoot import Crossfoot

app = Crossfoot("billing", database=os.environ["BENCHMARK_URL"])


@app.handler("case.released", operation="bill:{subject}")
def bill(message, tx):
    tx.execute("INSERT INTO invoices (case_id, amount) VALUES (%s, %s)", (message.subject, message.data["amount"]))


async def publish(first, last):
    app.book.open()
    await app.queue.open()
    for start in range(first, last, 200):
        numbers = range(start, min(start + 200, last))
        await app.publish(*(app.message("case.released", subject=f"case-{n}", data={"amount": n}) for n in numbers))
    await app.aclose()


if __name__ == "__main__":
    anyio.run(publish, int(sys.argv[1]), int(sys.argv[2]))
"""
BIN = Path(sys.executable).parent
WARM_UP = 1_000
EVERY = 0.2
"""Seconds between two looks at how many effects there are."""


class Run(NamedTuple):
    """What one run came to: messages a second of its parts, in order, and of publishing; and what was wrong."""

    overall: float
    parts: list[float]
    publishing: float
    check: str


@contextmanager
def database(url: str) -> Iterator[str]:
    """A new database beside that one, dropped afterwards."""
    name = f"crossfoot_benchmark_{uuid4().hex[:8]}"
    with psycopg.connect(url, autocommit=True) as raw:
        raw.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield psycopg.conninfo.make_conninfo(url, dbname=name)
        finally:
            raw.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def as_url(conninfo: str) -> str:
    found = psycopg.conninfo.conninfo_to_dict(conninfo)
    secret = f":{found['password']}" if "password" in found else ""
    return f"postgresql://{found.get('user', '')}{secret}@{found.get('host', '127.0.0.1')}:{found.get('port', 5432)}/{found['dbname']}"


def publish(env: dict[str, str], folder: str, messages: int) -> float:
    """Messages a second."""
    publishers = min(os.cpu_count() or 1, 4)
    edges = [messages * number // publishers for number in range(publishers + 1)]
    begun = time.monotonic()
    started = [
        subprocess.Popen([sys.executable, "scale_app.py", str(first), str(last)], cwd=folder, env=env)
        for first, last in pairwise(edges)
    ]
    if any(process.wait() for process in started):
        raise SystemExit("a publisher failed")
    return messages / (time.monotonic() - begun)


def run(url: str, messages: int, processes: int, options: argparse.Namespace, *, parts: int = 10) -> Run:
    """Publish, work, check."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scale_app.py").write_text(APP)
        env = {**os.environ, "BENCHMARK_URL": url, "PYTHONPATH": folder}
        with psycopg.connect(url, autocommit=True) as raw:
            raw.execute("CREATE TABLE invoices (number bigserial, case_id text, amount bigint)")
            publishing = publish(env, folder, messages)
            raw.execute("VACUUM ANALYZE")
            words = ["--batch", str(options.batch), *(["--optimistic"] if options.batch > 1 else [])]
            command = [
                BIN / "crossfoot",
                "worker",
                "scale_app:app",
                "--until-idle",
                "--processes",
                str(processes),
                *words,
            ]
            worker = subprocess.Popen(
                command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            seen = [(0.0, 0)]
            while worker.poll() is None:
                time.sleep(EVERY)
                (count,) = raw.execute("SELECT last_value FROM invoices_number_seq").fetchone() or (0,)
                if count > seen[-1][1]:
                    seen.append((time.monotonic(), count))
            said = worker.stderr.read() if worker.stderr else ""
            if worker.returncode:
                raise SystemExit(f"the worker ended with {worker.returncode}:\n{said[-3_000:]}")
            check = problems(raw, env, folder, url, messages)
    seen = [one for one in seen if one[1] >= WARM_UP]
    speeds = [speed(seen, messages * part // parts, messages * (part + 1) // parts) for part in range(parts)]
    return Run(speed(seen, 0, messages), speeds, publishing, check)


def speed(seen: list[tuple[float, int]], first: int, last: int) -> float:
    """Messages a second between two counts of effects."""
    begin = next((one for one in seen if one[1] >= first), seen[0])
    end = next((one for one in seen if one[1] >= last), seen[-1])
    return (end[1] - begin[1]) / (end[0] - begin[0]) if end[0] > begin[0] else 0.0


def problems(raw: psycopg.Connection, env: dict[str, str], folder: str, url: str, messages: int) -> str:
    """`ok`, or what does not add up."""
    rows, cases = raw.execute("SELECT count(*), count(DISTINCT case_id) FROM invoices").fetchone() or (0, 0)
    if not rows == cases == messages:
        return f"{rows} effects of {cases} cases for {messages} messages"
    command = [BIN / "crossfoot", "balance", "--json", "--db", url]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    books = json.loads(done.stdout or "{}")
    if not books.get("balanced") or books.get("unaccounted") or books.get("fates", {}).get("settled") != messages:
        return f"the books: {done.stdout[:500]}{done.stderr[-300:]}"
    return "ok"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--url", help="a database of a server; each run makes one of its own beside it; otherwise a server is started"
    )
    parser.add_argument("--processes", default="1,2,4", help="worker processes, one run each")
    parser.add_argument("--messages", type=int, default=100_000, help="of each of these runs")
    parser.add_argument(
        "--long", type=int, default=1_000_000, help="messages of the last run, by two processes; 0: none"
    )
    parser.add_argument(
        "--batch", type=int, default=100, help="messages a transaction, in optimistic batches; 1: the plain mode"
    )
    return parser.parse_args()


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        server = options.url or stack.enter_context(postgres_running(max_wal_size="4GB", shared_buffers="256MB")).url()
        print("| processes | messages | messages/s | published/s | check |\n|---:|---:|---:|---:|---|", flush=True)
        for processes in map(int, options.processes.split(",")):
            with database(server) as one:
                done = run(as_url(one), options.messages, processes, options)
            print(
                f"| {processes} | {options.messages:,} | {done.overall:,.0f} | {done.publishing:,.0f} | {done.check} |",
                flush=True,
            )
        if options.long:
            with database(server) as one:
                url = as_url(one)
                done = run(url, options.long, 2, options)
                print(f"| 2 | {options.long:,} | {done.overall:,.0f} | {done.publishing:,.0f} | {done.check} |")
                print("by tenths: " + ", ".join(f"{part:,.0f}" for part in done.parts))
                print(f"the last tenth, of the first: {done.parts[-1] / (done.parts[0] or 1):.2f} (goal 0.9)")
                with psycopg.connect(url, autocommit=True) as raw:
                    raw.execute("VACUUM ANALYZE")
                    middle = f"case-{options.long // 2}"
                    found = raw.execute("SELECT id FROM crossfoot_messages WHERE subject = %s", (middle,)).fetchone()
                weigh(url, options.long)
                names = {"id": found[0] if found else "", "subject": middle, "operation": f"bill:{middle}"}
                measure(lambda: connect(url), names, balance_goal=100)


if __name__ == "__main__":
    main()
