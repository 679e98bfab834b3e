"""What the supervisor does when processes come and go at the wrong moment; the rest is in tests/acceptance."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from crossfoot.worker import supervisor
from crossfoot.worker.supervisor import Line, Supervisor, Trouble

pytestmark = pytest.mark.anyio

PROCESS = """
import os, pathlib, signal, sys, time
from crossfoot.worker.supervisor import Line, Ready
line, folder = Line(int(sys.argv[1])), pathlib.Path(sys.argv[2])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
(folder / f"{os.getpid()}.begun").touch()
while (folder / "hold").exists():
    time.sleep(0.01)
if (folder / "fail").exists():
    sys.exit(int((folder / "fail").read_text() or 2))
line.say(Ready())
(folder / f"{os.getpid()}.works").touch()
time.sleep(60)
"""


class Crew:
    """A supervisor of processes that do nothing, and what their folder tells of them."""

    def __init__(self, folder: Path, processes: int, *, program: str = PROCESS, until_idle: bool = False) -> None:
        self.folder = folder
        self.supervisor = Supervisor(
            lambda line: [sys.executable, "-c", program, str(line), str(folder)], processes, until_idle=until_idle
        )

    def all_begun(self) -> int:
        """Processes that have begun, those that have ended included."""
        return len(list(self.folder.glob("*.begun")))

    def pids(self, what: str) -> set[int]:
        """Processes that are there, and `begun`, or that `works`."""
        return {int(path.stem) for path in self.folder.glob(f"*.{what}") if alive(int(path.stem))}

    async def until(self, condition: Any) -> None:
        with anyio.fail_after(20):
            while not condition():  # noqa: ASYNC110 - other processes, which set no event of ours
                await anyio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@asynccontextmanager
async def crew(folder: Path, processes: int) -> AsyncIterator[Crew]:
    made = Crew(folder, processes)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.supervisor.run)
        await made.until(lambda: len(made.pids("works")) == processes)
        yield made
        made.supervisor.stop()
    assert made.pids("begun") == set()


async def test_a_process_that_dies_while_its_successor_is_on_the_way_is_followed_by_that_one(tmp_path: Path) -> None:
    async with crew(tmp_path, 2) as made:
        old = made.pids("works")
        (tmp_path / "hold").touch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(made.supervisor.replace)
            await made.until(lambda: len(made.pids("begun")) == 3)
            for pid in old:
                os.kill(pid, signal.SIGKILL)
            await made.until(lambda: not made.pids("works"))
            (tmp_path / "hold").unlink()
        await made.until(lambda: len(made.pids("works")) == 2)
        await anyio.sleep(0.2)
        assert len(made.pids("begun")) == 2
        assert not made.pids("works") & old


async def test_one_that_is_ended_by_a_signal_without_a_name_is_replaced_like_any_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with crew(tmp_path, 2) as made:
        old = made.pids("works")
        os.kill(min(old), signal.SIGRTMIN + 6)
        await made.until(lambda: len(made.pids("works") - old) == 1)
        assert len(made.pids("works") & old) == 1
    assert f"was ended by signal {signal.SIGRTMIN + 6}" in caplog.text


async def test_told_to_stop_while_a_successor_is_on_the_way_nobody_stays(tmp_path: Path) -> None:
    async with crew(tmp_path, 1) as made:
        (tmp_path / "hold").touch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(made.supervisor.replace)
            await made.until(lambda: len(made.pids("begun")) == 2)
            made.supervisor.stop()


async def test_a_process_that_dies_later_of_what_no_first_one_could_work_with_is_tried_again(tmp_path: Path) -> None:
    async with crew(tmp_path, 1) as made:
        (old,) = made.pids("works")
        (tmp_path / "fail").touch()
        os.kill(old, signal.SIGKILL)
        await made.until(lambda: made.all_begun() == 2)
        (tmp_path / "fail").unlink()
        await made.until(lambda: made.pids("works") - {old})


@pytest.mark.parametrize("code", [1, 2, 70])
async def test_a_first_process_that_cannot_work_is_not_tried_again(tmp_path: Path, code: int) -> None:
    (tmp_path / "fail").write_text(str(code))
    made = Crew(tmp_path, 3)
    with anyio.fail_after(20):
        assert await made.supervisor.run() == code
    assert made.all_begun() == 1


async def test_a_successor_that_never_begins_is_given_up_and_the_next_one_has_its_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PATIENCE", 0.5)
    async with crew(tmp_path, 1) as made:
        old = made.pids("works")
        (tmp_path / "hold").touch()
        with anyio.fail_after(20):
            await made.supervisor.replace()
        assert made.pids("works") == made.pids("begun") == old
        (tmp_path / "hold").unlink()
        monkeypatch.setattr(supervisor, "PATIENCE", 30.0)
        await made.supervisor.replace()
        await made.until(lambda: made.pids("works") and not made.pids("works") & old)


LEAVES = """
import pathlib, sys
from crossfoot.worker.supervisor import Line, Ready, Report
line, folder = Line(int(sys.argv[1])), pathlib.Path(sys.argv[2])
line.say(Ready())
lives = folder / "lives"
lives.touch()
with lives.open("a") as file:
    file.write("x")
