"""What the guide on operating says of exit codes, stopping, missing parts and logs is so."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.shell import (
    BIN,
    ENVIRONMENT,
    QUICKSTART,
    SECONDS,
    TYPED,
    crossfoot,
    obey_permissions,
    rows,
    wait_until,
)
from tests.servers.processes import Server, free_port

pytest_plugins = ["tests.servers.fixtures"]


@pytest.fixture
def quickstart(tmp_path: Path) -> Path:
    """A copy of the quickstart's folder."""
    return Path(shutil.copytree(QUICKSTART, tmp_path / "quickstart", ignore=TYPED))


@pytest.fixture(scope="module")
def _published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(QUICKSTART, tmp_path_factory.mktemp("operating") / "quickstart", ignore=TYPED))
    arguments = ["--subject", "case-1", "--sequence", "1", "--data", '{"amount": "x1x"}']
    crossfoot(folder, "publish", "billing:app", "case.released", *arguments)
    return folder


@pytest.fixture
def published(_published: Path, tmp_path: Path) -> Path:
    """The same with a book, in which one message waits. Its amount is no number, over which a handler stumbles."""
    return Path(shutil.copytree(_published, tmp_path / "published"))


@pytest.mark.parametrize(
    ("variables", "arguments", "says"),
    [
        ({"CROSSFOOT_CONCURENCY": "3"}, ["worker", "billing:app"], "did you mean 'concurrency'?"),
        ({}, ["worker", "billing:app", "--bach", "3"], "--batch"),
        ({}, ["worker", "billing:ap"], "it has app"),
        ({}, ["balance"], "there is no file crossfoot.db"),
        ({"CROSSFOOT_QUEUE": "pulsar://me:secret@host/q"}, ["worker", "billing:app"], "queue = 'pulsar'"),
        ({"CROSSFOOT_QUEUE": "pulsar:billing"}, ["worker", "billing:app"], "crossfoot knows 'embedded', SQS"),
    ],
)
def test_wrong_use_ends_with_2_and_a_remedy(
    variables: dict[str, str], arguments: list[str], says: str, quickstart: Path
) -> None:
    done = crossfoot(quickstart, *arguments, code=2, **variables)

    assert says in done.stderr
    assert done.stdout == ""


AWS = {"CROSSFOOT_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@pytest.mark.server
@pytest.mark.xdist_group("ministack")
def test_a_queue_that_does_not_exist_ends_a_worker_with_2(ministack: Server, quickstart: Path) -> None:
    done = crossfoot(
        quickstart, "worker", "billing:app", code=2,
        CROSSFOOT_QUEUE="sqs:nowhere", CROSSFOOT_ENDPOINT=ministack.url, **AWS,
    )  # fmt: skip

    assert "queue nowhere does not exist: create it" in done.stderr


def test_a_queue_that_does_not_answer_ends_a_worker_with_2(quickstart: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"

    done = crossfoot(
        quickstart, "worker", "billing:app", code=2,
        CROSSFOOT_QUEUE="sqs:billing", CROSSFOOT_ENDPOINT=endpoint, **AWS,
    )  # fmt: skip

    assert "queue billing cannot be reached" in done.stderr


def test_a_publish_that_nobody_answers_ends_with_1_and_says_that_it_is_kept(quickstart: Path) -> None:
    nobody = {"CROSSFOOT_QUEUE": f"redis://127.0.0.1:{free_port()}/0/billing"}
    done = crossfoot(quickstart, "publish", "billing:app", "case.released", "--id", "kept-1", code=1, **nobody)

    assert "cannot be reached" in done.stderr
    assert "message kept-1 is in the book" in done.stderr
    assert "do not publish it again" in done.stderr
    page = crossfoot(quickstart, "why", "kept-1", "--json", code=None)
    assert "kept-1" in page.stdout


def test_a_publish_that_is_refused_ends_with_1_and_is_booked(quickstart: Path) -> None:
    done = crossfoot(quickstart, "publish", "billing:app", "case.released", code=1, CROSSFOOT_MAX_BYTES="100")

    assert "at most 100" in done.stdout
    assert '"refused": 1' in crossfoot(quickstart, "balance", "--json", code=None).stdout


def test_a_database_that_cannot_be_written_ends_worker_and_publish_with_2_and_is_not_changed(published: Path) -> None:
    book = published / "crossfoot.db"
    before = book.read_bytes()
    book.chmod(stat.S_IRUSR)

    for arguments in (["worker", "billing:app", "--until-idle"], ["publish", "billing:app", "case.released"]):
        done = crossfoot(published, *arguments, code=2, before=obey_permissions)
        assert "crossfoot.db cannot be written" in done.stderr

    assert book.read_bytes() == before


def test_a_book_of_a_newer_crossfoot_ends_every_command_with_2_and_is_not_changed(published: Path) -> None:
    book = published / "crossfoot.db"
    with sqlite3.connect(book) as connection:
        connection.execute("UPDATE crossfoot_version SET version_num = '9999'")
    connection.close()
    before = book.read_bytes()

    for arguments in (["worker", "billing:app"], ["balance"]):
        done = crossfoot(published, *arguments, code=2)
        assert "newer than this crossfoot's" in done.stderr

    assert book.read_bytes() == before


def test_a_file_that_is_no_database_ends_a_worker_with_2(quickstart: Path) -> None:
    (quickstart / "crossfoot.db").write_text("this is a letter, and no database\n" * 100, encoding="utf-8")

    assert "is not a SQLite database" in crossfoot(quickstart, "worker", "billing:app", code=2).stderr


@pytest.mark.parametrize(("how", "code", "in_order"), [(signal.SIGTERM, 0, True), (signal.SIGKILL, -9, False)])
def test_a_worker_says_in_the_book_that_it_stopped_in_order_unless_it_was_killed(
    how: signal.Signals, code: int, in_order: bool, published: Path
) -> None:
    book = published / "crossfoot.db"
    command = [str(BIN / "crossfoot"), "worker", "billing:app"]
    with subprocess.Popen(command, cwd=published, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as worker:
        try:
            wait_until(book, "SELECT 1 FROM crossfoot_workers")
            worker.send_signal(how)
            assert worker.wait(SECONDS) == code
        finally:
            worker.kill()

    assert rows(book, "SELECT stopped_at IS NOT NULL FROM crossfoot_workers") == [(in_order,)]


def test_beside_the_database_there_is_an_empty_file_for_the_turnstile(published: Path) -> None:
    assert (published / "crossfoot.db-turn").stat().st_size == 0


def test_what_messages_carry_and_exceptions_say_is_not_logged(published: Path) -> None:
    done = crossfoot(published, "worker", "billing:app", "--until-idle", "--verbose", CROSSFOOT_ATTEMPTS="2")

    assert "TypeError at billing:write_letter" in done.stderr
    assert "goes to the dead letters after delivery 2" in done.stderr
    assert "x1x" not in done.stderr
    assert "not supported between" not in done.stderr
