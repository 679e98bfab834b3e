"""What one message costs where book, queue and effect are in one PostgreSQL: round trips, processor time of the worker and of the
server, and by part of the worker.

    python benchmarks/postgres_cost.py                                  # both modes
    python benchmarks/postgres_cost.py --beside ../before/src           # and the ratios to another checkout, in turns
    python benchmarks/postgres_cost.py --parts --batches 100            # processor time by function, of one run
    python benchmarks/postgres_cost.py --batches 100 --list             # a handler that takes a list; or --optimistic
    python benchmarks/postgres_cost.py --batches 100 --list --statements --rounds 1    # what the server spent on each statement

Round trips are counted by a cable between worker and server, in a run of their own: whenever a client speaks after the server
has. Processor time is that of the worker's process, from the first message received to the last one settled, and that of the
server's processes meanwhile; a busy machine changes it less than the rate. Of statements the server (pg_stat_statements) tells time
by the wall, which a busy machine does change, and pages looked at and bytes of its log, which it does not.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.peers.load import children, sample  # noqa: E402 - runs as a script, too
from tests.servers.postgres import Postgres, postgres_running, program  # noqa: E402
from tests.servers.run import HOST  # noqa: E402

EFFECT = "INSERT INTO effects (key, value) VALUES (%s, %s) ON CONFLICT (key) DO NOTHING"
STATEMENTS = """
SELECT calls, rows, total_exec_time, shared_blks_hit + shared_blks_read, wal_bytes, left(regexp_replace(query, '\\s+', ' ', 'g'), 100)
FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = current_database() ORDER BY total_exec_time DESC LIMIT 25
"""
GROUP = 500
PARTS = ("lanes", "intake", "posting")
FIGURES = ("rate", "worker", *PARTS, "server")
COUNTED = 2_000
"""Messages of the runs in which round trips are counted."""


# ---- the worker, in a process of its own ---------------------------------------------------------------------------------


def application(url: str, *, takes_list: bool = False) -> Any:
    from crossfoot import Crossfoot

    app = Crossfoot("costs", database=url)
    if takes_list:

        @app.handler("order.placed", operation="{subject}", many=True)
        def handle_all(messages: Any, tx: Any) -> None:
            rows = ", ".join(["(%s, %s)"] * len(messages))
            fields = [field for message in messages for field in (message.subject, message.data["value"])]
            tx.execute(EFFECT.replace("(%s, %s)", rows), fields)

        return app

    @app.handler("order.placed", operation="{subject}")
    def handle(message: Any, tx: Any) -> None:
        tx.execute(EFFECT, (message.subject, message.data["value"]))

    return app


def publish(url: str, messages: int) -> None:
    app = application(url)

    async def all_of_them() -> None:
        for first in range(0, messages, GROUP):
            numbers = range(first, min(first + GROUP, messages))
            await app.publish(*(app.message("order.placed", subject=f"order-{n}", data={"value": n}) for n in numbers))
        await app.aclose()

    anyio.run(all_of_them)


def work(url: str, batch: int, asked: argparse.Namespace) -> None:
    """Print one JSON object: seconds and processor seconds from the first message to the last."""
    app, parts = application(url, takes_list=asked.list), asked.parts
    profiles: list[cProfile.Profile] = []
    if parts:
        profile_lanes(profiles)
    spent = watch_parts()
    worker = app.worker(batch=batch, concurrency=asked.concurrency, optimistic=asked.list or asked.optimistic)
    marks: list[tuple[float, float]] = []

    def mark(*_: Any) -> None:
        marks[1:] = [(time.perf_counter(), time.process_time())]

    def begin() -> None:
        marks.append((time.perf_counter(), time.process_time()))

    worker.on_ready, worker.on_settled = begin, mark

    async def run() -> None:
        await worker.run(until_idle=True)
        await app.aclose()

    anyio.run(run)
    print(json.dumps({"seconds": marks[1][0] - marks[0][0], "cpu": marks[1][1] - marks[0][1], **spent}))
    if parts:
        stats = pstats.Stats(profiles[0], stream=sys.stderr)
        for other in profiles[1:]:
            stats.add(other)
        stats.sort_stats("tottime").print_stats(45)
        stats.sort_stats("cumtime").print_stats(60)


def watch_parts() -> dict[str, float]:
    """Processor seconds of the parts that run in threads; what is left of the process is its event loop."""
    try:
        from crossfoot.worker import upkeep as posting
    except ImportError:  # a checkout in which the worker itself posts
        from crossfoot.worker import worker as posting  # type: ignore[no-redef]  # the same name, elsewhere
    from crossfoot.worker.intake import Intake
    from crossfoot.worker.lanes import ThreadLane

    spent = dict.fromkeys(PARTS, 0.0)

    def watched(part: str, call: Any) -> Any:
        def around(*arguments: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*arguments)
            finally:
                spent[part] += time.thread_time() - began

        return around

    ThreadLane._work = watched("lanes", ThreadLane._work)  # type: ignore[method-assign]  # watched from outside
    Intake.take = watched("intake", Intake.take)  # type: ignore[method-assign]  # watched from outside
    posting.post = watched("posting", posting.post)
    return spent


def profile_lanes(profiles: list[cProfile.Profile]) -> None:
    """Profile what lanes do, by processor time: waits are not in it."""
    from crossfoot.worker.lanes import ThreadLane

    own = threading.local()
    original = ThreadLane._work

    def profiled(self: Any, session: Any, chunk: Any) -> Any:
        if not hasattr(own, "profile"):
            own.profile = cProfile.Profile(time.thread_time)
            profiles.append(own.profile)
        own.profile.enable()
        try:
            return original(self, session, chunk)
        finally:
            own.profile.disable()

    ThreadLane._work = profiled  # type: ignore[method-assign]  # watched from outside


# ---- around it -----------------------------------------------------------------------------------------------------------


class Cable:
    """Leads to a port of this machine, and counts the round trips."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.trips = {"lanes": 0, "others": 0}
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._take_in, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _take_in(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection((HOST, self._to))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = _Line(client, server)
            threading.Thread(target=line.requests, args=(self.trips,), daemon=True).start()
            threading.Thread(target=line.answers, daemon=True).start()


class _Line:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server
        self._server_spoke = True

    def requests(self, trips: dict[str, int]) -> None:
        count, kind = 0, "others"
        for data in _received(self._client):
            if self._server_spoke:
                count += 1
                self._server_spoke = False
            if b"INSERT INTO effects" in data:
                kind = "lanes"
            self._server.sendall(data)
        trips[kind] += count
        self._server.close()

    def answers(self) -> None:
        for data in _received(self._server):
            self._server_spoke = True
            try:
                self._client.sendall(data)
            except OSError:
                return


def _received(source: socket.socket) -> Iterator[bytes]:
    try:
        while data := source.recv(65_536):
            yield data
    except OSError:
        return


def measure(server: Postgres, name: str, source: Path, asked: argparse.Namespace, batch: int, messages: int) -> Any:
    """One run of the worker of the checkout `source`; its figures a message."""
    server.run(f"CREATE DATABASE {name}")
    url = server.url(name)
    environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{ROOT}"}
    script = [sys.executable, __file__]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE effects (key text PRIMARY KEY, value int)")
    subprocess.run([*script, "--publish", url, "--messages", str(messages)], env=environment, check=True)
    server.run("VACUUM ANALYZE", database=name)
    server.run("CHECKPOINT")
    options = ["--batches", str(batch), "--concurrency", str(asked.concurrency)]
    options += [f"--{flag}" for flag in ("parts", "optimistic", "list") if getattr(asked, flag)]
    with closing(Cable(server.port)) as cable:
        counted = messages == COUNTED
        through = server.url(name, port=cable.port) if counted else url
        if asked.statements:
            server.run("CREATE EXTENSION IF NOT EXISTS pg_stat_statements", database=name)
            server.run("SELECT pg_stat_statements_reset()", database=name)
        postmaster = children(os.getpid())
        before = sample(postmaster)
        done = subprocess.run(
            [*script, "--work", through, *options], env=environment, check=True, stdout=subprocess.PIPE
        )
        spent = sample(postmaster).ours - before.ours
        if counted:
            time.sleep(0.5)  # its connections are told of as they end
            trips = cable.trips
    result = json.loads(done.stdout)
    ((effects,),) = server.run("SELECT count(*) FROM effects", database=name)
    assert effects == messages, f"{effects} effects for {messages} messages"
    if asked.statements and not counted:
        tell_statements(server.run(STATEMENTS, database=name), messages)
    server.run(f"DROP DATABASE {name} WITH (FORCE)")
    if counted:
        return {kind: count / messages for kind, count in trips.items()}
    seconds = {"worker": result["cpu"], "server": spent, **{part: result[part] for part in PARTS}}
    return {"rate": messages / result["seconds"], **{part: 1e6 * one / messages for part, one in seconds.items()}}


def tell_statements(rows: list[Any], messages: int) -> None:
    """Print what the server spent on each statement, a message."""
    print("\n| calls | rows | µs | pages | bytes of log | statement |\n|" + "---:|" * 5 + "---|")
    for calls, count, milliseconds, pages, log, text in rows:
        figures = (calls / messages, count / messages, 1e3 * milliseconds / messages, pages / messages, log / messages)
        print(f"| {' | '.join(f'{figure:,.2f}' for figure in figures)} | `{text}` |", flush=True)
    print()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--batches", default="1,100", help="messages a transaction, with commas")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--beside", type=Path, metavar="SRC", help="the src folder of another checkout, to compare with"
    )
    parser.add_argument("--parts", action="store_true", help="print processor time by function")
    parser.add_argument("--optimistic", action="store_true", help="batches without savepoints")
    parser.add_argument("--list", action="store_true", help="a handler that takes a list")
    parser.add_argument("--statements", action="store_true", help="print what the server spent on each statement")
    parser.add_argument("--publish", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--work", metavar="URL", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.statements and not list(Path(program("postgres")).parents[1].rglob("pg_stat_statements.so")):
        parser.error(
            "this PostgreSQL has no pg_stat_statements: name the programs of one that has it, POSTGRES_BIN=/usr/lib/postgresql/15/bin"
        )
    if asked.publish:
        publish(asked.publish, asked.messages)
        return 0
    if asked.work:
        work(asked.work, int(asked.batches), asked)
        return 0
    sources = {"this": ROOT / "src", **({"other": asked.beside.resolve()} if asked.beside else {})}
    print(f"{platform.machine()}, Python {platform.python_version()}, {asked.messages:,} messages, one worker, "
          f"{asked.concurrency} handlers, {asked.rounds} rounds")  # fmt: skip
    print("\n| checkout | batch | messages/s | worker µs | of it handling | received | posted | server µs | round trips of handling "
          "| of all else |\n|---|---:|" + "---:|" * 8)  # fmt: skip
    settings = {"shared_preload_libraries": "pg_stat_statements"} if asked.statements else {}
    with postgres_running(shared_buffers="128MB", max_wal_size="4GB", **settings) as server:
        for batch in (int(word) for word in asked.batches.split(",")):
            runs: dict[str, list[Any]] = {label: [] for label in sources}
            trips = {
                label: measure(server, "counted", source, asked, batch, COUNTED) for label, source in sources.items()
            }
            for number in range(asked.rounds):
                for label, source in sources.items():
                    runs[label].append(measure(server, f"run_{number}", source, asked, batch, asked.messages))
            for label, found in runs.items():
                middle = [statistics.median(run[field] for run in found) for field in FIGURES]
                told = " | ".join(f"{figure:,.0f}" for figure in middle)
                print(
                    f"| {label} | {batch} | {told} | {trips[label]['lanes']:.2f} | {trips[label]['others']:.2f} |",
                    flush=True,
                )
            if asked.beside:
                ratios = [
                    statistics.median(a[field] / b[field] for a, b in zip(runs["this"], runs["other"], strict=True))
                    for field in FIGURES
                ]
                print(f"| this / other | {batch} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} | | |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
