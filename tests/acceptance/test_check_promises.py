"""`crossfoot check` of a service that promises something: what is missing is found by exact ids, in both books."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from crossfoot.cli import run
from crossfoot.message import Message
from tests.acceptance import incidents
from tests.acceptance.incidents import Town

pytest_plugins = ["tests.servers.postgres_fixtures"]

TABLE = "CREATE TABLE effects (id TEXT, note TEXT)"


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=[pytest.mark.server, pytest.mark.xdist_group("postgres")])]
)
def town(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    for name in ("CROSSFOOT_DATABASE", "CROSSFOOT_QUEUE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    if request.param == "sqlite":
        path = str(tmp_path / "town.db")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(TABLE)
    else:
        path = request.getfixturevalue("postgres_url")
        with psycopg.connect(path, autocommit=True) as connection:
            connection.execute(TABLE)
    with closing(Town(path)) as made:
        yield made


Answer = Callable[[], tuple[int, list[dict[str, Any]]]]


@pytest.fixture
def check(town: Town, capfd: pytest.CaptureFixture[str]) -> Answer:
    def answer() -> tuple[int, list[dict[str, Any]]]:
        capfd.readouterr()
        code = run(["check", "--db", town.database, "--json"])
        return code, json.loads(capfd.readouterr().out)["findings"]

    return answer


def test_what_a_program_promises_and_does_not_keep_is_a_finding(town: Town, check: Answer) -> None:
    app = town.service()
    app.expect("invoice.issued", after="case.released", within="1ms", by="message")
    app.invariant("noted once", "SELECT note FROM effects GROUP BY note HAVING count(*) > 1", ids="note")

    @app.handler("case.released", operation="bill:{subject}")
    def bill(message: Message, tx: Any) -> None:
        town.insert(message, tx)
        if message.data["number"] != 2:
            tx.outcome("invoice.issued")
        if message.data["number"] == 3:
            town.insert(message, tx)

    messages = incidents.publish(app, "case.released", *incidents.cases(3))
    app.run(until_idle=True)

    code, found = check()

    told = {one["text"].split(":")[0]: one for one in found}
    assert code == 1
    assert {one["code"] for one in found} == {"promise-broken"}
    assert told["the invariant does not hold"]["ids"] == ["case-3"]
    (missing,) = [one for one in found if one["text"].startswith("1 message is without")]
    assert missing["ids"] == [messages[1].id]
    assert {step["command"].split()[1] for step in missing["next"]} == {"why", "outcomes"}


def test_promises_that_are_kept_are_no_finding_nor_is_an_empty_book(town: Town, check: Answer) -> None:
    app = town.service()
    app.expect("invoice.issued", after="case.released", within="10m")
    app.invariant("noted once", "SELECT note FROM effects GROUP BY note HAVING count(*) > 1", ids="note")

    @app.handler("case.released", operation="bill:{subject}")
    def bill(message: Message, tx: Any) -> None:
        town.insert(message, tx)
        tx.outcome("invoice.issued")

    app.run(until_idle=True)
    assert check() == (0, []), "nothing has happened yet"
    incidents.publish(app, "case.released", *incidents.cases(3))
    app.run(until_idle=True)

    assert check() == (0, [])
