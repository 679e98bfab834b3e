"""Every command that is shown as something to do works where it is pasted: it can be read, and it looks into the same book."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
import typer

from crossfoot import Crossfoot
from crossfoot.cli import COMMANDS, command, run
from crossfoot.cli.suggesting import LOOKING
from crossfoot.effects.transaction import Transaction
from crossfoot.message import Message
from crossfoot.outcomes.alerts.rules import ALERTS

BOOK = "my books/shop's.db"
"""With all that a shell takes apart."""

SHOP = f"""
import os
from crossfoot import Crossfoot

app = Crossfoot("shop", database={BOOK!r}, attempts=1, wait=0.05, synchronous="NORMAL")
app.expect("invoice.issued", after="order.placed", within=0.001, name="an invoice")


@app.handler("order.placed", operation="place:{{subject}}")
def place(message, tx):
    if message.data.get("bad"):
        raise ValueError("no such item")
    tx.outcome("placed")
"""

FAR = SHOP.replace('Crossfoot("shop"', 'Crossfoot("far", queue="redis://127.0.0.1:9/0/orders"')

Shown = list[tuple[str, str]]
"""Commands, and the words by which they were shown."""


def members(made: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A command and those below it, by their full names."""
    if hasattr(made, "list_commands"):
        context = typer.Context(made)
        for part in made.list_commands(context):
            yield from members(made.get_command(context, part), f"{name} {part}")
    else:
        yield name, made


ALL = {name: made for one in COMMANDS for name, made in members(command(one), one)}
TAKES_DB = {name for name, made in ALL.items() if any("--db" in one.opts for one in made.params)} - {"demo"}


def test_it_is_known_which_commands_take_a_book() -> None:
    assert set(LOOKING) == TAKES_DB


# ---- what was shown --------------------------------------------------------------------------------------------------


def in_json(value: Any) -> Iterator[str]:
    """Fields that are a command, whatever they are called."""
    if isinstance(value, dict):
        for part in value.values():
            yield from in_json(part)
    elif isinstance(value, list):
        for part in value:
            yield from in_json(part)
    elif isinstance(value, str) and value.startswith("crossfoot "):
        yield value


def steps(out: str) -> list[str]:
    """Commands that stand on lines of their own, or are fields in JSON."""
    if out.startswith(("{", "[")):
        return list(in_json(json.loads(out)))
    return [line.removeprefix("  $ ") for line in out.splitlines() if line.startswith("  $ ")]


def named_in_prose(text: str) -> Iterator[tuple[str, str]]:
    """Commands in sentences, and what follows each."""
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("  $ "))
    names = "|".join(sorted(map(re.escape, TAKES_DB), key=len, reverse=True))
    for found in re.finditer(rf"\bcrossfoot ({names})\b([^\n]*)", prose):
        if not found[2].startswith((" --help", " MODULE:NAME")):
            yield found[1], found[2]


def fits(line: str) -> None:
    """That a shell and the command itself can read it, and that it looks into the book."""
    words = shlex.split(line.replace("MODULE:NAME", "shop:app"))
    assert words.pop(0) == "crossfoot", line
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in ALL), None)
    assert name is not None, f"there is no such command: {line}"
    context = ALL[name].make_context(name, words[len(name.split()) :])
    if name in TAKES_DB and context.params.get("target") is None and "ITS_BOOK" not in words:
        assert context.params["db"] == BOOK, line


# ---- the scenario ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a book, in which something of everything has happened."""
    folder = tmp_path_factory.mktemp("suggested")
    (folder / "my books").mkdir()
    (folder / "shop.py").write_text(SHOP, encoding="utf-8")
    (folder / "far.py").write_text(FAR, encoding="utf-8")
    app = Crossfoot("shop", database=folder / BOOK, attempts=1, synchronous="NORMAL")
    app.expect("invoice.issued", after="order.placed", within=0.001, name="an invoice")

    @app.handler("order.placed", operation="place:{subject}")
    def place(message: Message, tx: Transaction) -> None:
        if message.data.get("bad"):
            raise ValueError("no such item")
        tx.outcome("placed")

    async def publish(*ids: str, **data: Any) -> None:
        for id_ in ids:
            await app.publish("order.placed", id=id_, subject=f"of {id_}", data=data)

    anyio.run(lambda: publish("well", "also well"))
    anyio.run(lambda: publish("dead one", "dead two", "dead three", bad=True))
    app.run(until_idle=True)
    anyio.run(lambda: publish("waits here"))
    return folder


