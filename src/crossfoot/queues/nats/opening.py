"""Opening: stream and consumer are found, judged, and what works with them is put together."""

from __future__ import annotations

import logging
from typing import Any

from crossfoot.clock import Clock
from crossfoot.errors import QueueMissing, QueueUnavailable
from crossfoot.queues.nats.address import Address
from crossfoot.queues.nats.answers import NoAnswer, NobodyListens, Rejected
from crossfoot.queues.nats.checks import MOST_PER_PULL, Found, found, told, unfit, warnings
from crossfoot.queues.nats.connection import Connection
from crossfoot.queues.nats.ensure import DEDUP_SECONDS
from crossfoot.queues.nats.given_up import GivenUp, Kept
from crossfoot.queues.nats.receiving import Receiver
from crossfoot.queues.nats.settling import Settler
from crossfoot.queues.nats.stream import Reader
from crossfoot.queues.nats.together import AT_ONCE
from crossfoot.queues.queue import Capabilities, DepthIs, Order
from crossfoot.queues.telling import Told

_log = logging.getLogger("crossfoot.queues.nats")


class Parts:
    """What an open queue consists of."""

    def __init__(
        self, connection: Connection, place: Address, settings: Found, *, made: str, clock: Clock, poll: float
    ) -> None:
        stream, durable, wait = place.stream, place.durable, settings.ack_wait
        self.found = settings
        self.told = Told()
        self.warned = False
        """Whether it was said that there is no place for dead letters."""
        self.reader = Reader(connection, stream, durable, settings.subjects)
        self.settler = Settler(connection, stream, durable, made=made, ack_wait=wait, clock=clock)
        self.receiver = Receiver(
            connection, self.settler, f"{stream}.{durable}", ack_wait=wait, clock=clock,
            poll=min(poll, settings.longest_pull or poll),
        )  # fmt: skip
        self.given_up = GivenUp(self.reader, self.settler, stream, durable, settings.kept)


async def open_parts(connection: Connection, place: Address, *, clock: Clock, poll: float) -> Parts:
    """Find stream and consumer, and say as a warning what their settings may lose.

    Raises:
        QueueUnavailable: they do not exist or cannot be used as a queue; the servers cannot be reached or refuse us.
        UsageError: the client is not installed.
    """
    stream = await _info(connection, place, f"STREAM.INFO.{place.stream}", f"stream {place.stream}")
    consumer = await _info(
        connection, place, f"CONSUMER.INFO.{place.stream}.{place.durable}",
        f"durable {place.durable} of stream {place.stream}",
    )  # fmt: skip
    if reason := unfit(stream, consumer):
        raise QueueUnavailable(f"queue {place.name} at {place.shown} cannot be used: {reason}")
    for warning in warnings(stream, consumer):
        _log.warning("queue %s: %s", place.name, warning)
    limit = (await connection.link()).client.max_payload
    settings = found(stream, consumer, subject=place.subject, max_payload=limit)
    parts = Parts(connection, place, settings, made=str(stream["created"]), clock=clock, poll=poll)
    parts.told = told(stream, consumer)
    return parts


async def _info(connection: Connection, place: Address, what: str, name: str) -> dict[str, Any]:
    where = place.shown
    try:
        return await connection.api(what)
    except Rejected as error:
        if error.code == 404:
            raise QueueMissing(
                f"queue {place.name}: {name} does not exist at {where}: create it, or correct the queue's address"
            ) from error
        raise QueueUnavailable(f"queue {place.name}: {name} could not be read at {where}: {error}") from error
    except NobodyListens as error:
        raise QueueUnavailable(f"queue {place.name}: JetStream is not enabled at {where}, or not for us") from error
    except NoAnswer as error:
        raise QueueUnavailable(f"queue {place.name} could not be opened at {where}: {error}. Try again") from error


def capabilities_of(settings: Found | None) -> Capabilities:
    """What a queue with these settings can do; before it is open, what one that `ensure` makes could."""
    return Capabilities(
        order=Order.NONE,
        depth=DepthIs.APPROXIMATE,
        browsing=settings is None or settings.kept is Kept.UNACKED,
        receipts_fenced=False,
        publish_dedup=DEDUP_SECONDS if settings is None else settings.dedup,
        max_delay=0.0,
        max_release_delay=None,
        max_lease=None,
        max_receive=MOST_PER_PULL if settings is None else settings.max_receive,
        max_publish=AT_ONCE,
        max_bytes=None if settings is None else settings.max_bytes,
    )
