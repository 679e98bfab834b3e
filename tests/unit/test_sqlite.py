"""How crossfoot opens and writes SQLite files: who waits for whom, and what is said when it cannot be done."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NoReturn

import pytest

from crossfoot.books.store import Book
from crossfoot.errors import DatabaseUnavailable, DiskFull
from crossfoot.sqlite import Connection, connect, explain, truncate_wal
from crossfoot.turnstile import Turnstile

BODY = b"x" * 4_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with one table."""
    path = tmp_path / "app.db"
    with closing(connect(path)) as connection, connection.writing():
        connection.execute("CREATE TABLE turns (number INTEGER PRIMARY KEY, who INTEGER, body BLOB)")
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[Connection]:
    with closing(connect(path, synchronous="OFF")) as connection:
        yield connection


def count(connection: Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM turns").fetchone()[0])


def insert(connection: Connection, rows: int = 1) -> None:
    with connection.writing():
        connection.executemany("INSERT INTO turns (who, body) VALUES (0, ?)", [(BODY,)] * rows)


# ---- the turnstile -----------------------------------------------------------------------------------------------

WRITER = """
import sys
from crossfoot.sqlite import connect

path, who, turns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = connect(path, synchronous="OFF")
print("ready", flush=True)
for _ in range(turns):
    with connection.writing():
        connection.execute("INSERT INTO turns (who) VALUES (?)", (who,))
connection.close()
"""


def test_writers_are_let_in_in_the_order_in_which_they_came(
    request: pytest.FixtureRequest, path: Path, connection: Connection
) -> None:
    coming = [3, 1, 4, 2, 5]
    with ExitStack() as stack:
        connection.begin()
        running = []
        for who in coming:
            running.append(stack.enter_context(start(WRITER, str(path), str(who), "1")))
            wait_until_in_line(request, running[-1].pid)
        connection.finish()
        assert [process.wait(timeout=60) for process in running] == [0] * len(coming)

    assert [row[0] for row in connection.execute("SELECT who FROM turns ORDER BY number")] == coming


def test_many_busy_processes_all_get_through(path: Path, connection: Connection) -> None:
    processes, turns = 4, 200
    with ExitStack() as stack:
        connection.begin()
        running = [stack.enter_context(start(WRITER, str(path), str(who), str(turns))) for who in range(processes)]
        connection.finish()
        assert [process.wait(timeout=60) for process in running] == [0] * processes

    order = [row[0] for row in connection.execute("SELECT who FROM turns")]
    assert Counter(order) == dict.fromkeys(range(processes), turns)


HOLDER = """
import sys
from crossfoot.sqlite import connect

connection = connect(sys.argv[1])
connection.begin()
connection.execute("INSERT INTO turns (who) VALUES (1)")
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_writer_leaves_neither_a_lock_nor_a_row(path: Path, connection: Connection) -> None:
    with start(HOLDER, str(path)) as holder:
        waiting = threading.Thread(target=insert, args=(connection,))
        waiting.start()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        waiting.join()

    assert holder.returncode == -signal.SIGKILL
    assert count(connection) == 1


def test_threads_exclude_each_other_too(path: Path) -> None:
    threads, turns = 8, 25

    def add() -> None:
        with closing(connect(path, synchronous="OFF")) as connection:
            for _ in range(turns):
                with connection.writing():
                    connection.execute("INSERT INTO turns (who) SELECT count(*) FROM turns")

    running = [threading.Thread(target=add) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()

    with closing(connect(path)) as connection:
        seen = [row[0] for row in connection.execute("SELECT who FROM turns ORDER BY number")]
    assert seen == list(range(threads * turns)), "each saw all that was written before"


def test_a_program_that_knows_nothing_of_the_turnstile_is_waited_for_and_waits(
    path: Path, connection: Connection
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as stranger:
        connection.begin()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            stranger.execute("BEGIN IMMEDIATE")
        connection.finish()
        stranger.execute("BEGIN IMMEDIATE")
        stranger.execute("INSERT INTO turns (who) VALUES (7)")
        waiting = threading.Thread(target=insert, args=(connection,))
        waiting.start()
        stranger.execute("COMMIT")
        waiting.join()

    assert count(connection) == 2


def test_a_writer_that_cannot_begin_lets_the_next_one_in(path: Path, connection: Connection) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        connection.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(DatabaseUnavailable, match=r"stayed locked by another connection .*this very program"):
            connection.begin()
        stranger.execute("ROLLBACK")

    with closing(connect(path)) as other:
        insert(other)
    insert(connection)
    assert count(connection) == 2


def test_nobody_waits_for_ever_for_a_writer_that_is_frozen_and_the_turn_that_came_too_late_is_given_away(
    path: Path, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(connect(path)) as impatient, closing(connect(path)) as third:
        connection.begin()
        monkeypatch.setattr("crossfoot.turnstile.PATIENCE", 0.2)
        for _ in range(2):
            with pytest.raises(
                DatabaseUnavailable,
                match=r"app\.db has been locked for 0 s by .* this very process.*do what is slow before",
            ):
                impatient.begin()
        monkeypatch.undo()
        connection.finish()
        line = impatient.turnstile._line
        assert line is not None
        until = time.monotonic() + 10
        while line.under_way:
            assert time.monotonic() < until, "its turn never came"
            time.sleep(0.001)

        monkeypatch.setattr("crossfoot.turnstile.PATIENCE", 2.0)
        insert(third)
        insert(impatient)
        insert(connection)
        assert count(third) == 3


def test_a_turn_that_comes_in_time_is_taken_however_often_one_waited(path: Path, connection: Connection) -> None:
    with closing(connect(path)) as other:
        for _ in range(20):
            connection.begin()
            waiting = threading.Thread(target=insert, args=(other,))
            waiting.start()
            time.sleep(0.005)
            connection.finish()
            waiting.join(30)
        assert count(connection) == 20


def test_a_turnstile_of_nothing_lets_everybody_pass() -> None:
    turnstile = Turnstile("")
    turnstile.enter()
    turnstile.enter()
    turnstile.leave()
    turnstile.close()


# ---- transactions ------------------------------------------------------------------------------------------------


def test_what_was_written_is_there_for_others_and_what_failed_is_not(path: Path, connection: Connection) -> None:
    insert(connection)
    with pytest.raises(KeyboardInterrupt):
        _interrupted(connection)

    with closing(connect(path)) as other:
        insert(other)  # the lock is free again
        assert count(other) == 2


def _interrupted(connection: Connection) -> None:
    with connection.writing():
        connection.execute("INSERT INTO turns (who) VALUES (2)")
        raise KeyboardInterrupt


def test_abandoning_is_allowed_in_any_state(connection: Connection) -> None:
    connection.abandon()
    connection.begin()
    connection.abandon()
    connection.abandon()
    insert(connection)

    assert count(connection) == 1


def test_a_transaction_that_sqlite_rolled_back_by_itself_does_not_keep_the_lock(
    path: Path, connection: Connection
) -> None:
    insert(connection)
    with pytest.raises(sqlite3.IntegrityError), connection.writing():
        connection.execute("INSERT OR ROLLBACK INTO turns (number) VALUES (1)")

    with closing(connect(path)) as other:
        insert(other)
        assert count(other) == 2


def test_a_mistake_in_a_statement_stays_the_mistake_it_is(connection: Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError), connection.writing():
        connection.executemany("INSERT INTO turns (number) VALUES (?)", [(1,), (1,)])


# ---- the write-ahead log -----------------------------------------------------------------------------------------


def wal_size(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


def test_a_reader_that_is_never_idle_lets_the_log_grow_and_truncating_keeps_it_small(
    path: Path, connection: Connection
) -> None:
    limit, rows, rounds = 256 * 1024, 16, 100
    with closing(connect(path, read_only=True)) as one, closing(connect(path, read_only=True)) as other:
        for begins, ends in islice(cycle([(one, other), (other, one)]), rounds):
            begins.execute("BEGIN")
            count(begins)
            insert(connection, rows)
            if ends.in_transaction:
                ends.execute("COMMIT")
    grown = wal_size(path)
    with never_idle(path) as reads:
        largest = 0
        for _ in range(rounds):
            truncate_wal(connection, path, over=limit)
            insert(connection, rows)
            largest = max(largest, wal_size(path))

    assert grown > rounds * rows * len(BODY), "nothing was ever taken out of it"
    assert largest < limit + 10 * rows * len(BODY)
    assert count(connection) == 2 * rounds * rows
    assert reads[0] > 0, "the readers read on"


def test_a_reader_of_an_old_state_keeps_the_log_and_loses_nothing(path: Path, connection: Connection) -> None:
    insert(connection)
    with closing(connect(path, read_only=True)) as reader:
        reader.execute("BEGIN")
        assert count(reader) == 1
        insert(connection, 10)

        assert not truncate_wal(connection, path, over=0)
        assert count(reader) == 1
        reader.execute("COMMIT")

        assert truncate_wal(connection, path, over=0)
        assert wal_size(path) == 0
        assert count(reader) == 11
    insert(connection)  # the lock is free


def test_a_log_within_the_limit_is_left_alone(tmp_path: Path, path: Path, connection: Connection) -> None:
    insert(connection)
    assert not truncate_wal(connection, path)
    assert wal_size(path) > 0
    assert not truncate_wal(connection, tmp_path / "another.db"), "there is no log at all"


@contextmanager
def never_idle(path: Path) -> Iterator[list[int]]:
    """Two readers, each of which begins before the other one ends. Yields how often they read."""
    reads, begun, stop = [0], threading.Event(), threading.Event()
    steps = [threading.Semaphore(1), threading.Semaphore(0)]

    def read(mine: threading.Semaphore, others: threading.Semaphore) -> None:
        with closing(connect(path, read_only=True)) as reader:
            while not stop.is_set():
                mine.acquire()
                if reader.in_transaction:
                    reader.execute("COMMIT")
                reader.execute("BEGIN")
                reads[0] += count(reader) >= 0
                begun.set()
                others.release()

    readers = [threading.Thread(target=read, args=pair) for pair in (steps, steps[::-1])]
    for reader in readers:
        reader.start()
    begun.wait()
    try:
        yield reads
    finally:
        stop.set()
        for step in steps:
            step.release()
        for reader in readers:
            reader.join()


# ---- files that cannot be used -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b.db", "50%.db", "what?.db", "#1.db", "ü.db", "file:x.db"])
def test_any_name_of_a_file_will_do_also_for_readers(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with closing(connect(path)) as connection, connection.writing():
        connection.execute("CREATE TABLE turns (number INTEGER)")
    with closing(connect(path, read_only=True)) as reader:
        assert count(reader) == 0
    assert path.is_file()


def test_a_reader_cannot_write(path: Path) -> None:
    with closing(connect(path, read_only=True)) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM turns")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "app.db"

    with pytest.raises(DatabaseUnavailable, match=r"nowhere/app\.db cannot be opened .*check that its folder exists"):
        connect(path)


def test_a_reader_does_not_create_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "app.db"

    with pytest.raises(DatabaseUnavailable, match=r"app\.db cannot be opened"):
        connect(path, read_only=True)
    assert not path.exists()


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot be opened"):
        connect(tmp_path)


def test_another_file_is_no_database_and_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 100)

    with pytest.raises(DatabaseUnavailable, match=r"letter\.txt is not a SQLite database: name another file"):
        connect(path)
    assert path.read_text() == "Dear reader, " * 100


def test_an_old_sqlite_is_refused_with_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))

    with pytest.raises(DatabaseUnavailable, match=r"needs 3\.35\.0 or newer: upgrade Python"):
        connect(tmp_path / "app.db")


def test_what_is_not_known_is_passed_on_with_the_file() -> None:
    assert str(explain(sqlite3.OperationalError("strange"), "app.db")) == "app.db: strange"
    assert str(explain(sqlite3.OperationalError(), "app.db")) == "app.db: OperationalError"


def test_an_error_of_the_operating_system_that_means_full_is_full() -> None:
    assert isinstance(explain(OSError(28, "No space left on device"), "app.db"), DiskFull)


WRITE_AS_NOBODY = """
import encodings.idna, json, os, sqlite3, sys
from crossfoot.errors import DatabaseUnavailable
from crossfoot.sqlite import connect

if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    connection = connect(sys.argv[1])
    with connection.writing():
        connection.execute("INSERT INTO turns (who) VALUES (1)")
    print(json.dumps("written"))
except DatabaseUnavailable as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        (0o777, 0o444),
        (0o555, 0o666),
        (0o555, 0o444),
    ],
)
def test_a_file_or_folder_that_is_read_only_is_named_with_the_remedy(folder: int, file: int) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        path = Path(name) / "app.db"
        with closing(connect(path)) as connection, connection.writing():
            connection.execute("CREATE TABLE turns (who INTEGER)")
        os.chmod(f"{path}-turn", 0o666)  # noqa: S103 - as another user's folder may be
        os.chmod(path, file)
        os.chmod(name, folder)
        said = run(WRITE_AS_NOBODY, str(path))
        os.chmod(name, 0o700)

    assert said == (
        f"{path} cannot be written (attempt to write a readonly database): give this user write access to it and its folder"
    )


