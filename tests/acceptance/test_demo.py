"""`crossfoot demo` does what it says, for any seed and size; and it can fail."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from crossfoot.books.entry import Kind
from crossfoot.books.store import Book
from crossfoot.cli import app
from crossfoot.clock import SystemClock
from crossfoot.demo import log, plan
from crossfoot.demo.found import found
from crossfoot.demo.plan import FAULT_OF, LEFT_OUT, Act, Fault, faults_on
from crossfoot.demo.run import Count, Result
from crossfoot.demo.states import compare
from crossfoot.effects.outbox import BEHIND
from crossfoot.errors import LeaseLost, UsageError
from crossfoot.queues.queue import Delivery
from crossfoot.worker.held import Held
from tests.acceptance.pages import ROOT
from tests.acceptance.shell import BIN, ENVIRONMENT, TYPED, crossfoot, run
from tests.conftest import report_unavailable
from tests.servers.postgres import Postgres

pytest_plugins = ["tests.servers.postgres_fixtures"]

SCHEMA = json.loads((ROOT / "src/crossfoot/cli/schemas/demo.json").read_text(encoding="utf-8"))
SMALL = 400
PATIENCE_SECONDS = 240.0

pytestmark = pytest.mark.xdist_group("demo")  # each starts several processes: one after the other


def demo(folder: Path, *arguments: str) -> dict[str, Any]:
    """The demo's document; it must say that all is well."""
    done = subprocess.run(
        [str(BIN / "crossfoot"), "demo", "--json", *arguments],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.stdout, f"exit {done.returncode}: {done.stderr[-3000:]}"
    document: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, document["problems"], document["final_states"]["different"]) == (0, [], []), done.stderr
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    return document


def assert_well(document: dict[str, Any]) -> None:
    assert document["problems"] == []
    assert document["unaccounted"] == 0
    assert {name: one["holds"] for name, one in document["identities"].items()} == dict.fromkeys(
        ("accepted", "operations", "acks", "holdings", "parked", "ledger"), True
    )
    queue = document["queue"]
    assert set(document["faults"]) == {fault.value for fault in faults_on(queue)}
    assert document["left_out"] == {fault.value: why for fault, why in LEFT_OUT.get(queue, {}).items()}
    for name, fault in document["faults"].items():
        assert fault["injected"] == fault["found"] == len(fault["ids"]) > 0, name
        assert fault["missing"] == fault["unexpected"] == [], name
    assert document["fates"]["settled"] == document["messages"]
    assert document["fates"]["parked"] == 0
    assert document["final_states"]["different"] == []
    assert document["final_states"]["equal"] == document["final_states"]["cases"]
    assert len(document["why"]) == 3


