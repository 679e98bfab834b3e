"""The commands that read: what a person sees, what a script gets, and how each way of being wrong ends."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest

from crossfoot import Crossfoot, Noop
from crossfoot.books.entry import Kind
from crossfoot.cli import COMMANDS, HELP, command, run
from crossfoot.cli.balance import when
from crossfoot.clock import SECOND, SystemClock
from crossfoot.errors import UsageError
from tests.unit.book_rig import CAUSE, Desk, Step

PROGRAM = [sys.executable, "-c", "from crossfoot.cli import main; main()"]
SCHEMAS = Path(__file__).parents[2] / "src/crossfoot/cli/schemas"
PLAIN = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
ESCAPE = "\x1b["


class Told:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class Terminal:
    """Types commands about one book, in this process."""

    def __init__(self, path: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capture = capture

    def __call__(self, *arguments: str, book: Path | None = None) -> Told:
        self._capture.readouterr()
        code = run([*arguments, "--db", str(book or self.path)])
        out, err = self._capture.readouterr()
        assert "Traceback" not in err, err
        return Told(code, out, err)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "CROSSFOOT_DATABASE", "CROSSFOOT_QUEUE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book of a service that has worked: settled, noop, duplicate, swallowed, raised and unknown messages."""
    path = tmp_path_factory.mktemp("worked") / "billing.db"
    app = Crossfoot("billing", database=path, attempts=2, backoff=0.001, synchronous="NORMAL")

    @app.handler("case.released", operation="bill:{subject}:{sequence}")
    def bill(message: Any, tx: Any) -> Noop | None:
        tx.execute("create table if not exists invoices (case_id, amount)")
        amount = message.data["amount"]
        if amount == 0:
            return Noop("nothing to bill")
        if amount < 0:
            raise ValueError(f"amount {amount} is negative")
        if amount == 13:
            return None  # what a handler that swallowed its exception looks like
        tx.execute("insert into invoices values (?, ?)", (message.subject, amount))
        tx.outcome("invoice.issued", amount=amount)
        return None

    async def publish() -> None:
        for number, amount in enumerate((100, 50, 0, -5, 13), 1):
            await app.publish(
                "case.released", id=f"m-{number}", subject=f"case-{number}", sequence=number, data={"amount": amount}
            )
        again = {"subject": "case-1", "sequence": 1, "data": {"amount": 100}}
        await app.publish("case.released", id="m-6", operation="bill:case-1:1", **again)
        await app.publish("case.unknown", id="m-7", subject="case-7", data={})

    anyio.run(publish)
    app.run(until_idle=True, concurrency=1)  # which of the two for one operation comes first is not left to chance
    return path


