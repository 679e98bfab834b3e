"""The processes that are killed. `python -m tests.crash.victim` forks one for every job it reads.

Everything is imported before the first fork, so that a life costs milliseconds instead of a second. A victim shares
nothing else with its parent: it opens its own connections, runs its own event loop, and dies of a real SIGKILL.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import boto3
import msgspec

import crossfoot.app
from crossfoot import Crossfoot, boundaries
from crossfoot.books.replays import FINISHED, PAUSED, PLANNED, RUNNING, newest
from crossfoot.boundaries import Boundary
from crossfoot.effects.outbox import Outbox
from crossfoot.errors import ReplayRefused
from crossfoot.queues.kafka.answers import import_client
from crossfoot.queues.postgres import PostgresQueue
from crossfoot.queues.rabbitmq.answers import import_aiormq
from crossfoot.queues.redis.answers import import_redis
from crossfoot.queues.sqs.client import default_session
from crossfoot.recover.replay.planning import Asked, plan
from crossfoot.recover.replay.policy import Policy
from crossfoot.recover.replay.running import Runner
from crossfoot.recover.replay.selection import Selection
from crossfoot.worker.retry import Retry
from crossfoot.worker.worker import Worker
from tests.crash import audit, sabotage
from tests.crash.job import LATE, Job, Sent
from tests.crash.service import make_app, make_tables

LOOK = 0.05
"""Seconds between two looks at the clock or at the books."""


# ---- one life --------------------------------------------------------------------------------------------------------


def live(job: Job) -> int:
    """Do the job; the process's exit code."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("crossfoot.worker").addFilter(lambda record: "goes to the dead letters" not in record.msg)
    random.seed()
    make_tables(job.path)
    app = make_app(job)
    # A publisher that died is followed up after a second instead of a minute.
    vars(crossfoot.app)["Outbox"] = partial(Outbox, claim=job.lease)
    if job.sabotage:
        sabotage.KINDS[job.sabotage](app)
    if job.boundary:
        boundaries.install(_killer(job))
    return anyio.run(_ROLES[job.role], app, job)


def _killer(job: Job) -> Any:
    counter = itertools.count(1)

    def die(boundary: Boundary) -> None:
        if boundary == job.boundary and next(counter) == job.nth:
            Path(job.mark).write_text(f"{boundary}\n{job.nth}")
            os.kill(os.getpid(), signal.SIGKILL)

    return die


async def _open(app: Crossfoot, job: Job) -> int:
    await anyio.to_thread.run_sync(app.book.open)
    await app.aclose()
    return 0


async def _publish(app: Crossfoot, job: Job) -> int:
    for start in range(0, len(job.messages), 5):
        group = job.messages[start : start + 5]
        _note(job, "asked", group)
        await app.publish(*[_message(app, message) for message in group])
        _note(job, "answered", group)
    await app.aclose()
    return 0


def _note(job: Job, what: str, messages: Sequence[Sent]) -> None:
    with Path(job.noted).open("a") as noted:
        noted.writelines(f"{what} {message.id}\n" for message in messages)


def _message(app: Crossfoot, sent: Sent) -> Any:
    expiry = app.clock.now() - 1 if sent.type == LATE else None
    return app.message(sent.type, id=sent.id, subject=sent.subject, expirytime=expiry)


async def _work(app: Crossfoot, job: Job) -> int:
    await _worker(app).run(until_idle=True)
    await app.aclose()
    return 0


async def _settle(app: Crossfoot, job: Job) -> int:
    """Work until nothing is open, as somebody looking from outside can see."""
    worker = _worker(app)
    await anyio.to_thread.run_sync(app.book.open)
    await app.queue.open()
    closed = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        with anyio.move_on_after(job.patience):
            while not closed:
                await anyio.sleep(LOOK)
                closed = await anyio.to_thread.run_sync(audit.is_closed, job.path) and not (await _held(app))
        worker.stop()
    await app.aclose()
    return 0 if closed else 3


async def _replay(app: Crossfoot, job: Job) -> int:
    """Go on with the replays that others left, and then have one of its own; what died dies again, and nothing else happens."""
    await _worker(app).run(until_idle=True)
    worker = _worker(app)
    policy = Policy(canary=1, stage=16, rate=10_000.0, window=16, max_errors=1.0, max_again=1.0, patience=20.0)
    asked = Asked(selection=Selection(), by="tests", why="crash")
    ends = set()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        for number in await anyio.to_thread.run_sync(_unfinished, app):
            replay = await Runner(app.book.another(), app.queue, number, policy, hold=0.5).run()
            ends.add(replay.state)
        with suppress(ReplayRefused):  # nothing has died yet
            number, _ = await plan(app.book, app.queue, app.registry, asked)
            ends.add((await Runner(app.book.another(), app.queue, number, policy, hold=0.5).run()).state)
        worker.stop()
    await app.aclose()
    return 0 if ends <= {FINISHED} else 4


def _unfinished(app: Crossfoot) -> list[int]:
    with app.book.reading() as connection:
        return [one.number for one in newest(connection, 100) if one.state in (PLANNED, RUNNING, PAUSED)]


def _worker(app: Crossfoot) -> Worker:
    """A message may be in the hands of many that die before somebody lives through it."""
    return app.worker(retry=Retry(attempts=2, deaths=1_000, base=0.05))


async def _held(app: Crossfoot) -> int:
    return (await app.queue.depth()).held


_ROLES = {"open": _open, "publish": _publish, "work": _work, "settle": _settle, "replay": _replay}


# ---- where they come from --------------------------------------------------------------------------------------------


def serve() -> None:
    """Fork a victim for each line `["start", job]`, and tell how it ended for each `["wait", pid, seconds]`."""
    _warm_up()
    alive: set[int] = set()
    try:
        for line in sys.stdin:
            ask, *rest = json.loads(line)
            answer = _fork(rest[0], alive) if ask == "start" else _wait(rest[0], rest[1], alive)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _warm_up() -> None:
    """Read and import what takes long, once."""
    default_session().client("sqs", region_name="eu-central-1", endpoint_url="http://127.0.0.1:1").close()
    assert boto3 is not None
    import_redis()
    import_aiormq()
    import_client()
    assert PostgresQueue is not None
    with closing(sqlite3.connect(":memory:")):
        from alembic import command, runtime  # noqa: F401 - what a migration imports


def _fork(text: str, alive: set[int]) -> int:
    job = msgspec.json.decode(text, type=Job)
    pid = os.fork()
    if pid:
        alive.add(pid)
        return pid
    code = 70
    try:
        os.dup2(2, 1)
        os.close(0)
        code = live(job)
    except BaseException:  # noqa: BLE001 - the end of a process: whatever it was is written down and ends it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, seconds: float, alive: set[int]) -> int | None:
    """Its exit code, negative for a signal; `None` when it had to be killed because it took too long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            alive.discard(pid)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    alive.discard(pid)
    return None


if __name__ == "__main__":
    serve()
