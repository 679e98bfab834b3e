"""Settings: from `crossfoot.toml`, then the environment, then the program; the later wins. None is needed to begin."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from crossfoot.connection import driver_of, is_postgres
from crossfoot.errors import UnknownSetting, UsageError

FILE = "crossfoot.toml"
PREFIX = "CROSSFOOT_"

DRIVERS = ("", "psycopg", "asyncpg")
"""What the URL of a PostgreSQL database may name."""


_KEYWORDS = re.compile(r"\s*(service|host|hostaddr|port|dbname|user|password)\s*=")
"""The other way in which libpq is told of a database."""

CENTURY = 100 * 366 * 86_400.0
"""Seconds; what is longer, or endless, is no time that can be waited."""


class LogFormat(StrEnum):
    """How a worker logs."""

    text = "text"
    json = "json"


class Loop(StrEnum):
    """The event loop of a worker; `auto` is uvloop where it is installed."""

    auto = "auto"
    asyncio = "asyncio"
    uvloop = "uvloop"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set, with its default.

    Attributes:
        database: the SQLite file that holds the business tables and the book, or the URL of a PostgreSQL database:
            `postgresql://USER:PASSWORD@HOST:5432/NAME`.
        queue: `embedded` (a table in the database); the URL or name of an SQS queue: `sqs:NAME`, `https://sqs...`; those of a
            stream of Redis or Valkey: `redis:NAME`, `redis://host:6379/0/NAME`; those of a queue in a PostgreSQL database:
            `postgres:NAME`, `postgresql://host/database?queue=NAME`; a durable of a NATS stream:
            `nats://HOST:4222/STREAM/DURABLE`, `nats:STREAM/DURABLE`; a queue of RabbitMQ: `rabbitmq:NAME`,
            `amqp://HOST:5672/VHOST/NAME`; or a consumer group on a topic of Kafka: `kafka:TOPIC?group=GROUP`,
            `kafka://HOST:9092/TOPIC?group=GROUP`.
        endpoint: where the queue's server is: another endpoint for SQS, such as an emulator's; the URL of Redis, of RabbitMQ,
            or of the database; the servers of NATS or Kafka.
        region: the AWS region, where the AWS configuration does not say.
        ordered: whether a queue that is a table delivers the messages of one subject one after the other.
        retention: seconds after which a queue that is a table, or a stream, forgets.
        max_bytes: the largest message of a queue that is a table, of a stream, of RabbitMQ or of Kafka.
        payloads: whether the book keeps what messages carry (needed to show it and to send it again).
        synchronous: SQLite's: `FULL` survives a power cut, `NORMAL` may lose the last commits in one.
        concurrency, batch, optimistic, lease, wait, grace, reconcile, prefetch: see `crossfoot.worker.worker.Pattern`, which knows their
            bounds.
        attempts, backoff, backoff_cap, unknown_for: see `crossfoot.worker.retry.Retry`, likewise.
        archive: the folder that closed buckets go to; beside a SQLite file, as `NAME.archive`, unless stated.
        keep: seconds that a message stays in the book after its last entry, before `crossfoot close` takes it.
        horizon: the deduplication horizon, seconds: so long a completed operation is known, whoever asks for it again;
            never less than `retention`, for a queue may deliver what it keeps.
        log_format, loop: of `crossfoot worker`: how it logs, `text` or `json`; and its event loop, `auto`, `asyncio` or `uvloop`.
    """

    database: str = "crossfoot.db"
    queue: str = "embedded"
    endpoint: str | None = None
    region: str | None = None
    ordered: bool = False
    retention: float = 14 * 86_400.0
    max_bytes: int = 1024 * 1024
    payloads: bool = True
    synchronous: str = "FULL"
    concurrency: int = 4
    batch: int = 1
    optimistic: bool = False
    lease: float = 30.0
    wait: float = 1.0
    grace: float = 25.0
    reconcile: float = 30.0
    prefetch: int = 64
    attempts: int = 5
    backoff: float = 0.5
    backoff_cap: float = 300.0
    unknown_for: float = 600.0
    archive: str | None = None
    keep: float = 30 * 86_400.0
    horizon: float = 90 * 86_400.0
    log_format: str = "text"
    loop: str = "auto"

    def __post_init__(self) -> None:
        if "://" in self.database and not is_postgres(self.database):
            kind = self.database.partition("://")[0]  # the rest may hold a password
            raise UsageError(
                f"database = '{kind}://...': the name of a SQLite file is wanted, or postgresql://USER@HOST/DATABASE; for "
                "SQLAlchemy give the engine: Crossfoot(..., database=create_engine(...))"
            )
        if _KEYWORDS.match(self.database):  # may hold a password
            raise UsageError(
                "database = 'KEYWORD=VALUE ...': write it as a URL, postgresql://USER@HOST:PORT/DATABASE?KEYWORD=VALUE"
            )
        if driver_of(self.database) not in DRIVERS:
            raise UsageError(
                f"database = 'postgresql+{driver_of(self.database)}://...': crossfoot works with psycopg and asyncpg: write "
                "postgresql://USER@HOST/DATABASE, or postgresql+asyncpg://USER@HOST/DATABASE"
            )
        if self.max_bytes < 1:
            raise UsageError(f"max_bytes = {self.max_bytes}: it must be at least 1")
        if not 0 < self.retention <= CENTURY:
            raise UsageError(f"retention = {self.retention}: give seconds, more than 0 and a century at most")
        if not 0 <= self.keep <= CENTURY:
            raise UsageError(f"keep = {self.keep}: give seconds, 0 or more and a century at most")
        if not 0 <= self.horizon <= CENTURY:
            raise UsageError(f"horizon = {self.horizon}: give seconds, 0 or more and a century at most")
        for name, known in (("log_format", LogFormat), ("loop", Loop)):
            if getattr(self, name) not in list(known):
                raise UsageError(f"{name} = {getattr(self, name)!r}: it is one of {', '.join(known)}")
        if self.synchronous not in ("FULL", "NORMAL", "EXTRA"):
            raise UsageError(f"synchronous = {self.synchronous!r}: SQLite knows FULL, NORMAL and EXTRA")


