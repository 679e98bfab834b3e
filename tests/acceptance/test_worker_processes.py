"""`crossfoot worker --processes N`: processes that die are replaced, all of them leave together, and a new version of the
program takes over without losing or burying a message."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from crossfoot.books.entry import Kind
from tests.acceptance.shell import BIN, ENVIRONMENT, crossfoot, fates, rows, run

PROGRAM = """
import os, time
from crossfoot import Crossfoot

app = Crossfoot("billing", lease=2.0, unknown_for=60.0)
VERSION = 1


@app.handler("case.released", operation="bill:{subject}")
def bill(message, tx):
    time.sleep(0.01)
    tx.execute("INSERT INTO invoices (subject, pid, version) VALUES (?, ?, ?)", (message.subject, os.getpid(), VERSION))
"""

NEWER = (
    PROGRAM.replace("VERSION = 1", "VERSION = 2")
    + """

@app.handler("case.reopened", operation="reopen:{subject}")
def reopen(message, tx):
    tx.execute("INSERT INTO invoices (subject, pid, version) VALUES (?, ?, ?)", (message.subject, os.getpid(), VERSION))
"""
)

SECONDS = 40.0


class Scene:
    """A folder with a service and its book."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.book = folder / "crossfoot.db"
        self.program(PROGRAM)
        run([str(BIN / "python"), "-c", CREATE], folder)

    def program(self, text: str) -> None:
        """Deploy this version of the program."""
        (self.folder / "billing.py").write_text(text)

    def publish(self, type_: str, prefix: str, count: int) -> None:
        done = run([str(BIN / "python"), "-c", PUBLISH, type_, prefix, str(count)], self.folder)
        assert done.returncode == 0, done.stderr

    def invoices(self, columns: str = "subject") -> list[Any]:
        return rows(self.book, f"SELECT {columns} FROM invoices ORDER BY 1")

    def working(self) -> list[int]:
        """Processes that have said in the book that they began, and not that they stopped, and that are there."""
        if not rows(self.book, "SELECT 1 FROM sqlite_master WHERE name = 'crossfoot_workers'"):
            return []
        found = rows(self.book, "SELECT pid FROM crossfoot_workers WHERE stopped_at IS NULL")
        return [pid for (pid,) in found if alive(pid)]

    def settled(self, count: int) -> bool:
        return len(self.invoices()) >= count


CREATE = """
import sqlite3
sqlite3.connect("crossfoot.db").execute("CREATE TABLE invoices (subject TEXT, pid INT, version INT)")
"""

