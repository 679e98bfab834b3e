"""A process with everything imported, which forks the others: a life costs milliseconds, and not a second of imports.

They share nothing else: each opens its own connections, runs its own event loop, and dies of a real SIGKILL.
`python -m tests.chaos.warm` starts one for each line `["start", module, arguments, environment, log]`, and tells for each
`["poll", pid]` how it ended, or `null` while it runs. All end with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers.leash import PR_SET_PDEATHSIG
from tests.servers.processes import ROOT


class Warm:
    """The other side of it. For any thread."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lock = threading.Lock()

    def start(self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        """Run a module as `python -m` does; the process id."""
        pid: int = self._ask("start", module, list(arguments), dict(environment), str(log))
        return pid

    def poll(self, pid: int) -> int | None:
        """How it ended: exit code, or minus the signal. It may be asked until that is known, and no longer."""
        code: int | None = self._ask("poll", pid)
        return code

    def _ask(self, *what: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        assert line, "the parent of all processes is gone"
        return json.loads(line)


@contextmanager
def a_warm_process(folder: Path) -> Iterator[Warm]:
    """Ends with everything it started."""
    with (folder / "warm.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.warm"], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    try:
        yield Warm(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


def serve() -> None:
    _import()
    alive: set[int] = set()
    for line in sys.stdin:
        ask, *rest = json.loads(line)
        if ask == "start":
            alive.add(pid := _fork(*rest))
            answer: int | None = pid
        else:
            answer = _poll(rest[0])
            if answer is not None:
                alive.discard(rest[0])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _import() -> None:
    """Whatever a worker or a publisher of any pair imports, and takes long."""
    import aiosqlite
    import alembic.command
    import alembic.runtime
    import psycopg

    import crossfoot.cli.worker
    from crossfoot.queues.kafka.answers import import_client
    from crossfoot.queues.nats import NatsQueue
    from crossfoot.queues.postgres.beside import QueueBesideTheBook
    from crossfoot.queues.rabbitmq.answers import import_aiormq
    from crossfoot.queues.redis.answers import import_redis
    from tests.chaos import service

    import_redis()
    import_client()
    import_aiormq()
    assert all((aiosqlite, alembic, psycopg, crossfoot, NatsQueue, QueueBesideTheBook, service))


def _fork(module: str, arguments: list[str], environment: dict[str, str], log: str) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(code)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
        os.environ.update(environment)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the end of a process: whatever it was is written down and ends it
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _poll(pid: int) -> int | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


if __name__ == "__main__":
    serve()