if len(lives.read_text()) > 2:
    line.say(Report("one", 7, {}))
"""


async def test_one_that_leaves_without_a_word_was_not_done(tmp_path: Path) -> None:
    made = Crew(tmp_path, 1, program=LEAVES, until_idle=True)
    with anyio.fail_after(20):
        assert await made.supervisor.run() == 0

    assert [report.deliveries for report in made.supervisor.reports] == [7]
    assert (tmp_path / "lives").read_text() == "xxx"


async def test_where_no_process_can_be_started_the_others_go_on_and_it_is_tried_again(tmp_path: Path) -> None:
    async with crew(tmp_path, 2) as made:
        first, second = made.pids("works")
        command, made.supervisor._command = made.supervisor._command, lambda line: [str(tmp_path / "nothing")]
        await made.supervisor.replace()
        os.kill(first, signal.SIGKILL)
        await anyio.sleep(0.8)
        assert made.pids("works") == {second}
        made.supervisor._command = command
        await made.until(lambda: len(made.pids("works")) == 2)


async def test_who_dies_again_and_again_is_followed_after_longer_and_longer_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(self: Supervisor, deaths: int) -> None:
        pauses.append(supervisor._pause(deaths))
        if len(pauses) == 3:
            (tmp_path / "fail").unlink()

    monkeypatch.setattr(Supervisor, "_sleep", sleep)
    async with crew(tmp_path, 1) as made:
        (tmp_path / "fail").write_text("3")
        (pid,) = made.pids("works")
        os.kill(pid, signal.SIGKILL)
        await made.until(lambda: len(pauses) == 3 and made.pids("works"))
        assert pauses == [0.5, 1.0, 2.0]

        monkeypatch.setattr(supervisor, "SOUND", 0.0)  # it has lived long enough: its death is the first again
        (pid,) = made.pids("works")
        os.kill(pid, signal.SIGKILL)
        await made.until(lambda: len(pauses) == 4 and made.pids("works"))
        assert pauses[3] == 0.5
    assert [supervisor._pause(deaths) for deaths in (6, 7, 1_000)] == [16.0, 30.0, 30.0]


def test_a_process_does_not_wait_for_a_supervisor_that_does_not_listen_and_is_heard_later() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        line = Line(theirs.detach())
        for _ in range(100_000):  # more than the line holds
            line.beat()
        line.say(Trouble("the book is away"))
        ours.setblocking(False)
        heard = b""
        while b"the book is away" not in heard:
            try:
                heard += ours.recv(1 << 20)
            except BlockingIOError:
                line.beat()
        line._line.close()
    words = [word for word in heard.split(b"\n") if word]
    assert len(words) == 1
