"""Which queue a setting names: one table of schemes, for who works a queue and for who only asks what it holds.

A client is imported when its scheme is met, and not before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from crossfoot.clock import Clock
from crossfoot.connection import is_postgres, without_driver
from crossfoot.errors import UsageError
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Queue
from crossfoot.settings import Settings


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A queue, as it is asked for.

    Attributes:
        name: what it is called where the setting leaves that open.
        consumer: under which name it is consumed, where that is another one: a durable of NATS, a group of Kafka.
        settings: of the service; `queue` is what names it.
        path: the book's file, or the URL of its database.
        works: whether it is to be worked, and not only looked at.
    """

    name: str
    consumer: str
    settings: Settings
    path: str
    works: bool
    clock: Clock | None = None

    @property
    def kind(self) -> str:
        return self.settings.queue.partition(":")[0]

    @property
    def rest(self) -> str:
        return self.settings.queue.partition(":")[2]

    @property
    def is_url(self) -> bool:
        return self.rest.startswith("//")

    @property
    def where(self) -> str:
        """The whole URL, or what follows the scheme."""
        return self.settings.queue if self.is_url else self.rest

    def bounds(self, *names: str) -> dict[str, Any]:
        """Those of the settings, which are for who works it: who looks sets nothing aside, and sends nothing."""
        if self.works:
            return {name: getattr(self.settings, name) for name in names}
        return {"retention": None} if "retention" in names else {}  # a queue's own would set aside what workers keep


def queue_of(name: str, path: str, settings: Settings, clock: Clock) -> Queue:
    """The queue that a service's settings name.

    Raises:
        UsageError: there is no such scheme, or what follows it cannot be read.
    """
    wanted = Wanted(name=name, consumer=name, settings=settings, path=path, works=True, clock=clock)
    scheme = SCHEMES.get(wanted.kind)
    if scheme is None:
        told = repr(wanted.kind) if "//" in wanted.rest else repr(settings.queue)  # a URL may hold a password
        raise UsageError(f"queue = {told}: crossfoot knows {KNOWN}")
    return scheme.make(wanted)


def queue_to_ask(name: str, settings: Settings) -> Queue | None:
    """The queue that is called so in a book, to be asked what it holds; `None` if the settings do not lead to it, or it lies in the
    book's own file."""
    kind = settings.queue.partition(":")[0]
    scheme = SCHEMES.get(kind)
    if scheme is None or (kind == "embedded" and not is_postgres(settings.database)):
        return None
    place, consumer = scheme.called(name)
    queue = scheme.make(Wanted(name=place, consumer=consumer, settings=settings, path=settings.database, works=False))
    return queue if queue.name == name else None


# ---- schemes ---------------------------------------------------------------------------------------------------------


def _embedded(w: Wanted) -> Queue:
    if w.works and w.settings.queue.endswith(":"):
        raise UsageError(
            f"queue = {w.settings.queue!r}: name the queue behind the colon, or write 'embedded' for {w.name!r}"
        )
    if is_postgres(w.path):
        if not w.works:
            from crossfoot.queues.postgres import PostgresQueue

            return PostgresQueue(w.rest or w.name, url=without_driver(w.path), **w.bounds("retention"))
        from crossfoot.queues.postgres.beside import QueueBesideTheBook

        return QueueBesideTheBook(
            w.rest or w.name, url=w.path, clock=w.clock, **w.bounds("retention", "max_bytes", "ordered")
        )
    return EmbeddedQueue(
        w.path, w.rest or w.name, clock=w.clock, **w.bounds("retention", "max_bytes", "ordered", "synchronous")
    )


def _sqs(w: Wanted) -> Queue:
    from crossfoot.queues.sqs import SqsQueue

    where = w.rest if w.kind == "sqs" else w.settings.queue
    return SqsQueue(where or w.name, endpoint_url=w.settings.endpoint, region=w.settings.region, clock=w.clock)


def _redis(w: Wanted) -> Queue:
    from crossfoot.queues.redis import RedisQueue

    return RedisQueue(w.where or w.name, url=w.settings.endpoint, clock=w.clock, **w.bounds("retention", "max_bytes"))


def _postgres(w: Wanted) -> Queue:
    from crossfoot.queues.postgres import PostgresQueue

    beside = w.path if is_postgres(w.path) else None
    if beside is not None and not w.works:
        beside = without_driver(beside)
    return PostgresQueue(
        w.name if w.is_url else w.rest or w.name,  # a URL may name the queue, or leave that to the service's name
        url=w.settings.queue if w.is_url else w.settings.endpoint or beside,
        clock=w.clock,
        **w.bounds("retention", "max_bytes", "ordered"),
    )


def _nats(w: Wanted) -> Queue:
    from crossfoot.queues.nats import NatsQueue

    return NatsQueue(w.settings.queue, servers=w.settings.endpoint, durable=w.consumer, clock=w.clock)


def _rabbitmq(w: Wanted) -> Queue:
    from crossfoot.queues.rabbitmq import RabbitQueue

    return RabbitQueue(w.where or w.name, url=w.settings.endpoint, clock=w.clock, **w.bounds("max_bytes"))


def _kafka(w: Wanted) -> Queue:
    from crossfoot.queues.kafka import KafkaQueue

    return KafkaQueue(
        w.where or w.name, servers=w.settings.endpoint, group=w.consumer, clock=w.clock, **w.bounds("max_bytes")
    )


def _same(name: str) -> tuple[str, str]:
    return name, name


class Scheme(NamedTuple):
    """How a queue of one kind is made.

    Attributes:
        called: from a queue's name in the book to `Wanted.name` and `Wanted.consumer`.
    """

    make: Callable[[Wanted], Queue]
    called: Callable[[str], tuple[str, str]] = _same


SCHEMES = {
    name: scheme
    for names, scheme in {
        "embedded": Scheme(_embedded),
        "sqs https http": Scheme(_sqs),
        "redis rediss": Scheme(_redis),
        "postgresql postgres": Scheme(_postgres),
        "nats tls ws wss": Scheme(_nats, lambda name: (name, name.rpartition("/")[2])),
        "rabbitmq amqp amqps": Scheme(_rabbitmq),
        "kafka kafkas": Scheme(_kafka, lambda name: (name.partition("/")[0], name.partition("/")[2] or name)),
    }.items()
    for name in names.split()
}
"""By what stands before the first colon of the setting."""

KNOWN = (
    "'embedded', SQS ('sqs:NAME', or the queue's URL), Redis or Valkey ('redis:STREAM', or "
    "'redis://HOST:6379/0/STREAM'), PostgreSQL ('postgres:NAME', or 'postgresql://HOST/DATABASE?queue=NAME'), NATS "
    "('nats://HOST:4222/STREAM/DURABLE'), RabbitMQ ('rabbitmq:QUEUE', or 'amqp://HOST:5672/VHOST/QUEUE') and Kafka "
    "('kafka:TOPIC?group=GROUP', or 'kafka://HOST:9092/TOPIC?group=GROUP')"
)
