"""`crossfoot check`: ten incidents, each told first and by exact ids; and nothing at all of a service that is well."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest

from crossfoot.books.fate import PATIENCE
from crossfoot.cli import run
from crossfoot.clock import SECOND
from crossfoot.message import Message
from crossfoot.recover.checklist.findings import CODES, QUESTIONS
from crossfoot.recover.checklist.walk import ASKED
from tests.acceptance import incidents
from tests.acceptance.incidents import INCIDENTS, NOT_IN_POSTGRESQL, Expected, Town
from tests.acceptance.pages import DOCS
from tests.acceptance.town import checked, first_is
from tests.unit.book_rig import QUEUE, Desk

pytest_plugins = ["tests.acceptance.town_fixtures", "tests.servers.postgres_fixtures"]

pytestmark = pytest.mark.usefixtures("clean_environment")

SCHEMAS = Path(__file__).parents[2] / "src/crossfoot/cli/schemas"


@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.__name__)
def test_an_incident_is_told_first_and_by_exact_ids(incident: Callable[[Town], Expected], in_a_file: Town) -> None:
    expected = incident(in_a_file)

    first_is(checked(expected.of), expected)


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize(
    "incident",
    [one for one in INCIDENTS if one.__name__ not in NOT_IN_POSTGRESQL],
    ids=lambda incident: incident.__name__,
)
def test_so_it_is_in_postgresql(incident: Callable[[Town], Expected], in_postgres: Town) -> None:
    expected = incident(in_postgres)

    first_is(checked(expected.of), expected)


def test_there_are_ten() -> None:
    assert len(INCIDENTS) == 10
    assert set(CODES.values()) <= set(QUESTIONS) == set(ASKED)


def test_of_a_service_that_is_well_nothing_is_said(in_a_file: Town, capfd: pytest.CaptureFixture[str]) -> None:
    app = incidents.a_good_day(in_a_file)

    report = checked(app)

    assert [(one.code, one.text) for one in report.findings] == []
    assert report.well
    assert {answer.verdict for answer in report.answers} == {"well"}
    capfd.readouterr()
    assert run(["check", "--db", in_a_file.database, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
def test_nor_is_it_in_postgresql(in_postgres: Town) -> None:
    assert checked(incidents.a_good_day(in_postgres)).findings == ()


def test_the_wrong_name_is_found_without_the_program_too(in_a_file: Town) -> None:
    expected = incidents.nobody_publishes_there(in_a_file)

    first_is(checked(expected.of, program=False), expected)


def test_a_handler_that_is_not_there_yet_is_told_while_its_messages_are_still_handed_back(in_a_file: Town) -> None:
    app = in_a_file.service()

    @app.handler("case.released")
    def bill(message: Message, tx: object) -> None: ...

    unknown = incidents.publish(app, "case.closed", "case-1")
    incidents.work(app, 0.5)

    first_is(checked(app), Expected("unregistered", incidents.ids(unknown), app, ("case.closed", "1 tried again")))


def test_a_queue_that_nobody_ever_received_from(in_a_file: Town) -> None:
    app = in_a_file.service()
    messages = incidents.publish(app, "case.released", *incidents.cases(3))

    assert checked(app).well
    report = checked(app, later=PATIENCE.stranded / SECOND + 1)

    first_is(report, Expected("nobody-receives", incidents.ids(messages), app))


def test_what_is_deleted_by_somebody_else(in_a_file: Town) -> None:
    app = in_a_file.service()

    @app.handler("case.released")
    def bill(message: Message, tx: object) -> None:
        in_a_file.insert(message, tx)

    gone, _ = incidents.publish(app, "case.released", "case-1", "case-2")
    with closing(sqlite3.connect(in_a_file.database)) as connection, connection:
        connection.execute("DELETE FROM crossfoot_queue WHERE message = ?", (gone.key,))
    time.sleep(5.1)  # younger differences are not judged
    incidents.work(app, 1.0)

    first_is(
        checked(app), Expected("acked-elsewhere", incidents.ids([gone]), app, ("without any worker of this book",))
    )


def test_what_ended_without_what_nearly_all_of_its_kind_end_with(in_a_file: Town) -> None:
    app = in_a_file.service()

    @app.handler("case.released", operation="bill:{subject}")
    def bill(message: Message, tx: object) -> None:
        in_a_file.insert(message, tx)  # a row of the audit log, and then the rest is swallowed
        if message.data["number"] not in (11, 29):
            tx.outcome("invoice.issued", amount=7)  # type: ignore[attr-defined] # any driver's transaction

    messages = incidents.publish(app, "case.released", *incidents.cases(40))
    app.run(until_idle=True)

    expected = Expected("no-outcome", incidents.ids([messages[10], messages[28]]), app, ("invoice.issued",))
    first_is(checked(app), expected)


def test_what_is_about_to_be_forgotten(in_a_file: Town) -> None:
    app = in_a_file.service(retention=86_400.0 * 4)
    messages = incidents.publish(app, "case.released", *incidents.cases(3))

    report = checked(app, later=86_400.0 * 2)

    ahead = [one for one in report.findings if one.code == "loss-ahead"]
    assert [frozenset(one.ids) for one in ahead] == [incidents.ids(messages)]
    assert ahead[0].figures["time to loss"] in ("2 d", "1 d 23 h")


def test_what_is_accepted_is_told_and_does_not_count(in_a_file: Town, capfd: pytest.CaptureFixture[str]) -> None:
    expected = incidents.partly_refused(in_a_file)
    del expected
    place = ["--db", in_a_file.database]

    assert run(["check", *place]) == 1
    assert run(["check", *place, "--accept", "refused", "--quiet"]) == 0
    assert run(["check", *place, "--accept", "refused:billing", "--quiet"]) == 0
    assert run(["check", *place, "--accept", "refused:letters", "--quiet"]) == 1
    assert run(["check", *place, "--accept", "refuse"]) == 2
    assert "there is no such finding" in capfd.readouterr().err


def test_the_program_says_where_its_book_is(in_a_file: Town, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    expected = incidents.partly_refused(in_a_file)
    program = "from crossfoot import Crossfoot\n\napp = Crossfoot('billing', database='town.db', retention=3600)\n"
    (tmp_path / "program_of_the_town.py").write_text(program, encoding="utf-8")
    capfd.readouterr()

    assert run(["check", "program_of_the_town:app", "--json"]) == 1
    findings = json.loads(capfd.readouterr().out)["findings"]
    assert [one["code"] for one in findings] == ["refused", "setting"]
    assert frozenset(findings[0]["ids"]) == expected.ids
    assert "forgets after 1 h" in findings[1]["text"]


def test_what_check_and_causes_print_as_json_is_what_their_schemas_say(
    in_a_file: Town, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = incidents.catches_and_acks(in_a_file)
    for name in ("check", "causes"):
        capfd.readouterr()
        assert run([name, "--json", "--db", in_a_file.database]) == 1
        document = json.loads(capfd.readouterr().out)
        jsonschema.validate(document, json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8")))
        found = (document.get("findings") or document["causes"])[0]
        assert frozenset(found["ids"]) == expected.ids


def test_the_guide_and_the_schema_name_every_finding() -> None:
    guide = (DOCS / "guides" / "missing.md").read_text(encoding="utf-8")
    schema = json.loads((SCHEMAS / "check.json").read_text(encoding="utf-8"))
    finding = schema["properties"]["findings"]["items"]["properties"]

    assert [code for code in CODES if f"`{code}`" not in guide] == []
    assert finding["code"]["enum"] == list(CODES)
    assert finding["question"]["enum"] == list(QUESTIONS)


def test_causes_tells_one_cause_whole_and_no_other(in_a_file: Town, capfd: pytest.CaptureFixture[str]) -> None:
    expected = incidents.catches_and_acks(in_a_file)
    place = ["--db", in_a_file.database]
    capfd.readouterr()
    assert run(["causes", *place]) == 1
    told = capfd.readouterr().out
    assert told.startswith("1 CAUSE: of 3 messages that are dead or failing")
    fingerprint = next(line.partition(":")[0] for line in told.splitlines() if "NoProof at handler bill" in line)

    assert run(["causes", fingerprint, *place]) == 1
    whole = capfd.readouterr().out
    assert all(id_ in whole for id_ in expected.ids)
    assert "began with: worker" in whole
    assert run(["causes", "000000000000", *place]) == 1
    assert "no message is dead or failing of cause" in capfd.readouterr().err


def test_of_a_good_day_there_are_no_causes(in_a_file: Town, capfd: pytest.CaptureFixture[str]) -> None:
    incidents.a_good_day(in_a_file)
    capfd.readouterr()

    assert run(["causes", "--db", in_a_file.database]) == 0
    assert "nothing is dead or failing" in capfd.readouterr().out


def test_a_page_of_findings_fits_the_terminal(
    in_a_file: Town, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    incidents.catches_and_acks(in_a_file)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("check", "causes"):
        capfd.readouterr()
        run([name, "--db", in_a_file.database, "--color=always"])
        lines = re.sub(r"\x1b\[[0-9;]*m", "", capfd.readouterr().out).splitlines()
        commands = {line for before, line in pairwise(["", *lines]) if "$ crossfoot" in line or before.endswith("\\")}
        assert [line for line in lines if len(line) > 80 and line not in commands] == []


def test_what_could_not_be_asked_is_not_called_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    book = tmp_path / "book.db"
    with closing(Desk(book)) as desk:
        desk.settle("settled")
    monkeypatch.setenv("CROSSFOOT_QUEUE", f"redis:{QUEUE}")
    monkeypatch.setenv("CROSSFOOT_ENDPOINT", "redis://127.0.0.1:1/0")

    assert run(["check", "--db", str(book)]) == 1
    told = capfd.readouterr()
    assert (
        f"NOT EVERYTHING COULD BE ASKED: By the book alone nothing is wrong.\n  nobody knows what {QUEUE} would"
        in told.out
    )
    assert "Error 111" in told.out
    assert run(["check", "--db", str(book), "--quiet", "--json"]) == 1
    document = json.loads(capfd.readouterr().out)
    jsonschema.validate(document, json.loads((SCHEMAS / "check.json").read_text()))
    assert (document["well"], document["unreached"]) == (False, [QUEUE])
    assert run(["check", "--db", str(book), "--no-queue"]) == 0
    assert "NOTHING FOUND" in capfd.readouterr().out
