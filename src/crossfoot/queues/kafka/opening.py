"""Opening: the topic is found, its settings are learned and judged, and what works with it is put together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from crossfoot.errors import QueueMissing, UsageError
from crossfoot.queues.kafka.address import Address
from crossfoot.queues.kafka.checks import max_bytes_of, retention_of, told, warnings
from crossfoot.queues.kafka.looking import Looker
from crossfoot.queues.kafka.producer import AT_ONCE, Producer
from crossfoot.queues.queue import Capabilities, DepthIs, Order

_log = logging.getLogger("crossfoot.queues.kafka")

MAX_RECEIVE = 100

OURS = (
    "bootstrap.servers", "group.id", "group.protocol", "enable.auto.commit", "enable.auto.offset.store", "auto.offset.reset",
    "enable.partition.eof", "partition.assignment.strategy", "session.timeout.ms", "isolation.level", "acks", "enable.idempotence",
    "delivery.timeout.ms", "request.timeout.ms", "message.max.bytes", "max.poll.interval.ms", "heartbeat.interval.ms", "error_cb",
    "on_commit", "on_delivery",
)  # fmt: skip
"""The client's settings on which what is promised here rests."""


class Parts:
    """What an open queue consists of."""

    def __init__(
        self, place: Address, common: dict[str, Any], looker: Looker, found: Mapping[str, str], *, max_bytes: int, timeout: float
    ) -> None:  # fmt: skip
        self.looker = looker
        self.retention = place.retention if place.retention is not None else retention_of(found)
        self.max_bytes = max_bytes_of(found, max_bytes)
        self.told = told(found)
        self.producer = Producer(
            common, label=place.name, topic=place.topic, shown=place.servers, timeout=timeout, max_bytes=self.max_bytes
        )
        self.has_dead: bool | None = None
        """Whether there is a topic for dead letters, which only who receives needs."""


def open_parts(place: Address, common: dict[str, Any], *, max_bytes: int, timeout: float) -> Parts:
    """Find the topic, and say as a warning what its settings may lose. Blocks.

    Raises:
        QueueUnavailable: it does not exist or cannot be used; the servers cannot be reached or refuse us.
        UsageError: the client is not installed.
    """
    looker = Looker(place, common, timeout=timeout)
    try:
        if looker.partitions(place.topic) is None:
            raise QueueMissing(
                f"queue {place.name}: topic {place.topic} does not exist at {place.servers}: create it, or correct the queue's address"
            )
        found = looker.settings_of(place.topic)
        for warning in warnings(found):
            _log.warning("queue %s: %s", place.name, warning)
        return Parts(place, common, looker, found, max_bytes=max_bytes, timeout=timeout)
    except BaseException:
        looker.close()
        raise


def client_settings(place: Address, config: Mapping[str, Any]) -> dict[str, Any]:
    """What every client of the queue is made with.

    Raises:
        UsageError: `config` has what is decided here, or asks for transactions.
    """
    if "transactional.id" in config:
        raise UsageError(
            f"queue {place.name}: transactional.id: crossfoot uses no transactions of Kafka; what is to happen once commits in your "
            "database, by the operation key"
        )
    for name in OURS:
        if name in config:
            raise UsageError(f"queue {place.name}: {name} is decided by crossfoot, see the guide on Kafka")
    # What it would write to standard error is told here, in exceptions and answers.
    return {"client.id": "crossfoot", "log_level": 2, **place.security, **config, "bootstrap.servers": place.servers}


def consumer_settings(place: Address, common: dict[str, Any]) -> dict[str, Any]:
    """What a member of the group is made with."""
    session = place.session * 1_000
    return {
        "queued.max.messages.kbytes": 16_384, "fetch.wait.max.ms": 200, "fetch.queue.backoff.ms": 50, **common,
        "group.id": place.group, "enable.auto.commit": False, "enable.auto.offset.store": False, "auto.offset.reset": "error",
        "enable.partition.eof": True, "partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": session,
        "heartbeat.interval.ms": min(3_000, max(100, session // 4)), "max.poll.interval.ms": max(300_000, session),
        "isolation.level": "read_committed",
    }  # fmt: skip


def capabilities_of(place: Address, max_bytes: int) -> Capabilities:
    """What such a queue can do."""
    return Capabilities(
        order=Order.KEY,
        depth=DepthIs.APPROXIMATE,
        browsing=True,
        redrive=False,
        counts=False,
        receipts_fenced=True,
        publish_dedup=0.0,
        max_delay=0.0,
        max_release_delay=None,
        max_lease=float(place.session),
        max_receive=MAX_RECEIVE,
        max_publish=AT_ONCE,
        max_bytes=max_bytes,
    )
