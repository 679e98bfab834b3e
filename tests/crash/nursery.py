"""Starting victims, and learning how they ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from tests.crash.job import Job

ROOT = Path(__file__).parents[2]

LONGEST_LIFE = 60.0
"""Seconds after which a victim that does not end is killed and reported."""

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Nursery:
    """One process that forks victims; see `victim`. It ends with everything it started."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._process = self._begin()

    def start(self, job: Job) -> int:
        """Begin a life; its process id."""
        pid = self._ask("start", msgspec.json.encode(job).decode())
        assert isinstance(pid, int)
        return pid

    def wait(self, pid: int, seconds: float = LONGEST_LIFE) -> int | None:
        """How it ended: exit code, or minus the signal; `None` if it did not, and had to be killed."""
        return self._ask("wait", pid, seconds)

    def run(self, job: Job, seconds: float = LONGEST_LIFE) -> int | None:
        return self.wait(self.start(job), seconds)

    def stop(self, pid: int) -> None:
        """Freeze a process, as a machine that is paused does."""
        os.kill(pid, signal.SIGSTOP)

    def go_on(self, pid: int) -> None:
        os.kill(pid, signal.SIGCONT)

    def said(self, lines: int = 60) -> str:
        """The last lines the victims wrote."""
        return "\n".join(self.log.read_text().splitlines()[-lines:])

    def close(self) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()

    def _begin(self) -> subprocess.Popen[str]:
        with self.log.open("a") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.crash.victim"], cwd=ROOT, env={**os.environ, **CREDENTIALS}, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, start_new_session=True,
            )  # fmt: skip

    def _ask(self, *what: object) -> int | None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(what) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BaseException:  # a test that took too long: the answer, when it comes, must not be read by the next one
            self._begin_again()
            raise
        if not line:
            said = self.said()
            self._begin_again()
            raise AssertionError(f"the victims' parent is gone:\n{said}")
        answer: int | None = json.loads(line)
        return answer

    def _begin_again(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):  # what was not sent goes with it
            self.close()
        self._process = self._begin()


@contextmanager
def a_nursery(folder: Path) -> Iterator[Nursery]:
    """Ends with everything it started."""
    nursery = Nursery(folder / "victims.log")
    try:
        yield nursery
    finally:
        nursery.close()
