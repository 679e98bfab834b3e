"""A replayer that is killed at each of its boundaries, and goes on: what was mended takes effect exactly once, and nothing else is moved.

The processes are programs of their own, killed by a real SIGKILL; effects are counted in a table that would take them twice.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from crossfoot.books.fate import Fate
from crossfoot.boundaries import Boundary
from tests.crash.nursery import ROOT

MEMBERS = 9

PROGRAM = """
import itertools, os, signal, sys
from pathlib import Path

import anyio

from crossfoot import Crossfoot, boundaries
from crossfoot.books.replays import newest
from crossfoot.books.store import Book
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.recover.replay.planning import Asked, plan
from crossfoot.recover.replay.policy import Policy
from crossfoot.recover.replay.running import Runner
from crossfoot.recover.replay.selection import Selection
from crossfoot.worker.retry import Retry

role, where, at, nth = sys.argv[1:5]
members = int(sys.argv[5])
queue = None
if where == "elsewhere":
    Book("queue.db").open().close()
    queue = EmbeddedQueue("queue.db", "billing", ordered=False)
app = Crossfoot("billing", database="billing.db", queue=queue, synchronous="NORMAL", wait=0.05, lease=1.0)


@app.handler("case.*", operation="bill:{subject}")
def bill(message, tx):
    if Path("broken").exists():
        raise ValueError("broken")
    tx.execute("INSERT INTO effects VALUES (?)", (message.subject,))


def kill_at(count=itertools.count(1)):
    def die(boundary):
        if boundary == at and next(count) == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
    boundaries.install(die)


async def main():
    try:
        if role == "die":
            await app.publish(*(app.message("case.released", subject=f"case-{n}") for n in range(members)))
            await app.worker(retry=Retry(attempts=1)).run(until_idle=True)
            return
        worker = app.worker(retry=Retry(attempts=1))
        async with anyio.create_task_group() as tasks:
            await anyio.to_thread.run_sync(app.book.open)
            tasks.start_soon(worker.run)
            if at:
                kill_at()
            with app.book.reading() as connection:
                known = [one for one in newest(connection, 10) if one.state != "planning"]
            if known:
                number = known[0].number
            else:
                asked = Asked(selection=Selection(), by="tests", why="crash")
                number, _ = await plan(app.book, app.queue, app.registry, asked)
            policy = Policy(canary=2, stage=4, rate=10_000.0, window=4, patience=20.0)
            replay = await Runner(app.book, app.queue, number, policy, hold=0.5).run()
            print(replay.state)
            worker.stop()
    finally:
        await app.aclose()


anyio.run(main)
"""

PLACES = {
    Boundary.PLANNING_REPLAY: 1, Boundary.BEFORE_MOVE: 2, Boundary.AFTER_MOVE: 2, Boundary.BETWEEN_STAGES: 1,
    Boundary.BEFORE_FORGET: 1, Boundary.AFTER_FORGET: 1, Boundary.BEFORE_SEND: 1, Boundary.AFTER_SEND: 1,
}  # fmt: skip


SENDING = (Boundary.BEFORE_SEND, Boundary.AFTER_SEND)
"""Beside the book nothing is sent: it is one transaction."""


def play(folder: Path, role: str, where: str, at: str = "", nth: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, role, where, at, str(nth), str(MEMBERS)],
        cwd=folder, capture_output=True, text=True, timeout=90, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip


@pytest.mark.crash
@pytest.mark.parametrize(
    ("where", "boundary"),
    [
        (where, boundary)
        for where in ("beside", "elsewhere")
        for boundary in PLACES
        if where == "elsewhere" or boundary not in SENDING
    ],
)
def test_killed_there_it_goes_on_and_everything_takes_effect_once(
    tmp_path: Path, where: str, boundary: Boundary
) -> None:
    with closing(sqlite3.connect(tmp_path / "billing.db")) as connection, connection:
        connection.execute("CREATE TABLE effects (subject TEXT)")
    (tmp_path / "broken").touch()
    died = play(tmp_path, "die", where)
    assert died.returncode == 0, died.stderr
    (tmp_path / "broken").unlink()

    killed = play(tmp_path, "replay", where, boundary.value, PLACES[boundary])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    members = _rows(tmp_path, "SELECT message, class FROM crossfoot_replay_members WHERE replay = 1 ORDER BY 1")
    goes_on = play(tmp_path, "replay", where)

    assert goes_on.stdout.strip() == "finished", goes_on.stderr
    effects = Counter(subject for (subject,) in _rows(tmp_path, "SELECT subject FROM effects"))
    assert effects == {f"case-{n}": 1 for n in range(MEMBERS)}
    if boundary is not Boundary.PLANNING_REPLAY:
        assert members == _rows(tmp_path, "SELECT message, class FROM crossfoot_replay_members ORDER BY 1")
        assert _rows(tmp_path, "SELECT count(*) FROM crossfoot_replays") == [(1,)]
    ends = _rows(tmp_path, "SELECT ended, count(*) FROM crossfoot_replay_members WHERE state = 'ended' GROUP BY ended")
    assert ends == [(Fate.SETTLED.value, MEMBERS)]
    queue = "queue.db" if where == "elsewhere" else "billing.db"
    assert _rows(tmp_path, "SELECT count(*) FROM crossfoot_queue WHERE state = 2", queue) == [(0,)]


def _rows(folder: Path, query: str, file: str = "billing.db") -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / file)) as connection:
        return connection.execute(query).fetchall()