FILL = """
connection = connect(folder + "/app.db")
with connection.writing():
    connection.execute("CREATE TABLE turns (body BLOB)")
committed, error = 0, None
try:
    while committed < 1000:
        with connection.writing():
            connection.execute("INSERT INTO turns VALUES (zeroblob(50000))")
        committed += 1
except Exception as raised:
    error = raised
report = {"error": type(error).__name__, "says": str(error), "committed": committed}
report["kept"] = connection.execute("SELECT count(*) FROM turns").fetchone()[0]
report["open"] = connection.in_transaction
connection.close()
report["after"] = connect(folder + "/app.db").execute("SELECT count(*) FROM turns").fetchone()[0]
"""

SPILL = """
connection = connect(folder + "/app.db")
with connection.writing():
    connection.execute("CREATE TABLE turns (body BLOB)")
connection.execute("PRAGMA cache_size = 10")
report = {}
try:
    with connection.writing():
        for _ in range(1000):
            connection.execute("INSERT INTO turns VALUES (zeroblob(5000))")
except Exception as error:
    report = {"error": type(error).__name__}
report["kept"] = connection.execute("SELECT count(*) FROM turns").fetchone()[0]
"""


def test_on_a_full_disk_the_commit_fails_as_disk_full_and_all_that_was_committed_is_kept(
    request: pytest.FixtureRequest,
) -> None:
    report = on_a_small_disk(request, FILL)

    assert report["error"] == "DiskFull"
    assert "the disk that holds" in report["says"]
    assert "free some space, then start again; nothing more is acked" in report["says"]
    assert report["committed"] > 0
    assert report["committed"] == report["kept"] == report["after"]
    assert not report["open"]


