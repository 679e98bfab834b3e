"""Where the demo's queues are: in the book's file or database, on a server that is started for it, or on one that is named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio.to_thread
import msgspec

from crossfoot.app import Crossfoot
from crossfoot.connection import is_postgres
from crossfoot.demo.servers import started
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Queue

SERVICE = "billing"
LATE = "billing-late"
"""The queue whose consumer comes too late."""

LIMIT_BYTES = 65_536
"""The largest message of the demo's embedded queue."""

REGION = "eu-central-1"
SHORT = 3.0
"""Seconds after which a late queue forgets, where that can be so short."""

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo"}
"""The emulator takes any."""


async def _by_itself() -> None:
    """The queue forgets without anybody's help."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The queues of one demo.

    Attributes:
        main, late: for the publisher.
        settings: what a worker's service must know to find the main queue; `late_settings` the other.
        environment: for worker processes.
        forget: has the late queue forget, where its server does not do so by itself in time.
        late_retention: seconds after which the late queue forgets.
        lease: seconds.
        patience: seconds that may pass without anything happening, beyond any wait there is.
    """

    main: Queue
    late: Queue
    settings: dict[str, Any]
    late_settings: dict[str, Any]
    late_retention: float
    lease: float = 8.0
    patience: float = 60.0
    environment: dict[str, str] = {}
    forget: Callable[[], Awaitable[None]] = _by_itself


def place_of(queue: str, database: str, folder: Path, endpoint: str | None) -> AbstractAsyncContextManager[Place]:
    """The queues of a demo.

    Args:
        database: of the book.
        folder: for what a server keeps that is started for the demo.
        endpoint: where the broker is; one is started unless given.

    Raises:
        UsageError: a package is missing, or an endpoint.
        QueueUnavailable: the broker does not start, or does not answer.
    """
    if queue == "embedded":
        return _beside_the_book(database) if is_postgres(database) else _embedded(Path(database))
    return _sqs(folder) if queue == "sqs" else _broker(queue, database, folder, endpoint)


@asynccontextmanager
async def _embedded(path: Path) -> AsyncIterator[Place]:
    """Both queues in the book's file, which must exist."""
    common: dict[str, Any] = {"max_bytes": LIMIT_BYTES, "ordered": False, "synchronous": SYNCHRONOUS}
    retention = 3.0
    yield Place(
        main=EmbeddedQueue(path, SERVICE, **common),
        late=EmbeddedQueue(path, LATE, retention=retention, **common),
        settings={"queue": f"embedded:{SERVICE}", **common},
        late_settings={"queue": f"embedded:{LATE}", "retention": retention, **common},
        late_retention=retention,
    )


SYNCHRONOUS = "NORMAL"
"""The demo kills processes and not the machine: what is committed survives that without a flush to the disk."""


@asynccontextmanager
async def _beside_the_book(database: str) -> AsyncIterator[Place]:
    """Both queues in the book's database."""
    yield _told(database, SHORT, lambda name: {"queue": f"embedded:{name}", "max_bytes": LIMIT_BYTES})


@asynccontextmanager
async def _sqs(folder: Path) -> AsyncIterator[Place]:
    """Both queues on an SQS server of the demo's own, which takes any credentials."""
    async with started("sqs", folder) as url:
        import boto3

        from crossfoot.queues.sqs import SqsQueue, ensure

        session = boto3.Session("demo", "demo", region_name=REGION)
        options: dict[str, Any] = {"endpoint_url": url, "region": REGION, "session": session}
        retention = 60.0
        await ensure(SERVICE, **options)
        await ensure(LATE, retention=retention, **options)
        shared = {"endpoint": url, "region": REGION, "synchronous": SYNCHRONOUS}
        yield Place(
            main=SqsQueue(SERVICE, **options),
            late=SqsQueue(LATE, **options),
            settings={"queue": f"sqs:{SERVICE}", **shared},
            late_settings={"queue": f"sqs:{LATE}", **shared},
            late_retention=retention,
            environment=CREDENTIALS,
        )


