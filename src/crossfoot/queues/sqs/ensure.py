"""A queue with its dead letters, made if it is not there: for development, tests and the demo.

In production queues belong to whoever owns the infrastructure; `SqsQueue.open` only checks.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.sqs.client import Client, NoAnswer, Rejected, field

if TYPE_CHECKING:
    from boto3.session import Session

FOURTEEN_DAYS = 1_209_600
"""Seconds: the longest the service keeps a message. Dead letters should have it: on a standard queue their age counts
from the first publish, not from their death."""


async def ensure(
    name: str,
    *,
    fifo: bool = False,
    max_attempts: int | None = 1_000,
    retention: float = 345_600.0,
    visibility: float = 30.0,
    endpoint_url: str | None = None,
    region: str | None = None,
    session: Session | None = None,
) -> str:
    """Make sure that the queue exists with these settings.

    Args:
        name: without the `.fifo` that a FIFO queue's name ends in; it is added.
        max_attempts: after so many deliveries the service moves a message to the dead letters, `<name>-dead`, by
            itself. High by default: the worker, which knows why, should be the one to do it. `None`: make none.
        retention: seconds, of 60 to 1,209,600.
        visibility: seconds of a lease where a receive does not say; crossfoot always says.

    Returns:
        The queue's name, for `SqsQueue`.

    Raises:
        UsageError: it exists with other settings, or a setting is out of range.
        QueueUnavailable: the service cannot be reached or refuses us.
    """
    suffix = ".fifo" if fifo else ""
    full = name.removesuffix(".fifo") + suffix
    client = await to_thread.run_sync(
        lambda: Client(full, endpoint_url=endpoint_url, region=region, timeout=10.0, longest_wait=0.0, session=session)
    )
    settings = {"MessageRetentionPeriod": str(int(retention)), "VisibilityTimeout": str(int(visibility))}
    kind = {"FifoQueue": "true"} if fifo else {}
    try:
        if max_attempts is not None:
            dead = f"{name.removesuffix('.fifo')}-dead{suffix}"
            arn = await _create(client, dead, {"MessageRetentionPeriod": str(FOURTEEN_DAYS), **kind})
            policy = {"deadLetterTargetArn": arn, "maxReceiveCount": str(max_attempts)}
            settings["RedrivePolicy"] = json.dumps(policy)
        await _create(client, full, {**settings, **kind})
    finally:
        client.close()
    return full


async def _create(client: Client, name: str, attributes: dict[str, str]) -> str:
    """Create the queue if need be; its ARN."""
    wanted: Any = attributes
    try:
        made = await client.change(lambda sqs: sqs.create_queue(QueueName=name, Attributes=wanted))
        url = field(made, "QueueUrl")
        got = await client.read(lambda sqs: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"]))
        arn: str = field(field(got, "Attributes"), "QueueArn")
    except Rejected as error:
        if error.code in {"QueueAlreadyExists", "QueueNameExists"}:
            remedy = "delete it, change it in AWS, or use it as it is without `ensure`"
            raise UsageError(f"queue {name} exists with other settings: {error}; {remedy}") from error
        raise UsageError(f"queue {name} could not be made: {error}") from error
    except NoAnswer as error:
        raise QueueUnavailable(f"no answer while making queue {name}: {error}. Try again") from error
    return arn
