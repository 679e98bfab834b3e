"""Real workers on uvloop and on asyncio's own loop: chosen by installation, option and setting, and equal in what they do."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from crossfoot.books.entry import Kind
from tests.acceptance.shell import BIN, ENVIRONMENT, SECONDS, crossfoot, rows, run, wait_until

PROGRAM = """
import asyncio
from crossfoot import Crossfoot

app = Crossfoot("billing", attempts=2, backoff=0.01)

@app.handler("case.released", operation="bill:{subject}")
async def bill(message, tx):
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    if message.subject == "case-0":
        raise ValueError("this one dies")
    await asyncio.sleep(0.001)
    await tx.execute("INSERT INTO invoices (subject, loop) VALUES (?, ?)", (message.subject, loop))
    tx.send("letter.wanted", subject=message.subject)

@app.handler("letter.wanted")
def write(message, tx):
    tx.outcome("letter.written")
"""

PUBLISH = """
import sqlite3, anyio
from billing import app
sqlite3.connect("crossfoot.db").execute("CREATE TABLE IF NOT EXISTS invoices (subject TEXT, loop TEXT)")
async def publish():
    await app.publish(*[app.message("case.released", subject=f"case-{number}") for number in range(100)])
    await app.aclose()
anyio.run(publish)
"""

NOT_HERE = 'raise ImportError("No module named uvloop")\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "billing.py").write_text(PROGRAM)
    done = run([str(BIN / "python"), "-c", PUBLISH], tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def loops(folder: Path) -> set[str]:
    return {loop for (loop,) in rows(folder / "crossfoot.db", "SELECT loop FROM invoices")}


@pytest.mark.parametrize("more", [[], ["--processes", "2"]], ids=["alone", "processes"])
@pytest.mark.parametrize(("chosen", "runs_on"), [(None, "uvloop"), ("uvloop", "uvloop"), ("asyncio", "asyncio")])
def test_a_worker_works_on_the_loop_it_is_told(folder: Path, chosen: str | None, runs_on: str, more: list[str]) -> None:
    crossfoot(folder, "worker", "billing:app", "--until-idle", *(["--loop", chosen] if chosen else []), *more)

    assert loops(folder) == {runs_on}
    subjects = [subject for (subject,) in rows(folder / "crossfoot.db", "SELECT subject FROM invoices")]
    assert sorted(subjects) == sorted(f"case-{number}" for number in range(1, 100))
    balance = json.loads(crossfoot(folder, "balance", "--json", code=None).stdout)
    assert (balance["unaccounted"], balance["fates"]["settled"], balance["fates"]["dead"]) == (0, 2 * 99, 1)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_it_stops_in_order_on_either(folder: Path, loop: str) -> None:
    command = [str(BIN / "crossfoot"), "worker", "billing:app"]
    variables: dict[str, Any] = {"CROSSFOOT_LOOP": loop}
    with subprocess.Popen(command, cwd=folder, env=ENVIRONMENT | variables, stderr=subprocess.DEVNULL) as worker:
        try:
            wait_until(folder / "crossfoot.db", "SELECT 1 FROM invoices")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(SECONDS) == 0
        finally:
            worker.kill()

    assert loops(folder) == {loop}
    assert rows(folder / "crossfoot.db", "SELECT stopped_at IS NOT NULL FROM crossfoot_workers") == [(1,)]


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_told_twice_it_ends_at_once_on_either(folder: Path, loop: str) -> None:
    (folder / "billing.py").write_text(PROGRAM.replace("asyncio.sleep(0.001)", "asyncio.sleep(60)"))
    command = [str(BIN / "crossfoot"), "worker", "billing:app", "--loop", loop]
    with subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as worker:
        try:
            wait_until(folder / "crossfoot.db", f"SELECT 1 FROM crossfoot_entries WHERE kind = {Kind.RECEIVED}")
            worker.send_signal(signal.SIGTERM)
            assert worker.stderr is not None
            while "stopping" not in worker.stderr.readline():
                pass
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(SECONDS) == -signal.SIGTERM
        finally:
            worker.kill()


def test_where_uvloop_is_not_installed_it_is_asyncio_unless_uvloop_is_asked_for(folder: Path) -> None:
    (folder / "uvloop.py").write_text(NOT_HERE)
    told = crossfoot(folder, "worker", "billing:app", "--until-idle", "--loop", "uvloop", code=2).stderr
    assert "pip install '/path/to/crossfoot[uvloop]'" in told

    crossfoot(folder, "worker", "billing:app", "--until-idle")
    assert loops(folder) == {"asyncio"}
