"""`crossfoot replay`, as it is typed: its documents fit their schema, its exit codes and complaints are those of the guide."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.acceptance.pages import ROOT
from tests.acceptance.shell import crossfoot

SCHEMA = json.loads((ROOT / "src/crossfoot/cli/schemas/replay.json").read_text(encoding="utf-8"))
DRY_RUN = json.loads((ROOT / "src/crossfoot/cli/schemas/replay-dry-run.json").read_text(encoding="utf-8"))

SERVICE = """
import os
from crossfoot import Crossfoot

app = Crossfoot("pay", database="pay.db", attempts=1, wait=0.05)


@app.handler("charge.*", operation="charge:{subject}")
def charge(message, tx):
    if os.environ.get("BANK") == "down":
        raise ConnectionError("the bank is down")
    if os.environ.get("BANK") == "deadly":
        tx.execute("insert into charges values (?, ?)", (message.subject, message.data["amount"]))
        os._exit(9)
    tx.execute("insert into charges values (?, ?)", (message.subject, message.data["amount"]))


def fall(message):
    return message.data["nothing"]


def double(message):
    import msgspec
    return msgspec.structs.replace(message, data={"amount": 2 * message.data["amount"]})
"""


@pytest.fixture(scope="module")
def _died(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service of which three messages died."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "pay.py").write_text(SERVICE, encoding="utf-8")
    (folder / "binary.txt").write_bytes(b"m0\0m1\n")
    with closing(sqlite3.connect(folder / "pay.db")) as connection:
        connection.execute("CREATE TABLE charges (subject TEXT, amount INTEGER)")
        connection.commit()
    for number in range(3):
        arguments = ["--id", f"m{number}", "-s", f"order-{number}", "-d", '{"amount": 10}']
        crossfoot(folder, "publish", "pay:app", "charge.wanted", *arguments)
    crossfoot(folder, "worker", "pay:app", "--until-idle", BANK="down")
    return folder


@pytest.fixture
def folder(_died: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_died, tmp_path / "pay"))


def asked(folder: Path, *arguments: str, code: int = 0) -> Any:
    document = json.loads(crossfoot(folder, "replay", *arguments, "--json", code=code).stdout)
    if isinstance(document, dict) and "classes" in document:
        jsonschema.validate(document, SCHEMA)
    return document


def test_a_plan_and_its_pages(folder: Path) -> None:
    planned = asked(folder, "plan", "pay:app", "--why", "the bank is back", "--by", "anna")

    assert (planned["state"], planned["members"], planned["waiting"], planned["by"]) == ("planned", 3, 3, "anna")
    assert [(one["name"], one["count"]) for one in planned["classes"]] == [("will settle", 3)]
    page = crossfoot(folder, "replay", "show", "1", "--db", "pay.db").stdout
    assert "REPLAY 1 PLANNED: 3 members of queue pay" in page
    assert "crossfoot replay run MODULE:NAME 1" in page
    (listed,) = asked(folder, "list", "--db", "pay.db")
    assert (listed["number"], listed["why"]) == (1, "the bank is back")
    assert "the bank is back" in crossfoot(folder, "replay", "list", "--db", "pay.db").stdout


def test_paused_aborted_and_over(folder: Path) -> None:
    asked(folder, "plan", "pay:app", "--why", "the bank is back")

    paused = asked(folder, "pause", "1", "--db", "pay.db", "--reason", "not now", "--by", "anna")
    assert (paused["state"], paused["note"]) == ("paused", "not now (anna)")
    assert asked(folder, "show", "1", "--db", "pay.db", code=1)["state"] == "paused"
    aborted = asked(folder, "abort", "1", "--db", "pay.db")
    assert aborted["state"] == "aborted"
    again = crossfoot(folder, "replay", "pause", "1", "--db", "pay.db", code=2)
    assert "replay 1 is aborted" in again.stderr
    run = crossfoot(folder, "replay", "run", "pay:app", "1", code=2)
    assert "plan another one" in run.stderr


def test_without_a_worker_it_pauses_and_says_so(folder: Path) -> None:
    asked(folder, "plan", "pay:app", "--why", "the bank is back")

    stopped = asked(folder, "run", "pay:app", "1", "--patience", "0.2", code=1)

    assert stopped["state"] == "paused"
    assert "does a worker run" in stopped["note"]
    assert stopped["ended"] == {"queued": 3}
    crossfoot(folder, "worker", "pay:app", "--until-idle")
    finished = asked(folder, "resume", "pay:app", "1")
    assert (finished["state"], finished["ended"], finished["letters"]) == ("finished", {"settled": 3}, 0)
    assert finished["policy"]["patience"] == 0.2
    why = crossfoot(folder, "why", "m1", "--db", "pay.db").stdout
    assert "replay 1 by" in why
    assert "the bank is back" in why


def test_by_ids_from_a_file_and_unknown_ones_are_told(folder: Path) -> None:
    (folder / "ids.txt").write_text("m2\n\nm9\n", encoding="utf-8")

    done = crossfoot(folder, "replay", "plan", "pay:app", "--why", "agreed", "--ids", "ids.txt", "--json")

    assert json.loads(done.stdout)["members"] == 1
    assert "neither the book nor its archive knows a message m9 on queue pay" in done.stderr


def test_ids_of_a_file_with_a_mark_of_byte_order_and_lines_of_windows(folder: Path) -> None:
    (folder / "ids.txt").write_bytes(b"\xef\xbb\xbfm0\r\nm1\r\n\r\nm1\r\n")
    plan = asked(folder, "plan", "pay:app", "--why", "mended", "--ids", "ids.txt")
    assert plan["members"] == 2


def test_payloads_are_mended_by_a_function(folder: Path) -> None:
    asked(folder, "plan", "pay:app", "--why", "half was asked for", "--transform", "pay:double")
    asked(folder, "run", "pay:app", "1", "--patience", "0.2", code=1)
    crossfoot(folder, "worker", "pay:app", "--until-idle")

    with closing(sqlite3.connect(folder / "pay.db")) as connection:
        assert connection.execute("SELECT DISTINCT amount FROM charges").fetchall() == [(20,)]


def contents(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "pay.db")) as connection:
        return list(connection.iterdump())


def test_a_dry_run_says_what_handlers_would_do_and_leaves_the_file_as_it_was(folder: Path) -> None:
    asked(folder, "plan", "pay:app", "--why", "the bank is back")
    before = contents(folder)

    good = asked(folder, "dry-run", "pay:app", "1")
    bad = json.loads(crossfoot(folder, "replay", "dry-run", "pay:app", "1", "--json", code=1, BANK="down").stdout)
    page = crossfoot(folder, "replay", "dry-run", "pay:app", "1", "--most", "2").stdout

    assert contents(folder) == before
    for document in (good, bad):
        jsonschema.validate(document, DRY_RUN)
    assert [(one["would"], one["count"]) for one in good["groups"]] == [("would settle", 3)]
    assert [one["rows"] for one in good["members"]] == [1, 1, 1]
    assert [(one["would"], one["count"]) for one in bad["groups"]] == [("fails", 3)]
    assert "ConnectionError" in bad["groups"][0]["title"]
    assert "DRY RUN OF REPLAY 1: 2 members tried" in page
    assert "was really called" in page
    crossfoot(folder, "replay", "dry-run", "pay:app", "1", code=9, BANK="deadly")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["plan", "pay:app", "--why", " "], "--why is empty"),
        (["plan", "pay:app", "--why", "w", "--fate", "dad"], "did you mean 'dead'"),
        (["plan", "pay:app", "--why", "w", "--since", "soon"], "is no time"),
        (["plan", "pay:app", "--why", "w", "--cause", "0"], "nothing to replay"),
        (["plan", "pay:app", "--why", "w", "--ids", "nowhere.txt"], "cannot be read"),
        (["plan", "pay:app", "--why", "w", "--transform", "pay:nothing"], "has no function"),
        (["run", "pay:app", "7"], "there is no replay 7"),
        (["run", "pay:app", "1", "--rate", "0"], "rate = 0"),
        (["run", "pay:app", "1", "--rate", "inf"], "rate = inf: it is more than 0, and at most"),
        (["run", "pay:app", "1", "--patience", "nan"], "patience = nan"),
        (["run", "pay:app", "1", "--live-slower", "inf"], "live_slower = inf"),
        (["run", "pay:app", "1", "--max-latency", "inf"], "max_latency = inf"),
        (["run", "pay:app", "1", "--canary", str(10**20)], "canary = 1"),
        (["run", "pay:app", "1", "--hold", "nan"], "hold = nan: it is a number of seconds"),
        (["run", "pay:app", "1", "--horizon", "-1"], "horizon = -1: it is a number of seconds"),
        (["plan", "pay:app", "--why", "w", "--horizon", "inf"], "horizon = inf: it is a number of seconds"),
        (["plan", "pay:app", "--why", "w", "--transform", "pay:fall"], "raised KeyError for pay|m0"),
        (["plan", "pay:app", "--why", "w", "--ids", "binary.txt"], "it has a NUL in it"),
        (["plan", "pay:app", "--why", "w", "--subject", "\udcff"], "'\\udcff' is not UTF-8"),
        (["show", str(10**20), "--db", "pay.db"], "Invalid value for 'NUMBER'"),
        (["dry-run", "pay:app", "7"], "there is no replay 7"),
        (["show", "7", "--db", "pay.db"], "there is no replay 7"),
        (["pause", "7", "--db", "pay.db"], "there is no replay 7"),
    ],
)
def test_what_is_asked_wrongly_is_told(folder: Path, arguments: list[str], told: str) -> None:
    assert told in crossfoot(folder, "replay", *arguments, code=2).stderr
