"""Outcomes and alerts as somebody types them; and the hospital's log, whose invariant names the cases that were billed twice."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import anyio
import jsonschema
import pytest
import yaml

from crossfoot.books.store import Book
from crossfoot.clock import SECOND
from crossfoot.demo import log
from crossfoot.demo.messages import id_of, message_of
from crossfoot.demo.process import example
from crossfoot.outcomes import invariant as invariants
from crossfoot.outcomes.alerts.prometheus import TEXTS, rules_file
from crossfoot.outcomes.alerts.rules import ALERTS
from crossfoot.outcomes.evaluating import evaluate, reports
from crossfoot.outcomes.invariant import statements
from tests.acceptance.pages import DOCS, ROOT, blocks, python_of
from tests.acceptance.shell import BIN, ENVIRONMENT, crossfoot, rows, run

GUIDE = DOCS / "guides" / "outcomes.md"
SCHEMAS = ROOT / "src/crossfoot/cli/schemas"


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The guide's service, with three cases handled, of which one has no outcome."""
    (tmp_path / "billing.py").write_text(python_of(GUIDE), encoding="utf-8")
    for case, amount in (("4711", 100), ("4712", 200), ("4713", 5_000)):
        crossfoot(
            tmp_path, "publish", "billing:app", "case.released", "--subject", case, "--data", f'{{"amount": {amount}}}'
        )
    crossfoot(tmp_path, "worker", "billing:app", "--until-idle")
    return tmp_path


def pass_time(folder: Path, seconds: float) -> None:
    """As if the messages had been published so much earlier."""
    with closing(sqlite3.connect(folder / "billing.db")) as connection, connection:
        connection.execute(
            "UPDATE crossfoot_expected SET at = at - ?, due = due - ?", (seconds * SECOND, seconds * SECOND)
        )