@pytest.fixture
def folder(_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = Path(shutil.copytree(_made, tmp_path / "here"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("CROSSFOOT_DATABASE", "CROSSFOOT_QUEUE"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    for name in ("shop", "far"):
        sys.modules.pop(name, None)


READING = [
    ["why", "well"], ["why", "dead one"], ["why", "waits here"], ["why", "of dead one"], ["why", "nobody"], ["why", "shop|well"],
    ["check"], ["causes"], ["causes", "ffff"], ["balance"], ["tail", "-F"], ["verify"],
    ["dead", "list"], ["dead", "list", "--by-cause"], ["dead", "show", "dead one"], ["dead", "show", "well"], ["dead", "show", "nobody"],
    ["discard", "well", "--reason", "a test"], ["discard", "dead one", "--reason", "a test"], ["discard", "nobody", "--reason", "a test"],
    ["outcomes"], ["outcomes", "--accept", "nobody", "--reason", "a test"], ["outcomes", "--forget", "nothing"],
    ["alerts", "check"], ["alerts", "list"], ["close"], ["archive", "verify"],
    ["replay", "list"], ["replay", "show", "1"], ["replay", "show", "99"], ["replay", "pause", "99"], ["replay", "abort", "1"],
    ["replay", "show", "1"], ["replay", "abort", "1"],
]  # fmt: skip
"""Told which book by --db; the first replay is planned when they are typed."""

WORKING = [
    ["check", "shop:app"], ["outcomes", "shop:app"], ["publish", "far:app", "order.placed", "--id", "not sent"],
    ["replay", "plan", "shop:app", "--why", "a test"], ["replay", "plan", "shop:app", "--why", "a test", "--cause", "ffff"],
    ["replay", "dry-run", "shop:app", "1"], ["replay", "dry-run", "shop:app", "99"], ["replay", "run", "shop:app", "99"],
    ["replay", "run", "shop:app", "1", "--patience", "0.2"], ["replay", "resume", "shop:app", "1"],
    ["replay", "abort", "1", "--db", BOOK], ["replay", "run", "shop:app", "1"], ["replay", "dry-run", "shop:app", "1"],
]  # fmt: skip
"""Told a service, which says itself where its book is."""


@pytest.mark.parametrize("as_json", [False, True], ids=["in words", "in JSON"])
@pytest.mark.parametrize("commands", [READING, WORKING], ids=["of a book", "of a service"])
def test_what_is_shown_can_be_pasted(
    folder: Path, commands: list[list[str]], as_json: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    if commands is READING:
        assert run(["replay", "plan", "shop:app", "--why", "the first"]) == 0
    of_book = ["--db", BOOK] if commands is READING else []
    shown: Shown = []
    prose: list[tuple[str, str, str]] = []
    for words in commands:
        capfd.readouterr()
        can_json = any(
            "--json" in one.opts for one in ALL[" ".join(words[:2]) if words[0] in _GROUPS else words[0]].params
        )
        run([*words, *of_book, *(["--json"] if as_json and can_json else [])])
        out, err = capfd.readouterr()
        assert "Traceback" not in err, err
        shown += [(line, shlex.join(words)) for line in (steps(out) if words[0] != "tail" else [])]
        prose += [(name, rest, shlex.join(words)) for name, rest in named_in_prose(err if as_json else out + err)]

    for line, of in shown:
        try:
            fits(line)
        except Exception as error:
            raise AssertionError(f"`crossfoot {of}` shows: {line}: {error}") from error
    for name, rest, of in prose:
        assert rest.startswith(f" --db {shlex.quote(BOOK)}"), f"`crossfoot {of}` says: crossfoot {name}{rest}"
    least = {READING[0][0]: (15, 4), WORKING[0][0]: (4, 4)}[commands[0][0]]
    assert (len(shown) >= least[0], len(prose) >= least[1]) == (True, True), (shown, prose)


_GROUPS = {name.partition(" ")[0] for name in ALL if " " in name}


def test_what_a_damaged_book_says_can_be_pasted(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(BOOK)) as connection:
        connection.execute("DELETE FROM crossfoot_entries WHERE id = (SELECT max(id) FROM crossfoot_entries)")
        connection.commit()
    book = f" --db {shlex.quote(BOOK)}"
    for more in ([], ["--json"]):
        assert run(["balance", "--db", BOOK, *more]) == 1
        assert f"run crossfoot verify{book}" in capfd.readouterr().out.replace('\\"', '"')
        assert run(["check", "--db", BOOK, *more]) == 1
        assert f"run crossfoot verify{book}" in capfd.readouterr().out.replace('\\"', '"')


def test_what_a_message_carried_is_not_touched(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = {"command": "crossfoot verify", "at": 5, "text": "run crossfoot verify"}
    assert run(["publish", "shop:app", "order.placed", "--id", "odd", "--data", json.dumps(data)]) == 0
    capfd.readouterr()
    assert run(["why", "odd", "--db", BOOK, "--payload", "--json"]) == 1, "its invoice has not come in time"
    assert json.loads(capfd.readouterr().out)["payload"]["data"] == data


def test_a_service_that_was_named_is_named_again(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(["check", "shop:app"])
    page = capfd.readouterr().out
    assert "crossfoot replay plan shop:app --cause" in page
    assert "MODULE:NAME" not in page
    run(["check", "--db", BOOK])
    assert "crossfoot replay plan MODULE:NAME --cause" in capfd.readouterr().out


def test_nor_is_a_service_named_for_the_queue_of_another(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "far:app", "--no-queue"]) == 1
    assert "crossfoot replay plan MODULE:NAME --cause" in capfd.readouterr().out


@pytest.mark.parametrize("alert", ALERTS.values(), ids=lambda alert: alert.name)
def test_the_steps_of_alerts_can_be_read(alert: Any) -> None:
    words = shlex.split(alert.step.format(id="one", queue="two"))
    name = next(name for name in (" ".join(words[1:3]), words[1]) if name in ALL)
    ALL[name].make_context(name, words[1 + len(name.split()) :])
