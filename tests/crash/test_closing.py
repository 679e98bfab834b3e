"""Killed anywhere on the way into the archive: the book is as it was or closed, and the next closing goes on."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crossfoot.books.archive import prune
from crossfoot.books.archive.days import DAY as SECONDS
from crossfoot.boundaries import ArchiveBoundary
from crossfoot.clock import SECOND
from tests.crash.closer import Job
from tests.servers.postgres import Postgres, fresh_database, postgres_running
from tests.unit.archive_rig import MINUTE, Shelf, told

pytestmark = [pytest.mark.crash, pytest.mark.server]

OF_ERASING = {ArchiveBoundary.DURING_ERASE, ArchiveBoundary.BEFORE_ERASED, ArchiveBoundary.AFTER_ERASED}
OF_RANGES = {ArchiveBoundary.DURING_DROP}
"""PostgreSQL has ranges; they have tests of their own."""

DAY = SECONDS * SECOND

TIMES = 2
"""How often each boundary is died at, each time one time later."""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """Its commits do not wait for the disk: it is closers that are killed here, and never the server."""
    with postgres_running(fsync="off") as running:
        yield running


@pytest.fixture
def url(server: Postgres) -> Iterator[str]:
    with fresh_database(server) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgres"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    place = tmp_path / "book.db" if request.param == "sqlite" else request.getfixturevalue("url")
    made = Shelf(place, tmp_path / "archive")
    with closing(made.desk):
        made.fill(5)
        made.newest()
        yield made


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "PIECE", 4)


class Truth:
    """What must be the same, whatever happens."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.balance, self.fates = told(shelf.balance()), shelf.fates()

    def holds(self) -> None:
        assert told(self.shelf.balance()) == self.balance
        found = self.shelf.verify()
        assert found.clean, found.differences
        assert self.shelf.fates() == self.fates
        assert self.shelf.one("SELECT count(*) FROM crossfoot_pruning") == 0


def start(job: Job) -> subprocess.Popen[str]:
    told_it = msgspec.json.encode(job).decode()
    return subprocess.Popen(
        [sys.executable, "-m", "tests.crash.closer", told_it], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def die(job: Job) -> bool:
    """Whether the process died where it was told to; one that never gets there ends well."""
    process = start(job)
    _, said = process.communicate(timeout=120)
    assert process.returncode in (0, -signal.SIGKILL), said
    return process.returncode == -signal.SIGKILL


def job_of(shelf: Shelf, **more: Any) -> Job:
    times = {"before": shelf.desk.now, "horizon": shelf.desk.now - 3 * MINUTE} | more
    return Job(place=shelf.place, folder=str(shelf.folder.path), **times)


@pytest.mark.parametrize("boundary", sorted(set(ArchiveBoundary) - OF_ERASING - OF_RANGES))
def test_a_closing_that_is_killed_leaves_the_book_as_it_was_or_closed(shelf: Shelf, boundary: ArchiveBoundary) -> None:
    truth = Truth(shelf)
    deaths = 0
    later = {"horizon": shelf.desk.now + DAY} if boundary is ArchiveBoundary.DURING_GATHER else {}
    for nth in range(1, TIMES + 1):
        deaths += die(job_of(shelf, boundary=boundary.value, nth=nth, **later))
        truth.holds()
    assert deaths

    assert not die(job_of(shelf, **later))
    truth.holds()
    found = shelf.check()
    assert found.clean, found.faults
    assert found.left_over == ()
    assert found.messages >= 25
    assert not set(shelf.hot()) & {f"settled-{n}" for n in range(5)}


@pytest.mark.slow
def test_a_closing_that_is_killed_at_any_moment(shelf: Shelf) -> None:
    truth, chance = Truth(shelf), random.Random(5)
    for _ in range(12):
        process = start(job_of(shelf, most=3))
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.random() * 0.25)
        process.kill()
        process.communicate()
        truth.holds()

    assert not die(job_of(shelf))
    truth.holds()
    assert shelf.check().clean


def test_two_closers_at_once_close_each_message_once(shelf: Shelf) -> None:
    truth = Truth(shelf)
    processes = [start(job_of(shelf, most=3)) for _ in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said

    truth.holds()
    found = shelf.check()
    assert found.clean, found.faults
    assert found.messages == 25


def test_two_closers_with_a_folder_each_keep_one_chain(shelf: Shelf, tmp_path: Path) -> None:
    """Nobody should; then one of them says that the other one's files are not there, and nothing is lost."""
    truth = Truth(shelf)
    processes = [
        start(msgspec.structs.replace(job_of(shelf, most=100), folder=str(tmp_path / name))) for name in ("one", "two")
    ]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0 or "are not what was sealed" in said, said
    names = {path.name.split(".")[0] for name in ("one", "two") for path in (tmp_path / name).glob("*.parquet")}
    with shelf.desk.book.reading() as connection:
        seals = prune.seals(connection)
    assert [seal.number for seal in seals] == [1]
    assert {seal.name for seal in seals} == names
    (folder,) = [tmp_path / name for name in ("one", "two") if list((tmp_path / name).glob("*.parquet"))]
    shelf.folder.path = folder
    truth.holds()


@pytest.mark.parametrize("boundary", sorted(OF_ERASING))
def test_an_erasure_that_is_killed_leaves_an_archive_that_verifies(shelf: Shelf, boundary: ArchiveBoundary) -> None:
    shelf.close(most=10)
    assert die(job_of(shelf, boundary=boundary.value, erase="case-settled-1"))
    found = shelf.check()
    assert found.clean, found.faults

    assert not die(job_of(shelf, erase="case-settled-1"))
    found = shelf.check()
    assert found.clean, found.faults
    assert shelf.one("SELECT count(*) FROM crossfoot_facts WHERE name LIKE 'erasing%'") == 0
    assert b"secret of settled-1" not in shelf.everything_carried()
    assert b"secret of settled-2" in shelf.everything_carried()


def test_a_closing_goes_on_after_both_it_and_an_erasure_were_killed(shelf: Shelf) -> None:
    """The file of payloads is then the new one, which the book knows, and no damage."""
    truth = Truth(shelf)
    job = job_of(shelf, most=100)
    assert die(msgspec.structs.replace(job, boundary=ArchiveBoundary.AFTER_SEAL.value))
    assert die(msgspec.structs.replace(job, boundary=ArchiveBoundary.AFTER_ERASED.value, erase="case-settled-1"))

    assert not die(job)

    truth.holds()
    found = shelf.check()
    assert found.clean, found.faults
    assert b"secret of settled-1" not in shelf.everything_carried()
