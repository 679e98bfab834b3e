"""What `why` advises about a dead message, typed as it stands, brings it back as what it was."""

from __future__ import annotations

import json
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.shell import crossfoot

SERVICE = """
import os
from crossfoot import Crossfoot

app = Crossfoot("pay", database="pay.db", attempts=1, wait=0.05)
other = Crossfoot("letters", database="pay.db", queue="embedded:letters")


@app.handler("charge.wanted")
def charge(message, tx):
    if os.environ.get("BANK") == "down":
        raise ConnectionError("the bank is down")
    tx.execute("insert into charges values (?, ?)", (message.subject, message.data["amount"]))
"""
PAYLOAD = '{"amount": 10}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pay.py").write_text(SERVICE, encoding="utf-8")
    with closing(sqlite3.connect(tmp_path / "pay.db")) as connection:
        connection.execute("CREATE TABLE charges (subject TEXT, amount INTEGER)")
        connection.commit()
    return tmp_path


@pytest.fixture
def advised(folder: Path) -> list[str]:
    """The command that `why` gives for a message that died, but for the service's name and the payload."""
    stated = ["--operation", "charge:order-1", "--correlation", "flow-9", "--causation", "order-1", "--id", "m1"]
    crossfoot(folder, "publish", "pay:app", "charge.wanted", "-s", "anna", "-d", PAYLOAD, *stated)
    crossfoot(folder, "worker", "pay:app", "--until-idle", BANK="down")
    page = json.loads(crossfoot(folder, "why", "m1", "--db", "pay.db", "--json", code=1).stdout)
    step = page["next"][-1]
    assert "queue pay" in step["do"]
    command = step["command"].removeprefix("crossfoot ").removesuffix(f" --data {shlex.quote('...')}")
    return [*shlex.split(command), "--data", PAYLOAD]


def test_it_is_done_once_whoever_else_asks_for_the_same(folder: Path, advised: list[str]) -> None:
    crossfoot(folder, *[word.replace("MODULE:NAME", "pay:app") for word in advised])
    crossfoot(folder, "worker", "pay:app", "--until-idle")
    crossfoot(
        folder, "publish", "pay:app", "charge.wanted", "-s", "anna", "-d", PAYLOAD, "--operation", "charge:order-1"
    )
    crossfoot(folder, "worker", "pay:app", "--until-idle")

    with closing(sqlite3.connect(folder / "pay.db")) as connection:
        assert connection.execute("SELECT subject, amount FROM charges").fetchall() == [("anna", 10)]
    document = json.loads(crossfoot(folder, "why", "flow-9", "--db", "pay.db", "--json").stdout)
    assert (document["message"]["id"], document["fate"]) == ("m1", "settled")


def test_who_names_another_service_is_told_that_it_would_be_a_message_of_its_own(
    folder: Path, advised: list[str]
) -> None:
    done = crossfoot(folder, *[word.replace("MODULE:NAME", "pay:other") for word in advised])

    assert "knows message m1 on queue pay only" in done.stderr
    assert "queue letters" in done.stderr
