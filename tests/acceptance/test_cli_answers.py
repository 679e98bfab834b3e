"""Standard output is a command's own: what a program prints, wherever it does, goes to standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crossfoot.cli import run
from tests.acceptance.shell import Done, crossfoot

NOISY = """
import atexit, os, subprocess, sys
print("NOISE of an import")
atexit.register(print, "NOISE at the end")
from crossfoot import Crossfoot

app = Crossfoot("noisy", database="noisy.db", attempts=1, wait=0.05)
app.expect("invoice.issued", after="order.placed", within=3600)


@app.handler("order.placed")
def place(message, tx):
    print("NOISE of a handler")
    subprocess.run([sys.executable, "-c", "print('NOISE of a subprocess')"], check=True)
    os.write(1, b"NOISE of a library\\n")
    if os.environ.get("BANK") == "down":
        raise ConnectionError("the bank is down")
    tx.outcome("invoice.issued")


def mend(message):
    print("NOISE of a transform")
    return message
"""

EVERYTHING = ("import", "handler", "subprocess", "library")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A program that prints everywhere, of which one message died and one settled."""
    (tmp_path / "noisy.py").write_text(NOISY, encoding="utf-8")
    crossfoot(tmp_path, "publish", "noisy:app", "order.placed", "--id", "dead", "-s", "order-1")
    crossfoot(tmp_path, "worker", "noisy:app", "--until-idle", BANK="down")
    crossfoot(tmp_path, "publish", "noisy:app", "order.placed", "--id", "well", "-s", "order-2")
    crossfoot(tmp_path, "worker", "noisy:app", "--until-idle")
    return tmp_path


def document(done: Done) -> Any:
    """What it printed, all of it; the noise is on standard error."""
    assert "NOISE of an import" in done.stderr
    assert "NOISE at the end" in done.stderr
    assert "NOISE" not in done.stdout
    return json.loads(done.stdout)


PLAN = ("replay", "plan", "noisy:app", "--why", "mended", "--transform", "noisy:mend")


def test_every_command_that_loads_a_program_answers_in_json_and_nothing_else(folder: Path) -> None:
    def asked(*arguments: str, code: int = 0) -> Any:
        return document(crossfoot(folder, *arguments, "--json", code=code))

    assert asked("check", "noisy:app", code=1)["findings"]
    assert asked("outcomes", "noisy:app")["expectations"]
    assert asked("publish", "noisy:app", "order.placed", "--id", "new")[0]["answer"] == "accepted"
    assert asked(*PLAN)["members"] == 1
    assert asked("replay", "run", "noisy:app", "1", "--patience", "0.2", code=1)["state"] == "paused"
    assert asked("replay", "resume", "noisy:app", "1", code=1)["state"] == "paused"


def test_a_dry_run_answers_in_json_whatever_its_handlers_print(folder: Path) -> None:
    planned = crossfoot(folder, *PLAN, "--json")
    assert document(planned)["number"] == 1
    assert "NOISE of a transform" in planned.stderr

    tried = crossfoot(folder, "replay", "dry-run", "noisy:app", "1", "--json")

    assert document(tried)["tried"] == 1
    assert all(f"NOISE of a{'n' if what == 'import' else ''} {what}" in tried.stderr for what in EVERYTHING)


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]], ids=["one", "several"])
def test_so_does_a_worker(folder: Path, processes: list[str]) -> None:
    crossfoot(folder, "publish", "noisy:app", "order.placed", "--id", "more")

    done = crossfoot(folder, "worker", "noisy:app", "--until-idle", "--json", *processes)

    told = document(done)
    assert (told["deliveries"], "NOISE of a handler" in done.stderr) == (1, True)


def test_a_worker_without_json_leaves_its_handlers_prints_where_they_go(folder: Path) -> None:
    crossfoot(folder, "publish", "noisy:app", "order.placed", "--id", "more")

    done = crossfoot(folder, "worker", "noisy:app", "--until-idle")

    assert "NOISE of a handler" in done.stdout
    assert "1 delivery: 1 committed" in done.stdout


def test_pages_are_the_commands_own_too(folder: Path) -> None:
    page = crossfoot(folder, "check", "noisy:app", code=1)
    assert page.stdout.startswith("1 FINDING")
    assert "NOISE" not in page.stdout
    colours = crossfoot(folder, "check", "noisy:app", "--color=always", code=1)
    assert "NOISE" not in colours.stdout
    assert "FINDING" in colours.stdout


def test_a_reader_that_leaves_is_no_fault(folder: Path) -> None:
    piped = f"{sys.executable} -m crossfoot check noisy:app --json | head -c 1"
    done = subprocess.run(["bash", "-c", piped], cwd=folder, capture_output=True, text=True, check=True)
    assert (done.stdout, "Traceback" in done.stderr, "Broken" in done.stderr) == ("{", False, False)


def test_who_runs_a_command_in_a_process_of_theirs_has_the_streams_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = sys.stdout
    try:
        assert run(["check", "noisy:app", "--json"]) == 1
    finally:
        sys.modules.pop("noisy", None)
    assert sys.stdout is before
    sys.stdout.write("and goes on\n")
    out = capfd.readouterr().out
    assert json.loads(out.removesuffix("and goes on\n"))["well"] is False