PUBLISH = """
import sys, anyio
from billing import app
_, type_, prefix, count = sys.argv
async def publish():
    await app.publish(*[app.message(type_, subject=f"{prefix}-{number}") for number in range(int(count))])
    await app.aclose()
anyio.run(publish)
"""


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@contextmanager
def supervised(scene: Scene, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command, running; whatever it started is killed at the end."""
    command = [str(BIN / "crossfoot"), "worker", "billing:app", *arguments]
    with (scene.folder / "worker.log").open("a") as log:
        process = subprocess.Popen(
            command,
            cwd=scene.folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        for pid in scene.working():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def eventually(condition: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {SECONDS:g} s for {what}")


def balance(scene: Scene) -> dict[str, Any]:
    done = crossfoot(scene.folder, "balance", "--json", code=None)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def once(invoices: Sequence[tuple[str]], prefix: str, count: int) -> bool:
    """Whether each of the subjects was billed exactly once."""
    return [subject for (subject,) in invoices] == sorted(f"{prefix}-{number}" for number in range(count))


def test_several_processes_share_the_work_and_each_says_what_it_did(scene: Scene) -> None:
    scene.publish("case.released", "case", 600)
    done = crossfoot(scene.folder, "worker", "billing:app", "--processes", "2", "--until-idle", "--json")
    told = json.loads(done.stdout)

    assert told["deliveries"] == 600 == sum(one["ends"].get("committed", 0) for one in told["workers"])
    assert len({one["worker"] for one in told["workers"]}) == 2
    assert once(scene.invoices(), "case", 600)
    assert balance(scene)["unaccounted"] == 0


def test_none_of_several_processes_is_left_without_work(scene: Scene) -> None:
    prefixes = (f"case-{number}" for number in itertools.count())
    with supervised(scene, "--processes", "2"):
        eventually(lambda: len(scene.working()) == 2, "both to work")

        def both_have_worked() -> bool:
            scene.publish("case.released", next(prefixes), 50)
            return len(scene.invoices("DISTINCT pid")) == 2

        eventually(both_have_worked, "both to have worked")


def test_a_process_that_is_killed_is_replaced_and_what_it_held_is_done_once(scene: Scene) -> None:
    scene.publish("case.released", "case", 300)
    with supervised(scene, "--processes", "2") as supervisor:
        first = eventually(lambda: len(scene.working()) == 2 and scene.working(), "both to work")
        eventually(lambda: scene.settled(20), "the first invoices")
        os.kill(first[0], signal.SIGKILL)
        eventually(lambda: set(scene.working()) - set(first), "somebody to take its place")
        eventually(lambda: scene.settled(300), "all invoices")
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(SECONDS) == 0

    assert once(scene.invoices(), "case", 300)
    assert balance(scene)["unaccounted"] == 0
    assert "was ended by SIGKILL" in (scene.folder / "worker.log").read_text()


def test_all_leave_in_order_when_told(scene: Scene) -> None:
    with supervised(scene, "--processes", "3") as supervisor:
        eventually(lambda: len(scene.working()) == 3, "all to work")
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(SECONDS) == 0

    assert rows(scene.book, "SELECT count(*) FROM crossfoot_workers WHERE stopped_at IS NOT NULL") == [(3,)]


def test_nobody_outlives_a_supervisor_that_was_killed(scene: Scene) -> None:
    with supervised(scene, "--processes", "2") as supervisor:
        eventually(lambda: len(scene.working()) == 2, "both to work")
        supervisor.kill()
        eventually(lambda: not scene.working(), "both to leave")

    assert rows(scene.book, "SELECT count(*) FROM crossfoot_workers WHERE stopped_at IS NOT NULL") == [(2,)]


def test_told_twice_it_ends_at_once(scene: Scene) -> None:
    scene.program(PROGRAM.replace("time.sleep(0.01)", "time.sleep(60)"))
    scene.publish("case.released", "case", 1)
    with supervised(scene, "--processes", "1") as supervisor:
        eventually(
            lambda: rows(scene.book, f"SELECT 1 FROM crossfoot_entries WHERE kind = {Kind.RECEIVED}"),
            "the handler to begin",
        )
        supervisor.send_signal(signal.SIGTERM)
        eventually(lambda: "stopping" in (scene.folder / "worker.log").read_text(), "it to hear")
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(SECONDS) == -signal.SIGTERM
        eventually(lambda: not scene.working(), "its process to end")


def test_a_new_version_takes_over_and_no_message_of_a_new_type_is_lost_or_buried(scene: Scene) -> None:
    scene.publish("case.released", "case", 300)
    with supervised(scene, "--processes", "2") as supervisor:
        old = eventually(lambda: len(scene.working()) == 2 and scene.working(), "both to work")
        scene.publish("case.reopened", "again", 20)
        eventually(lambda: released(scene) > 20, "the old version to hand them back")
        scene.program(NEWER)
        supervisor.send_signal(signal.SIGHUP)
        eventually(lambda: not set(scene.working()) & set(old), "the old ones to leave")
        eventually(lambda: scene.settled(320), "all effects")
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(SECONDS) == 0

    subjects = [subject for (subject,) in scene.invoices()]
    assert len(subjects) == len(set(subjects)) == 320
    assert {fate for _, _, fate in fates(scene.book)} == {"settled"}
    assert balance(scene)["unaccounted"] == 0
    assert {version for (version,) in scene.invoices("DISTINCT version")} == {1, 2}


def released(scene: Scene) -> int:
    ((count,),) = rows(scene.book, f"SELECT count(*) FROM crossfoot_entries WHERE kind = {Kind.RELEASED}")
    return int(count)


def test_a_new_version_that_cannot_start_replaces_nobody(scene: Scene) -> None:
    with supervised(scene, "--processes", "2") as supervisor:
        old = eventually(lambda: len(scene.working()) == 2 and scene.working(), "both to work")
        scene.program("import nothing_of_that_name")
        supervisor.send_signal(signal.SIGHUP)
        eventually(lambda: "the old ones go on" in (scene.folder / "worker.log").read_text(), "it to say so")
        assert set(scene.working()) == set(old)


def test_what_is_wrong_with_all_of_them_is_said_once(scene: Scene) -> None:
    (scene.folder / "crossfoot.toml").write_text('database = "/nowhere/at/all.db"\n')
    done = crossfoot(scene.folder, "worker", "billing:app", "--processes", "3", code=2)

    assert done.stderr.count("cannot be opened") == 1


def test_a_module_of_the_working_folder_takes_no_standard_ones_place(scene: Scene) -> None:
    scene.publish("case.released", "case", 3)
    (scene.folder / "queue.py").write_text("NUMBER = 1\n")
    crossfoot(scene.folder, "worker", "billing:app", "--processes", "1", "--until-idle")

    assert once(scene.invoices(), "case", 3)


@pytest.mark.parametrize("arguments", [[], ["--processes", "2"]])
def test_a_log_that_cannot_be_written_keeps_nobody_from_stopping_in_order(scene: Scene, arguments: list[str]) -> None:
    command = [str(BIN / "crossfoot"), "worker", "billing:app", *arguments]
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(command, cwd=scene.folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=full)
    try:
        count = len(arguments) or 1
        eventually(lambda: len(scene.working()) == count, "it to work")
        if arguments:
            process.send_signal(signal.SIGHUP)
            eventually(lambda: len(begun(scene)) == 2 * count and len(scene.working()) == count, "all to be replaced")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.communicate()

    assert rows(scene.book, "SELECT 1 FROM crossfoot_workers WHERE stopped_at IS NULL") == []


def begun(scene: Scene) -> list[Any]:
    return rows(scene.book, "SELECT number FROM crossfoot_workers")


POISON = """
import os
from crossfoot import Crossfoot

app = Crossfoot("billing", lease=0.3, attempts=2, backoff=0.01)


@app.handler("case.released")
def bill(message, tx):
    if message.subject == "case-0":
        os._exit(9)
    tx.execute("INSERT INTO invoices (subject) VALUES (?)", (message.subject,))
"""


@pytest.mark.parametrize("batch", ["1", "10"])
def test_a_message_that_takes_its_workers_down_is_buried_alone(scene: Scene, batch: str) -> None:
    scene.program(POISON)
    scene.publish("case.released", "case", 40)
    command = [str(BIN / "crossfoot"), "worker", "billing:app", "--until-idle", "--batch", batch]
    deaths = 0
    while run(command, scene.folder).returncode == 9:
        deaths += 1
        assert deaths < 20
        time.sleep(0.3)

    assert deaths == 2 + 5
    fated = {subject: fate for _, subject, fate in fates(scene.book)}
    assert fated.pop("case-0") == "dead"
    assert set(fated.values()) == {"settled"}
    assert len(scene.invoices()) == 39
    assert balance(scene)["unaccounted"] == 0
