"""A topic and its dead letters, made if they are not there: for development, tests and deployment scripts.

In production topics belong to whoever owns the cluster; `KafkaQueue` only checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyio import to_thread

from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.kafka.address import address_of
from crossfoot.queues.kafka.answers import import_client
from crossfoot.queues.kafka.opening import client_settings

WAIT_SECONDS = 10.0


async def ensure(
    queue: str,
    *,
    servers: str | None = None,
    group: str | None = "crossfoot",
    partitions: int = 1,
    replication: int = 1,
    retention: float | None = None,
    settings: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> str:
    """Make sure that the topic and that of its dead letters exist. Those that do are left as they are.

    Args:
        queue: an address, as `KafkaQueue` takes it.
        servers, group: what the address does not say.
        partitions, replication: of each topic.
        retention: seconds after which the topic forgets; `None` for the cluster's own. Dead letters are kept for ever.
        settings: more settings of the topic, such as `min.insync.replicas`.
        config: more for the client.

    Returns:
        The queue's name.

    Raises:
        UsageError: the cluster refuses to make them so, or `config` has what is decided by crossfoot.
        QueueUnavailable: it cannot be reached.
    """
    place = address_of(queue, servers=servers, group=group)
    own = dict(settings or {})
    if retention is not None:
        own["retention.ms"] = str(round(retention * 1_000))

    def make() -> None:
        kafka = import_client()
        client = kafka.admin.AdminClient(client_settings(place, config or {}))
        wanted = [
            kafka.admin.NewTopic(place.topic, partitions, replication, config=own),
            kafka.admin.NewTopic(place.dead, partitions, replication, config={"retention.ms": "-1"}),
        ]
        for topic, answer in client.create_topics(wanted, request_timeout=WAIT_SECONDS).items():
            try:
                answer.result()
            except kafka.KafkaException as error:
                name = error.args[0].name()
                if name == "TOPIC_ALREADY_EXISTS":
                    continue
                text = f"topic {topic} could not be made at {place.servers}: {error.args[0].str()} ({name})"
                if name.startswith("_"):
                    raise QueueUnavailable(f"{text}. Check the address, and whether the server runs") from error
                raise UsageError(text) from error

    await to_thread.run_sync(make)
    return place.name
