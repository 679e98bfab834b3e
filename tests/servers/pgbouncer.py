"""A real PgBouncer in transaction mode, on a free port of 127.0.0.1, in front of a PostgreSQL server of the tests'.

It refuses to run as root; where the tests do, it belongs to `nobody`, as PostgreSQL does. It hands a server's session to another client
after each transaction, and resets nothing in between, as is its default in this mode: what one leaves behind, the next one finds.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers.debian import unpacked
from tests.servers.postgres import LEASH, USER, Postgres, as_owner, owner
from tests.servers.processes import ATTEMPTS, STARTING_SECONDS, free_port
from tests.servers.run import HOST

PACKAGES = ("pgbouncer", "libc-ares2", "libevent-2.1-7")

CONFIGURATION = """\
[databases]
* = host={host} port={server} user={user}

[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
"""


class PgBouncer:
    """A pooler; `url` is a database's, through it."""

    def __init__(self, folder: Path, server: Postgres, sessions: int) -> None:
        self.folder = folder
        self.port = 0
        self._server = server
        self.sessions = sessions
        self._process: subprocess.Popen[bytes] | None = None

    def through(self, url: str) -> str:
        """The same database, through the pooler."""
        return url.replace(f":{self._server.port}/", f":{self.port}/")

    def start(self) -> None:
        """Start it. Raises `CannotBeHad` where there is none, `RuntimeError` with what it said where it does not start."""
        place = unpacked("pgbouncer", PACKAGES, _is_complete, what="usr/sbin/pgbouncer")
        libraries = (
            ":".join(str(found) for found in (place / "usr/lib").glob("*-linux-gnu*")) if place != Path("/") else ""
        )
        for _ in range(ATTEMPTS):
            self.port = free_port()
            ini = self.folder / "pgbouncer.ini"
            ini.write_text(
                CONFIGURATION.format(
                    host=HOST, port=self.port, server=self._server.port, user=USER, sessions=self.sessions
                )
            )
            ini.chmod(0o644)
            with (self.folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, str(LEASH), *as_owner(), str(place / "usr/sbin/pgbouncer"), str(ini)],
                    env={**os.environ, "LD_LIBRARY_PATH": libraries}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                )  # fmt: skip
            if self._answers():
                return
            self.stop()
        raise RuntimeError(f"pgbouncer did not start:\n{(self.folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        until = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            with suppress(OSError), socket.create_connection((HOST, self.port), timeout=2):
                return True
            time.sleep(0.02)
        return False


def _is_complete(place: Path) -> bool:
    return (place / "usr/sbin/pgbouncer").exists()


@contextmanager
def pgbouncer_before(server: Postgres, *, sessions: int = 4) -> Iterator[PgBouncer]:
    """A pooler before `server`, ready; ended on leaving.

    Args:
        sessions: of the server, for each database and user. They are handed round, the one used last first.

    Raises:
        CannotBeHad: there is none on this machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="crossfoot-pgbouncer-"))
    try:
        if whose := owner():
            os.chown(folder, *whose)
        pooler = PgBouncer(folder, server, sessions)
        pooler.start()
        try:
            yield pooler
        finally:
            pooler.stop()
    finally:
        shutil.rmtree(folder)
