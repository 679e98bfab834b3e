"""The peers: how each is started, with which settings, and what it promises.

One entry is one row of the table. `worker` is the command a user of that library would run, inside the peer's own virtual
environment ({bin} is that environment's bin folder); `procs` is how many times it is started. To add a project: write
apps/<name>_app.py (enqueue, pending, and a handler that calls common.SyncEffect or common.AsyncEffect), add
requirements/<venv>.txt and an entry here.

`n` is (messages for no-op, messages for effect), chosen so that a run takes about 5 to 20 seconds on two cores.

The guarantee is the one the settings of that row give:
  at-most-once   a crash loses what was being handled
  at-least-once  a crash repeats what was being handled; the handler must be idempotent
  exactly-once   the effect and the record that it happened commit together
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches


@dataclass
class Peer:
    name: str
    venv: str
    module: str
    worker: list[str]
    guarantee: str
    settings: str
    n: tuple[int, int] = (20_000, 10_000)  # messages for no-op, for effect
    services: tuple[str, ...] = ("redis", "postgres")
    procs: int = 1
    concurrency: int = 32
    env: dict[str, str] = field(default_factory=dict)
    has_books: bool = False
    """Whether its module has a `check` beside `pending`: what its books say afterwards."""


@dataclass
class Limit:
    """A bound, measured by `python -m apps.<module> run <name> N`, which times itself."""

    name: str
    module: str
    settings: str
    n: int
    venv: str = "limits"
    services: tuple[str, ...] = ("postgres",)
    has_books: bool = False


# fmt: off
# One row, one paragraph.
def celery(  # noqa: PLR0913, PLR0917 - a row's settings are its arguments
    name: str, guarantee: str, settings: str, pool: str, broker: str = "redis", late: str = "0",
    n: tuple[int, int] = (15_000, 10_000), c: int = 2, procs: int = 1,
) -> Peer:
    return Peer(name, "celery", "celery_app",
                ["{bin}/celery", "-A", "apps.celery_app", "worker", "--loglevel=ERROR",
                 f"--pool={pool}", f"--concurrency={c}", "--without-gossip", "--without-mingle",
                 "--without-heartbeat"],
                guarantee, settings, n, services=("redis" if broker == "redis" else "rabbitmq", "postgres"),
                env={"PEER_BROKER": broker, "PEER_ACKS_LATE": late}, procs=procs)


def crossfoot() -> list[Peer]:
    """crossfoot with its book in PostgreSQL beside the effects, and the queue there too, or in a broker."""
    queues = {"postgres": (), "redis": ("redis",), "amqp": ("rabbitmq",), "nats": ("nats",)}
    modes = {
        "": (["1"], (8_000, 8_000)),
        "-batch": (["100"], (20_000, 20_000)),
        "-optimistic": (["100", "--optimistic"], (20_000, 20_000)),
        "-list": (["100"], (20_000, 20_000)),
    }
    return [
        Peer(
            f"crossfoot-{queue}{suffix}", "crossfoot", "crossfoot_app",
            ["{bin}/crossfoot", "worker", "apps.crossfoot_app:app", "--batch", *batch],
            PROVEN, f"2 processes x 4 handlers (default) in threads, {MODES[suffix]}; {BOOKS[queue]}", n,
            (*services, "postgres"), procs=2, env={"PEER_BROKER": queue, "PEER_MANY": str(suffix == "-list")}, has_books=True,
        )
        for queue, services in queues.items()
        for suffix, (batch, n) in modes.items()
    ]


PROVEN = "effect exactly-once, proven"
MODES = {
    "": "one transaction a message",
    "-batch": "100 messages a transaction",
    "-optimistic": "100 messages a transaction, without savepoints",
    "-list": "a handler called with lists of 100, one INSERT each",
}
BOOKS = {
    "postgres": "book, queue and effect in one database",
    "redis": "book and effect in PostgreSQL, a Redis stream",
    "amqp": "book and effect in PostgreSQL, a quorum queue",
    "nats": "book and effect in PostgreSQL, a JetStream work queue in files",
}
LOSES = "at-most-once"
REPEATS = "at-least-once"
ONCE = "effect exactly-once"
CELERY = "no gossip/mingle/heartbeat, prefetch multiplier 64, results ignored"

PEERS = [
    *crossfoot(),
    celery("celery-redis", LOSES, f"prefork 2, acks early (default); {CELERY}", "prefork"),
    celery("celery-redis-late", REPEATS, f"prefork 2, acks_late; {CELERY}", "prefork", late="1"),
    celery("celery-redis-threads", LOSES, f"threads 8, acks early; {CELERY}", "threads", c=8, n=(10_000, 8_000)),
    celery("celery-redis-solo", REPEATS, f"2 workers with the solo pool, acks_late; {CELERY}", "solo", late="1", c=1,
           procs=2),
    celery("celery-amqp", LOSES, f"prefork 2, acks early; {CELERY}", "prefork", broker="amqp"),
    celery("celery-amqp-late", REPEATS, f"prefork 2, acks_late; {CELERY}", "prefork", broker="amqp", late="1"),
    Peer("dramatiq-redis", "dramatiq", "dramatiq_app",
         ["{bin}/dramatiq", "apps.dramatiq_app", "-p", "2", "-t", "8"],
         REPEATS, "2 processes x 8 threads (the default), default middleware", (40_000, 20_000)),
    Peer("dramatiq-redis-prefetch", "dramatiq", "dramatiq_app",
         ["{bin}/dramatiq", "apps.dramatiq_app", "-p", "2", "-t", "8"],
         REPEATS, "the same with dramatiq_queue_prefetch=500 (default: twice the threads)", (60_000, 25_000),
         env={"dramatiq_queue_prefetch": "500"}),
    Peer("dramatiq-amqp", "dramatiq", "dramatiq_app",
         ["{bin}/dramatiq", "apps.dramatiq_app", "-p", "2", "-t", "8"],
         REPEATS, "2 processes x 8 threads, default middleware, publisher confirms off (default)",
         (40_000, 20_000), ("rabbitmq", "postgres"), env={"PEER_BROKER": "amqp"}),
    Peer("taskiq-redis-stream", "taskiq", "taskiq_app",
         ["{bin}/taskiq", "worker", "apps.taskiq_app:broker", "--workers", "2", "--log-level", "ERROR",
          "--max-async-tasks", "100", "--max-prefetch", "100"],
         REPEATS, "2 processes x 100 tasks, prefetch 100, uvloop, ack when saved (default), no results",
         (40_000, 20_000)),
    Peer("arq", "arq", "arq_app", ["{bin}/arq", "apps.arq_app.WorkerSettings",
                                    "--custom-log-dict", "apps.arq_app.QUIET"],
         REPEATS, "1 process x 32 jobs, poll 10 ms (default 500), uvloop, keep_result 0, per-job log off",
         (15_000, 10_000)),
    Peer("saq-redis", "saq", "saq_app", ["{bin}/saq", "apps.saq_app.settings", "--workers", "2", "-q"],
         REPEATS, "2 processes x 100 jobs, uvloop, results not kept", (20_000, 15_000), concurrency=100),
    Peer("streaq", "streaq", "streaq_app", ["{bin}/streaq", "run", "apps.streaq_app:worker", "-w", "2"],
         REPEATS, "2 processes x 256 tasks, uvloop, ttl 0, batched enqueue", (12_000, 8_000), concurrency=256),
    Peer("huey-redis", "huey", "huey_app",
         ["{bin}/huey_consumer", "apps.huey_app.huey", "-k", "process", "-w", "2", "-q", "-C", "-n"],
         LOSES, "2 processes, blocking pop, no results", (80_000, 30_000)),
    Peer("procrastinate", "procrastinate", "procrastinate_app",
         ["{bin}/procrastinate", "--app=apps.procrastinate_app.app", "--log-level=error", "worker", "-q", "peers", "-c", "32"],
         REPEATS, "1 process x 32 jobs, LISTEN/NOTIFY, batch_defer of 100", (6_000, 5_000), ("postgres",)),
    Peer("pgqueuer", "pgqueuer", "pgqueuer_app",
         ["{bin}/python", "-m", "apps", "pgqueuer_app", "work"],
         REPEATS, "2 processes, batch 100, uvloop, enqueue of 100", (60_000, 20_000), ("postgres",), procs=2),
    Peer("dbos", "dbos", "dbos_app", ["{bin}/python", "-m", "apps", "dbos_app", "work"],
         ONCE, "2 processes x 8 workflows, queue poll 10 ms (default 1 s); no-op: a plain step; "
         "effect: a datasource transaction, READ COMMITTED", (2_500, 1_500), ("postgres",), procs=2, concurrency=8),
    Peer("faststream-nats", "faststream", "faststream_app",
         ["{bin}/faststream", "run", "apps.faststream_app:app", "--workers", "2", "-l", "error"],
         REPEATS, "JetStream file storage, 2 processes, pull batch 100, 32 workers each, uvloop",
         (40_000, 20_000), ("nats", "postgres"), env={"PEER_BROKER": "nats"}),
    Peer("faststream-amqp", "faststream", "faststream_app",
         ["{bin}/faststream", "run", "apps.faststream_app:app", "--workers", "2", "-l", "error"],
         REPEATS, "durable queue, persistent messages, publisher confirms, 2 processes, prefetch 32, uvloop",
         (30_000, 20_000), ("rabbitmq", "postgres"), env={"PEER_BROKER": "amqp"}),
]

LIMITS = [
    Limit("pg-insert-c1", "limits_app", "asyncpg, 1 connection, INSERT and commit one by one", 20_000),
    Limit("pg-insert-c8", "limits_app", "the same over 8 connections", 40_000),
    Limit("pg-insert-c32", "limits_app", "the same over 32 connections", 40_000),
    Limit("pg-insert-batch100", "limits_app", "1 connection, 100 inserts (executemany) a transaction", 200_000),
    Limit("pg-insert-multirow100", "limits_app", "1 connection, one INSERT ... SELECT unnest of 100 rows", 400_000),
    Limit("pg-skiplocked-batch100", "limits_app", "SKIP LOCKED 100 + insert effects (executemany) + DELETE in one "
          "transaction: the ceiling of an exactly-once effect in Postgres", 100_000),
    Limit("pg-skiplocked-multirow100", "limits_app", "the same, effects as one multi-row INSERT", 200_000),
    Limit("pg-skiplocked-1", "limits_app", "the same, one message a transaction, 8 connections", 10_000),
    Limit("sqlite-full-1", "limits_app", "sqlite3, WAL, synchronous=FULL, 1 a transaction", 40_000, services=()),
    Limit("sqlite-full-100", "limits_app", "sqlite3, WAL, synchronous=FULL, 100 a transaction", 600_000, services=()),
    Limit("sqlite-normal-1", "limits_app", "sqlite3, WAL, synchronous=NORMAL, 1 a transaction", 100_000, services=()),
    Limit("sqlite-normal-100", "limits_app", "sqlite3, WAL, synchronous=NORMAL, 100 a transaction", 800_000,
          services=()),
    Limit("sqs-boto3", "limits_app", "boto3 against the emulator: batches of 10, one thread", 300, services=("moto",)),
    Limit("sqs-boto3-t8", "limits_app", "boto3 against the emulator: batches of 10, 8 threads", 300,
          services=("moto",)),
    Limit("sqs-aiobotocore", "limits_app", "aiobotocore against the emulator: batches of 10, 8 in flight", 300,
          services=("moto",)),
]


# fmt: on

EVERYTHING: tuple[Peer | Limit, ...] = (*PEERS, *LIMITS)


def find(name: str) -> Peer | Limit:
    """A row by name. `<name>+aof` runs the same peer on Redis with appendfsync=always."""
    base = name.removesuffix("+aof")
    for entry in EVERYTHING:
        if entry.name == base:
            return entry
    near = get_close_matches(base, [entry.name for entry in EVERYTHING], 1)
    sys.exit(f"there is no row {name!r}: " + (f"did you mean {near[0]}?" if near else "`list` shows them"))


def services_of(names: Iterable[str]) -> set[str]:
    """What these rows need."""
    found = set()
    for name in names:
        for service in find(name).services:
            found.add("redis-aof" if service == "redis" and name.endswith("+aof") else service)
    return found
