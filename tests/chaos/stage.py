"""The stage of a run: servers, cables, disk and processes, as one pair of book and queue needs them."""

from __future__ import annotations

import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import psycopg

from crossfoot.connection import is_postgres
from crossfoot.queues.kafka import ensure
from tests.chaos.crew import PUBLISHER, WORKER, Slot
from tests.chaos.disk import Disk, small_disk
from tests.chaos.life import Life
from tests.chaos.schedule import Target
from tests.chaos.service import TABLES
from tests.chaos.warm import a_warm_process
from tests.crash.scene import make_queue, queue_name
from tests.servers.cable import Cable, cable_to
from tests.servers.kafka import Tansu, running_tansu
from tests.servers.ministack import MiniStack, ministack_running
from tests.servers.nats import NatsServer, running_nats
from tests.servers.postgres import Postgres, postgres_running
from tests.servers.processes import ServerClock, free_port
from tests.servers.rabbitmq import RabbitServer, running_rabbit
from tests.servers.valkey import Valkey, valkey_running

PAIRS = (
    "sqlite/embedded", "postgres/postgres", "postgres/postgres-apart", "postgres/redis", "postgres/nats",
    "postgres/rabbitmq", "postgres/sqs", "postgres/kafka",
)  # fmt: skip

Broker = Postgres | Valkey | NatsServer | RabbitServer | MiniStack | Tansu

SPARED = {
    "sqs": "the server of SQS is stopped in order and never killed: only then does it write down what it holds",
    "kafka": "the server that keeps the broker's log is left alone; the broker itself is killed",
}
"""What a pair does not suffer, and why not."""

SESSION = 3
"""Seconds after which the group takes a frozen worker for dead. It is frozen for longer."""

LINK = ("cut", "stall", "answers late", "answers lost", "requests lost")

ROOM = {"sqlite": 64, "postgres": 192}
"""Megabytes of the disk that holds the book, at the beginning."""

SHORT = 120.0
"""Seconds; in a run that is shorter, servers are struck every few seconds, and in a longer one after 40 s at most."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is asked for. Times in seconds.

    Attributes:
        patience: in which everything must have come to its end once nothing is broken any more.
        every: between two publishes.
        together: messages of one publish, at most.
        handlers: at once, in each worker.
        disk: whether a small one can be mounted that nobody else sees, see `tests.chaos.disk`.
        calm: no faults at all.
    """

    pair: str
    seed: int
    seconds: float
    workers: int = 2
    every: float = 0.25
    together: int = 4
    handlers: int = 2
    sabotage: str = ""
    patience: float = 120.0
    disk: bool = False
    calm: bool = False


class Stage:
    """Everything there is to be broken, by name."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.servers: dict[str, Broker] = {}
        self.cables: dict[str, Cable] = {}
        self.slots: dict[str, Slot] = {}
        self.disk: Disk | None = None
        self.truth: Life
        """The service as somebody sees it who stands beside the servers."""

    @property
    def workers(self) -> list[Slot]:
        return [slot for name, slot in self.slots.items() if name != "publisher"]

    def targets(self) -> list[Target]:
        """What can be done to whom."""
        # A group shares anew for seconds whenever a member comes or goes, and handles nothing meanwhile: it needs its pauses.
        calm = 3.0 if self.options.seconds >= SHORT or self.options.pair.endswith("/kafka") else 1.0
        servers = (5.0, 12.0) if self.options.seconds < SHORT else (5.0, 40.0)
        found = [
            Target(slot.name, ("kill", "freeze", "stop", "clock step"), (3.0, 9.0 * calm)) for slot in self.workers
        ]
        found.append(Target("publisher", ("kill", "freeze"), (6.0, 14.0 * calm)))
        for name, server in self.servers.items():
            kinds = {
                Postgres: ("restart", "crash", "hang", "sessions ended"),
                Valkey: ("crash", "hang", "memory full"),
                NatsServer: ("crash", "hang"),
                RabbitServer: ("crash", "hang"),
                MiniStack: ("restart", "hang"),
                Tansu: ("crash", "hang"),
            }[type(server)]
            # A virtual machine takes four seconds to start, and MiniStack as long to stop.
            slow = calm > 1 or isinstance(server, RabbitServer | MiniStack)
            longer = (12.0, 20.0) if slow and servers[1] < 20 else servers
            found.append(Target(name, kinds, longer))
        found += [Target(name, LINK, (5.0, 12.0 * calm)) for name in self.cables]
        if self.disk is not None:
            found.append(Target("disk", ("disk full",), (8.0, 20.0 * calm)))
        if not is_postgres(self.truth.database):
            found.append(Target("file", ("file locked",), (6.0, 15.0 * calm)))
        return found

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What is committed, read without any help of crossfoot's."""
        if is_postgres(self.truth.database):
            with psycopg.connect(self.truth.database, connect_timeout=5, autocommit=True) as connection:
                return connection.execute(sql.encode()).fetchall()
        with closing(sqlite3.connect(self.truth.database, timeout=10)) as lite:
            return lite.execute(sql).fetchall()