NAMES = tuple(field.name for field in msgspec.structs.fields(Settings))


def load(folder: Path | None = None, environment: Mapping[str, str] | None = None, **program: Any) -> Settings:
    """Read the settings.

    Args:
        folder: where `crossfoot.toml` is looked for; the working folder unless given.
        environment: `CROSSFOOT_<NAME>` variables; the process's own unless given.
        program: settings stated in code or on the command line; `None` means not stated.

    Raises:
        UnknownSetting: with the nearest known name.
        UsageError: a value of the wrong kind, or a file that is no TOML.
    """
    environment = os.environ if environment is None else environment
    path = (folder or Path()) / FILE
    merged: dict[str, Any] = {}
    said: dict[str, str] = {}
    for origin, values in (
        (str(path), _file(path)),
        ("the environment", _variables(environment)),
        ("the program", program),
    ):
        for name, value in values.items():
            if value is not None:
                merged[_known(name, origin)] = value
                said[name] = origin
    for name, value in merged.items():
        try:
            msgspec.convert({name: value}, Settings, strict=False)
        except msgspec.ValidationError as error:
            expected = str(error).partition(" - at ")[0].partition(",")[0].lower()
            raise UsageError(f"{said[name]} sets {name} = {value!r}: {expected}") from error
    return msgspec.convert(merged, Settings, strict=False)


def _file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return values


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    own = {name[len(PREFIX) :].lower(): value for name, value in environment.items() if name.startswith(PREFIX)}
    return {name: value for name, value in own.items() if value != ""}


def _known(name: str, origin: str) -> str:
    if name in NAMES:
        return name
    near = get_close_matches(name, NAMES, 1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"the settings are {', '.join(NAMES)}"
    raise UnknownSetting(f"{origin} sets {name!r}, which is no setting: {hint}")
