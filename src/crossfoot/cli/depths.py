"""Asking queues outside the book's file how much they hold."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from crossfoot import settings
from crossfoot.books.custody import Depth
from crossfoot.connection import is_postgres, without_driver
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Queue
from crossfoot.settings import Settings

ASK_SECONDS = 10.0
"""How long a queue may take to answer."""


def depth_of(queue: str, path: str) -> Depth | None:
    """What a queue that does not live in the book's file `path` says of itself; `None` if no setting leads to it.

    Raises:
        QueueUnavailable: it could not be asked; `--no-queue` does without.
    """
    found = _queue(queue, settings.load(database=path))
    if found is None:
        return None
    with _quiet(logging.getLogger("crossfoot.queues")):
        return anyio.run(_ask, found)


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Without warnings: how a queue's server is set up is for workers to complain of."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


async def _ask(queue: Queue) -> Depth:
    try:
        with anyio.fail_after(ASK_SECONDS):
            await queue.open()
            depth = await queue.depth()
    except TimeoutError:
        raise QueueUnavailable(
            f"queue {queue.name} did not say what it holds within {ASK_SECONDS:.0f} s: check it, or balance the book "
            "alone with --no-queue"
        ) from None
    except QueueUnavailable as error:
        raise QueueUnavailable(f"{error}; --no-queue balances the book alone") from error
    finally:
        with anyio.CancelScope(shield=True):
            await queue.close()
    return Depth(held=depth.held, in_flight=depth.in_flight, dead=depth.dead, as_of=depth.as_of)


def _queue(name: str, chosen: Settings) -> Queue | None:
    """The queue of that name, if the settings lead to it."""
    kind, _, rest = chosen.queue.partition(":")
    if kind in ("nats", "tls", "ws", "wss"):
        from crossfoot.queues.nats import NatsQueue

        durable = NatsQueue(chosen.queue, servers=chosen.endpoint, durable=name.rpartition("/")[2])
        return durable if durable.name == name else None
    queue: Queue
    if kind in ("sqs", "https", "http"):
        from crossfoot.queues.sqs import SqsQueue

        queue = SqsQueue(
            (rest or name) if kind == "sqs" else chosen.queue, endpoint_url=chosen.endpoint, region=chosen.region
        )  # fmt: skip
    elif kind in ("redis", "rediss"):
        from crossfoot.queues.redis import RedisQueue

        queue = RedisQueue(chosen.queue if rest.startswith("//") else rest or name, url=chosen.endpoint)
    elif kind in ("rabbitmq", "amqp", "amqps"):
        from crossfoot.queues.rabbitmq import RabbitQueue

        queue = RabbitQueue(chosen.queue if rest.startswith("//") else rest or name, url=chosen.endpoint)
    elif kind in ("kafka", "kafkas"):
        from crossfoot.queues.kafka import KafkaQueue

        topic = chosen.queue if rest.startswith("//") else rest or name.partition("/")[0]
        queue = KafkaQueue(topic, servers=chosen.endpoint, group=name.partition("/")[2])
    elif kind in ("postgresql", "postgres") or (kind == "embedded" and is_postgres(chosen.database)):
        from crossfoot.queues.postgres import PostgresQueue

        whole = rest.startswith("//")
        beside = without_driver(chosen.database) if is_postgres(chosen.database) else None
        where = chosen.queue if whole else beside if kind == "embedded" else chosen.endpoint or beside
        queue = PostgresQueue(name if whole else rest or name, url=where, retention=chosen.retention)
    else:
        return None
    return queue if queue.name == name else None