@contextmanager
def staged(options: Options, folder: Path) -> Iterator[Stage]:
    """Servers that run, tables, a queue, and processes that are not yet started. All is gone afterwards.

    Raises:
        CannotBeHad: a server is not to be had on this machine.
    """
    stage = Stage(options, folder)
    with ExitStack() as kept:
        book, queue = options.pair.split("/")
        (folder / "disk").mkdir()
        if options.disk:
            stage.disk = kept.enter_context(small_disk(folder / "disk", ROOM[book] + round(options.seconds / 6)))
        if book == "sqlite":
            database = str(folder / "disk" / "billing.db")
            route: Callable[[str], tuple[str, str | None]] = lambda _: (database, None)  # noqa: E731 - one of three
            name = "embedded"
        else:
            route, name = _served(stage, queue, folder, kept)
        stage.truth = _life(stage, "truth", name, *route(""))
        _make_tables(stage)
        if stage.truth.endpoint is not None:
            if queue == "kafka":
                anyio.run(partial(ensure, name, servers=stage.truth.endpoint, partitions=4))
            else:
                anyio.run(make_queue, name, stage.truth.endpoint, stage.truth.lease)
        warm = kept.enter_context(a_warm_process(folder))
        for number in range(1, options.workers + 1):
            who = f"worker {number}"
            stage.slots[who] = Slot(who, WORKER, _life(stage, who, name, *route("workers")), folder, warm)
        stage.slots["publisher"] = Slot(
            "publisher", PUBLISHER, _life(stage, "publisher", name, *route("publisher")), folder, warm
        )
        try:
            yield stage
        finally:
            for slot in stage.slots.values():
                slot.leave(0.0)


def _served(
    stage: Stage, queue: str, folder: Path, kept: ExitStack
) -> tuple[Callable[[str], tuple[str, str | None]], str]:
    """A database and a broker, with cables to both; and the way there, for `workers`, the `publisher` or directly."""
    log = {"min_wal_size": "2MB", "max_wal_size": "4MB"}
    database = kept.enter_context(postgres_running(folder / "disk", segment=1, fsync="off", **log))
    stage.servers["database"] = database
    broker: Broker | None = None
    if queue == "redis":
        broker = kept.enter_context(valkey_running(folder / "valkey"))
    elif queue == "nats":
        broker = kept.enter_context(running_nats(folder / "nats"))
    elif queue == "rabbitmq":
        broker = kept.enter_context(running_rabbit(folder / "rabbitmq"))
    elif queue == "sqs":
        broker = kept.enter_context(ministack_running(folder / "sqs"))
    elif queue == "kafka":
        broker = _kafka(stage, folder, kept)
    elif queue == "postgres-apart":
        database.run("CREATE DATABASE queues")
    if broker is not None:
        stage.servers["broker"] = broker
    for who in ("workers", "publisher"):
        stage.cables[f"{who} to database"] = kept.enter_context(cable_to(database.port))
        if queue not in ("postgres", "kafka"):
            port = broker.port if broker is not None else database.port
            stage.cables[f"{who} to broker"] = kept.enter_context(cable_to(port))

    def endpoint(port: int | None) -> str | None:
        if queue == "postgres":
            return None
        if broker is None or isinstance(broker, Postgres):
            return database.url("queues", port=port)
        return broker.url if port is None else broker.url.replace(f":{broker.port}", f":{port}")

    def route(who: str) -> tuple[str, str | None]:
        near, far = (stage.cables.get(f"{who} to {what}") for what in ("database", "broker"))
        return database.url(port=near.port if near else None), endpoint(far.port if far else None)

    return route, queue_name(endpoint(None)).replace("&session=1", f"&session={SESSION}")


def _kafka(stage: Stage, folder: Path, kept: ExitStack) -> Tansu:
    """A broker that tells all its clients to come by one cable: where they are to go is the broker's word and not theirs."""
    port = free_port()
    cable = stage.cables["clients to broker"] = kept.enter_context(cable_to(port))
    store = kept.enter_context(ministack_running(folder / "s3", "s3"))
    return kept.enter_context(running_tansu(folder / "kafka", store=store, port=port, reached_by=cable.port))


def _life(stage: Stage, who: str, queue: str, database: str, endpoint: str | None) -> Life:
    clock = stage.folder / f"{who}.clock"
    ServerClock(clock)
    chance = random.Random(f"{stage.options.seed} life")
    return Life(
        database=database, queue=queue, endpoint=endpoint, clock=str(clock), notes=str(stage.notes),
        pause=chance.uniform(0.01, 0.05), every=stage.options.every, batch=chance.choice((1, 1, 4)),
        together=stage.options.together, handlers=stage.options.handlers,
        sabotage=stage.options.sabotage if who.startswith("worker") else "",
    )  # fmt: skip


def _make_tables(stage: Stage) -> None:
    postgres = is_postgres(stage.truth.database)
    statements = [f"CREATE TABLE {table} (subject TEXT, message TEXT)" for table in (*TABLES, "orders")]
    number = "BIGSERIAL" if postgres else "INTEGER PRIMARY KEY AUTOINCREMENT"
    statements.append(f"CREATE TABLE moves (number {number}, subject TEXT, sequence INTEGER)")
    for statement in statements:
        if postgres:
            with psycopg.connect(stage.truth.database, autocommit=True) as connection:
                connection.execute(statement.encode())
        else:
            with closing(sqlite3.connect(stage.truth.database)) as lite:
                lite.execute(statement)


def a_folder() -> Path:
    """A new one, for everything that a run leaves."""
    folder = Path(tempfile.mkdtemp(prefix="crossfoot-chaos-"))
    folder.chmod(0o711)  # the servers' own user passes through
    return folder