# ---- the whole demo --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize(("seed", "messages"), [(1, 300), (2, SMALL), (3, 1_500)])
def test_every_fault_is_found_and_none_is_invented(tmp_path: Path, seed: int, messages: int) -> None:
    document = demo(tmp_path, "--messages", str(messages), "--seed", str(seed))

    assert_well(document)
    assert document["messages"] <= messages
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.server
@pytest.mark.timeout(PATIENCE_SECONDS)
def test_every_fault_is_found_on_sqs_too(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for package in ("boto3", "ministack"):
        if importlib.util.find_spec(package) is None:
            report_unavailable(request.config, "MiniStack", f"the package {package} is not installed")
            pytest.skip(f"{package} is not installed")

    document = demo(tmp_path, "--queue", "sqs", "--messages", str(SMALL), "--seed", "4")

    assert_well(document)
    assert document["queue"] == "sqs"


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.server
@pytest.mark.timeout(PATIENCE_SECONDS)
@pytest.mark.parametrize("queue", ["embedded", "postgres", "redis", "nats"])
def test_the_same_example_ends_as_the_log_says_on_postgresql_with_any_queue(
    tmp_path: Path, postgres: Postgres, queue: str
) -> None:
    document = demo(
        tmp_path, "--database", postgres.url(), "--queue", queue, "--messages", "300", "--seed", "4"
    )  # fmt: skip

    assert_well(document)
    assert document["queue"] == queue
    assert postgres.run("SELECT datname FROM pg_database WHERE datname LIKE 'crossfoot_demo%'") == [], "left behind"


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.server
@pytest.mark.timeout(PATIENCE_SECONDS)
def test_on_kafka_what_a_group_does_is_found_and_what_cannot_be_done_is_named(
    tmp_path: Path, postgres: Postgres
) -> None:
    document = demo(
        tmp_path, "--database", postgres.url(), "--queue", "kafka", "--messages", "300", "--seed", "4"
    )  # fmt: skip

    assert_well(document)
    assert document["queue"] == "kafka"
    assert "partition taken away" in document["faults"]
    assert set(document["left_out"]) == {"redelivery while running", "deleted from the queue"}


def test_a_broker_that_the_demo_cannot_start_is_asked_for(tmp_path: Path) -> None:
    done = crossfoot(tmp_path, "demo", "--queue", "rabbitmq", code=2)

    assert "--queue rabbitmq needs --endpoint" in done.stderr


def test_two_places_for_one_book_are_wrong_use(tmp_path: Path) -> None:
    done = crossfoot(tmp_path, "demo", "--db", "demo.db", "--database", "postgresql://127.0.0.1/postgres", code=2)

    assert "name one of them" in done.stderr


class Kept:
    """A demo whose book was kept."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "demo.db"
        self.document = demo(folder, "--messages", str(SMALL), "--seed", "5", "--db", str(self.path))

    def ids(self, fault: Fault) -> set[str]:
        return set(self.document["faults"][fault.value]["ids"])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def doctored(kept: Kept, tmp_path: Path) -> Iterator[Callable[[str], Book]]:
    """A copy of the kept book after a statement that nobody should have executed."""
    path = tmp_path / "doctored.db"
    shutil.copy(kept.path, path)
    books = []

    def doctor(sql: str) -> Book:
        connection = sqlite3.connect(path)
        with connection:
            connection.executescript(sql)
        connection.close()
        books.append(Book(path))
        return books[-1]

    yield doctor
    for book in books:
        book.close()


@pytest.mark.crash
def test_the_kept_book_answers_every_command(kept: Kept) -> None:
    folder, db = kept.path.parent, str(kept.path)
    for page in kept.document["why"]:
        done = crossfoot(folder, "why", page["id"], "--db", db, "--json", code=None)
        assert json.loads(done.stdout)["fate"] == page["fate"]

    assert json.loads(crossfoot(folder, "balance", "--db", db, "--json", code=None).stdout)["unaccounted"] == 0
    crossfoot(folder, "verify", "--db", db)


@pytest.mark.crash
def test_a_second_demo_does_not_write_over_the_first(kept: Kept) -> None:
    before = kept.path.stat()

    done = crossfoot(kept.path.parent, "demo", "--db", str(kept.path), code=2)

    assert "exists" in done.stderr
    assert kept.path.stat().st_mtime_ns == before.st_mtime_ns


# ---- it can fail -----------------------------------------------------------------------------------------------------

FORGET = {
    Fault.REFUSED: f"DELETE FROM crossfoot_entries WHERE kind IN ({Kind.REFUSED:d}, {Kind.PUT_OFF:d})",
    Fault.ANSWER_LOST: f"DELETE FROM crossfoot_entries WHERE kind = {Kind.PUBLISH_IN_DOUBT:d}",
    Fault.SWALLOWED: f"DELETE FROM crossfoot_entries WHERE kind = {Kind.FAILED:d}",
    Fault.RAISES_ONCE: f"DELETE FROM crossfoot_entries WHERE kind = {Kind.FAILED:d}",
    Fault.RAISES_ALWAYS: f"DELETE FROM crossfoot_entries WHERE kind = {Kind.DEAD_LETTERED:d}",
    Fault.MALFORMED: f"DELETE FROM crossfoot_entries WHERE kind = {Kind.FAILED:d}",
    Fault.UNKNOWN_ENUM: f"DELETE FROM crossfoot_entries WHERE kind = {Kind.FAILED:d}",
    Fault.UNKNOWN_TYPE: f"DELETE FROM crossfoot_entries WHERE kind = {Kind.FAILED:d}",
    Fault.KILLED: "UPDATE crossfoot_workers SET stopped_at = seen_at",
    Fault.OVERRUN: f"UPDATE crossfoot_entries SET due = due + 60000000 WHERE kind = {Kind.RECEIVED:d}",
    Fault.REDELIVERED: f"UPDATE crossfoot_entries SET due = 0 WHERE kind IN ({Kind.RECEIVED:d}, {Kind.EXTENDED:d})",
    Fault.ACK_LOST: f"DELETE FROM crossfoot_entries WHERE kind = {Kind.ACKED:d}",
    Fault.EXPIRED: f"DELETE FROM crossfoot_entries WHERE kind = {Kind.EXPIRED:d}",
    Fault.DELETED: f"DELETE FROM crossfoot_entries WHERE kind = {Kind.VANISHED:d}",
    Fault.DUPLICATE: f"DELETE FROM crossfoot_entries WHERE kind IN ({Kind.SUPPRESSED:d}, {Kind.INTENDED:d})",
    Fault.REORDERED: "UPDATE crossfoot_messages SET subject = key",
}
"""For each fault, what takes its evidence out of the book."""


@pytest.mark.crash
@pytest.mark.parametrize("fault", faults_on("embedded"), ids=lambda fault: fault.name.lower())
def test_a_fault_without_its_evidence_is_missed(kept: Kept, doctored: Callable[[str], Book], fault: Fault) -> None:
    told = found(doctored(FORGET[fault]))[fault]

    count = Count(frozenset(kept.ids(fault)), frozenset(told))
    assert set(count.missing) == kept.ids(fault)
    assert count.problems(fault)


@pytest.mark.crash
@pytest.mark.parametrize(
    "fault", [Fault.REBALANCED, Fault.OVERRUN, Fault.ACK_LOST], ids=lambda fault: fault.name.lower()
)
def test_of_what_a_group_does_each_kind_has_evidence_of_its_own(doctored: Callable[[str], Book], fault: Fault) -> None:
    """In books of the embedded queue nothing was taken away; a failure that is none of these is made to say so."""
    says = {
        Fault.REBALANCED: (Kind.FAILED, {"error": name_of(LeaseLost), "text": fenced(lost=True)}),
        Fault.OVERRUN: (Kind.FAILED, {"error": name_of(LeaseLost), "text": fenced(lost=False)}),
        Fault.ACK_LOST: (Kind.ACK_FAILED, {"reason": "no answer", "lost": False}),
    }
    kind, details = says[fault]
    told = f"kind = {Kind.ACK_FAILED:d} OR kind = {Kind.FAILED:d} AND details LIKE '%{name_of(LeaseLost)}%'"
    victim = f"""(SELECT max(id) FROM crossfoot_entries WHERE kind = {Kind.FAILED:d}
                  AND message NOT IN (SELECT message FROM crossfoot_entries WHERE {told}))"""
    before = found(doctored("SELECT 1"), "kafka")
    after = found(
        doctored(
            f"UPDATE crossfoot_entries SET kind = {kind:d}, details = '{json.dumps(details)}' WHERE id = {victim}"
        ),
        "kafka",
    )

    changed = {one: after[one] - before[one] for one in (Fault.REBALANCED, Fault.OVERRUN, Fault.ACK_LOST)}
    assert {one for one, ids in changed.items() if ids} == {fault}
    assert len(changed[fault]) == 1


@pytest.mark.crash
def test_what_waits_for_another_one_was_not_refused(doctored: Callable[[str], Book]) -> None:
    """A queue that keeps an order is not asked to take what comes behind one that it refused."""
    waits = f"UPDATE crossfoot_entries SET details = '{json.dumps({'reason': BEHIND})}' WHERE kind IN ({Kind.REFUSED:d}, {Kind.PUT_OFF:d})"

    assert found(doctored("SELECT 1"))[Fault.REFUSED]
    assert found(doctored(waits))[Fault.REFUSED] == set()


def fenced(*, lost: bool) -> str:
    """What a delivery is told that must not commit: it was taken back, or its lease has run out."""
    delivery = Delivery(body=b"", receipt="1", attempt=1, lease_until=0, broker_id="event-1")
    held = Held(delivery, SystemClock(), lease_over=0.0, attempt=1, strict=True)
    if lost:
        held.lose()
    with pytest.raises(LeaseLost) as caught:
        held.fence()
    return str(caught.value)


def name_of(error: type[Exception]) -> str:
    return f"{error.__module__}.{error.__qualname__}"


def test_a_fault_that_was_found_and_not_injected_is_a_problem() -> None:
    assert Count(frozenset(), frozenset({"event-1"})).problems(Fault.ACK_LOST)
    assert Count(frozenset(), frozenset()).problems(Fault.ACK_LOST), "and so is one that never happened"
    assert not Count(frozenset({"event-1"}), frozenset({"event-1"})).problems(Fault.ACK_LOST)


@pytest.mark.crash
@pytest.mark.parametrize(
    "damage",
    [
        "INSERT INTO invoices SELECT * FROM invoices LIMIT 1",
        "DELETE FROM invoices WHERE rowid = (SELECT min(rowid) FROM invoices)",
        "UPDATE cases SET events = events + 1 WHERE rowid = 1",
        "UPDATE cases SET state = 'Lost' WHERE rowid = 1",
        "INSERT INTO cases SELECT * FROM cases LIMIT 1",
        "DELETE FROM cases WHERE rowid = 1",
    ],
)
def test_an_effect_lost_or_doubled_makes_a_case_differ(doctored: Callable[[str], Book], damage: str) -> None:
    expected = log.ends(log.choose(log.read(log.folder() / log.FILE), SMALL))
    book = doctored("SELECT 1")
    assert compare(book, expected).different == []

    assert len(compare(doctored(damage), expected).different) == 1


@pytest.mark.crash
def test_the_book_of_a_demo_that_did_not_go_well_is_kept_for_whoever_asks_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Result, "problems", property(lambda self: ["a fault was found that nobody injected"]))

    done = CliRunner().invoke(app, ["demo", "--messages", str(SMALL), "--seed", "5", "--json"])

    assert done.exit_code == 1, done.output
    (kept,) = tmp_path.glob("crossfoot-demo-failed-*/demo.db")
    assert f"the book is kept, because the demo did not go well: {kept}" in " ".join(done.stderr.split())
    with closing(sqlite3.connect(kept)) as book:
        published = json.loads(done.stdout)["published"]
        assert book.execute("SELECT count(*) FROM crossfoot_messages").fetchone() == (published,)
    assert [path.name for path in tmp_path.iterdir()] == [kept.parent.name], "and nothing else"


# ---- interrupted -----------------------------------------------------------------------------------------------------


@pytest.mark.crash
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    process = subprocess.Popen(
        [str(BIN / "crossfoot"), "demo", "--messages", "20000"],
        cwd=tmp_path, env=ENVIRONMENT | {"TMPDIR": str(scratch)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_until(lambda: len(workers_in(scratch)) == 2)

    process.send_signal(number)
    _, complaint = process.communicate(timeout=30)

    assert process.returncode == 130
    assert b"interrupted" in complaint
    wait_until(lambda: not workers_in(scratch))
    assert list(scratch.iterdir()) == []


@pytest.mark.crash
def test_workers_do_not_outlive_a_demo_that_was_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [str(BIN / "crossfoot"), "demo", "--messages", "20000"],
        cwd=tmp_path, env=ENVIRONMENT | {"TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: len(workers_in(tmp_path)) == 2)

    process.kill()
    process.wait()

    wait_until(lambda: not workers_in(tmp_path))


def workers_in(scratch: Path) -> list[str]:
    """Worker processes whose orders lie in that folder."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes().decode() if folder.name.isdigit() else ""
        except OSError:  # it has just ended
            continue
        if "crossfoot.demo.process" in command and str(scratch) in command:
            found.append(folder.name)
    return found


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


# ---- the plan and the log --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def events() -> list[log.Event]:
    return log.read(log.folder() / log.FILE)


def test_the_log_is_whole_and_says_what_its_readme_says(events: list[log.Event]) -> None:
    ends = log.ends(events)

    assert (len(events), len(ends)) == (49_951, 10_000)
    assert Counter(end.state for end in ends.values()) == {
        "Billed": 6_920, "In progress": 2_683, "Empty": 174, "Unbillable": 80, "Billable": 62, "Released": 40,
        "Closed": 40, "Check": 1,
    }  # fmt: skip
    assert sum(end.issued for end in ends.values()) == 7_421
    assert sum(end.reversed for end in ends.values()) == 490


@pytest.mark.parametrize("count", [300, 2_000, 49_951, 60_000])
def test_whole_cases_are_chosen_in_order_within_each(events: list[log.Event], count: int) -> None:
    chosen = log.choose(events, count)

    sizes, last = Counter(event.case for event in events), dict[str, int]()
    assert len(chosen) <= count
    assert len(chosen) > min(count, 49_951) - max(sizes.values())
    assert all(number == sizes[case] for case, number in Counter(event.case for event in chosen).items())
    for event in chosen:
        assert event.predecessor == last.get(event.case, 0)
        last[event.case] = event.sequence


@pytest.mark.parametrize("size", [300, 1_000, 20_000])
@pytest.mark.parametrize("seed", range(10))
def test_a_plan_has_every_fault_and_no_case_has_two(events: list[log.Event], size: int, seed: int) -> None:
    chosen = log.choose(events, size)
    drawn = plan.make(chosen, seed)

    cases = {event.sequence: event.case for event in chosen}
    assert set(drawn.acts.values()) == set(Act) - {Act.REBALANCE}
    assert set(FAULT_OF) == set(Act)
    assert set(FAULT_OF.values()) | {Fault.KILLED} == set(Fault)
    assert len({cases[sequence] for sequence in drawn.acts}) == len(drawn.acts)
    assert len(drawn.kills) >= 2


@pytest.mark.parametrize("seed", range(10))
def test_a_plan_for_kafka_has_what_a_group_does_and_not_what_it_cannot(events: list[log.Event], seed: int) -> None:
    drawn = plan.make(log.choose(events, 300), seed, "kafka")

    assert set(drawn.acts.values()) == set(Act) - {Act.REDELIVER, Act.DELETE}
    assert len(drawn.of(Act.REBALANCE)) > 1, "one that strangers do not meet is no plan"


def test_a_plan_depends_on_its_seed_alone(events: list[log.Event]) -> None:
    chosen = log.choose(events, 2_000)

    assert plan.make(chosen, 1) == plan.make(chosen, 1)
    assert plan.make(chosen, 1) != plan.make(chosen, 2)


def test_more_events_suffer_more_faults(events: list[log.Event]) -> None:
    few, many = (plan.make(log.choose(events, size), 1) for size in (2_000, 49_951))

    assert len(many.acts) > 5 * len(few.acts)
    assert len(many.kills) > len(few.kills)


@pytest.mark.parametrize("count", [1, 40])
def test_too_few_messages_are_wrong_use(tmp_path: Path, count: int) -> None:
    done = crossfoot(tmp_path, "demo", "--messages", str(count), code=2)

    assert "messages" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_case_too_long_for_what_was_asked_is_refused(events: list[log.Event]) -> None:
    with pytest.raises(UsageError, match="ask for 300 or more"):
        log.choose(events, 4)


# ---- the example by hand ---------------------------------------------------------------------------------------------


def test_the_examples_readme_can_be_typed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "hospital", tmp_path / "examples" / "hospital", ignore=TYPED)
    text = (ROOT / "examples" / "hospital" / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    (crossfoot .+)$", text, re.MULTILINE)
    assert len(commands) == 4

    typed = [run([str(BIN / "crossfoot"), *shlex.split(command)[1:]], tmp_path) for command in commands]

    assert [done.returncode for done in typed] == [0, 0, 0, 0], typed
    assert "invoice.issued" in typed[-1].stdout
    connection = sqlite3.connect(tmp_path / "crossfoot.db")
    assert connection.execute("SELECT state, events FROM cases").fetchall() == [("Billed", 2)]
    assert connection.execute("SELECT count(*) FROM invoices").fetchone() == (1,)
    connection.close()


def test_the_example_is_about_twenty_lines() -> None:
    source = (ROOT / "examples" / "hospital" / "app.py").read_text(encoding="utf-8")
    handler = source[source.index("@app.handler") :]

    assert len(handler.splitlines()) <= 20
    assert os.path.getsize(ROOT / "examples" / "hospital" / "app.py") < 3_000
