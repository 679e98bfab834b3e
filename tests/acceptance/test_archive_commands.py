"""`close` and `archive`: what a person types, what a script gets, and how it ends when something is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.cli import run
from crossfoot.clock import SECOND, SystemClock
from tests.unit.archive_rig import HAPPY, Shelf
from tests.unit.book_rig import QUEUE
from tests.unit.test_sqlite import on_a_small_disk

SCHEMAS = Path(__file__).parents[2] / "src/crossfoot/cli/schemas"
DAY = 86_400.0


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """A book with messages of forty days ago, and one of now, by the machine's clock."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CROSSFOOT_DATABASE", raising=False)
    made = Shelf(tmp_path / "book.db", tmp_path / "book.db.archive")
    with closing(made.desk):
        made.desk.clock.advance((SystemClock().now() - made.desk.now) / SECOND - 40 * DAY)
        made.fill()
        made.desk.clock.advance(40 * DAY - 600)
        made.add("newest", (Kind.PUBLISHED, 0, {"due": made.desk.now}))
        post_all(made.desk.book)
        yield made


def typed(capfd: pytest.CaptureFixture[str], shelf: Shelf, *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = run([*arguments, "--db", shelf.place])
    out, err = capfd.readouterr()
    assert "Traceback" not in err, err
    return code, out, err


def document(capfd: pytest.CaptureFixture[str], shelf: Shelf, *arguments: str, schema: str, code: int = 0) -> Any:
    ended, out, err = typed(capfd, shelf, *arguments, "--json")
    assert ended == code, err
    told = json.loads(out)
    jsonschema.validate(told, json.loads((SCHEMAS / f"{schema}.json").read_text(encoding="utf-8")))
    return told


def test_close_says_what_it_moved_and_where(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = typed(capfd, shelf, "close")

    assert code == 0
    assert out.startswith("CLOSED: 15 messages of 3 buckets, with")
    assert "book.db.archive" in out
    code, out, _ = typed(capfd, shelf, "close")
    assert (code, out.splitlines()[0]) == (0, "NOTHING TO CLOSE: no message that ended before then is left in the book")


def test_close_takes_what_is_older_than_it_is_told(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    told = document(capfd, shelf, "close", "--days", "60", schema="close")
    assert (told["messages"], told["seals"]) == (0, [])

    told = document(capfd, shelf, "close", "--days", "30", schema="close")
    assert (told["messages"], told["pruned"], told["seals"]) == (15, 15, [1])
    assert not set(shelf.hot()) & {"settled-0"}


@pytest.mark.parametrize("days", ["nan", "inf", "-1", "1e6"])
def test_days_that_are_no_number_of_days_are_told(shelf: Shelf, capfd: pytest.CaptureFixture[str], days: str) -> None:
    code, _, said = typed(capfd, shelf, "close", "--days", days)
    assert (code, "give 0 or more, and at most 36,500" in said) == (2, True)


def test_operation_keys_go_past_the_horizon_and_not_before(
    shelf: Shelf, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert document(capfd, shelf, "close", schema="close")["forgotten"] == 0
    monkeypatch.setenv("CROSSFOOT_HORIZON", str(41 * DAY))
    assert document(capfd, shelf, "close", schema="close")["forgotten"] == 0
    monkeypatch.setenv("CROSSFOOT_HORIZON", str(39 * DAY))
    assert document(capfd, shelf, "close", schema="close")["forgotten"] == 9


def test_a_horizon_shorter_than_the_queue_keeps_messages_is_that_long(
    shelf: Shelf, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSFOOT_HORIZON", "1")
    monkeypatch.setenv("CROSSFOOT_RETENTION", str(50 * DAY))

    assert document(capfd, shelf, "close", schema="close")["forgotten"] == 0


def test_why_balance_and_verify_answer_for_what_was_closed(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    before = {name: typed(capfd, shelf, "why", name)[0] for name in shelf.named}
    document(capfd, shelf, "close", schema="close")

    assert {name: typed(capfd, shelf, "why", name)[0] for name in shelf.named} == before
    told = document(capfd, shelf, "why", "settled-1", "--payload", schema="why")
    assert (told["fate"], told["archived"]["seal"], told["payload"]) == ("settled", 1, {"data": "secret of settled-1"})
    assert told["story"][-1] == "Its bucket was closed, and it lies in the archive under seal 1."
    _, out, _ = typed(capfd, shelf, "why", "settled-1")
    assert "archived: seal 1, " in out
    told = document(capfd, shelf, "verify", schema="verify")
    assert (told["clean"], told["archived"], told["late"]) == (True, 15, 0)
    document(capfd, shelf, "balance", schema="balance")


def test_archive_verify_names_the_file_that_was_changed(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    document(capfd, shelf, "close", schema="close")
    told = document(capfd, shelf, "archive", "verify", schema="archive-verify")
    assert (told["clean"], told["seals"], told["messages"]) == (True, 1, 15)
    (path,) = shelf.folder.path.glob("*.facts.parquet")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)

    told = document(capfd, shelf, "archive", "verify", schema="archive-verify", code=1)
    assert [(fault["what"], fault["file"]) for fault in told["faults"]] == [("file changed", path.name)]
    code, out, _ = typed(capfd, shelf, "archive", "verify")
    assert (code, out.splitlines()[0]) == (1, "BROKEN: 1 fault between the archive and what was sealed")
    assert path.name in out


def test_erase_says_what_it_erased_and_what_it_left(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    shelf.add("hers", *HAPPY, subject="case-settled-1")
    post_all(shelf.desk.book)
    document(capfd, shelf, "close", schema="close")

    told = document(
        capfd,
        shelf,
        "archive",
        "erase",
        "case-settled-1",
        "--reason",
        "asked for",
        "--by",
        "anna",
        schema="archive-erase",
    )

    assert (told["book"], told["archive"], told["seals"]) == (1, 1, [1])
    document(capfd, shelf, "archive", "verify", schema="archive-verify")
    assert document(capfd, shelf, "why", "settled-1", "--payload", schema="why")["payload"] is None
    _, out, _ = typed(capfd, shelf, "why", "settled-1", "--payload")
    assert "erased" in out


def test_without_a_reason_nothing_is_erased(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = typed(capfd, shelf, "archive", "erase", "case-settled-1", "--reason", " ")

    assert code == 2
    assert "--reason is empty" in err


def test_a_folder_that_is_not_there_is_told_by_why(
    shelf: Shelf, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    document(capfd, shelf, "close", schema="close")
    shelf.folder.path.rename(tmp_path / "moved")

    code, _, err = typed(capfd, shelf, "why", "settled-1")
    assert code == 1
    assert "15 messages lie in it: name its folder with --archive" in err
    assert typed(capfd, shelf, "why", "settled-1", "--archive", str(tmp_path / "moved"))[0] == 0


def test_a_damaged_file_is_told_by_why_with_what_to_do(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    document(capfd, shelf, "close", schema="close")
    for path in shelf.folder.path.glob("*.facts.parquet"):
        damaged = bytearray(path.read_bytes())
        damaged[: len(damaged) // 2] = b"x" * (len(damaged) // 2)
        path.write_bytes(damaged)

    code, _, err = typed(capfd, shelf, "why", "settled-1")

    assert code == 2
    assert "is damaged (" in err
    assert "`crossfoot archive verify --db" in err


CLOSE = """
from pathlib import Path
from crossfoot.books.archive.close import close
from crossfoot.books.archive.folder import Folder
from crossfoot.errors import DiskFull

book = Book(sys.argv[2]).open()
before = book.connection.execute("SELECT count(*) FROM crossfoot_entries").fetchone()[0]
try:
    close(book, Folder(Path(folder) / "archive"), int(sys.argv[3]), horizon=0)
    error = ""
except DiskFull as full:
    error = str(full)
report = {
    "error": error, "before": before,
    "after": book.connection.execute("SELECT count(*) FROM crossfoot_entries").fetchone()[0],
    "seals": book.connection.execute("SELECT count(*) FROM crossfoot_closed").fetchone()[0],
    "files": sorted(path.name for path in (Path(folder) / "archive").iterdir() if path.name != ".turn"),
}
"""


def test_a_full_disk_leaves_the_book_as_it_was(shelf: Shelf, request: pytest.FixtureRequest) -> None:
    """A real one, of a megabyte; the payloads cannot be packed any smaller."""
    import random

    chance = random.Random(3)
    shelf.desk.clock.advance(-39 * DAY)
    for number in range(20):
        shelf.add(f"large-{number}", *HAPPY, body=chance.randbytes(100_000))
    shelf.desk.clock.advance(39 * DAY)
    shelf.add("last", (Kind.PUBLISHED, 0))
    post_all(shelf.desk.book)

    report = on_a_small_disk(request, CLOSE, shelf.place, str(shelf.desk.now))

    assert "is full: nothing was taken out of the book" in report["error"]
    assert report["before"] == report["after"]
    assert (report["seals"], report["files"]) == (0, [])
    assert shelf.verify().clean
    assert shelf.close().pruned == 35
    assert shelf.verify().clean


# ---- what stays, and what is not there -------------------------------------------------------------------------------


def test_close_says_which_messages_stay_though_they_have_ended(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    shelf.desk.clock.advance(180)
    shelf.add("last", *HAPPY)
    post_all(shelf.desk.book)

    _, first, _ = typed(capfd, shelf, "close", "--days", "0")
    _, again, _ = typed(capfd, shelf, "close", "--days", "0")

    assert "kept: 1 message: the newest, that of the newest entry" in first
    assert again.startswith(
        "NOTHING TO CLOSE: no message that ended before then is left in the book but those that stay"
    )
    assert document(capfd, shelf, "close", "--days", "0", schema="close")["kept"] == 1


def test_a_subject_that_nobody_knows_is_not_called_erased(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    document(capfd, shelf, "close", schema="close")
    why = ("--reason", "request of 3 May")

    code, out, err = typed(capfd, shelf, "archive", "erase", "case-setled-1", *why)

    assert (code, out) == (1, "")
    assert "no message of subject 'case-setled-1' is in the book or in its archive, so nothing was erased" in err
    assert document(capfd, shelf, "archive", "verify", schema="archive-verify")["erased"] == 0
    assert typed(capfd, shelf, "archive", "erase", "case-settled-1", *why)[0] == 0
    assert typed(capfd, shelf, "archive", "erase", "case-dead-1", *why)[0] == 0
    assert "erased: what a subject's messages carried, 2 times" in typed(capfd, shelf, "archive", "verify")[1]


def test_a_damaged_archive_is_told_with_what_to_do(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    document(capfd, shelf, "close", schema="close")
    (path,) = shelf.folder.path.glob("*.facts.parquet")
    data = bytearray(path.read_bytes())
    data[60:200] = bytes(byte ^ 255 for byte in data[60:200])
    path.write_bytes(data)

    code, _, err = typed(capfd, shelf, "why", "settled-1")

    assert code == 2
    assert f"{path.name} is damaged (" in err
    assert f"`crossfoot archive verify --db {shelf.place}` tells what else is" in err
    assert "restored from a backup" in err


def test_an_archive_that_was_not_asked_is_not_said_to_know_nothing(
    shelf: Shelf, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"from crossfoot import Crossfoot\napp = Crossfoot({QUEUE!r}, database='book.db')\n"
    (tmp_path / "shelved.py").write_text(program, encoding="utf-8")
    (tmp_path / "ids.txt").write_text("dead-1\nsettled-1\nnobody\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    document(capfd, shelf, "close", schema="close")
    plan = ["replay", "plan", "shelved:app", "--why", "a test", "--ids", "ids.txt"]
    try:
        run(plan)
        assert "neither the book nor its archive knows a message nobody on queue" in capfd.readouterr().err
        shelf.folder.path.rename(tmp_path / "elsewhere")
        run(plan)
    finally:
        sys.modules.pop("shelved", None)

    err = capfd.readouterr().err
    assert "the archive is not at" in err
    assert "the book does not know a message settled-1, nobody on queue" in err
    assert "neither" not in err