class TestTheGuide:
    def test_what_has_time_is_kept(self, folder: Path) -> None:
        document = json.loads(crossfoot(folder, "outcomes", "--db", "billing.db", "--json").stdout)
        jsonschema.validate(document, schema("outcomes"))
        (one,) = document["expectations"]
        assert (document["kept"], one["opened"], one["met"], one["waiting"]) == (True, 3, 2, 1)

    def test_what_is_missing_is_named_with_its_fate_and_the_next_command(self, folder: Path) -> None:
        pass_time(folder, 600)
        done = crossfoot(folder, "outcomes", "--db", "billing.db", code=1)
        (id_,) = rows(folder / "billing.db", "SELECT id FROM crossfoot_messages WHERE subject = '4713'")[0]
        assert done.stdout.startswith(
            "BREACHED: 1 of 1 expectation and 0 of 1 invariant: invoice.issued after case.released"
        )
        assert f"{id_}  4713     settled  due" in done.stdout
        assert "invariant no case is billed twice: holds" in done.stdout
        assert f"  $ crossfoot why {id_} --db billing.db" in done.stdout
        document = json.loads(crossfoot(folder, "outcomes", "billing:app", "--json", code=1).stdout)
        jsonschema.validate(document, schema("outcomes"))
        assert [breach["id"] for breach in document["expectations"][0]["missing_messages"]] == [id_]

    def test_why_says_so_too_of_the_message_and_of_its_subject(self, folder: Path) -> None:
        pass_time(folder, 600)
        (id_,) = rows(folder / "billing.db", "SELECT id FROM crossfoot_messages WHERE subject = '4713'")[0]
        for name in (id_, "4713", "bill:4713"):
            page = crossfoot(folder, "why", name, "--db", "billing.db", code=1).stdout
            assert page.startswith("SETTLED, OUTCOME MISSING: ")
            assert "nothing to do" not in page
            assert f"  $ crossfoot outcomes --accept {id_} --reason '...' --db billing.db" in page
        document = json.loads(crossfoot(folder, "why", id_, "--db", "billing.db", "--json", code=1).stdout)
        jsonschema.validate(document, schema("why"))
        assert [(one["outcome"], one["standing"]) for one in document["expected"]] == [("invoice.issued", "missing")]
        assert "next: nothing to do" in crossfoot(folder, "why", "4711", "--db", "billing.db").stdout

    def test_a_list_marks_what_lacks_its_outcome(self, folder: Path) -> None:
        crossfoot(folder, "publish", "billing:app", "case.closed", "--subject", "4713", "--data", "{}")
        pass_time(folder, 600)
        page = crossfoot(folder, "why", "4713", "--db", "billing.db", code=1).stdout
        assert "1 without what was promised, or late" in page
        assert "settled, outcome missing" in page
        document = json.loads(crossfoot(folder, "why", "4713", "--db", "billing.db", "--json", code=1).stdout)
        jsonschema.validate(document, schema("why"))
        assert document["lacking"] == 1

    def test_a_subject_is_accepted_as_its_message_is_and_who_did_is_told(self, folder: Path) -> None:
        pass_time(folder, 600)
        (id_,) = rows(folder / "billing.db", "SELECT id FROM crossfoot_messages WHERE subject = '4713'")[0]
        said = crossfoot(
            folder, "outcomes", "--db", "billing.db", "--accept", "4713", "--by", "anna", "--reason", "by hand, 20417"
        )
        assert f"accepted for 1 message, by anna: {id_}" in said.stderr
        assert said.stdout.startswith(
            "KEPT: 1 expectation and 1 invariant: everything that was promised has come, has time, or is excused"
        )
        assert f"accepted: {id_}, by anna, " in said.stdout
        assert "by hand, 20417" in said.stdout
        document = json.loads(crossfoot(folder, "outcomes", "--db", "billing.db", "--json").stdout)
        jsonschema.validate(document, schema("outcomes"))
        (one,) = document["expectations"]
        (accepted,) = one["acceptances"]
        assert (one["accepted"], accepted["by"], accepted["reason"], accepted["example"]) == (
            1,
            "anna",
            "by hand, 20417",
            id_,
        )
        page = crossfoot(folder, "why", "4713", "--db", "billing.db").stdout
        assert page.startswith("SETTLED: ")
        assert "anna accepted that at" in page
        assert "nothing to do" in page

    def test_what_cannot_be_accepted_is_told_apart(self, folder: Path) -> None:
        pass_time(folder, 600)
        for name, says in (
            ("4711", "nothing that is expected of 4711 is missing or late"),
            ("471", "no message id and no subject in this book is '471'"),
        ):
            said = crossfoot(folder, "outcomes", "--db", "billing.db", "--accept", name, "--reason", "x", code=1)
            assert says in said.stderr
            assert "nothing was accepted" in said.stderr

    def test_many_are_accepted_from_standard_input(self, folder: Path) -> None:
        pass_time(folder, 600)
        done = subprocess.run(
            [str(BIN / "crossfoot"), "outcomes", "--db", "billing.db", "--accept", "-", "--reason", "x", "--json"],
            cwd=folder, env=ENVIRONMENT, input="4713\n\n", capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert json.loads(done.stdout)["expectations"][0]["accepted"] == 1

    def test_what_is_not_evaluated_yet_can_be_accepted_as_why_suggests_it(self, folder: Path) -> None:
        with (
            closing(sqlite3.connect(folder / "billing.db")) as connection,
            connection,
        ):  # as if no worker had looked since
            connection.execute("DELETE FROM crossfoot_expected")
            connection.execute("UPDATE crossfoot_expectations SET place = '0', opened = 0, met = 0")
            for table in ("messages", "outcomes"):
                connection.execute(f"UPDATE crossfoot_{table} SET at = at - ?", (600 * SECOND,))
        page = crossfoot(folder, "why", "4713", "--db", "billing.db", code=1).stdout
        assert page.startswith("SETTLED, OUTCOME MISSING: ")
        crossfoot(folder, "outcomes", "--db", "billing.db", "--accept", "4713", "--reason", "x")
        assert "nothing to do" in crossfoot(folder, "why", "4713", "--db", "billing.db").stdout

    def test_what_it_says_to_make_up_for_what_is_missing_does_so(self, folder: Path) -> None:
        pass_time(folder, 600)
        (block,) = [one for one in blocks(GUIDE) if one.marker == "run"]
        done = run(["bash", "-euo", "pipefail", "-c", block.text], folder)
        assert done.returncode == 0, done.stderr
        assert "BREACHED: 1 of 1 expectation" in done.stdout
        assert "accepted for 1 message" in done.stderr
        assert "2 messages of this subject: 2 settled." in done.stdout
        (amounts,) = rows(folder / "billing.db", "SELECT count(*) FROM crossfoot_outcomes WHERE subject = '4713'")
        assert amounts == (1,)

    def test_only_those_of_one_fate_are_named_where_that_is_asked(self, folder: Path) -> None:
        pass_time(folder, 600)
        for fate, count in (("settled", 1), ("dead", 0)):
            done = crossfoot(folder, "outcomes", "--db", "billing.db", "--fate", fate, "--json", code=1)
            (one,) = json.loads(done.stdout)["expectations"]
            assert (one["missing"], len(one["missing_messages"])) == (1, count)
        said = crossfoot(folder, "outcomes", "--db", "billing.db", "--fate", "setled", code=2)
        assert "did you mean 'settled'?" in said.stderr

    def test_a_narrow_page_keeps_an_expectation_on_a_line(self, folder: Path) -> None:
        pass_time(folder, 600)
        done = subprocess.run(
            [str(BIN / "crossfoot"), "outcomes", "--db", "billing.db", "--color", "always"],
            cwd=folder, env=ENVIRONMENT | {"COLUMNS": "80", "NO_COLOR": "1"}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        page = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        assert "invoice.issued within 5m after every case.released of the same subject\n" in page
        assert "  3 messages: 2 met, 1 missing\n" in page

    def test_a_broken_invariant_is_named(self, folder: Path) -> None:
        with closing(sqlite3.connect(folder / "billing.db")) as connection, connection:
            connection.execute("INSERT INTO invoices VALUES ('4711', 100)")
        done = crossfoot(folder, "outcomes", "--db", "billing.db", code=1)
        assert "invariant no case is billed twice: broken by 1" in done.stdout
        assert "ids: 4711" in done.stdout

    def test_one_that_is_forgotten_comes_back_with_the_program(self, folder: Path) -> None:
        pass_time(folder, 600)
        name = "invoice.issued after case.released"
        crossfoot(folder, "outcomes", "--db", "billing.db", "--forget", name)
        crossfoot(folder, "outcomes", "--db", "billing.db", "--forget", name, code=1)
        document = json.loads(crossfoot(folder, "outcomes", "billing:app", "--json").stdout)
        assert document["expectations"][0]["waiting"] == 1

    def test_the_pages_of_alerts_fit_their_schema(self, folder: Path) -> None:
        quiet = json.loads(crossfoot(folder, "alerts", "check", "--db", "billing.db", "--json").stdout)
        assert quiet == {"episodes": [], "unheard": []}
        pass_time(folder, 600)
        for command in ("check", "list"):
            document = json.loads(crossfoot(folder, "alerts", command, "--db", "billing.db", "--json", code=1).stdout)
            jsonschema.validate(document, schema("alerts"))
            (episode,) = document["episodes"]
            assert (episode["alert"], episode["step"], len(episode["ids"])) == (
                "expectation breach",
                "crossfoot outcomes --db billing.db",
                1,
            )
        page = crossfoot(folder, "alerts", "list", "--db", "billing.db", code=1).stdout
        assert page.startswith("FIRING: 1 alert")
        assert "crossfoot outcomes --db billing.db" in page

    def test_its_letter_and_its_table_of_alerts_are_those_of_the_code(self) -> None:
        text = GUIDE.read_text(encoding="utf-8")
        assert [name for name in ALERTS if f"`{name}`" not in text] == []


def test_the_watch_tells_a_command_once_and_ends_when_told(folder: Path) -> None:
    pass_time(folder, 600)
    (folder / "tell.sh").write_text("#!/bin/sh\ncat >> letters\necho >> letters\n", encoding="utf-8")
    os.chmod(folder / "tell.sh", 0o700)
    command = [
        str(BIN / "crossfoot"),
        "alerts",
        "watch",
        "--db",
        "billing.db",
        "--command",
        "./tell.sh",
        "--every",
        "1",
        "--json",
    ]
    for _ in range(2):  # a watch that is started again tells nothing again
        process = subprocess.Popen(
            command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        assert "looking every 1 s" in process.stderr.readline(), "it can be ended in order from here on"
        until = time.monotonic() + 60
        while not (folder / "letters").exists() and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(2.5)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 0, told
    letters = [json.loads(line) for line in (folder / "letters").read_text(encoding="utf-8").splitlines() if line]
    assert [(letter["event"], letter["alert"], letter["repeat"]) for letter in letters] == [
        ("opened", "expectation breach", False)
    ]
    assert rows(folder / "billing.db", "SELECT what, state, tries FROM crossfoot_notices") == [("opened", "sent", 1)]


def test_a_notice_that_nobody_heard_is_named_with_who_should_have(folder: Path) -> None:
    pass_time(folder, 600)
    process = subprocess.Popen(
        [str(BIN / "crossfoot"), "alerts", "watch", "--db", "billing.db", "--command", "false", "--every", "1"],
        cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    while "refused" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    document = json.loads(crossfoot(folder, "alerts", "check", "--db", "billing.db", "--json", code=1).stdout)
    jsonschema.validate(document, schema("alerts"))
    (one,) = document["unheard"]
    assert (one["alert"], one["event"], one["state"], one["answer"]) == (
        "expectation breach", "opened", "refused", "it ended with 1",
    )  # fmt: skip
    page = crossfoot(folder, "alerts", "list", "--db", "billing.db", code=1).stdout
    assert "NOT HEARD: episode 1, expectation breach" in page
    assert (
        'crossfoot_unheard_notices{target="command false' in crossfoot(folder, "metrics", "--db", "billing.db").stdout
    )


def test_what_cannot_be_told_to_anybody_is_refused_at_once(folder: Path) -> None:
    done = crossfoot(folder, "alerts", "watch", "--db", "billing.db", "--webhook", "example.com", code=2)
    assert "http://" in done.stderr


def test_the_rules_for_prometheus_are_yaml_over_metrics_that_there_are(folder: Path) -> None:
    text = crossfoot(folder, "alerts", "rules").stdout
    assert text == rules_file()
    document = yaml.safe_load(text)
    assert document == json.loads(crossfoot(folder, "alerts", "rules", "--json").stdout)
    rules = {rule["alert"]: rule for rule in document["groups"][0]["rules"]}
    assert len(rules) == len(ALERTS) + 2 == len(TEXTS) + 2
    assert rules["CrossfootStranded"]["for"] == "5m"
    assert rules["CrossfootStranded"]["keep_firing_for"] == "10m"
    assert "crossfoot_sign_events_total" in rules["CrossfootDeadLetters"]["expr"]
    exposed = crossfoot(folder, "metrics", "--db", "billing.db").stdout
    for rule in rules.values():
        used = {
            word for word in rule["expr"].replace("(", " ").replace("{", " ").split() if word.startswith("crossfoot_")
        }
        assert used
        assert all(f"# TYPE {word}".removesuffix(")") in exposed for word in used), used
    assert 'crossfoot_expected{expectation="invoice.issued after case.released",standing="met"} 2.0' in exposed
    assert 'crossfoot_invariant_holds{invariant="no case is billed twice"} 1.0' in exposed
    assert 'crossfoot_sign{about="",alert="unaccounted"} 0.0' in exposed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_hospitals_invariant_names_the_cases_billed_twice_and_its_expectation_what_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole log, 49,951 events of 10,000 cases, through the example's own handler."""
    monkeypatch.setenv("CROSSFOOT_DATABASE", str(tmp_path / "hospital.db"))
    monkeypatch.setenv("CROSSFOOT_SYNCHRONOUS", "NORMAL")
    events = log.choose(log.read(log.folder() / log.FILE), 60_000)
    app = example().app

    async def work() -> None:
        for first in range(0, len(events), 1_000):
            await app.publish(*map(message_of, events[first : first + 1_000]))
        await app.worker(batch=250).run(until_idle=True)

    anyio.run(work)
    issued, taken_back = Counter[str](), Counter[str]()
    for event in events:
        issued[event.case] += event.activity == "BILLED"
        taken_back[event.case] += event.activity == "STORNO"
    twice = sorted(case for case, count in issued.items() if count > 1 and not taken_back[case])
    assert (len(events), len(twice)) == (49_951, 8), "what the example's README says of the log"

    book = Book(tmp_path / "hospital.db").open()
    invariants.check(book)
    evaluate(book)
    hour = 3_600 * SECOND
    with book.reading() as connection:
        (invariant,) = statements(connection)
        (report,) = reports(connection, book.clock.now() + 2 * hour)
    assert invariant.result is not None
    assert (invariant.result.count, sorted(invariant.result.ids)) == (8, twice)
    assert (report.opened, report.met, report.missing) == (7_421, 7_421, 0)

    # Injected breaches: as if a handler had forgotten the outcome of some of the cases that are billed once.
    once = [event for event in events if event.activity == "BILLED" and issued[event.case] == 1]
    forgotten = Random(7).sample(once, 25)
    with book.writing() as connection:
        connection.executemany(
            "DELETE FROM crossfoot_outcomes WHERE name = 'invoice.issued' AND subject = ?",
            [(event.case,) for event in forgotten],
        )
        connection.execute("UPDATE crossfoot_expectations SET place = '0', opened = 0, met = 0")
    evaluate(book)
    with book.reading() as connection:
        (report,) = reports(connection, book.clock.now() + 2 * hour)
    book.close()
    assert sorted(breach.id for breach in report.missing_messages) == sorted(map(id_of, forgotten))
    assert (report.opened, report.met, report.missing) == (7_421, 7_396, 25)
