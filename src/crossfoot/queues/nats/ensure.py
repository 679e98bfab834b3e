"""A queue with its dead letters, made if it is not there: for development, tests and the demo.

In production streams and consumers belong to whoever owns the infrastructure; `NatsQueue.open` only checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.nats.address import address_of
from crossfoot.queues.nats.answers import NoAnswer, NobodyListens, Rejected, answer_of
from crossfoot.queues.nats.connection import Connection

_NANOS = 1_000_000_000

DEDUP_SECONDS = 120.0
"""How long a stream remembers what was published; the server's own default."""

DEAD_DEDUP_SECONDS = 86_400.0
"""A worker that died between the two steps of a move has a day to be started again."""


async def ensure(
    queue: str,
    *,
    servers: str | None = None,
    subject: str | None = None,
    max_attempts: int | None = None,
    retention: float | None = None,
    lease: float = 30.0,
    connect: Mapping[str, Any] | None = None,
) -> str:
    """Make sure that stream, durable and the stream of dead letters exist with these settings.

    Args:
        queue: an address, as `NatsQueue` takes it.
        subject: what is published to; the stream's name unless given.
        max_attempts: after so many deliveries the consumer gives a message up. `None`: never, which is for the worker to
            decide, who knows why.
        retention: seconds after which the stream forgets; `None` for never.
        lease: the consumer's `ack_wait`. The worker's `lease` should be the same.

    Returns:
        The queue's name.

    Raises:
        UsageError: they exist with other settings, or a setting is out of range.
        QueueUnavailable: the server cannot be reached or refuses us.
    """
    place = address_of(queue, servers=servers)
    dead = place.dead or f"{place.stream}-dead"
    age = int((retention or 0) * _NANOS)
    window = int(min(DEDUP_SECONDS, retention or DEDUP_SECONDS) * _NANOS)
    options = {**(connect or {}), **({"user_credentials": place.creds} if place.creds else {})}
    connection = Connection(place.servers, shown=place.shown, label=place.name, timeout=10.0, options=options)
    common = {"storage": "file", "num_replicas": 1}
    try:
        await _make(connection, "STREAM", place.stream, {
            "name": place.stream, "subjects": [subject or place.subject or place.stream], "retention": "workqueue",
            "max_age": age, "duplicate_window": window, **common,
        })  # fmt: skip
        await _make(connection, "STREAM", dead, {
            "name": dead, "subjects": [f"{dead}.>"], "retention": "limits", "max_age": 0,
            "duplicate_window": int(DEAD_DEDUP_SECONDS * _NANOS), **common,
        })  # fmt: skip
        await _make(connection, "CONSUMER", f"{place.stream}.{place.durable}", {
            "durable_name": place.durable, "name": place.durable, "ack_policy": "explicit", "deliver_policy": "all",
            "ack_wait": int(lease * _NANOS), "max_deliver": max_attempts or -1,
        })  # fmt: skip
    finally:
        await connection.close()
    return place.name


async def _make(connection: Connection, kind: str, name: str, config: dict[str, Any]) -> None:
    """Create it, or see that what is there is the same."""
    what = f"{kind.lower()} {name}"
    try:
        try:
            there = (await connection.api(f"{kind}.INFO.{name}"))["config"]
        except Rejected as error:
            if error.code != 404:
                raise
            request = config if kind == "STREAM" else {"stream_name": name.partition(".")[0], "config": config}
            msg = await connection.ask(f"$JS.API.{kind}.CREATE.{name}", msgspec.json.encode(request))
            there = answer_of(msg.data)["config"]
    except Rejected as error:
        raise UsageError(f"{what} could not be made: {error}") from error
    except NobodyListens as error:
        raise QueueUnavailable(f"{what} could not be made: JetStream is not enabled on the server") from error
    except NoAnswer as error:
        raise QueueUnavailable(f"no answer while making {what}: {error}. Try again") from error
    other = [key for key, value in config.items() if there.get(key, 0) != value]
    if other:
        raise UsageError(
            f"{what} exists with other settings ({', '.join(other)}): delete it, change it, or use it as it is without `ensure`"
        )