@pytest.fixture
def terminal(worked: Path, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(worked, capfd)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A book of our own making, on the machine's clock, since the commands read that."""
    with closing(Desk(tmp_path / "book.db")) as desk:
        desk.clock.advance((SystemClock().now() - desk.now) / SECOND)
        yield desk


# ---- balance ---------------------------------------------------------------------------------------------------------


def test_the_books_of_a_service_that_has_worked_balance(terminal: Terminal) -> None:
    told = terminal("balance", "--json")

    document = valid(told, "balance")
    assert told.code == 0
    assert document["published"] == 7
    assert document["unaccounted"] == 0
    assert {name: count for name, count in document["fates"].items() if count} == {
        "settled": 2, "noop": 1, "duplicate": 1, "dead": 3,
    }  # fmt: skip
    assert all(identity["holds"] for identity in document["identities"].values())
    assert document["queues"]["billing"]["queue"]["dead"] == 3


def test_the_balance_is_plain_in_a_pipe_and_says_the_same(terminal: Terminal) -> None:
    told = terminal("balance")

    assert told.out.startswith(
        "7 published = 7 with a fate + 0 unaccounted: every message has a fate, and the books balance; 3 dead: somebody should look."
    )
    assert re.search(r"^settled +2$", told.out, re.MULTILINE)
    assert re.search(r"^✓ +every ack has its proof$", told.out, re.MULTILINE)
    assert "dead: 3 in the dead letters" in told.out
    assert ESCAPE not in told.out


def test_a_message_taken_out_of_the_queue_behind_our_back_ends_with_1_and_its_id(
    desk: Desk, capfd: pytest.CaptureFixture[str]
) -> None:
    desk.clock.advance(-60)
    desk.publish("kept", "taken")
    desk.execute("DELETE FROM crossfoot_queue WHERE message = 'tests|taken'")

    told = Terminal(desk.path, capfd)("balance", "--json")

    assert told.code == 1
    assert valid(told, "balance")["identities"]["holdings"]["ids"] == ["taken"]
    assert "identity 'holdings' is broken" in Terminal(desk.path, capfd)("balance").out
    assert Terminal(desk.path, capfd)("balance", "--no-queue").code == 0


def test_the_balance_posts_what_is_not_posted(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    desk.settle("one", "two")

    assert valid(Terminal(desk.path, capfd)("balance", "--json"), "balance")["fates"]["settled"] == 2


def test_times_are_how_long_ago_or_a_date() -> None:
    now = 1_700_000_000 * SECOND

    assert when("2h", now) == when("120 min ago", now) == now - 7200 * SECOND
    assert when("2023-11-14T22:13:20Z", now) == when("2023-11-14 22:13:20", now) == now
    assert when(None, now) is None
    with pytest.raises(UsageError, match="'soon' is no time"):
        when("soon", now)


# ---- why -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fate", "code", "reason"),
    [
        ("m-1", "settled", 0, "Proof: 1 row changed, outcome invoice.issued."),
        ("case-3", "noop", 0, "nothing to bill"),
        ("bill:case-2:2", "settled", 0, "Committed by worker billing-"),
        ("billing|m-6", "duplicate", 0, "Its operation bill:case-1:1 had been completed by message m-1"),
        ("m-4", "dead", 1, "ValueError at tests"),
        ("m-5", "dead", 1, "NoProof at handler bill"),
        ("m-7", "dead", 1, "UnknownType"),
    ],
)
def test_why_gives_the_fate_and_the_reason(terminal: Terminal, name: str, fate: str, code: int, reason: str) -> None:
    told = terminal("why", name, "--json")

    document = valid(told, "why")
    assert (document["fate"], told.code) == (fate, code)
    assert reason in document["reason"]
    assert [entry["kind"] for entry in document["entries"]][:2] == ["published", "received"]
    assert bool(document["next"]) == (fate not in ("settled", "noop"))


def test_why_is_one_page_for_a_person(terminal: Terminal) -> None:
    told = terminal("why", "case-4")

    assert told.out.startswith("DEAD: Dead-lettered after 2 deliveries")
    assert re.search(r"^✗ +\+\S+ \w+ +failed +#1", told.out, re.MULTILINE)
    assert re.search(r"\ncause: raised in \S+\.py:\d+ bill\(\)\n", told.out)
    assert re.search(r"\n  \$ crossfoot why m-4 --payload --db \S+\n", told.out)
    assert len(told.out.splitlines()) < 40


def test_why_prints_what_the_message_carried_only_on_request(terminal: Terminal) -> None:
    assert '"amount": -5' not in terminal("why", "m-4").out
    assert '"amount": -5' in terminal("why", "m-4", "--payload").out
    assert valid(terminal("why", "m-4", "--payload", "--json"), "why")["payload"]["data"] == {"amount": -5}


@pytest.mark.parametrize("command", [["dead", "show"], ["dead", "show", "--payload"], ["why", "--payload"]])
def test_no_page_advises_to_look_at_itself(terminal: Terminal, command: list[str]) -> None:
    told = terminal(*command, "m-4")
    steps = valid(terminal(*command, "m-4", "--json"), "why")["next"]

    assert re.fullmatch(r"mend what raised in \S+\.py:\d+ bill\(\)", steps[0]["do"])
    assert [step["command"].split(" --")[0] for step in steps[1:]] == [
        "crossfoot dead list", "crossfoot replay plan MODULE:NAME", "crossfoot publish MODULE:NAME case.released",
    ]  # fmt: skip
    assert "m-4 --payload" not in told.out
    assert ("not shown: --payload prints it" in told.out) is ("--payload" not in command)


def test_several_messages_of_a_name_are_a_list(terminal: Terminal) -> None:
    told = terminal("why", "case-1")

    assert "2 messages of this subject: 1 duplicate, 1 settled." in told.out
    assert told.code == 0
    document = valid(terminal("why", "case-1", "--json"), "why")
    assert [match["message"]["id"] for match in document["matches"]] == ["m-6", "m-1"]
    assert document["fate"] is None


def test_a_name_that_is_not_there_ends_with_1_and_says_where_it_looked(terminal: Terminal, worked: Path) -> None:
    told = terminal("why", "case-99")

    assert told.code == 1
    assert told.err.startswith(f"crossfoot: nothing is called 'case-99' in {worked}")
    assert told.err.count("\n") == 1
    assert valid(terminal("why", "case-99", "--json"), "why")["count"] == 0


def test_a_killed_worker_is_named(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    desk.clock.advance(-600)
    number = desk.book.start_worker("w-3", "billing")
    desk.execute("UPDATE crossfoot_workers SET pid = 4711, host = 'machine-1'")
    desk.publish("one")
    desk.receive(worker=number)

    told = Terminal(desk.path, capfd)("why", "one")

    assert told.code == 1
    assert re.search(
        r"STALLED: Worker w-3 \(pid 4711 on machine-1\) was last heard of at .* UTC: no orderly stop", told.out
    )
    assert "$ crossfoot worker MODULE:NAME" in told.out


# ---- tail --------------------------------------------------------------------------------------------------------------


def test_tail_shows_the_last_entries_and_filters(terminal: Terminal) -> None:
    assert len(terminal("tail", "-n", "4", "--no-follow").out.splitlines()) == 4
    failed = terminal("tail", "-n", "100", "-F", "--kind", "failed", "--json").out.splitlines()
    lines = [json.loads(line) for line in failed]

    assert {line["id"] for line in lines} == {"m-4", "m-5", "m-7"}
    for line in lines:
        jsonschema.validate(line, schema("tail"))
    assert "m-2" in terminal("tail", "-F", "--subject", "case-2").out
    assert terminal("tail", "-F", "--type", "case.nothing").out == ""


def test_tail_names_the_nearest_kind(terminal: Terminal) -> None:
    told = terminal("tail", "--kind", "faild")

    assert (told.code, told.err) == (2, "crossfoot: 'faild' is no kind of entry: did you mean 'failed'?\n")


def test_tail_follows_and_leaves_quietly_at_ctrl_c(desk: Desk) -> None:
    desk.publish("first")
    with subprocess.Popen(
        [*PROGRAM, "tail", "--db", str(desk.path), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=PLAIN,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["id"] == "first"
        process.stdout.readline()
        desk.settle("second")
        assert [json.loads(process.stdout.readline())["kind"] for _ in range(3)] == [
            "intended",
            "published",
            "received",
        ]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read().startswith("waiting for more entries: Ctrl-C ends it")


# ---- verify and dead -----------------------------------------------------------------------------------------------------


def test_verify_is_clean_and_finds_a_change(terminal: Terminal, worked: Path, tmp_path: Path) -> None:
    assert valid(terminal("verify", "--json"), "verify")["clean"] is True
    changed = copy(worked, tmp_path / "changed.db")
    with closing(sqlite3.connect(changed)) as connection, connection:
        connection.execute("UPDATE crossfoot_messages SET fate = 20 WHERE id = 'm-4'")

    told = terminal("verify", "--json", book=changed)

    assert told.code == 1
    document = valid(told, "verify")
    assert document["differences"][0] == {
        "what": "fate",
        "text": "stored as settled, and dead by its entries",
        "id": "m-4",
    }
    assert "m-4" in terminal("verify", book=changed).out


def test_dead_letters_are_listed_grouped_and_shown(terminal: Terminal) -> None:
    listed = terminal("dead", "list", "--json")

    document = valid(listed, "dead-list")
    assert listed.code == 1
    assert {letter["id"] for letter in document["messages"]} == {"m-4", "m-5", "m-7"}
    assert {cause["count"] for cause in document["causes"]} == {1}
    assert re.search(r"m-5 +case.released +case-5 +NoProof at handler bill", terminal("dead", "list").out)
    assert "ValueError at" in terminal("dead", "list", "--by-cause").out
    assert terminal("dead", "list", "--type", "case.unknown", "--json").document["count"] == 1
    shown = terminal("dead", "show", "m-4", "--payload")
    assert shown.code == 0
    assert '"amount": -5' in shown.out
    assert valid(terminal("dead", "show", "m-4", "--json"), "why")["fate"] == "dead"


def test_what_is_not_dead_is_not_shown_as_dead(terminal: Terminal) -> None:
    told = terminal("dead", "show", "m-1")

    see = f"see crossfoot why --db {terminal.path} m-1"
    assert (told.code, told.err) == (1, f"crossfoot: message m-1 is not dead but settled: {see}\n")
    assert terminal("dead", "show", "m-99").code == 1
    assert "2 messages are called" in terminal("dead", "show", "case-1").err


# ---- colours and pipes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "environment", "coloured"),
    [
        ([], {}, False),
        (["--color=always"], {}, True),
        (["--color=always"], {"NO_COLOR": "1"}, True),
        ([], {"FORCE_COLOR": "1"}, True),
        ([], {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (["--color=never"], {"FORCE_COLOR": "1"}, False),
    ],
)
def test_colours_come_when_they_are_wanted(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, options: list[str], environment: dict[str, str], coloured: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert (f"{ESCAPE}1;31m" in terminal("why", "m-4", *options).out) is coloured


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_no_line_of_a_page_is_longer_than_the_terminal_but_commands(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (["why", "m-4"], ["balance"], ["dead", "list"], ["why", "case-1"], ["verify"]):
        lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal(*arguments, "--color=always").out).splitlines()

        commands = {line for before, line in pairwise(["", *lines]) if "$ crossfoot" in line or before.endswith("\\")}

        assert [line for line in lines if len(line) > columns and line not in commands] == []


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_what_is_to_be_copied_is_in_one_piece(
    desk: Desk, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    id_ = "01981f0e-5c1e-7000-8000-4c8b1f2d3e4f"
    died: list[Step] = [
        (Kind.PUBLISHED, 0),
        (Kind.RECEIVED, 1),
        (Kind.FAILED, 1, {"cause": CAUSE.fingerprint}),
        (Kind.DEAD_LETTERED, 1),
    ]
    desk.story(id_, *died, subject="case-4711")
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (["dead", "list"], ["dead", "list", "--by-cause"], ["tail", "-F", "--kind", "failed"]):
        assert id_ in Terminal(desk.path, capfd)(*arguments, "--color=always").out, arguments


def test_no_example_of_the_help_is_wrapped_at_80_columns() -> None:
    """Typer leaves a column empty at each side."""
    examples = [
        line.strip()
        for name in COMMANDS
        for part in (command(name), *getattr(command(name), "commands", {}).values())
        for line in (part.help or "").splitlines()
        if line.startswith("    ")
    ]
    assert len(examples) > 20
    assert [line for line in (*examples, *_indented(HELP)) if len(line) > 78] == []


def _indented(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def test_a_message_cannot_write_to_the_terminal(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    desk.story("one", (Kind.REFUSED, 0, {"details": {"reason": "\x1b[2J\x1b]0;owned\x07 gone\r\nsecond \u202eline"}}))

    told = Terminal(desk.path, capfd)("why", "one", "--color=never")

    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", told.out)
    assert "owned" in told.out


def test_a_reader_that_leaves_is_no_error(worked: Path) -> None:
    script = f"{' '.join(map(repr, PROGRAM))} tail -F -n 1000 --db {worked} | head -n 1; exit ${{PIPESTATUS[0]}}"

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False, env=PLAIN)

    assert (done.returncode, done.stderr) == (0, "")


def test_an_odd_locale_does_not_end_a_page(worked: Path) -> None:
    environment = PLAIN | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}

    done = subprocess.run(
        [*PROGRAM, "why", "m-4", "--db", str(worked)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )

    assert done.returncode == 1
    assert "ok" in done.stdout
    assert done.stderr == ""


# ---- wrong use, and books that cannot be read ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wyh"], "There is no command 'wyh'; did you mean 'why'? See crossfoot --help."),
        (["why"], "Missing argument 'NAME'. See crossfoot why --help."),
        (["why", "x", "--jsn"], "No such option: --jsn"),
        (["balance", "--since", "soon"], "'soon' is no time"),
        (["tail", "-n", "-1"], "Invalid value for '-n'"),
        (["dead"], "Missing command. See crossfoot dead --help."),
        (["why", "x", "--db", "nowhere.db"], "there is no file nowhere.db: name the book with --db"),
    ],
)
def test_wrong_use_is_one_line_and_2(capfd: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code = run(arguments)
    out, err = capfd.readouterr()

    assert (code, out) == (2, "")
    assert err.startswith(f"crossfoot: {message}")
    assert err.count("\n") == 1
    assert not Path("nowhere.db").exists()


def test_no_command_at_all_shows_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Exit codes: 0 all is well" in capfd.readouterr().out


READERS = (["why", "x"], ["balance"], ["tail", "-F"], ["verify"], ["dead", "list"], ["dead", "show", "x"])


@pytest.mark.parametrize("arguments", READERS)
def test_each_command_says_what_is_wrong_with_a_book(
    arguments: list[str], worked: Path, tmp_path: Path, terminal: Terminal
) -> None:
    letter, empty, newer = tmp_path / "letter.db", tmp_path / "empty.db", copy(worked, tmp_path / "newer.db")
    letter.write_text("this is a letter, and no database\n" * 100, encoding="utf-8")
    sqlite3.connect(empty).execute("CREATE TABLE business (x)").connection.close()
    with closing(sqlite3.connect(newer)) as connection, connection:
        connection.execute("UPDATE crossfoot_version SET version_num = '9999'")
    before = newer.read_bytes()

    for book, message in (
        (letter, "is not a SQLite database"),
        (empty, "holds no book yet"),
        (newer, "newer than this crossfoot's"),
        (tmp_path, "is a folder"),
    ):
        told = terminal(*arguments, book=book)

        assert told.code == 2, told.out
        assert message in told.err
        assert told.err.count("\n") == 1
    assert newer.read_bytes() == before


@pytest.mark.parametrize("arguments", READERS)
def test_a_damaged_book_is_said_to_be_damaged(
    arguments: list[str], worked: Path, tmp_path: Path, terminal: Terminal
) -> None:
    damaged = copy(worked, tmp_path / "damaged.db")
    with closing(sqlite3.connect(damaged)) as connection:
        page = connection.execute("PRAGMA page_size").fetchone()[0]
        roots = [root for (root,) in connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE rootpage > 0 AND tbl_name IN "
            "('crossfoot_messages', 'crossfoot_entries', 'crossfoot_tallies')"
        )]  # fmt: skip
    content = bytearray(damaged.read_bytes())
    for root in roots:
        content[(root - 1) * page : root * page] = b"\xa5" * page
    damaged.write_bytes(content)

    told = terminal(*arguments, book=damaged)

    assert told.code == 2, told.out
    assert f"{damaged} is damaged" in told.err
    assert told.err.count("\n") == 1


def test_a_book_that_cannot_be_written_is_read_all_the_same(desk: Desk, tmp_path: Path) -> None:
    desk.settle("posted")
    desk.balance()
    desk.settle("unposted")
    desk.close()
    folder = tmp_path / "archive"
    folder.mkdir()
    book = copy(desk.path, folder / "book.db")
    book.chmod(0o444)
    folder.chmod(0o555)

    balance = as_nobody_special("balance", "--json", "--db", str(book))
    why = as_nobody_special("why", "unposted", "--json", "--db", str(book))

    assert (balance.code, balance.document["balanced"]) == (1, False), "nobody knows what the rest would say"
    assert balance.document["fates"]["settled"] == 1
    assert balance.document["waiting"] == 5
    assert "this is the balance up to entry 5" in balance.err
    assert "cannot be" in balance.err
    assert why.document["fate"] == "settled", "a page is folded from the entries themselves"
    folder.chmod(0o755)


def test_a_setting_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    monkeypatch.setenv("CROSSFOOT_DATABSE", "x")

    told = terminal("balance")

    assert told.code == 2
    assert "did you mean 'database'?" in told.err


def test_a_queue_that_cannot_be_asked_is_named_with_the_remedy(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    desk.story("one", (Kind.PUBLISHED, 0), queue="orders")
    monkeypatch.setenv("CROSSFOOT_QUEUE", "sqs:orders")
    monkeypatch.setenv("CROSSFOOT_ENDPOINT", "http://127.0.0.1:9")
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_DEFAULT_REGION", "eu-west-1"),
    ):
        monkeypatch.setenv(name, value)

    told = Terminal(desk.path, capfd)("balance")

    assert told.code == 2
    assert "--no-queue" in told.err
    assert told.err.count("\n") == 1
    assert Terminal(desk.path, capfd)("balance", "--no-queue").code == 0


# ---- help ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["why", "balance", "tail", "verify", "dead list", "dead show", "close", "archive verify", "archive erase"]
)
def test_help_teaches_with_an_example(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([*name.split(), "--help"]) == 0
    assert f"crossfoot {name}" in capfd.readouterr().out.split("Usage:")[1].split("Options")[0].partition("\n")[2]


def test_every_command_there_is_is_listed() -> None:
    parts = {
        "__init__",
        "answering",
        "depths",
        "exposition",
        "loading",
        "options",
        "output",
        "pages",
        "reading",
        "serving",
        "suggesting",
        "who",
    }
    files = {path.stem for path in (Path(__file__).parents[2] / "src/crossfoot/cli").glob("*.py")}
    pieces = {name for name in files if name.partition("_")[0] in COMMANDS and "_" in name}

    assert files - parts - pieces == set(COMMANDS)
    assert all(command(name).help for name in COMMANDS)


def test_a_page_is_there_at_once(worked: Path) -> None:
    begun = time.monotonic()
    subprocess.run(
        [*PROGRAM, "why", "m-1", "--db", str(worked)], capture_output=True, timeout=60, check=True, env=PLAIN
    )

    assert time.monotonic() - begun < 5, "seconds, on a machine that does other things, too"


# ---- parts --------------------------------------------------------------------------------------------------------------------


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))


def valid(told: Told, name: str) -> Any:
    """The document, which is as the schema says."""
    jsonschema.validate(told.document, schema(name))
    return told.document


def copy(book: Path, to: Path) -> Path:
    """The book alone, with everything in one file."""
    with closing(sqlite3.connect(book)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")
        target.execute("PRAGMA journal_mode = WAL")
    return to


def as_nobody_special(*arguments: str) -> Told:
    """Run a command as somebody whom permissions bind."""
    done = subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False, env=PLAIN,
        preexec_fn=give_up_rights,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return Told(done.returncode, done.stdout, done.stderr)


def give_up_rights() -> None:
    """In a child about to be: root, too, is then bound by the permissions of files."""
    if os.geteuid() == 0:
        drop, may_pass_permissions = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
        assert ctypes.CDLL(None).prctl(drop, may_pass_permissions, 0, 0, 0) == 0