@asynccontextmanager
async def _broker(kind: str, database: str, folder: Path, endpoint: str | None) -> AsyncIterator[Place]:
    """Both queues on a broker, by names that nobody else has there."""
    if endpoint is None and kind == "postgres" and is_postgres(database):
        endpoint = database
    async with _given(endpoint) if endpoint else started(kind, folder) as url:
        own = uuid4().hex[:8]
        broker = BROKERS[kind]

        def settings(name: str) -> dict[str, Any]:
            return {"queue": broker.queue.format(name=f"{name}-{own}"), "endpoint": url, "max_bytes": LIMIT_BYTES}

        await broker.make(settings(SERVICE)["queue"], url, None)
        await broker.make(settings(LATE)["queue"], url, SHORT)
        yield _told(
            database, SHORT, settings, lease=broker.lease, patience=broker.patience,
            forget=partial(broker.forget, settings(LATE)["queue"], url),
        )  # fmt: skip


def _told(database: str, retention: float, settings: Callable[[str], dict[str, Any]], **others: Any) -> Place:
    """The place that settings lead to."""
    main = {"synchronous": SYNCHRONOUS, **settings(SERVICE)}
    late = {"synchronous": SYNCHRONOUS, "retention": retention, **settings(LATE)}
    return Place(
        main=Crossfoot(SERVICE, database=database, **main).queue,
        late=Crossfoot(SERVICE, database=database, **late).queue,
        settings=main, late_settings=late, late_retention=retention, **others,
    )  # fmt: skip


@asynccontextmanager
async def _given(endpoint: str) -> AsyncIterator[str]:
    yield endpoint


# ---- brokers -----------------------------------------------------------------------------------------------------------


async def _forgets(queue: str, url: str) -> None:
    """By itself."""


class Broker(msgspec.Struct, frozen=True):
    """How queues are made on one kind of broker.

    Attributes:
        queue: how settings name one.
        make: makes it, by that name, at that endpoint, with that retention.
        lease, patience: see `Place`.
        forget: see `Place`; by that name, at that endpoint.
    """

    queue: str
    make: Callable[[str, str, float | None], Awaitable[object]]
    lease: float = 8.0
    patience: float = 60.0
    forget: Callable[[str, str], Awaitable[None]] = _forgets


async def _make_redis(queue: str, url: str, retention: float | None) -> None:
    from crossfoot.queues.redis import ensure

    await ensure(queue.partition(":")[2], url=url)


async def _make_postgres(queue: str, url: str, retention: float | None) -> None:
    from crossfoot.queues.postgres import ensure

    await ensure(queue.partition(":")[2], url=url)


async def _make_nats(queue: str, url: str, retention: float | None) -> None:
    from crossfoot.queues.nats import ensure

    await ensure(queue, servers=url, retention=retention, lease=8.0)


async def _make_rabbitmq(queue: str, url: str, retention: float | None) -> None:
    from crossfoot.queues.rabbitmq import ensure

    await ensure(queue.partition(":")[2], url=url, retention=retention)


async def _make_kafka(queue: str, url: str, retention: float | None) -> None:
    from crossfoot.demo.group import PARTITIONS
    from crossfoot.queues.kafka import ensure

    await ensure(queue, servers=url, retention=retention, partitions=PARTITIONS)


async def _empty_kafka(queue: str, url: str) -> None:
    """What a topic's retention is over for is cleaned up every few minutes at best. This does it now: the topic is made anew."""
    from crossfoot.demo.group import delete_topic

    await anyio.to_thread.run_sync(delete_topic, queue, url)
    await _make_kafka(queue, url, SHORT)


BROKERS = {
    "postgres": Broker("postgres:{name}", _make_postgres),
    "redis": Broker("redis:{name}", _make_redis),
    "nats": Broker("nats:{name}/billing", _make_nats),
    # A message that is on its way between two of its queues is counted nowhere, and can be for minutes.
    "rabbitmq": Broker("rabbitmq:{name}?heartbeat=10", _make_rabbitmq, patience=300.0),
    # Whoever has had a partition and is killed is missed after a session, and a group takes its time to share anew.
    "kafka": Broker(
        "kafka:{name}?group=billing&session=6", _make_kafka, lease=5.0, patience=120.0, forget=_empty_kafka
    ),
}