def test_a_transaction_too_big_for_the_disk_fails_as_disk_full_too(request: pytest.FixtureRequest) -> None:
    """It is written while it runs, so it is a statement that fails, and not the commit."""
    assert on_a_small_disk(request, SPILL) == {"error": "DiskFull", "kept": 0}


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n" + FILL


def test_a_file_that_may_not_grow_is_an_error_with_the_file_and_loses_nothing(tmp_path: Path) -> None:
    """A limit of file sizes, as `ulimit -f` sets it: SQLite cannot tell it from a damaged disk."""
    report = run(PREAMBLE + LIMITED + "print(json.dumps(report))", str(tmp_path))

    assert report["error"] == "DatabaseUnavailable"
    assert f"{tmp_path / 'app.db'} cannot be read or written (disk I/O error): look at the disk" in report["says"]
    assert report["committed"] == report["kept"] == report["after"]


# ---- helpers -----------------------------------------------------------------------------------------------------

PREAMBLE = """
import json, sys
from crossfoot.books.store import Book
from crossfoot.sqlite import connect

folder = sys.argv[1]
"""

SMALL_DISK = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUSER, REC, PRIVATE = 0x20000, 0x10000000, 1 << 14, 1 << 18
uid, gid = os.getuid(), os.getgid()

def must(answer):
    if answer != 0:
        print(json.dumps({"unavailable": os.strerror(ctypes.get_errno())}))
        sys.exit()

