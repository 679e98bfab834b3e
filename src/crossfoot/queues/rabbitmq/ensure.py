"""A queue with all that it needs beside it, made if it is not there: for development, tests and deployment scripts.

In production queues belong to whoever owns the infrastructure; `RabbitQueue` only checks.
"""

from __future__ import annotations

import ssl
from typing import Any

from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.rabbitmq.address import address_of
from crossfoot.queues.rabbitmq.answers import NoAnswer, Rejected
from crossfoot.queues.rabbitmq.checks import KINDS
from crossfoot.queues.rabbitmq.connection import Connection
from crossfoot.queues.rabbitmq.delays import rungs_of
from crossfoot.queues.rabbitmq.link import Link
from crossfoot.queues.rabbitmq.probing import LIMITED_BY_DEFAULT


async def ensure(
    queue: str,
    *,
    url: str | None = None,
    kind: str = "quorum",
    max_attempts: int | None = None,
    retention: float | None = None,
    max_length: int | None = None,
    arguments: dict[str, Any] | None = None,
    context: ssl.SSLContext | None = None,
) -> str:
    """Make sure that the queue, its dead letters, its waiting queues and the queue of its holders exist with these settings.

    Args:
        queue: an address, as `RabbitQueue` takes it.
        url: the server, if the address does not say.
        kind: `quorum`, or `classic`.
        max_attempts: deliveries after which the queue itself gives a message up, to the dead letters; only quorum queues can.
            `None`: never, which is for the worker to decide, who knows why.
        retention: seconds after which the queue gives a message up, to the dead letters; `None` for never.
        max_length: messages the queue takes before it refuses more; `None` for as many as there is room for.
        arguments: more of the queue's own arguments, such as `x-max-priority`; they win.
        context: for TLS, instead of the machine's own certificates.

    Returns:
        The queue's name.

    Raises:
        UsageError: they exist with other settings, or a setting is out of range.
        QueueUnavailable: the server cannot be reached or refuses us.
    """
    place = address_of(queue, url=url)
    if kind not in KINDS:
        raise UsageError(f"queue {place.name}: kind={kind!r}: there are {' and '.join(KINDS)}")
    if max_attempts is not None and (kind != "quorum" or max_attempts < 1):
        raise UsageError(
            f"queue {place.name}: max_attempts={max_attempts}: 1 or more, and only a quorum queue counts deliveries"
        )
    connection = Connection(place, timeout=10.0, context=context)
    try:
        link = await connection.receiving()
        limit = None if max_attempts is None else max_attempts - 1
        own: dict[str, Any] = {**_moves_to(place.dead, kind), **_limited(link, kind, limit)}
        if retention is not None:
            own["x-message-ttl"] = round(retention * 1000)
        if max_length is not None:
            own |= {"x-max-length": max_length, "x-overflow": "reject-publish"}
        await _make(link, place.queue, {**own, **(arguments or {})})
        await _make(link, place.dead, {"x-queue-type": kind, **_limited(link, kind, None)})
        await _make(link, place.holders, {})
        for rung in rungs_of(place.queue):
            await _make(link, rung, _moves_to(place.queue, kind))
    finally:
        await connection.close()
    return place.name


def _moves_to(target: str, kind: str) -> dict[str, Any]:
    """What it gives up goes to that queue; from a quorum queue it goes for certain."""
    arguments = {"x-queue-type": kind, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": target}
    if kind == "quorum":
        arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    return arguments


def _limited(link: Link, kind: str, limit: int | None) -> dict[str, Any]:
    if kind != "quorum" or (limit is None and link.version < LIMITED_BY_DEFAULT):
        return {}
    return {"x-delivery-limit": -1 if limit is None else limit}


async def _make(link: Link, queue: str, arguments: dict[str, Any]) -> None:
    """Create it, or see that what is there is the same."""
    try:
        async with link.aside() as channel:
            await link.ask(lambda: channel.queue_declare(queue, durable=True, arguments=arguments))
    except Rejected as error:
        raise UsageError(
            f"queue {queue} could not be made: {error}. Delete it, change it, or use it as it is without `ensure`"
        ) from error
    except NoAnswer as error:
        raise QueueUnavailable(f"no answer while making queue {queue}: {error}. Try again") from error
