"""What an orchestrator is told of several processes: whether all of their event loops turn, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import anyio
import pytest

from crossfoot.queues.redis import ensure
from tests.acceptance.shell import BIN, ENVIRONMENT, crossfoot
from tests.acceptance.test_metrics import eventually, get
from tests.acceptance.test_worker_processes import Scene, alive
from tests.servers.processes import free_port
from tests.servers.valkey import valkey_running

IMPATIENT = """
import sys
from crossfoot.cli import main, worker_probes
worker_probes.DEAD = 3.0  # seconds; 30 are long for a test
main(sys.argv[1:])
"""


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_supervisor_is_not_alive_while_the_event_loop_of_one_of_its_processes_stands_still(scene: Scene) -> None:
    port = free_port()
    command = [str(BIN / "python"), "-c", IMPATIENT, "worker", "billing:app", "--processes", "2", "--listen", str(port)]
    supervisor = subprocess.Popen(
        command, cwd=scene.folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    frozen: list[int] = []
    try:
        until = time.monotonic() + 40
        while len(scene.working()) < 2 or get(port, "/readyz")[0] != 200:
            assert time.monotonic() < until, "they do not work"
            time.sleep(0.1)
        pid = scene.working()[1]
        os.kill(pid, signal.SIGSTOP)
        frozen.append(pid)
        told = eventually(port, "/livez", 503)
        assert told.startswith("the event loop of worker process ")
        assert f"(pid {pid}) has not turned for " in told
        assert get(port, "/readyz")[0] == 503
        os.kill(pid, signal.SIGCONT)
        assert eventually(port, "/livez", 200) == "ok\n"
        assert alive(pid), "it is told, and nobody is killed for it"
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(30) == 0
    finally:
        for pid in frozen:
            if alive(pid):
                os.kill(pid, signal.SIGCONT)
        supervisor.kill()
        supervisor.wait()


REMOTE = """
from crossfoot import Crossfoot

app = Crossfoot("billing", queue="{url}")

@app.handler("case.released")
def bill(message, tx):
    tx.outcome("invoice.issued")
"""


@pytest.mark.server
@pytest.mark.parametrize("more", [[], ["--processes", "2"]], ids=["alone", "processes"])
def test_who_cannot_receive_is_alive_and_not_ready_and_says_why(scene: Scene, tmp_path: Path, more: list[str]) -> None:
    port = free_port()
    (folder := tmp_path / "valkey").mkdir()
    with valkey_running(folder) as server:
        anyio.run(lambda: ensure("billing", url=server.url))
        scene.program(REMOTE.format(url=f"{server.url}/billing"))
        command = [str(BIN / "crossfoot"), "worker", "billing:app", *more, "--listen", str(port)]
        worker = subprocess.Popen(
            command, cwd=scene.folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            eventually(port, "/readyz", 200)
            server.kill()
            assert eventually(port, "/readyz", 503).startswith("queue billing cannot be used: ")
            assert get(port, "/livez")[0] == 200
            server.start()
            assert eventually(port, "/readyz", 200) == "ok\n"
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        finally:
            worker.kill()
            worker.wait()


BROKEN = """
from crossfoot import Crossfoot
from crossfoot.worker.worker import Worker

app = Crossfoot("billing")

@app.handler("case.released")
def bill(message, tx): ...

async def run(self, **how):
    raise LookupError("this is a fault")

Worker.run = run
"""


def test_a_fault_in_the_first_of_several_processes_ends_all_with_its_own_code(scene: Scene) -> None:
    scene.program(BROKEN)
    command = [str(BIN / "crossfoot"), "worker", "billing:app", "--processes", "3"]
    done = subprocess.run(
        command, cwd=scene.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr.count("this is a fault in crossfoot")) == (70, 1)
    scene.program("import nothing_of_that_name")
    crossfoot(scene.folder, "worker", "billing:app", "--processes", "3", code=2)


SLOW = """
import pathlib, time
from crossfoot import Crossfoot

app = Crossfoot("billing")

@app.handler("case.released")
def bill(message, tx):
    pathlib.Path("begun").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.05)
    tx.outcome("invoice.issued")
"""


@pytest.mark.parametrize("more", [[], ["--processes", "2"]], ids=["alone", "processes"])
def test_who_finishes_what_it_has_begun_before_it_leaves_is_not_ready(scene: Scene, more: list[str]) -> None:
    scene.program(SLOW)
    crossfoot(scene.folder, "publish", "billing:app", "case.released", "--subject", "case-1")
    port = free_port()
    command = [str(BIN / "crossfoot"), "worker", "billing:app", *more, "--listen", str(port)]
    worker = subprocess.Popen(
        command, cwd=scene.folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        eventually(port, "/readyz", 200)
        until = time.monotonic() + 30
        while not (scene.folder / "begun").exists():
            assert time.monotonic() < until, "the handler never began"
            time.sleep(0.05)
        worker.send_signal(signal.SIGTERM)
        assert eventually(port, "/readyz", 503).startswith("it does not work")
        assert get(port, "/livez")[0] == 200
        (scene.folder / "go").touch()
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