must(libc.unshare(NEWNS if uid == 0 else NEWNS | NEWUSER))
if uid != 0:
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
must(libc.mount(b"none", b"/", None, REC | PRIVATE, None))
must(libc.mount(b"tmpfs", sys.argv[1].encode(), b"tmpfs", 0, b"size=1m"))
"""
"""A file system of one megabyte, seen by this process alone and gone with it."""


def on_a_small_disk(request: pytest.FixtureRequest, script: str, *arguments: str) -> dict[str, Any]:
    """Run a script that leaves a `report`, with `folder` on a disk of one megabyte."""
    with tempfile.TemporaryDirectory() as folder:
        report: dict[str, Any] = run(SMALL_DISK + PREAMBLE + script + "print(json.dumps(report))", folder, *arguments)
    if "unavailable" in report:
        unavailable(request, "a small disk of one's own", str(report["unavailable"]))
    return report


def run(script: str, *arguments: str) -> Any:
    """The JSON that a process prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def start(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it is ready; its input is closed at the end, and then it is waited for."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def wait_until_in_line(request: pytest.FixtureRequest, pid: int) -> None:
    """Until the kernel says that the process waits for a lock."""
    locks = Path("/proc/locks")
    if not locks.exists():
        unavailable(request, "the kernel's list of locks", "there is no /proc/locks")
    while not any(line.split()[1] == "->" and line.split()[5] == str(pid) for line in locks.read_text().splitlines()):
        os.sched_yield()


def unavailable(request: pytest.FixtureRequest, what: str, why: str) -> NoReturn:
    conftest = request.config.pluginmanager.get_plugin(str(Path(__file__).parents[1] / "conftest.py"))
    assert conftest is not None
    conftest.report_unavailable(request.config, what, why)
    pytest.skip(f"{what}: {why}; the run's last lines say so")


@pytest.mark.parametrize("another", [False, True], ids=["gone", "replaced"])
def test_a_book_whose_file_was_taken_from_under_it_says_so(tmp_path: Path, another: bool) -> None:
    path = tmp_path / "billing.db"
    book = Book(path).open()
    assert not book.tidy()
    (tmp_path / "elsewhere").mkdir()
    for file in tmp_path.glob("billing.db*"):
        file.rename(tmp_path / "elsewhere" / file.name)
    if another:
        Book(path).open().close()

    with pytest.raises(DatabaseUnavailable, match="was removed or replaced while it was in use"):
        book.tidy()
    book.close()
